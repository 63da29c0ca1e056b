//! What goes wrong, when and how badly: drawn from the seed, and bounded by what the protocol says it survives (a
//! majority of the arbiters keeps its disks, a restored backup has lost no sale that nobody was told of).

use crate::{
    dice::Dice,
    network::Party,
    world::{World, party_of},
};

/// One accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    CrashArbiter,
    CutArbiter,
    CutRegion,
    HealLinks,
    Weather,
    SlowDisks,
    CrashRegionNode,
    Failover,
    LoseRegionDisk,
    TakeBackup,
    RestoreBackup,
    ChangeMembers,
    Transfer,
    Drain,
    MoveTotal,
    RestoreArbiters,
}

const WEIGHTED: [(u64, Fault); 16] = [
    (20, Fault::CrashArbiter),
    (12, Fault::CutArbiter),
    (12, Fault::CutRegion),
    (16, Fault::HealLinks),
    (10, Fault::Weather),
    (5, Fault::SlowDisks),
    (20, Fault::CrashRegionNode),
    (8, Fault::Failover),
    (3, Fault::LoseRegionDisk),
    (5, Fault::TakeBackup),
    (5, Fault::RestoreBackup),
    (10, Fault::ChangeMembers),
    (5, Fault::Transfer),
    (4, Fault::Drain),
    (3, Fault::MoveTotal),
    (1, Fault::RestoreArbiters),
];

impl World {
    /// One accident, and when the next one comes.
    pub(crate) fn accident(&mut self) -> u64 {
        let sum = WEIGHTED.iter().map(|(weight, _)| weight).sum();
        let mut at = self.dice.below(sum);
        let mut drawn = Fault::HealLinks;
        for (weight, fault) in WEIGHTED {
            if at < weight {
                drawn = fault;
                break;
            }
            at -= weight;
        }
        self.note(&format!("{drawn:?}"));
        self.happen(drawn);
        self.dice.between(100, 1_500)
    }

    fn happen(&mut self, fault: Fault) {
        match fault {
            Fault::CrashArbiter => {
                if let Some(id) = self.some_arbiter() {
                    self.crash_arbiter(id);
                }
            }
            Fault::CutArbiter => {
                if let Some(id) = self.some_arbiter() {
                    self.cut(Party::Arbiter(id));
                }
            }
            Fault::CutRegion => {
                let region = self.some_region();
                self.cut(Party::Region(region));
            }
            Fault::HealLinks => self.network.heal_links(),
            Fault::Weather => {
                self.network.drop_per_mille = [0, 20, 100, 300][self.dice.below(4) as usize];
                self.network.double_per_mille = [0, 50, 200][self.dice.below(3) as usize];
                self.network.slow_per_mille = [0, 20, 100][self.dice.below(3) as usize];
            }
            Fault::SlowDisks => self.disk_slow_ms = [5, 20, 150, 400][self.dice.below(4) as usize],
            Fault::CrashRegionNode => {
                let region = self.some_region();
                self.crash_region(region, false);
            }
            Fault::Failover => {
                let region = self.some_region();
                self.crash_region(region, true);
            }
            Fault::LoseRegionDisk => {
                let region = self.some_region();
                self.lose_disk(region);
            }
            Fault::TakeBackup => {
                let region = self.some_region();
                self.take_backup(region);
            }
            Fault::RestoreBackup => {
                let region = self.some_region();
                self.restore_backup(region);
            }
            Fault::ChangeMembers => self.members_soon(),
            Fault::Transfer => self.transfer_leadership(),
            Fault::Drain => self.drain_or_resume(),
            Fault::MoveTotal => self.move_total(),
            Fault::RestoreArbiters => self.restore_arbiters(),
        }
    }

    fn cut(&mut self, party: Party) {
        let others = self.parties().into_iter().filter(|other| *other != party).collect::<Vec<_>>();
        let both_ways = self.dice.per_mille(600);
        // From some of the others, or from all of them.
        let some = self.dice.per_mille(500);
        let others = others.into_iter().filter(|_| !some || self.dice.per_mille(500)).collect::<Vec<_>>();
        if self.dice.per_mille(500) {
            self.network.cut(&[party], &others, both_ways);
        } else {
            self.network.cut(&others, &[party], both_ways);
        }
    }

    fn some_region(&mut self) -> usize {
        self.dice.below(self.regions.len() as u64) as usize
    }

    fn some_arbiter(&mut self) -> Option<u64> {
        let alive = self.arbiters.values().filter(|arbiter| arbiter.life.is_some()).map(|arbiter| arbiter.id);
        let alive = alive.collect::<Vec<_>>();
        pick(&mut self.dice, &alive)
    }

    pub(crate) fn parties(&self) -> Vec<Party> {
        let arbiters = self.arbiters.values().map(party_of);
        arbiters.chain((0..self.regions.len()).map(Party::Region)).collect()
    }
}

pub(crate) fn pick<T: Copy>(dice: &mut Dice, from: &[T]) -> Option<T> {
    if from.is_empty() { None } else { Some(from[dice.below(from.len() as u64) as usize]) }
}
