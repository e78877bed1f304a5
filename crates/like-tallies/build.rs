//! Generates the messages of this statistic's tables and answers.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto/barrage/like_tallies/v1");
    let files = protox::compile(
        ["barrage/like_tallies/v1/state.proto", "barrage/like_tallies/v1/query.proto"],
        ["../../proto"],
    )?;
    let mut config = prost_build::Config::new();
    for answer in ["LikeTally", "GiftTally", "MembershipTally", "ViewerLikes", "ViewerGifts"] {
        config.type_attribute(format!("barrage.like_tallies.v1.{answer}"), "#[derive(serde::Serialize)]");
    }
    for optional in ["ViewerLikes.capped", "ViewerGifts.messages"] {
        config.field_attribute(
            format!("barrage.like_tallies.v1.{optional}"),
            "#[serde(skip_serializing_if = \"Option::is_none\")]",
        );
    }
    config.compile_fds(files)?;
    Ok(())
}
