//! Deliberate defects, for the tests alone: each one switches a single rule of the protocol off, in the very code that
//! enforces it, and a named test shows that the model notices. Outside `cfg(test)` nothing of this exists and
//! `mutated!` is the constant `false`.

/// Whether the given defect is switched on in this thread.
macro_rules! mutated {
    ($mutant:ident) => {{
        #[cfg(test)]
        {
            $crate::mutant::active($crate::mutant::Mutant::$mutant)
        }
        #[cfg(not(test))]
        {
            false
        }
    }};
}

#[cfg(test)]
pub(crate) use switch::{Mutant, active, with};

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    /// The rule that is switched off.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Mutant {
        GrantsAsDifferences,
        ReturnsAsDifferences,
        ReturningHeldTickets,
        ReturnSentBeforeItsDebit,
        SeizingASilentSlice,
        GrantToAWrittenOffRegion,
        AcceptReturnWithoutEpoch,
        SpendingBeforeTheEpochIsHeard,
        RegisterWithoutRowUnchecked,
        RegisterWithoutReturnedCheck,
        RegisterWithoutEpochAsRead,
        ReportsOverwriteTheFloor,
        SoldGrossOfRefunds,
        RefundTwice,
        SeedWithoutAName,
        WriteOffWithoutAFence,
        IncarnationWithoutChance,
        FollowingArbitersThatKnowLess,
    }

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    pub(crate) fn active(mutant: Mutant) -> bool {
        ACTIVE.with(|active| active.get() == Some(mutant))
    }

    /// Runs `body` with the defect switched on, and switches it off again, also when `body` panics.
    pub(crate) fn with<T>(mutant: Mutant, body: impl FnOnce() -> T) -> T {
        struct Off;
        impl Drop for Off {
            fn drop(&mut self) {
                ACTIVE.with(|active| active.set(None));
            }
        }
        ACTIVE.with(|active| active.set(Some(mutant)));
        let _off = Off;
        body()
    }
}
