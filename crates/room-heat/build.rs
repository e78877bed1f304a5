//! Generates the messages of this statistic's tables and answers.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto/barrage/room_heat/v1");
    let files =
        protox::compile(["barrage/room_heat/v1/state.proto", "barrage/room_heat/v1/query.proto"], ["../../proto"])?;
    let mut config = prost_build::Config::new();
    config.type_attribute("barrage.room_heat.v1.Heat", "#[derive(serde::Serialize)]");
    config.compile_fds(files)?;
    Ok(())
}
