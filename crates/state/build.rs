//! Generates the messages of the runtime's tables.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto/barrage/state/v1/state.proto");
    let files = protox::compile(["barrage/state/v1/state.proto"], ["../../proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
