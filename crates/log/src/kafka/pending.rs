//! One append until all of its records are durable.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use barrage_event::Position;

use crate::ack::{Ack, Completer, Positions};
use crate::error::AppendError;
use crate::kafka::shared::locked;

/// One append: its bytes, and its positions as they become known.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Box<[u8]>,
    appended: Instant,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    left: usize,
    positions: Vec<Option<Position>>,
    completer: Option<Completer>,
}

impl Batch {
    pub(crate) fn new(bytes: Box<[u8]>, records: usize, now: Instant) -> (Arc<Self>, Ack) {
        let completer = Completer::new();
        let ack = completer.ack_later();
        let progress = Progress { left: records, positions: vec![None; records], completer: Some(completer) };
        (Arc::new(Self { bytes, appended: now, progress: Mutex::new(progress) }), ack)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whom to tell that the append was given up, unless somebody took that over already.
    pub(crate) fn abandon(&self) -> Option<Completer> {
        locked(&self.progress).completer.take()
    }

    /// Notes where a record lies; the last one completes the append.
    pub(crate) fn delivered(&self, index: usize, position: Position) -> Option<Done> {
        let mut progress = locked(&self.progress);
        let slot = progress.positions.get_mut(index).filter(|slot| slot.is_none())?;
        *slot = Some(position);
        progress.left -= 1;
        if progress.left > 0 {
            return None;
        }
        let positions = progress.positions.iter().flatten().copied().collect();
        let completer = progress.completer.take()?;
        Some(Done { completer, positions, appended: self.appended })
    }
}

/// An append whose records are all durable; completed when no lock is held.
#[derive(Debug)]
pub(crate) struct Done {
    completer: Completer,
    positions: Positions,
    pub(crate) appended: Instant,
}

impl Done {
    pub(crate) fn complete(self) {
        self.completer.complete(Ok(self.positions));
    }
}

/// Completes appends that were given up.
pub(crate) fn close(completers: Vec<Completer>) {
    completers.into_iter().for_each(|completer| completer.complete(Err(AppendError::Closed)));
}
