//! The acknowledgement of an append: a future, or a blocking wait.
//!
//! An implementation that makes many appends durable at once completes them at once: one [`Completer`] is shared by
//! all of them, so that an acknowledgement costs a reference count and one entry in a list of wakers, not a channel.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use barrage_event::{Offset, Partition, Position};

use crate::error::AppendError;

/// How many positions fit without an allocation: a callback concerns a room and rarely more than three accounts.
const INLINE: usize = 4;

/// Where the records of an append lie, in the order in which they were pushed.
#[derive(Clone)]
pub struct Positions(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, positions: [Position; INLINE] },
    Heap(Vec<Position>),
}

impl Positions {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        let unused = Position { partition: Partition::room(0), offset: Offset(0) };
        Self(Repr::Inline { len: 0, positions: [unused; INLINE] })
    }

    /// Adds one.
    pub fn push(&mut self, position: Position) {
        match &mut self.0 {
            Repr::Inline { len, positions } => {
                if let Some(free) = positions.get_mut(usize::from(*len)) {
                    *free = position;
                    *len += 1;
                } else {
                    let mut heap = Vec::with_capacity(INLINE * 4);
                    heap.extend_from_slice(positions);
                    heap.push(position);
                    self.0 = Repr::Heap(heap);
                }
            }
            Repr::Heap(heap) => heap.push(position),
        }
    }
}

impl Default for Positions {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Positions {
    type Target = [Position];

    fn deref(&self) -> &[Position] {
        match &self.0 {
            Repr::Inline { len, positions } => positions.get(..usize::from(*len)).unwrap_or(positions),
            Repr::Heap(heap) => heap,
        }
    }
}

impl fmt::Debug for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(ToString::to_string)).finish()
    }
}

impl PartialEq for Positions {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Positions {}

impl FromIterator<Position> for Positions {
    fn from_iter<I: IntoIterator<Item = Position>>(iter: I) -> Self {
        let mut positions = Self::new();
        for position in iter {
            positions.push(position);
        }
        positions
    }
}

/// What the acknowledgements of one group share.
#[derive(Debug, Default)]
struct Completion {
    /// Set once; read without a lock.
    result: OnceLock<Result<Positions, AppendError>>,
    waiters: Mutex<Waiters>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct Waiters {
    wakers: Vec<Waker>,
    /// Threads in [`Ack::wait`]; spares the system call when there are none.
    blocked: usize,
}

/// The other end of one or many [`Ack`]s. Dropped without a result, it completes them with [`AppendError::Closed`], so
/// that nobody waits for ever.
#[derive(Debug, Default)]
pub struct Completer(Arc<Completion>);

impl Completer {
    /// A completer that nobody waits for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An acknowledgement of an append whose positions are known already.
    pub fn ack(&self, positions: Positions) -> Ack {
        Ack { completion: Arc::clone(&self.0), positions: Some(positions), slot: None }
    }

    /// An acknowledgement of an append whose positions come with the result.
    pub fn ack_later(&self) -> Ack {
        Ack { completion: Arc::clone(&self.0), positions: None, slot: None }
    }

    /// Completes every acknowledgement. The positions are those of [`Completer::ack_later`].
    pub fn complete(self, result: Result<Positions, AppendError>) {
        self.finish(result);
    }

    fn finish(&self, result: Result<Positions, AppendError>) {
        if self.0.result.set(result).is_err() {
            return;
        }
        // A waiter looks at the result again under this lock before it enters itself, so none is missed.
        let (wakers, blocked) = {
            let mut waiters = self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut waiters.wakers), waiters.blocked)
        };
        if blocked > 0 {
            self.0.done.notify_all();
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        if self.0.result.get().is_none() {
            self.finish(Err(AppendError::Closed));
        }
    }
}

/// Tells when an append is durable: a future for tasks of any runtime, [`Ack::wait`] for threads. May be dropped; the
/// append goes on.
#[derive(Debug)]
#[must_use = "an append counts only when it is acknowledged"]
pub struct Ack {
    completion: Arc<Completion>,
    positions: Option<Positions>,
    /// Where this future's waker stands in the list.
    slot: Option<usize>,
}

impl Ack {
    /// An acknowledgement that is there already.
    pub fn ready(result: Result<Positions, AppendError>) -> Self {
        let completer = Completer::new();
        let ack = completer.ack_later();
        completer.complete(result);
        ack
    }

    /// A second acknowledgement of the same append.
    pub fn watch(&self) -> Self {
        Self { completion: Arc::clone(&self.completion), positions: self.positions.clone(), slot: None }
    }

    /// The result, if it is there.
    #[must_use]
    pub fn try_get(&self) -> Option<Result<Positions, AppendError>> {
        let result = self.completion.result.get()?;
        Some(match (result, &self.positions) {
            (Ok(_), Some(own)) => Ok(own.clone()),
            (result, _) => result.clone(),
        })
    }

    /// Blocks the calling thread until the append is durable or has failed.
    ///
    /// # Errors
    /// Why the append is not durable, [`AppendError::Failed`] or [`AppendError::Closed`].
    pub fn wait(self) -> Result<Positions, AppendError> {
        loop {
            if let Some(result) = self.try_get() {
                return result;
            }
            let mut waiters = self.completion.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            if self.completion.result.get().is_none() {
                waiters.blocked += 1;
                drop(self.completion.done.wait(waiters));
            }
        }
    }
}

impl Future for Ack {
    type Output = Result<Positions, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.try_get() {
            return Poll::Ready(result);
        }
        let completion = Arc::clone(&self.completion);
        let mut waiters = completion.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = self.try_get() {
            return Poll::Ready(result);
        }
        if let Some(own) = self.slot.and_then(|slot| waiters.wakers.get_mut(slot)) {
            own.clone_from(context.waker());
        } else {
            self.slot = Some(waiters.wakers.len());
            waiters.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn positions(count: u64) -> Positions {
        (0..count).map(|offset| Position { partition: Partition::room(1), offset: Offset(offset) }).collect()
    }

    fn poll(ack: &mut Ack, wakes: &Arc<Count>) -> Poll<Result<Positions, AppendError>> {
        Pin::new(ack).poll(&mut Context::from_waker(&Waker::from(Arc::clone(wakes))))
    }

    #[test]
    fn positions_hold_any_number() {
        for count in 0..20 {
            let list = positions(count);
            assert_eq!(list.len() as u64, count);
            assert!((0..).zip(list.iter()).all(|(n, position)| position.offset == Offset(n)), "{list:?}");
        }
    }

    #[test]
    fn one_completion_wakes_every_waiter_once() {
        let completer = Completer::new();
        let mut acks: Vec<_> = (0..5).map(|n| (completer.ack(positions(n)), Arc::<Count>::default())).collect();
        for (ack, wakes) in &mut acks {
            assert!(poll(ack, &Arc::default()).is_pending());
            assert!(poll(ack, wakes).is_pending(), "a second poll replaces the waker of the first");
        }
        completer.complete(Ok(Positions::new()));
        for (n, (ack, wakes)) in (0..).zip(&mut acks) {
            assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
            assert_eq!(poll(ack, wakes), Poll::Ready(Ok(positions(n))));
        }
    }

    #[test]
    fn positions_may_come_with_the_result() {
        let completer = Completer::new();
        let ack = completer.ack_later();
        assert_eq!(ack.try_get(), None);
        completer.complete(Ok(positions(3)));
        assert_eq!(ack.wait(), Ok(positions(3)));
    }

    #[test]
    fn a_lost_completer_leaves_nobody_waiting() {
        let completer = Completer::new();
        let (mut polled, waited) = (completer.ack(positions(1)), completer.ack(positions(1)));
        let wakes = Arc::<Count>::default();
        assert!(poll(&mut polled, &wakes).is_pending());
        let waiting = std::thread::spawn(|| waited.wait());
        drop(completer);
        assert_eq!(waiting.join().unwrap(), Err(AppendError::Closed));
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(&mut polled, &wakes), Poll::Ready(Err(AppendError::Closed)));
    }
}
