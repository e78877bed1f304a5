//! Tests of the event model from outside: fixtures of the vendor's callbacks, prost as the oracle of the codec, and
//! properties of identity, routes and rules.

mod business;
mod common;
mod fixtures;
mod groups;
mod hostile;
mod identity;
mod oracle;
mod routes;
mod rules;
mod wire;
