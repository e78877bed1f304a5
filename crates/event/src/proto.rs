//! The record format as prost generates it: the public contract, and the oracle that the hand-written codec is
//! tested against.
//!
//! The hot path does not use these types, because each string and list of them is an allocation; see
//! [`EnvelopeView`](crate::EnvelopeView).

// Generated code: its documentation is in event.proto, and its style is prost's.
#![allow(missing_docs, clippy::all, clippy::doc_markdown, clippy::or_fun_call, unused_qualifications)]

include!(concat!(env!("OUT_DIR"), "/barrage.event.v1.rs"));
