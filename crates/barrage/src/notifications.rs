//! `barrage.notifications`: what listeners are told, at least once.
//!
//! In Kafka it is a topic of that name; on one machine a file of JSON lines, `notifications/notifications.jsonl` in the data
//! directory. How far each partition has come is kept beside, so that a state that is made anew says nothing twice.

mod file;
mod topic;

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use anyhow::Context as _;
use barrage_event::Partition;
use barrage_worker::{Publication, Publisher};

pub(crate) use file::File;
pub(crate) use topic::Topic;

/// Place behind the last notification of a partition that was published: offset and index of its source.
pub(crate) type Place = (u64, u32);

/// One notification.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) text: String,
}

/// Looks up how far a partition has come; never waits.
pub(crate) type Places = Arc<dyn Fn(Partition) -> Place + Send + Sync>;

/// Where notifications are kept. Blocks; it has a thread of its own.
pub(crate) trait Board: Send {
    /// Tells how far a partition has come, as it is kept, whichever process has written it.
    fn places(&self) -> Places;

    /// Makes messages of one partition durable, then the place behind them.
    fn put(&mut self, partition: Partition, messages: &[Message], place: Place) -> anyhow::Result<()>;
}

struct Order {
    partition: Partition,
    messages: Vec<Message>,
    place: Place,
    publication: Publication,
}

/// Hands what is to be published to a thread.
pub(crate) struct Notifications {
    places: Places,
    orders: Mutex<Option<mpsc::Sender<Order>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Notifications {
    pub(crate) fn start(mut board: Box<dyn Board>) -> anyhow::Result<Self> {
        let places = board.places();
        let (orders, received) = mpsc::channel::<Order>();
        let run = move || {
            // At most one order a partition is on its way, so the channel stays short.
            for Order { partition, messages, place, publication } in received {
                let put = board.put(partition, &messages, place);
                publication.set(put.map_err(|error| format!("{error:#}")));
            }
        };
        let thread = std::thread::Builder::new().name("notifications".to_owned()).spawn(run);
        let thread = thread.context("a thread could not be started")?;
        Ok(Self { places, orders: Mutex::new(Some(orders)), thread: Mutex::new(Some(thread)) })
    }
}

impl Publisher for Notifications {
    fn published(&self, partition: Partition) -> Option<Place> {
        Some((self.places)(partition))
    }

    fn publish(&self, partition: Partition, messages: Vec<(Place, String, String)>) -> Publication {
        let Some(&((offset, index), ..)) = messages.last() else { return Publication::done(Ok(())) };
        let publication = Publication::default();
        let order = Order {
            partition,
            messages: messages.into_iter().map(|(_, id, text)| Message { id, text }).collect(),
            place: (offset, index.saturating_add(1)),
            publication: publication.clone(),
        };
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if orders.as_ref().is_none_or(|orders| orders.send(order).is_err()) {
            publication.set(Err("the server is stopping".to_owned()));
        }
        publication
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}
