//! What everything that runs a partition has in common.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use barrage_log::EventLog;
use barrage_projection::Statistic;
use barrage_state::StateEnv;

use crate::budget::OverlayBudget;
use crate::homes::Homes;
use crate::metrics::Metrics;
use crate::pool::IsOwner;
use crate::publisher::Publisher;
use crate::rebuild::Turns;
use crate::sending::SourceMarks;
use crate::shared::Assigned;
use crate::snapshots::SnapshotOptions;

/// What every runner of the process has in common.
pub(crate) struct Common {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) statistics: Arc<Vec<Box<dyn Statistic>>>,
    pub(crate) assigned: Arc<Assigned>,
    pub(crate) homes: Homes,
    pub(crate) env: StateEnv,
    pub(crate) state_dir: PathBuf,
    pub(crate) metrics: Metrics,
    pub(crate) commit_interval: Duration,
    /// Memory for the rows of all partitions.
    pub(crate) overlay: OverlayBudget,
    pub(crate) rebuilds: Turns,
    pub(crate) snapshots: Option<SnapshotOptions>,
    /// What rooms have seen of derived events.
    pub(crate) marks: Arc<dyn SourceMarks>,
    /// Where intents go.
    pub(crate) publisher: Arc<dyn Publisher>,
    /// Whether a partition is surely this process's: asked before anything leaves the process in its name.
    pub(crate) is_owner: IsOwner,
    /// How long the store of a partition that was taken away stays open.
    pub(crate) park: Duration,
}

impl Common {
    /// An equal part for each partition, and each rebuild, of the memory for rows, bytes: what waits for a commit stays far
    /// below it.
    pub(crate) fn overlay_share(&self) -> usize {
        self.overlay.bytes() / (self.assigned.len() + self.rebuilds.taken()).max(1)
    }
}
