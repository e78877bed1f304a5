//! What a statistic is made of: typed tables, projections that change them, and reads that answer from them.
//!
//! This crate *is* the contract between a statistic and the runtime. It is *not* a runtime: it does no IO and knows
//! neither `RocksDB` nor threads nor clocks. A statistic's crate depends on this one and on `barrage-event` alone.
//!
//! * A [`Table`] declares its keys and values; their bytes are made here and nowhere else.
//! * A [`Projection`] is a pure function of (state, event): it has no fields that change, so same events, same bytes.
//! * An [`overlay`] keeps the rows in use in memory in their decoded form and hands what changed to the store at commit.
//! * A [`Statistic`] ties projections and reads together; the list of statistics is all that the binary knows of them.

pub mod bucket;
pub mod codec;
pub mod effects;
pub mod entity;
mod entity_overlay;
pub mod key;
#[cfg(any(test, feature = "test-util"))]
pub mod memory;
pub mod overlay;
pub mod projection;
pub mod ranking;
pub mod reads;
mod rows;
pub mod statistic;
pub mod table;
pub mod top;
#[cfg(any(test, feature = "test-util"))]
pub mod world;

pub use bucket::{BucketOverlay, BucketRef, BucketTable, minute_of};
pub use effects::{Effects, Intent};
pub use entity::Entity;
pub use key::{KeyCodec, KeyError};
pub use overlay::{CommitSink, ErasedTable, StateHash, TableOverlay, TableRef, Tables};
pub use projection::{ApplyError, Context, Place, Projection, Rules};
pub use ranking::{ListId, RankList, Ranker, Rankings, Stand, Stands};
pub use reads::{ReadContext, Reader, ReaderExt, VisitRowUntil, json};
pub use statistic::{MinutesPage, RankQuery, RankedRoom, Statistic, TellStands, ViewersPage, ViewersWindow};
pub use table::{Backing, StoreError, Table, TableDef, Value, VisitRow};
pub use top::TopViewers;
