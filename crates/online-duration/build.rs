//! Generates the messages of this statistic's tables and answers.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto/barrage/online_duration/v1");
    let files = protox::compile(
        ["barrage/online_duration/v1/state.proto", "barrage/online_duration/v1/query.proto"],
        ["../../proto"],
    )?;
    let mut config = prost_build::Config::new();
    config.type_attribute("barrage.online_duration.v1.Online", "#[derive(serde::Serialize)]");
    config.compile_fds(files)?;
    Ok(())
}
