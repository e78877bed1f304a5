//! The event model: what a callback says, whom it concerns, and when it is the same as another.
//!
//! A callback's JSON becomes a [`Callback`] with a typed event; its [`routes`] say whom it
//! concerns; each route gives one record of the log, which is read back as an [`EnvelopeView`]. [`identity`] tells
//! duplicates. The [`rules`] say what a custom element is and how a before-callback is answered.
//!
//! This crate is the meaning of the bytes: no IO, no clock, no randomness. The same input gives the same bytes.

pub mod business;
pub mod callback;
pub mod command;
pub mod derived;
pub mod envelope;
pub mod event;
pub mod identity;
pub mod platform;
pub mod position;
pub mod proto;
pub mod routes;
pub mod rules;
pub mod time;
pub mod wire;

pub use callback::{Callback, CallbackError, Stamp};
pub use derived::Derived;
pub use envelope::{DecodeError, EnvelopeView, Outcome, PARSER_VERSION, Source, VerdictView, append_sequence};
pub use event::{Event, Message, MessageKind};
pub use identity::Identity;
pub use position::{Offset, Partition, Position, Topic};
pub use routes::Route;
pub use rules::Verdict;
