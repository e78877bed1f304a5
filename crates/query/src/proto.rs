//! What processes of one deployment say to each other, as it is generated from its file.

// Generated code: its documentation is in owner.proto, and its style is that of its generators.
#![allow(
    missing_docs,
    clippy::all,
    clippy::doc_markdown,
    clippy::or_fun_call,
    clippy::too_many_lines,
    clippy::wildcard_imports,
    clippy::semicolon_if_nothing_returned,
    clippy::missing_errors_doc,
    clippy::disallowed_methods,
    unreachable_pub,
    unused_qualifications
)]

include!(concat!(env!("OUT_DIR"), "/barrage.internal.v1.rs"));

/// The file itself, for reflection.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/owner.fds"));
