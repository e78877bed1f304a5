//! A connection's byte stream with deadlines: a client that neither takes its answer nor says anything must not hold a
//! place among the connections for ever.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

/// A stream that fails when nothing moves for too long.
#[derive(Debug)]
pub(crate) struct Timed<S> {
    stream: S,
    read: Deadline,
    write: Deadline,
    /// Its place among the connections, given back with it.
    _place: OwnedSemaphorePermit,
}

/// Starts when a stream begins to wait, and ends when something moved.
#[derive(Debug)]
struct Deadline {
    timeout: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Deadline {
    fn new(timeout: Option<Duration>) -> Self {
        Self { timeout, timer: None, running: false }
    }

    fn check<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.running = false;
            return poll;
        }
        let Some(timeout) = self.timeout else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        if !std::mem::replace(&mut self.running, true) {
            timer.as_mut().reset(Instant::now() + timeout);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S> Timed<S> {
    /// `read`: longest silence of the other side; `None` where something else watches it. `write`: longest time in
    /// which it takes no byte.
    pub(crate) fn new(stream: S, read: Option<Duration>, write: Duration, place: OwnedSemaphorePermit) -> Self {
        Self { stream, read: Deadline::new(read), write: Deadline::new(Some(write)), _place: place }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let poll = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.read.check(cx, poll)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let poll = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.write.check(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let poll = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.write.check(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let poll = Pin::new(&mut this.stream).poll_flush(cx);
        this.write.check(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let poll = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.write.check(cx, poll)
    }
}

impl<S> tonic::transport::server::Connected for Timed<S> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::sync::Semaphore;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const SHORT: Duration = Duration::from_millis(5);

    /// One timeout is short and the other an hour: were the wrong one used, the test would hang.
    #[tokio::test]
    async fn answers_that_nobody_takes_and_silence_end_a_connection_and_free_its_place() {
        let places = Arc::new(Semaphore::new(1));
        let place = || Arc::clone(&places).try_acquire_owned().expect("a place");

        let (_client, server) = duplex(64);
        let mut timed = Timed::new(server, Some(HOUR), SHORT, place());
        let error = timed.write_all(&[0; 65]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(timed);

        let (_client, server) = duplex(64);
        let mut timed = Timed::new(server, Some(SHORT), HOUR, place());
        assert_eq!(timed.read_u8().await.expect_err("nobody writes").kind(), io::ErrorKind::TimedOut);
        drop(timed);
        drop(place());
    }

    #[tokio::test]
    async fn a_deadline_begins_anew_when_something_moved() {
        let mut deadline = Deadline::new(Some(HOUR));
        let wait = |deadline: &mut Deadline| {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(deadline.check::<()>(&mut cx, Poll::Pending).is_pending());
            deadline.timer.as_ref().map(|timer| timer.deadline()).expect("it runs")
        };
        let first = wait(&mut deadline);
        assert_eq!(wait(&mut deadline), first, "looking again does not move it");
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(deadline.check(&mut cx, Poll::Ready(Ok(()))).is_ready());
        assert!(wait(&mut deadline) > first);
    }
}
