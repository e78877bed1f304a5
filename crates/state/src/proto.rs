//! Messages of the runtime's tables, generated from `proto/barrage/state/v1/state.proto`.
#![allow(missing_docs, unreachable_pub, clippy::doc_markdown, reason = "generated; the comments are the file's")]

include!(concat!(env!("OUT_DIR"), "/barrage.state.v1.rs"));
