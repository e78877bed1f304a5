//! Generates the messages of this statistic's tables and answers.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto/barrage/message_counts/v1");
    let files = protox::compile(
        ["barrage/message_counts/v1/state.proto", "barrage/message_counts/v1/query.proto"],
        ["../../proto"],
    )?;
    let mut config = prost_build::Config::new();
    // Answers list types in one order, always.
    config.btree_map(["."]);
    // What a slice of time does not have is left out.
    config.field_attribute(
        "barrage.message_counts.v1.RoomMessages.senders",
        "#[serde(skip_serializing_if = \"Option::is_none\")]",
    );
    for answer in ["RoomMessages", "SenderMessages"] {
        config.type_attribute(format!("barrage.message_counts.v1.{answer}"), "#[derive(serde::Serialize)]");
    }
    config.compile_fds(files)?;
    Ok(())
}
