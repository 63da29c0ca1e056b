//! Who may join again, and when: the same request for ever gets its first answer, a new one a place at the tail, unless
//! a cool-down runs after lapsed holds or a void.
//!
//! The queue's server applies the same rules where it dedupes; its tests compare it with this.

use crate::limits;

/// How a reservation left the queue's care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SettleOutcome {
    /// Sold, cancelled, rejected or refunded.
    Done,
    /// A hold that was not paid for in time.
    Lapsed,
    /// Too many polls.
    Voided,
}

/// What is remembered about a user of a concert after a final state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Again {
    /// Holds that lapsed so far, at most [`limits::LAPSES_COUNTED_MAX`].
    pub lapses: u8,
    /// Not before this, milliseconds since 1970; 0: at once.
    pub not_before_ms: u64,
}

/// What a join by somebody without an active reservation gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejoin {
    /// The first answer again: this request reached a final state.
    SameAnswer,
    /// Too soon: wait so many milliseconds.
    CoolDown {
        /// 1 or more.
        wait_ms: u64,
    },
    /// A fresh place at the tail.
    Fresh,
}

impl Again {
    /// What is remembered once one more reservation became final.
    pub fn settled(self, outcome: SettleOutcome, now_ms: u64) -> Again {
        match outcome {
            SettleOutcome::Done => Again { lapses: self.lapses, not_before_ms: 0 },
            SettleOutcome::Voided => {
                Again { lapses: self.lapses, not_before_ms: now_ms.saturating_add(limits::VOID_COOL_DOWN_MS) }
            }
            SettleOutcome::Lapsed => {
                let lapses = self.lapses.saturating_add(1).min(limits::LAPSES_COUNTED_MAX);
                let cool_down = lapses >= limits::LAPSES_MAX;
                let not_before_ms = if cool_down { now_ms.saturating_add(limits::LAPSE_COOL_DOWN_MS) } else { 0 };
                Again { lapses, not_before_ms }
            }
        }
    }

    /// What a join gets; `same_request` says whether its `request_id` is the settled reservation's.
    pub fn join(self, same_request: bool, now_ms: u64) -> Rejoin {
        if same_request {
            return Rejoin::SameAnswer;
        }
        match self.not_before_ms.saturating_sub(now_ms) {
            0 => Rejoin::Fresh,
            wait_ms => Rejoin::CoolDown { wait_ms },
        }
    }
}
