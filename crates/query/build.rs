//! Generates the messages and the service that processes of one deployment talk through; no `protoc` is needed.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const PROTO_ROOT: &str = "../../proto";
const PROTO_FILE: &str = "barrage/internal/v1/owner.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_ROOT}/{PROTO_FILE}");
    let files = protox::compile([PROTO_FILE], [PROTO_ROOT])?;
    // Reflection serves the file itself.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("owner.fds"), files.encode_to_vec())?;
    tonic_prost_build::configure().build_transport(false).compile_fds(files)?;
    Ok(())
}
