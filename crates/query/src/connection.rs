//! A connection's byte stream with deadlines: a client that neither takes its answer nor says anything must not hold a
//! place among the connections for ever.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Sleep};

use crate::options::LIVE_SEND_BUFFER_BYTES;

/// What a handler knows of the connection that a request came over; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Link {
    /// Nothing when the server never stops.
    stopping: Option<watch::Receiver<bool>>,
    /// Whether the answer is a stream that never ends by itself.
    live: Arc<AtomicBool>,
}

impl Link {
    /// Of a connection of a server that says here that it stops.
    pub(crate) fn new(stopping: watch::Receiver<bool>) -> Self {
        Self { stopping: Some(stopping), live: Arc::default() }
    }

    /// From now on the client must take all there is within the write timeout, not just something of it, and little is
    /// kept for it: what it reads late is not worth reading.
    pub(crate) fn go_live(&self) {
        self.live.store(true, Ordering::Relaxed);
    }

    /// Ends when the server stops.
    pub(crate) async fn stopped(&self) {
        match self.stopping.clone() {
            Some(mut stopping) => drop(stopping.wait_for(|stop| *stop).await),
            None => std::future::pending().await,
        }
    }
}

/// A stream whose bytes wait in a buffer of the kernel.
pub(crate) trait SendBuffer {
    /// Makes that buffer small.
    fn limit_send_buffer(&self, bytes: usize);
}

impl SendBuffer for TcpStream {
    fn limit_send_buffer(&self, bytes: usize) {
        if let Err(error) = SockRef::from(self).set_send_buffer_size(bytes) {
            // Then a slow reader is found out later.
            tracing::debug!(%error, "a send buffer was not made smaller");
        }
    }
}

/// A stream that fails when nothing moves for too long.
#[derive(Debug)]
pub(crate) struct Timed<S> {
    stream: S,
    read: Deadline,
    write: Deadline,
    link: Link,
    /// Whether the send buffer was made small.
    small: bool,
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
        let moved = poll.is_ready();
        self.check_moved(cx, poll, moved)
    }

    /// As `check`, where not everything that is ready is as much as was to move.
    fn check_moved<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>, moved: bool) -> Poll<io::Result<T>> {
        if moved {
            self.running = false;
            return poll;
        }
        let Some(timeout) = self.timeout else { return poll };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        if !std::mem::replace(&mut self.running, true) {
            timer.as_mut().reset(Instant::now() + timeout);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return poll;
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S> Timed<S> {
    /// `read`: longest silence of the other side; `None` where something else watches it. `write`: longest time in
    /// which it takes no byte.
    pub(crate) fn new(stream: S, read: Option<Duration>, write: Duration, place: OwnedSemaphorePermit) -> Self {
        let (read, write) = (Deadline::new(read), Deadline::new(Some(write)));
        Self { stream, read, write, link: Link::default(), small: false, _place: place }
    }

    /// Whose answers may be streams that never end.
    pub(crate) fn with(self, link: Link) -> Self {
        Self { link, ..self }
    }
}

impl<S: SendBuffer> Timed<S> {
    /// Holds a write against the deadline: something must move, and on a live stream everything.
    fn written(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<usize>>, all: usize) -> Poll<io::Result<usize>> {
        let live = self.link.live.load(Ordering::Relaxed);
        if live && !std::mem::replace(&mut self.small, true) {
            self.stream.limit_send_buffer(LIVE_SEND_BUFFER_BYTES);
        }
        let moved = match &poll {
            Poll::Ready(Ok(n)) => !live || *n >= all,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        self.write.check_moved(cx, poll, moved)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let poll = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.read.check(cx, poll)
    }
}

impl<S: AsyncWrite + SendBuffer + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let poll = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.written(cx, poll, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let poll = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.written(cx, poll, bufs.iter().map(|buf| buf.len()).sum())
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

    impl SendBuffer for tokio::io::DuplexStream {
        fn limit_send_buffer(&self, _: usize) {}
    }

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

    /// A reader that takes something now and then keeps an answer, and loses a stream.
    #[tokio::test]
    async fn a_reader_that_never_catches_up_loses_a_stream() {
        let places = Arc::new(Semaphore::new(1));
        let (mut client, server) = duplex(64);
        let link = Link::default();
        let place = Arc::clone(&places).try_acquire_owned().expect("a place");
        let mut timed = Timed::new(server, Some(HOUR), SHORT, place).with(link.clone());
        link.go_live();
        let reader = tokio::spawn(async move {
            // One byte at a time: something always moves, and never all of it.
            while client.read_u8().await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        let all = vec![0; 1 << 30];
        let error = timed.write_all(&all).await.expect_err("it never catches up");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(timed);
        reader.await.expect("it ends");
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
