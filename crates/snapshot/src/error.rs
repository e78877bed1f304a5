//! Why a snapshot was not taken or cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use barrage_event::{Offset, Partition};
use barrage_log::ReadError;
use barrage_state::StateError;

/// What goes wrong with snapshots.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The place is none that can be used.
    #[error("snapshots cannot be kept in `{url}`: {problem}. Give a folder, or s3://BUCKET/PREFIX")]
    Url {
        /// The place as configured.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The object store did not do what it was asked.
    #[error("the object store could not {action} {object}: {}{source}", refused(.source))]
    Store {
        /// What was tried.
        action: &'static str,
        /// On which object.
        object: String,
        /// Its answer.
        source: object_store::Error,
    },
    /// The local file system failed.
    #[error("{}: {source}", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A local store failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The system gave no thread.
    #[error("the threads of the object store's client could not be started: {0}")]
    Thread(io::Error),
    /// The snapshot is not what its manifest says, or is not this partition's.
    #[error("snapshot {name} cannot be used: {problem}")]
    Unusable {
        /// Its manifest.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// There is no snapshot.
    #[error("there is no snapshot of {0} of this log")]
    None(Partition),
    /// The store has no committed state yet.
    #[error("{0} has no state yet, so there is nothing to take a snapshot of")]
    Empty(Partition),
    /// Files that were to be shared with the snapshot before were removed while this one was made.
    #[error(
        "files of the new snapshot {name} were removed meanwhile, so it was withdrawn; the next one sends them again. Does another process that has lost the partition still remove snapshots?"
    )]
    Overtaken {
        /// Its manifest.
        name: String,
    },
    /// The log failed.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The log did not give the record that tells whether a snapshot is its own.
    #[error("offset {offset} of {partition} could not be read: the log is slow or does not answer")]
    Unread {
        /// The partition.
        partition: Partition,
        /// The last record that the snapshot saw.
        offset: Offset,
    },
    /// Whoever asked does not want it any more.
    #[error("given up")]
    Cancelled,
}

/// What a person must look at first; the answer itself is long. Listing gives it as a text alone.
fn refused(source: &object_store::Error) -> &'static str {
    let is_refused = match source {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => true,
        object_store::Error::Generic { source, .. } => {
            let text = source.to_string();
            text.contains("403 Forbidden") || text.contains("401 Unauthorized")
        }
        _ => false,
    };
    if is_refused { "it refuses AWS_ACCESS_KEY_ID or its secret, or they lack the right: " } else { "" }
}

impl SnapshotError {
    /// Whether what was asked for is not there (any more).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Store { source: object_store::Error::NotFound { .. }, .. })
    }

    pub(crate) fn store<'p>(
        action: &'static str,
        object: &'p object_store::path::Path,
    ) -> impl FnOnce(object_store::Error) -> Self + use<'p> {
        move |source| Self::Store { action, object: object.to_string(), source }
    }

    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + use<'_> {
        move |source| Self::File { path: path.to_owned(), source }
    }
}
