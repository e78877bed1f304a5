//! What a request waits for: the log's acknowledgement, or that of the spool which took over.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use barrage_log::{Ack, AppendError, Positions};

/// How records that wait for the log learn that the spool has them.
#[derive(Debug, Default)]
pub(super) struct Handover {
    spooled: OnceLock<Ack>,
    waker: Mutex<Option<Waker>>,
}

impl Handover {
    /// The spool has the records, durably once `ack` says so.
    pub(super) fn take_over(&self, ack: Ack) {
        if self.spooled.set(ack).is_ok() {
            let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// The spool's acknowledgement, once there is one; else the task is woken when there is.
    fn poll(&self, cx: &Context<'_>) -> Option<Ack> {
        if let Some(ack) = self.spooled.get() {
            return Some(ack.watch());
        }
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        *waker = Some(cx.waker().clone());
        // Set in between it would have woken nobody.
        self.spooled.get().map(Ack::watch)
    }
}

/// Tells when records are durable, in the log or in the spool. May be dropped; the append goes on.
#[derive(Debug)]
#[must_use = "an append counts only when it is acknowledged"]
pub struct Durable {
    /// What the log was given.
    log: Option<Ack>,
    /// What may take over from it.
    handover: Option<Arc<Handover>>,
    /// The spool's acknowledgement of what it took over.
    taken: Option<Ack>,
    /// What went to the spool from the start.
    spool: Vec<Ack>,
    positions: Positions,
}

impl Durable {
    /// Waits for the log alone.
    pub(crate) fn log(ack: Ack) -> Self {
        Self { log: Some(ack), handover: None, taken: None, spool: Vec::new(), positions: Positions::new() }
    }

    /// Waits for the log, or for the spool that may take over.
    pub(super) fn in_flight(ack: Ack, handover: Arc<Handover>) -> Self {
        Self { handover: Some(handover), ..Self::log(ack) }
    }

    /// Waits for the spool alone.
    pub(super) fn spooled(ack: Ack) -> Self {
        Self { log: None, handover: None, taken: None, spool: vec![ack], positions: Positions::new() }
    }

    /// Ready, with an error.
    pub(super) fn failed(error: AppendError) -> Self {
        Self::log(Ack::ready(Err(error)))
    }

    /// Waits for what went to the spool, too.
    pub(super) fn and_spooled(mut self, ack: Ack) -> Self {
        self.spool.push(ack);
        self
    }

    /// Blocks the calling thread until the records are durable or are not going to be.
    ///
    /// # Errors
    /// Why they are not.
    pub fn wait(mut self) -> Result<Positions, AppendError> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut cx = Context::from_waker(&waker);
        loop {
            match Pin::new(&mut self).poll(&mut cx) {
                Poll::Ready(result) => return result,
                Poll::Pending => std::thread::park(),
            }
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Future for Durable {
    /// Where the records lie in the log. What the spool has comes into the log later, at positions that are not known
    /// yet, and is left out.
    type Output = Result<Positions, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut failed = None;
        this.spool.retain_mut(|ack| match Pin::new(ack).poll(cx) {
            Poll::Ready(Ok(_)) => false,
            Poll::Ready(Err(error)) => {
                failed = Some(error);
                false
            }
            Poll::Pending => true,
        });
        if let Some(error) = failed {
            return Poll::Ready(Err(error));
        }
        if let Some(log) = &mut this.log {
            let by_log = Pin::new(log).poll(cx);
            if by_log.is_pending()
                && this.taken.is_none()
                && let Some(handover) = &this.handover
            {
                this.taken = handover.poll(cx);
            }
            let by_spool = this.taken.as_mut().map(|ack| Pin::new(ack).poll(cx));
            match (by_log, by_spool) {
                (Poll::Ready(Ok(positions)), _) => {
                    this.positions = positions;
                    this.log = None;
                }
                (_, Some(Poll::Ready(Ok(_)))) => this.log = None,
                // Who may still succeed is waited for.
                (Poll::Ready(Err(error)), None | Some(Poll::Ready(Err(_)))) => return Poll::Ready(Err(error)),
                _ => {}
            }
        }
        if this.log.is_none() && this.spool.is_empty() {
            return Poll::Ready(Ok(std::mem::take(&mut this.positions)));
        }
        Poll::Pending
    }
}
