//! Who can reach whom, and how badly. Links are one-way: a node may hear and not be heard.

use std::collections::BTreeSet;

use crate::dice::Dice;

/// A party on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Party {
    /// An arbiter, by raft id.
    Arbiter(u64),
    /// A region, by number.
    Region(usize),
}

#[derive(Debug, Default)]
pub(crate) struct Network {
    cut: BTreeSet<(Party, Party)>,
    pub(crate) drop_per_mille: u64,
    pub(crate) double_per_mille: u64,
    pub(crate) slow_per_mille: u64,
}

impl Network {
    pub(crate) fn heal(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn heal_links(&mut self) {
        self.cut.clear();
    }

    /// Cuts the links between two sides, or only the way from the first to the second.
    pub(crate) fn cut(&mut self, one: &[Party], other: &[Party], both_ways: bool) {
        for from in one {
            for to in other {
                self.cut.insert((*from, *to));
                if both_ways {
                    self.cut.insert((*to, *from));
                }
            }
        }
    }

    /// After how many milliseconds a message arrives: never, once, or twice.
    pub(crate) fn delays(&self, from: Party, to: Party, dice: &mut Dice) -> Vec<u64> {
        if self.cut.contains(&(from, to)) || dice.per_mille(self.drop_per_mille) {
            return Vec::new();
        }
        let mut times = 1;
        if dice.per_mille(self.double_per_mille) {
            times = 2;
        }
        let one = |dice: &mut Dice| {
            let slow = dice.per_mille(self.slow_per_mille);
            if slow { dice.between(100, 6_000) } else { dice.between(1, 30) }
        };
        (0..times).map(|_| one(dice)).collect()
    }
}
