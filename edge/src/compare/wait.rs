//! Waiting for something to hold: what tests and benches of running servers do instead of sleeping.

use std::time::{Duration, Instant};

/// Waits until something holds, at most so long; how long it took.
///
/// # Panics
/// When it does not hold in time, with `what`.
pub async fn until<F: Future<Output = bool>>(what: &str, most: Duration, mut holds: impl FnMut() -> F) -> Duration {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < most, "not within {most:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}
