//! A simulated live evening: people, rooms and devices, and what the IM service calls back about them.
//!
//! The simulator *is* a world. People come and go, write, like and give; what really happened is counted there, and
//! only then turned into the callbacks that the platform would send, with the platform's throttle, delays, repetitions
//! and gaps. A service that reads the callbacks can therefore be compared with what was true, and not with another
//! count of the same callbacks.
//!
//! It is *not* a client: it does no input or output, reads no clock, and shares no code with what it tests. The same
//! [`Config`] gives the same bytes on every machine and for ever.
//!
//! ```
//! use barrage_simulator::{Config, Evening};
//!
//! let mut evening = Evening::new(Config::small())?;
//! let lines = evening.by_ref().map(|line| line.to_json_line()).count();
//! let truth = evening.expected();
//! assert!(lines > 100 && truth.rooms.len() == 3);
//! # Ok::<(), barrage_simulator::ConfigError>(())
//! ```

mod agenda;
mod body;
mod config;
mod evening;
mod expected;
mod kind;
mod line;
mod people;
mod random;
mod rooms;
mod text;

pub use config::{Config, ConfigError};
pub use evening::Evening;
pub use expected::{ByType, Expected, ExpectedGifts, ExpectedLottery, ExpectedRoom, ExpectedUser, ExpectedViewer};
pub use line::{Line, LineKind};
