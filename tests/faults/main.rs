//! What can happen to Barrage on Kafka, one thing a test, with real brokers and real processes: a full disk, clocks that
//! are wrong, networks that are cut, topics that are not what they were. After each of them nothing that was answered OK
//! is missing, nothing counts twice, and the state is that of a clean replay.

#[path = "../common/mod.rs"]
mod common;

mod brokers;
mod clocks;
mod moves;
mod network;
mod rules;
mod spool;
mod topics;
