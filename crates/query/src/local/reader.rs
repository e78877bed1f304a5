//! A snapshot that is read as long as somebody waits for the answer.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use barrage_projection::{Rankings, Reader, StoreError, VisitRowUntil};
use barrage_worker::Snapshot;

/// Reads of a snapshot that end with [`StoreError::GivenUp`] once `given_up` is set.
pub(super) struct Attended<'s> {
    pub(super) snapshot: &'s Snapshot<'s>,
    pub(super) given_up: Option<&'s AtomicBool>,
}

impl Attended<'_> {
    fn attended(&self) -> Result<(), StoreError> {
        let given_up = self.given_up.is_some_and(|given_up| given_up.load(Ordering::Relaxed));
        if given_up { Err(StoreError::GivenUp) } else { Ok(()) }
    }
}

impl Reader for Attended<'_> {
    fn get_row(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.attended()?;
        self.snapshot.get_row(row)
    }

    fn scan_rows(&self, prefix: &[u8], from: Option<&[u8]>, visit: &mut VisitRowUntil<'_>) -> Result<(), StoreError> {
        self.snapshot.scan_rows(prefix, from, &mut |row, value| -> Result<ControlFlow<()>, StoreError> {
            self.attended()?;
            visit(row, value)
        })
    }

    fn rankings(&self) -> &Rankings {
        self.snapshot.rankings()
    }
}
