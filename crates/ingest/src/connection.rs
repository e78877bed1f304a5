//! One connection's byte stream with deadlines: for the silence between requests, for a request's head, for its body,
//! and for answers that nobody takes.
//!
//! hyper's own head timeout begins when a connection falls silent. Here silence has a limit of its own: IM keeps
//! connections open, and one that is closed just as IM uses it again costs a callback.
//!
//! Closing is gentle: after the last answer the write side is closed and what still arrives is read and thrown away
//! for a moment. Closing at once would make the system reset the connection, and the client would lose the answer that
//! tells it what it did wrong.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::deadline::LazyTimer;

/// What a connection is waiting for; shared with the requests that it carries.
///
/// The lower bits tell the phase, the upper ones count requests, so that two silences in a row differ.
#[derive(Debug, Default)]
pub(crate) struct ConnectionState {
    phase: AtomicU32,
    /// One request is handled at a time, so the lock is never waited for.
    answer_timer: Mutex<LazyTimer>,
}

const PHASE_BITS: u32 = 0b111;
const REQUEST: u32 = PHASE_BITS + 1;

/// Nothing has arrived of the next request.
const IDLE: u32 = 0;
/// A part of a head has arrived.
const HEAD: u32 = 1;
/// A request is being handled and its body is still arriving.
const BODY: u32 = 2;
/// A request is being handled, its body is here.
const HANDLING: u32 = 3;
/// The body took too long.
const BODY_TIMED_OUT: u32 = 4;

impl ConnectionState {
    pub(crate) fn body_begins(&self) {
        self.set(BODY);
    }

    pub(crate) fn body_is_here(&self) {
        self.set(HANDLING);
    }

    pub(crate) fn request_ends(&self) {
        let next = (self.phase.load(Ordering::Relaxed) & !PHASE_BITS).wrapping_add(REQUEST);
        self.phase.store(next | IDLE, Ordering::Relaxed);
    }

    /// Whether nothing has ever arrived.
    pub(crate) fn is_unused(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == IDLE
    }

    pub(crate) fn body_timed_out(&self) -> bool {
        self.get() == BODY_TIMED_OUT
    }

    /// Waits for `future`, but not beyond the deadline.
    pub(crate) async fn in_time<F: Future + Unpin>(&self, mut future: F, deadline: Instant) -> Option<F::Output> {
        poll_fn(|cx| {
            if let Poll::Ready(output) = Pin::new(&mut future).poll(cx) {
                return Poll::Ready(Some(output));
            }
            self.answer_timer.lock().unwrap_or_else(PoisonError::into_inner).poll(cx, deadline).map(|()| None)
        })
        .await
    }

    fn get(&self) -> u32 {
        self.phase.load(Ordering::Relaxed) & PHASE_BITS
    }

    fn set(&self, phase: u32) {
        self.phase.store(self.phase.load(Ordering::Relaxed) & !PHASE_BITS | phase, Ordering::Relaxed);
    }
}

/// How long each phase may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    pub(crate) idle: Duration,
    pub(crate) head: Duration,
    pub(crate) body: Duration,
    pub(crate) write: Duration,
}

/// How long, and how many bytes, a closing connection is still read.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 4 << 20;

/// A stream with deadlines.
#[derive(Debug)]
pub(crate) struct Timed<S> {
    stream: S,
    state: Arc<ConnectionState>,
    timeouts: Timeouts,
    /// The phase, of which request, that `read_deadline` belongs to.
    read_phase: u32,
    read_deadline: Instant,
    read_timer: LazyTimer,
    write_deadline: Option<Instant>,
    write_timer: LazyTimer,
    closing: Closing,
}

#[derive(Debug)]
enum Closing {
    No,
    Flushing,
    Lingering { deadline: Instant, bytes: usize },
    Done,
}

impl<S> Timed<S> {
    pub(crate) fn new(stream: S, state: Arc<ConnectionState>, timeouts: Timeouts) -> Self {
        Self {
            stream,
            state,
            timeouts,
            read_phase: IDLE,
            // A new connection was opened to be used: its first head has the head's time.
            read_deadline: Instant::now() + timeouts.head,
            read_timer: LazyTimer::default(),
            write_deadline: None,
            write_timer: LazyTimer::default(),
            closing: Closing::No,
        }
    }

    /// The deadline of what is waited for now, if it has one.
    fn read_deadline(&mut self) -> Option<Instant> {
        let phase = self.state.get();
        if phase == HANDLING {
            return None;
        }
        let of_request = self.state.phase.load(Ordering::Relaxed);
        if self.read_phase != of_request {
            self.read_phase = of_request;
            self.read_deadline = Instant::now()
                + match phase {
                    HEAD => self.timeouts.head,
                    BODY => self.timeouts.body,
                    _ => self.timeouts.idle,
                };
        }
        Some(self.read_deadline)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(result) => {
                if this.state.get() == IDLE && buf.filled().len() > before {
                    this.state.set(HEAD);
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                let Some(deadline) = this.read_deadline() else { return Poll::Pending };
                ready!(this.read_timer.poll(cx, deadline));
                if this.state.get() == BODY {
                    this.state.set(BODY_TIMED_OUT);
                }
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Timed<S> {
    fn in_time<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.write_deadline = None;
            return poll;
        }
        let deadline = *self.write_deadline.get_or_insert_with(|| Instant::now() + self.timeouts.write);
        ready!(self.write_timer.poll(cx, deadline));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads and throws away until the other side closes too, or enough is enough.
    fn poll_linger(&mut self, cx: &mut Context<'_>, deadline: Instant, bytes: &mut usize) -> Poll<()> {
        let mut waste = [0; 8 << 10];
        while *bytes < LINGER_BYTES_MAX {
            let mut buf = ReadBuf::new(&mut waste);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => *bytes += buf.filled().len(),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.read_timer.poll(cx, deadline),
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.in_time(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.in_time(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        self.in_time(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match this.closing {
                Closing::No => this.closing = Closing::Flushing,
                Closing::Flushing => {
                    let poll = Pin::new(&mut this.stream).poll_shutdown(cx);
                    ready!(this.in_time(cx, poll))?;
                    this.closing = Closing::Lingering { deadline: Instant::now() + LINGER, bytes: 0 };
                }
                Closing::Lingering { deadline, mut bytes } => {
                    let poll = this.poll_linger(cx, deadline, &mut bytes);
                    this.closing = Closing::Lingering { deadline, bytes };
                    ready!(poll);
                    this.closing = Closing::Done;
                }
                Closing::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const HOUR: Duration = Duration::from_secs(3_600);
    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Timeouts = Timeouts { idle: HOUR, head: HOUR, body: HOUR, write: HOUR };

    /// Runs a connection whose timeouts are an hour but for one: were another one used, it would hang.
    async fn times_out(
        timeouts: Timeouts,
        prepare: impl FnOnce(&ConnectionState),
        first: &[u8],
    ) -> Arc<ConnectionState> {
        let (mut client, server) = duplex(64);
        let phase = Arc::new(ConnectionState::default());
        let mut timed = Timed::new(server, Arc::clone(&phase), timeouts);
        client.write_all(first).await.unwrap();
        timed.read_exact(&mut vec![0; first.len()]).await.unwrap();
        prepare(&phase);
        let error = timed.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        phase
    }

    #[tokio::test]
    async fn every_phase_has_its_own_time() {
        times_out(Timeouts { head: SHORT, ..LONG }, |_| (), b"").await;
        times_out(Timeouts { head: SHORT, ..LONG }, |_| (), b"POST").await;
        times_out(Timeouts { idle: SHORT, ..LONG }, ConnectionState::request_ends, b"whole request").await;
        let phase = times_out(Timeouts { body: SHORT, ..LONG }, ConnectionState::body_begins, b"head").await;
        assert!(phase.body_timed_out());
        phase.request_ends();
        assert!(!phase.body_timed_out());
    }

    #[tokio::test]
    async fn a_silence_after_a_silence_begins_anew() {
        let (_client, server) = duplex(64);
        let phase = Arc::new(ConnectionState::default());
        let mut timed = Timed::new(server, Arc::clone(&phase), LONG);
        phase.request_ends();
        let first = timed.read_deadline();
        assert_eq!(timed.read_deadline(), first, "looking again does not move it");
        phase.request_ends();
        assert!(timed.read_deadline() > first);
    }

    #[tokio::test]
    async fn a_request_that_is_handled_has_no_read_deadline() {
        let (_client, server) = duplex(64);
        let phase = Arc::new(ConnectionState::default());
        phase.body_is_here();
        let mut timed = Timed::new(server, phase, Timeouts { idle: SHORT, head: SHORT, body: SHORT, write: SHORT });
        assert_eq!(timed.read_deadline(), None);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_ends_the_connection() {
        let (_client, server) = duplex(64);
        let mut timed = Timed::new(server, Arc::default(), Timeouts { write: SHORT, ..LONG });
        let error = timed.write_all(&[0; 65]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn closing_waits_for_the_other_side_but_not_for_ever() {
        let (client, server) = duplex(64);
        let mut timed = Timed::new(server, Arc::default(), LONG);
        let closing = timed.shutdown();
        let talking = async move {
            let mut client = client;
            client.write_all(&[0; 1_000]).await.unwrap();
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the write side is closed first");
        };
        let (closed, ()) = tokio::join!(closing, talking);
        closed.unwrap();

        let (_silent, server) = duplex(64);
        Timed::new(server, Arc::default(), LONG).shutdown().await.unwrap();
    }
}
