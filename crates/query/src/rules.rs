//! What the commands about rules need from the process around this crate: rules are events, and appending is ingest's.

use std::fmt;
use std::sync::Arc;

/// A version of the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesVersion {
    /// The version, from 1.
    pub version: u32,
    /// When it was applied, in ms since the epoch.
    pub applied_at_ms: i64,
    /// Who applied it.
    pub applied_by: String,
    /// The rules as TOML, every field named.
    pub toml: String,
}

/// What applying rules did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesApplied {
    /// The version in force now.
    pub version: u32,
    /// Whether it is a new one; the same rules again change nothing.
    pub changed: bool,
    /// Where the version stands in each partition, for `at_least`.
    pub positions: Vec<String>,
}

/// Why rules were not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyRulesError {
    /// They are not valid; the message names the field.
    #[error("{0}")]
    Invalid(String),
    /// The log or a file does not take them now; applying them again goes on from there.
    #[error("{0}")]
    Unavailable(String),
}

/// The rules of this process. Every method may block.
pub trait RulesControl: fmt::Debug + Send + Sync + 'static {
    /// Number of the version that is stamped into events now.
    fn version(&self) -> u32;

    /// That version as a whole.
    fn current(&self) -> Arc<RulesVersion>;

    /// Every version that was applied, the oldest first.
    ///
    /// # Errors
    /// Why the versions cannot be read, for a person.
    fn history(&self) -> Result<Vec<RulesVersion>, String>;

    /// Appends rules to every partition as a new version, and returns when all have it and it is in force.
    ///
    /// # Errors
    /// [`ApplyRulesError`]; the rules in force stay so.
    fn apply(&self, toml: &str, applied_by: &str) -> Result<RulesApplied, ApplyRulesError>;
}
