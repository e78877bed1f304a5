//! Sends recordings and simulated evenings over real HTTP, as the IM service and the app's own server would.
//!
//! Three parts, each usable without the others:
//!
//! * [`Recording`] reads JSON lines, gzip or not, with bounded memory and errors that name file and line.
//! * [`replay`] sends lines in order, in the recording's own time, and tells what became of each: a live
//!   [`Progress`], a [`Summary`], and if wanted a [`Ledger`] on disk that survives the server's death.
//! * [`load`] sends prepared requests as fast as answers come or at a fixed rate, at little cost of its own: what
//!   benchmarks are made of.
//!
//! It is *not* a judge of numbers: it knows what was answered, not what should be counted.

pub mod load;

mod answer;
mod connection;
mod expected;
mod ledger;
mod line;
mod options;
mod order;
mod player;
mod progress;
mod recording;
mod shift;
mod status;
mod target;

pub use answer::Outcome;
pub use expected::{ExpectedError, read_expected};
pub use ledger::{Ledger, LedgerEntry, LedgerError, read_ledger};
pub use line::{Line, LineError, LineKind};
pub use options::{Options, Shift, Speed};
pub use player::{ReplayError, Summary, replay};
pub use progress::{Progress, Refused, Snapshot, Stop};
pub use recording::{Recording, RecordingError};
pub use status::{StatusError, stream_time};
pub use target::{Target, TargetError};
