//! The appending end: takes batches, bounds what waits, and closes within a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::ack::{Ack, Positions};
use crate::batch::AppendBatch;
use crate::error::{AppendError, OpenError};
use crate::kafka::aside;
use crate::kafka::outbox::{Lane, Outbox};
use crate::kafka::pending::{self, Batch};
use crate::kafka::producer::{Core, Sending, Speech};
use crate::kafka::shared::{Shared, locked};
use crate::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_BYTES_MAX};

/// Appends to the data topics.
#[derive(Debug)]
pub(crate) struct Sender {
    core: Arc<Core>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Sender {
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<Self, OpenError> {
        let core = Arc::new(Core {
            shared: Arc::clone(shared),
            sending: Mutex::new(Sending {
                outbox: Outbox::new(shared.shape.total()),
                main: None,
                probe: None,
                speech: Speech::default(),
            }),
            drained: Condvar::new(),
            begun: Condvar::new(),
            reported: AtomicBool::new(false),
            reports: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let generation = locked(&core.sending).outbox.retire(Lane::Main);
        let main = core.create(Lane::Main, generation);
        let main = main.map_err(|error| shared.options.refuse("make a producer", error))?;
        {
            let mut sending = locked(&core.sending);
            sending.main = Some(Arc::new(main));
            sending.outbox.opened(Lane::Main);
        }
        let run = Arc::clone(&core);
        let thread = std::thread::Builder::new().name("kafka-append".to_owned()).spawn(move || run.run());
        let thread = thread.map_err(|error| shared.options.refuse("start the thread of the producer", error))?;
        Ok(Self { core, thread: Mutex::new(Some(thread)) })
    }

    /// What a topic takes for sure, in bytes of one record.
    pub(crate) fn set_safe_bytes(&self, dense: usize, bytes: usize) {
        locked(&self.core.sending).outbox.set_safe_bytes(dense, bytes);
    }

    pub(crate) fn append(&self, batch: &mut AppendBatch) -> Result<Ack, AppendError> {
        let shared = &self.core.shared;
        self.check(batch)?;
        if shared.closed.load(Ordering::Acquire) {
            return Err(AppendError::Closed);
        }
        if batch.is_empty() {
            return Ok(Ack::ready(Ok(Positions::new())));
        }
        // Copied before the lock: others append meanwhile. The thread of the producer hands it over.
        let now = Instant::now();
        let (kept, ack) = Batch::new(batch.buffer().into(), batch.len(), now);
        let mut sending = locked(&self.core.sending);
        if sending.outbox.closing {
            return Err(AppendError::Closed);
        }
        let pending_bytes = sending.outbox.bytes();
        let pending_bytes_max = shared.options.pending_bytes_max;
        // One batch is taken however small the limit is: it could never be appended otherwise.
        if pending_bytes > 0 && pending_bytes + batch.bytes() > pending_bytes_max {
            shared.metrics.append_refused.inc();
            return Err(AppendError::Full { pending_bytes, pending_bytes_max });
        }
        let first = pending_bytes == 0;
        let mut start = 0;
        for (index, (partition, record)) in batch.iter().enumerate() {
            if let Some(dense) = shared.shape.dense(partition) {
                sending.outbox.push(dense, &kept, start, start + record.len(), index);
            }
            start += record.len();
        }
        shared.metrics.pending_bytes.set(i64::try_from(sending.outbox.bytes()).unwrap_or(i64::MAX));
        drop(sending);
        if first {
            self.core.begun.notify_all();
        }
        batch.clear();
        Ok(ack)
    }

    fn check(&self, batch: &AppendBatch) -> Result<(), AppendError> {
        let shape = self.core.shared.shape;
        for (partition, bytes) in batch.iter() {
            if shape.dense(partition).is_none() {
                return Err(AppendError::UnknownPartition { partition, partitions: shape.of(partition.topic) });
            }
            if bytes.len() > RECORD_BYTES_MAX {
                return Err(AppendError::RecordTooLarge { partition, bytes: bytes.len(), bytes_max: RECORD_BYTES_MAX });
            }
        }
        if batch.bytes() > BATCH_BYTES_MAX || batch.len() > BATCH_RECORDS_MAX {
            return Err(AppendError::BatchTooLarge {
                records: batch.len(),
                bytes: batch.bytes(),
                records_max: BATCH_RECORDS_MAX,
                bytes_max: BATCH_BYTES_MAX,
            });
        }
        Ok(())
    }

    /// Takes nothing more, waits for what is unacknowledged, and gives up the rest.
    pub(crate) fn close(&self, wait: Duration) {
        let core = &self.core;
        let mut sending = locked(&core.sending);
        sending.outbox.closing = true;
        let more = |sending: &mut Sending| !sending.outbox.is_empty();
        let waited = core.drained.wait_timeout_while(sending, wait, more);
        let mut sending = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        let left = sending.outbox.abandon();
        let producers = [sending.main.take(), sending.probe.take()];
        drop(sending);
        if !left.is_empty() {
            let appends = left.len();
            tracing::error!(
                appends,
                "closed before Kafka acknowledged these appends; whoever waits for them is told so"
            );
        }
        pending::close(left);
        core.stop.store(true, Ordering::Release);
        if let Some(thread) = locked(&self.thread).take() {
            let _ = thread.join();
        }
        // What it still has is forgotten: nobody is told that it is durable.
        for producer in producers {
            aside(producer);
        }
    }
}

#[cfg(any(test, feature = "test-util"))]
impl Sender {
    /// Treats the main producer as failed, as after a fatal error.
    pub(crate) fn fail(&self, reason: &str) {
        use rdkafka::producer::Producer as _;
        let main = locked(&self.core.sending).main.clone();
        if let Some(main) = main {
            self.core.failed(Lane::Main, main.context().generation, reason);
        }
    }
}
