//! Damped health of one region: up after so many good checks in a row, down after so many bad ones.
//!
//! Pure. The idea of three thresholds is gdnsd's ("up_thresh", "ok_thresh", "down_thresh"); the code is our own.

/// Thresholds, in checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damping {
    /// A region that is down comes up after so many good checks in a row.
    pub up_after: u32,
    /// A region that is up goes down after so many bad checks, unless they were forgotten in between.
    pub down_after: u32,
    /// Bad checks are forgotten after so many good ones in a row.
    pub ok_after: u32,
}

/// Where a region stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Not checked yet: counts as up, and the first check decides.
    Unknown,
    /// Up, with so many bad checks not forgotten yet, and good ones in a row since.
    Up {
        /// Bad checks.
        bad: u32,
        /// Good ones in a row since the last bad one.
        good: u32,
    },
    /// Down, with so many good checks in a row.
    Down {
        /// Good checks in a row.
        good: u32,
    },
}

/// Damped health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    damping: Damping,
    state: HealthState,
}

impl Health {
    /// Begins with no check made.
    pub fn new(damping: Damping) -> Self {
        let damping = Damping {
            up_after: damping.up_after.max(1),
            down_after: damping.down_after.max(1),
            ok_after: damping.ok_after.max(1),
        };
        Self { damping, state: HealthState::Unknown }
    }

    /// Takes the thresholds of a new configuration; what was counted stays.
    pub fn set_damping(&mut self, damping: Damping) {
        let state = self.state;
        *self = Self::new(damping);
        self.state = state;
    }

    /// Counts a check. True when the region went up or down by it.
    pub fn check(&mut self, ok: bool) -> bool {
        let was_up = self.is_up();
        self.state = match (self.state, ok) {
            (HealthState::Unknown, true) => HealthState::Up { bad: 0, good: 0 },
            (HealthState::Unknown, false) => HealthState::Down { good: 0 },
            (HealthState::Up { bad: 0, .. }, true) => HealthState::Up { bad: 0, good: 0 },
            (HealthState::Up { bad, good }, true) if good + 1 < self.damping.ok_after => {
                HealthState::Up { bad, good: good + 1 }
            }
            (HealthState::Up { .. }, true) => HealthState::Up { bad: 0, good: 0 },
            (HealthState::Up { bad, .. }, false) if bad + 1 < self.damping.down_after => {
                HealthState::Up { bad: bad + 1, good: 0 }
            }
            (HealthState::Up { .. }, false) => HealthState::Down { good: 0 },
            (HealthState::Down { good }, true) if good + 1 < self.damping.up_after => {
                HealthState::Down { good: good + 1 }
            }
            (HealthState::Down { .. }, true) => HealthState::Up { bad: 0, good: 0 },
            (HealthState::Down { .. }, false) => HealthState::Down { good: 0 },
        };
        self.is_up() != was_up
    }

    /// Where it stands.
    pub fn state(&self) -> HealthState {
        self.state
    }

    /// True while users may be sent.
    pub fn is_up(&self) -> bool {
        !matches!(self.state, HealthState::Down { .. })
    }

    /// Checks until it could turn, at the earliest.
    pub fn checks_to_change(&self) -> u32 {
        match self.state {
            HealthState::Unknown => 1,
            HealthState::Up { bad, .. } => self.damping.down_after.saturating_sub(bad).max(1),
            HealthState::Down { good } => self.damping.up_after.saturating_sub(good).max(1),
        }
    }

    /// In words, half-way states included.
    pub fn describe(&self) -> String {
        let Damping { up_after, down_after, .. } = self.damping;
        match self.state {
            HealthState::Unknown => "not checked yet".to_owned(),
            HealthState::Up { bad: 0, .. } => "up".to_owned(),
            HealthState::Up { bad, .. } => format!("up, {bad} of {down_after} bad checks"),
            HealthState::Down { good: 0 } => "down".to_owned(),
            HealthState::Down { good } => format!("down, {good} of {up_after} good checks"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USUAL: Damping = Damping { up_after: 20, down_after: 10, ok_after: 10 };

    fn after(checks: &str) -> Health {
        let mut health = Health::new(USUAL);
        checks.chars().for_each(|c| {
            health.check(c == '+');
        });
        health
    }

    #[test]
    fn thresholds() {
        assert!(!after("-").is_up(), "the first check decides");
        assert!(after(&format!("+{}", "-".repeat(9))).is_up());
        assert!(!after(&format!("+{}", "-".repeat(10))).is_up());
        assert!(!after(&format!("+{}", "-+".repeat(10))).is_up(), "bad ones need not be in a row");
        assert!(after(&format!("+{}{}-", "-".repeat(9), "+".repeat(10))).is_up(), "ten good ones forget nine bad ones");
        assert!(!after(&format!("-{}", "+".repeat(19))).is_up());
        assert!(after(&format!("-{}", "+".repeat(20))).is_up());
        assert!(!after(&format!("-{}-+", "+".repeat(19))).is_up());
    }

    #[test]
    fn half_way_states_are_shown() {
        assert_eq!(after("+---").describe(), "up, 3 of 10 bad checks");
        assert_eq!(after("-+++++").describe(), "down, 5 of 20 good checks");
        assert_eq!(after("+---").checks_to_change(), 7);
        assert_eq!(after("-+++++").checks_to_change(), 15);
    }

    proptest! {
        /// A time-to-live from `checks_to_change` is never too long: health never turns earlier.
        #[test]
        fn invariant_never_turns_before_it_said(checks in proptest::collection::vec(any::<bool>(), 0..60), then: Vec<bool>) {
            let mut health = Health::new(USUAL);
            for ok in checks { health.check(ok); }
            let earliest = health.checks_to_change() as usize;
            for (i, ok) in then.into_iter().enumerate() {
                if health.check(ok) {
                    prop_assert!(i + 1 >= earliest, "turned after {} checks, said {earliest}", i + 1);
                    break;
                }
            }
        }
    }
}
