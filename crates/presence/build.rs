//! Generates the messages of this statistic's tables and answers.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto/barrage/presence/v1");
    let files =
        protox::compile(["barrage/presence/v1/state.proto", "barrage/presence/v1/query.proto"], ["../../proto"])?;
    let mut config = prost_build::Config::new();
    for answer in ["RoomOnline", "Watch", "Viewer"] {
        config.type_attribute(format!("barrage.presence.v1.{answer}"), "#[derive(serde::Serialize)]");
    }
    config.compile_fds(files)?;
    Ok(())
}
