//! How often to ask, how long it will take, and who asks too often.

use crate::limits;
use std::collections::VecDeque;

/// Pause until the next poll, in milliseconds: from 5 s at the head to 30 s far back, never shorter further back.
/// `None` when the position is not known: as far back as can be. At most a third of `hold_ms`: nobody's hold may end
/// while they wait as they were told.
pub fn poll_after_ms(position: Option<u64>, hold_ms: u64) -> u64 {
    let far = position.unwrap_or(u64::MAX).min(limits::POLL_FAR_POSITION);
    let longest = (hold_ms / 3).clamp(limits::POLL_MS_MIN, limits::POLL_MS_MAX);
    limits::POLL_MS_MIN + (longest - limits::POLL_MS_MIN) * far / limits::POLL_FAR_POSITION
}

/// Estimated wait in milliseconds for somebody with `position` people before; `None` when nobody is being decided, or
/// when it would be longer than a day.
pub fn estimated_wait_ms(position: u64, decided_per_s: f64) -> Option<u64> {
    if decided_per_s.is_nan() || decided_per_s <= 0.0 {
        return None;
    }
    let ms = (position as f64 * 1_000.0 / decided_per_s).ceil();
    (ms <= limits::WAIT_MS_MAX as f64).then_some(ms as u64)
}

/// A moving rate of decisions, fed with a counter that only grows. Observations out of order are skipped.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rate {
    last: Option<(u64, u64)>,
    per_s: Option<f64>,
}

impl Rate {
    /// At that time the counter stood there.
    pub fn observe(&mut self, now_ms: u64, counter: u64) {
        let Some((then_ms, before)) = self.last else {
            self.last = Some((now_ms, counter));
            return;
        };
        if now_ms <= then_ms {
            return;
        }
        self.last = Some((now_ms, counter));
        let elapsed_ms = (now_ms - then_ms) as f64;
        let current = counter.saturating_sub(before) as f64 * 1_000.0 / elapsed_ms;
        let keep = 0.5_f64.powf(elapsed_ms / limits::RATE_HALF_LIFE_MS as f64);
        self.per_s = Some(self.per_s.map_or(current, |old| old * keep + current * (1.0 - keep)));
    }

    /// Decisions per second; 0 while unknown.
    pub fn per_s(&self) -> f64 {
        self.per_s.unwrap_or(0.0)
    }
}

/// Polls of one reservation by its owner: which of them is one too many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Polls(VecDeque<u64>);

impl Polls {
    /// Counts a poll; `true` when there were more than 20 within 10 s, this one included. A clock that was set back
    /// begins a new count.
    pub fn one_too_many(&mut self, now_ms: u64) -> bool {
        if self.0.back().is_some_and(|&last| last > now_ms) {
            self.0.clear();
        }
        while self.0.front().is_some_and(|&first| now_ms - first >= limits::POLL_WINDOW_MS) {
            self.0.pop_front();
        }
        self.0.push_back(now_ms);
        if self.0.len() > limits::POLLS_MAX as usize {
            self.0.pop_front();
            return true;
        }
        false
    }

    /// The last poll, milliseconds since 1970; `None` before the first.
    pub fn last_ms(&self) -> Option<u64> {
        self.0.back().copied()
    }
}
