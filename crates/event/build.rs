//! Compiles the record format with protox and prost; no `protoc` is needed on the machine.

use std::error::Error;

const PROTO_ROOT: &str = "../../proto";
const PROTO_FILE: &str = "barrage/event/v1/event.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_ROOT}/{PROTO_FILE}");
    let files = protox::compile([PROTO_FILE], [PROTO_ROOT])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
