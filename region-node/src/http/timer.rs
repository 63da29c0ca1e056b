//! The clock behind hyper's limit on late headers: one timer per connection instead of one per request.
//!
//! hyper asks for a sleep before every request and drops it when the headers are there. A sleep of tokio's is entered in
//! the runtime's timer wheel and taken out of it again, each time under a lock that the workers share. Here a connection's
//! sleep stays in the wheel: a new request only moves its deadline, and should the sleep end before that, it sleeps on.
//! It is owned by whatever hyper holds at the time, else by the connection's timer; a connection is one task, so the
//! mutex between the two is never waited for.

use hyper::rt::Timer;
use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

type Slot = Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>;

/// The timer of one connection.
#[derive(Clone, Default)]
pub(super) struct ConnectionTimer {
    idle: Slot,
}

impl Timer for ConnectionTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Sleep { deadline: deadline.into(), inner: self.idle.lock().take(), idle: Arc::clone(&self.idle) })
    }
}

/// A sleep until a deadline of its own, on the connection's.
struct Sleep {
    deadline: tokio::time::Instant,
    inner: Option<Pin<Box<tokio::time::Sleep>>>,
    idle: Slot,
}

impl hyper::rt::Sleep for Sleep {}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { deadline, inner, .. } = self.get_mut();
        let inner = inner.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(*deadline)));
        if inner.deadline() > *deadline {
            inner.as_mut().reset(*deadline);
        }
        loop {
            ready!(inner.as_mut().poll(cx));
            if inner.deadline() >= *deadline {
                return Poll::Ready(());
            }
            inner.as_mut().reset(*deadline);
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        *self.idle.lock() = self.inner.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// A sleep polled once and dropped, as one before headers that came in time.
    async fn broken_off(timer: &ConnectionTimer, after: Duration) {
        let mut sleep = timer.sleep(after);
        assert!(futures::poll!(&mut sleep).is_pending());
    }

    /// How long a sleep took that was to take so long.
    async fn slept(timer: &ConnectionTimer, after: Duration) -> Duration {
        let begun = Instant::now();
        timer.sleep(after).await;
        begun.elapsed()
    }

    #[tokio::test]
    async fn a_later_deadline_is_kept_on_a_sleep_that_ends_before_it() {
        let timer = ConnectionTimer::default();
        broken_off(&timer, MS(20)).await;
        assert!(timer.idle.lock().is_some(), "the connection's sleep is kept");
        assert!(slept(&timer, MS(60)).await >= MS(60));
    }

    #[tokio::test]
    async fn an_earlier_deadline_is_kept_too() {
        let timer = ConnectionTimer::default();
        broken_off(&timer, MS(600_000)).await;
        let ended = tokio::time::timeout(MS(60_000), slept(&timer, MS(20))).await;
        assert!(ended.is_ok_and(|took| took >= MS(20)));
    }

    #[tokio::test]
    async fn a_sleep_that_ended_while_nobody_looked_starts_over() {
        let timer = ConnectionTimer::default();
        broken_off(&timer, MS(1)).await;
        tokio::time::sleep(MS(20)).await;
        assert!(slept(&timer, MS(30)).await >= MS(30));
    }
}
