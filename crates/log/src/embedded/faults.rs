//! Faults on demand, for tests: a disk that stalls, a disk that fails, a clock that is wrong.

use std::io;
use std::sync::{Condvar, Mutex, PoisonError};

/// What the writer meets at its next steps.
#[derive(Debug, Default)]
pub struct Faults {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    hold: bool,
    holding: bool,
    fail_write: bool,
    fail_sync: bool,
    clock_shift_ms: i64,
}

impl Faults {
    /// Lets the writer stop before its next `fdatasync` until [`Faults::release`].
    pub fn hold_sync(&self) {
        self.change(|state| state.hold = true);
    }

    /// Lets the writer go on.
    pub fn release(&self) {
        self.change(|state| state.hold = false);
    }

    /// Blocks until the writer has written a group and stands before its `fdatasync`.
    pub fn wait_until_held(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(state, |state| !state.holding));
    }

    /// Lets the next write fail.
    pub fn fail_write(&self) {
        self.change(|state| state.fail_write = true);
    }

    /// Lets the next `fdatasync` fail.
    pub fn fail_sync(&self) {
        self.change(|state| state.fail_sync = true);
    }

    /// Lets the clock be wrong from now on.
    pub fn shift_clock(&self, ms: i64) {
        self.change(|state| state.clock_shift_ms = ms);
    }

    pub(crate) fn clock_shift_ms(&self) -> i64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clock_shift_ms
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    pub(crate) fn before_write(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut state.fail_write) { Err(io::Error::other("a fault on demand")) } else { Ok(()) }
    }

    pub(crate) fn before_sync(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.hold {
            state.holding = true;
            self.changed.notify_all();
            state = self.changed.wait_while(state, |state| state.hold).unwrap_or_else(PoisonError::into_inner);
            state.holding = false;
        }
        if std::mem::take(&mut state.fail_sync) { Err(io::Error::other("a fault on demand")) } else { Ok(()) }
    }
}
