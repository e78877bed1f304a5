//! A timer that costs nothing while deadlines keep moving away.
//!
//! Arming a timer takes a lock of the runtime. Here the runtime's timer is armed once and left alone as long as it
//! fires before the deadline; when it does, it is armed anew for what is left. So a connection that answers thousands
//! of requests a second arms a timer once in a while, not several times a request.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// The timer of one task.
#[derive(Debug, Default)]
pub(crate) struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl LazyTimer {
    /// Whether the deadline has passed; if not, the task is woken when it has, or earlier.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    #[tokio::test]
    async fn a_deadline_is_met_and_never_early_whether_it_moves_away_or_closer() {
        let in_ms = |ms| Instant::now() + Duration::from_millis(ms);
        let mut timer = LazyTimer::default();
        let far = in_ms(3_600_000);
        assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx, far))).await.is_pending());
        // Each of them would hang for an hour if the timer were not armed anew.
        for ms in [20, 5, 0] {
            let deadline = in_ms(ms);
            poll_fn(|cx| timer.poll(cx, deadline)).await;
            assert!(Instant::now() >= deadline);
        }
        let (near, later) = (in_ms(5), in_ms(30));
        assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx, near))).await.is_pending());
        poll_fn(|cx| timer.poll(cx, later)).await;
        assert!(Instant::now() >= later, "armed for the earlier one, it must not report the later one as over");
    }
}
