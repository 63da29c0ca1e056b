//! What an audit finds.

use serde::Serialize;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The invariant that is broken.
    pub invariant: &'static str,
    /// `region/concert`, or where else.
    pub place: String,
    /// What is wrong, with the numbers that show it.
    pub detail: String,
}

/// Collects problems. Of each invariant in each place it keeps the first few and counts the rest, so that one broken
/// table does not hide another behind a million lines.
#[derive(Debug, Default)]
pub struct Found {
    problems: Vec<Problem>,
    more: Vec<(&'static str, String, u64)>,
}

/// Problems kept of one invariant in one place.
const KEPT_MAX: usize = 10;

impl Found {
    /// Notes one.
    pub fn add(&mut self, invariant: &'static str, place: &str, detail: String) {
        let same = |problem: &&Problem| problem.invariant == invariant && problem.place == place;
        if self.problems.iter().filter(same).count() < KEPT_MAX {
            self.problems.push(Problem { invariant, place: place.to_owned(), detail });
            return;
        }
        match self.more.iter_mut().find(|(known, at, _)| *known == invariant && at == place) {
            Some((_, _, count)) => *count += 1,
            None => self.more.push((invariant, place.to_owned(), 1)),
        }
    }

    /// All of them, the uncounted rest as one line each.
    pub fn finish(self) -> Vec<Problem> {
        let mut problems = self.problems;
        for (invariant, place, count) in self.more {
            problems.push(Problem { invariant, place, detail: format!("and {count} more of these") });
        }
        problems
    }
}
