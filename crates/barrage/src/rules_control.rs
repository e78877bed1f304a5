//! The rules of this process for the query service: ingest distributes them, reads show them.

use std::sync::Arc;

use barrage_ingest::{DistributeError, Rules};
use barrage_query::{ApplyRulesError, RulesApplied, RulesControl, RulesVersion};

/// Ingest's rules, as the query service sees them.
#[derive(Debug)]
pub(crate) struct IngestRules(pub(crate) Arc<Rules>);

fn shown(version: &barrage_ingest::RulesVersion) -> RulesVersion {
    RulesVersion {
        version: version.version,
        applied_at_ms: version.applied_at_ms,
        applied_by: version.applied_by.clone(),
        toml: version.toml.clone(),
    }
}

impl RulesControl for IngestRules {
    fn version(&self) -> u32 {
        self.0.current().version
    }

    fn current(&self) -> Arc<RulesVersion> {
        Arc::new(shown(&self.0.current()))
    }

    fn history(&self) -> Result<Vec<RulesVersion>, String> {
        let versions = self.0.history().map_err(|error| error.to_string())?;
        Ok(versions.iter().map(shown).collect())
    }

    fn apply(&self, toml: &str, applied_by: &str) -> Result<RulesApplied, ApplyRulesError> {
        match self.0.apply(toml, applied_by) {
            Ok(applied) => {
                Ok(RulesApplied { version: applied.version, changed: applied.changed, positions: applied.positions })
            }
            Err(
                error @ (DistributeError::Unreadable(_)
                | DistributeError::Invalid(_)
                | DistributeError::TooLong { .. }
                | DistributeError::NameTooLong { .. }),
            ) => Err(ApplyRulesError::Invalid(error.to_string())),
            Err(error) => Err(ApplyRulesError::Unavailable(error.to_string())),
        }
    }
}
