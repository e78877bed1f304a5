//! What rooms of other processes have seen of this process's derived events.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use barrage_event::{Offset, Partition};
use barrage_worker::{Mark, SourceMarks};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::directory::{Claim, Directory, Owner};
use super::peers::Peers;
use crate::options::QueryOptions;
use crate::question::{Ask, Found, Kind, Question};

/// What one answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Before an owner that had no answer is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a room that nobody answers for is waited for: as long as partitions take to find another owner. After that
/// it is sent what it may have seen, and drops it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks the owners of the rooms. Whoever wants to know asks again until there is an answer; nothing here waits.
pub struct PeerMarks {
    inner: Arc<Inner>,
    runtime: Handle,
}

struct Inner {
    directory: Arc<dyn Directory>,
    peers: Peers,
    patience: Duration,
    /// An entry for each pair of partitions that is asked about; gone with its answer.
    asked: Mutex<HashMap<(Partition, u16), Asked>>,
}

/// What is asked about one partition of rooms and one source.
struct Asked {
    end: Offset,
    /// When it was last known that somebody has the room.
    alive: Instant,
    state: State,
}

enum State {
    UnderWay,
    NotYet { ask_again: Instant },
    Known(Mark),
}

impl fmt::Debug for PeerMarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerMarks").field("directory", &self.inner.directory).finish_non_exhaustive()
    }
}

impl PeerMarks {
    /// Asks whom the directory names, with the key of the deployment. The calls run on the runtime that this is called
    /// in.
    ///
    /// # Panics
    /// Outside a runtime.
    #[must_use]
    pub fn new(directory: Arc<dyn Directory>, api_key: &str, options: &QueryOptions) -> Self {
        let peers = Peers::new(api_key, options.answer_bytes_max());
        let inner = Inner { directory, peers, patience: PATIENCE, asked: Mutex::default() };
        Self { inner: Arc::new(inner), runtime: Handle::current() }
    }
}

impl Inner {
    fn asked(&self) -> MutexGuard<'_, HashMap<(Partition, u16), Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, claim: &Claim, room: Partition, end: Offset, source: (u128, u16)) {
        let question = Question { partition: room, at_ms: 0, ask: Ask::SeenOf { end, source } };
        let answered = self.peers.ask(claim, &question, Instant::now() + TIMEOUT).await;
        let now = Instant::now();
        if let Some(asked) = self.asked().get_mut(&(room, source.1)) {
            let alive = matches!(&answered, Err(failure) if matches!(failure.kind, Kind::Starting | Kind::TimedOut));
            if alive {
                asked.alive = now;
            }
            asked.state = match answered {
                Ok(Found::HighWater(place)) => State::Known(Mark::Known(place)),
                _ => State::NotYet { ask_again: now + PAUSE },
            };
        }
    }
}

impl SourceMarks for PeerMarks {
    fn mark(&self, room: Partition, end: Offset, source: (u128, u16)) -> Mark {
        let now = Instant::now();
        let mut all = self.inner.asked();
        let asked = match all.entry((room, source.1)) {
            Entry::Vacant(entry) => entry.insert(Asked { end, alive: now, state: State::NotYet { ask_again: now } }),
            Entry::Occupied(entry) => match entry.get().state {
                State::Known(mark) if entry.get().end >= end => {
                    entry.remove();
                    return mark;
                }
                State::UnderWay => return Mark::Unknown,
                // Nobody wanted to know any more, and somebody does again.
                State::NotYet { ask_again } if now > ask_again + self.inner.patience => {
                    let asked = entry.into_mut();
                    asked.alive = now;
                    asked
                }
                State::NotYet { .. } if now - entry.get().alive >= self.inner.patience => {
                    entry.remove();
                    tracing::warn!(
                        %room, user_partition = source.1,
                        "nobody says what the rooms of a partition have seen; they are told again, and drop what they know"
                    );
                    return Mark::Known(None);
                }
                State::NotYet { ask_again } if now < ask_again => return Mark::Unknown,
                State::Known(_) | State::NotYet { .. } => entry.into_mut(),
            },
        };
        asked.end = end;
        let Owner::There(claim) = self.inner.directory.owner(room) else {
            // Nobody's, or about to be this process's own: then it is asked here.
            asked.state = State::NotYet { ask_again: now + PAUSE };
            return Mark::Unknown;
        };
        asked.state = State::UnderWay;
        drop(all);
        let inner = Arc::clone(&self.inner);
        self.runtime.spawn(async move { inner.ask(&claim, room, end, source).await });
        Mark::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::OwnerTable;
    use super::super::record::OwnerRecord;
    use super::*;

    const ROOM: Partition = Partition::room(1);

    #[tokio::test]
    async fn a_room_that_nobody_answers_for_has_seen_nothing_after_a_while() {
        const PATIENCE: Duration = Duration::from_millis(250);
        for owned in [false, true] {
            let table = OwnerTable::new(Some("me".to_owned()));
            if owned {
                // An address that nothing listens at.
                let address = "127.0.0.1:1".to_owned();
                let process_id = "them".to_owned();
                table.apply(ROOM, OwnerRecord { generation: 1, released: false, since_ms: 0, process_id, address });
            }
            let mut marks = PeerMarks::new(Arc::new(table), "key", &QueryOptions::default());
            Arc::get_mut(&mut marks.inner).expect("is alone").patience = PATIENCE;
            let begun = Instant::now();
            let mark = loop {
                match marks.mark(ROOM, Offset(5), (1, 2)) {
                    Mark::Unknown => tokio::time::sleep(Duration::from_millis(10)).await,
                    known @ Mark::Known(_) => break known,
                }
            };
            assert_eq!(mark, Mark::Known(None));
            assert!(begun.elapsed() >= PATIENCE, "{owned}: {:?}", begun.elapsed());
            assert!(marks.inner.asked().is_empty());
        }
    }
}
