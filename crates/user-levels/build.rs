//! Generates the messages of this statistic's tables and answers.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto/barrage/user_levels/v1");
    let files =
        protox::compile(["barrage/user_levels/v1/state.proto", "barrage/user_levels/v1/query.proto"], ["../../proto"])?;
    let mut config = prost_build::Config::new();
    for answer in ["Level", "Parts", "OnlinePart", "MessagesPart", "LikesPart", "GiftsPart", "MembershipPart"] {
        config.type_attribute(format!("barrage.user_levels.v1.{answer}"), "#[derive(serde::Serialize)]");
    }
    config.compile_fds(files)?;
    Ok(())
}
