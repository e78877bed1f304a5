//! The log in Kafka on real brokers. One program for all of it, because starting a broker takes seconds.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod common;
mod conformance;
mod group;
mod producer;
mod security;
mod topics;
