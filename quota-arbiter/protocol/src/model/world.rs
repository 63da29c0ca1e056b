//! One state of the model: the issuer, each region's databases, what is under way between them, and ghosts: facts that
//! no program knows, kept to judge by.

use std::{
    hash::{BuildHasher, Hash, Hasher},
    rc::Rc,
    sync::LazyLock,
};

use foldhash::quality::FixedState;

use crate::{
    command::Command,
    counters::{Counters, Tickets},
    holder::{Holder, OrderState},
    ids::{Epoch, Identity, Incarnation, PoolId, RegionId},
    issuer::Issuer,
    message::{Answer, Register, Registered},
};

/// How far a region may go. Budgets bound the search; the protocol knows nothing of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SiteBounds {
    pub(super) holds: u32,
    pub(super) releases: u32,
    pub(super) refunds: u32,
    pub(super) returns: u32,
    /// Whether reports raise the floor, and how many may be under way while newer ones overtake them.
    pub(super) reports: bool,
    pub(super) late_reports: usize,
    pub(super) backups: u32,
    pub(super) restores: u32,
    pub(super) failovers: u32,
    pub(super) losses: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) total: u32,
    pub(super) sites: Vec<SiteBounds>,
    pub(super) total_changes: u32,
    /// How often the arbiters may be restored from an older backup.
    pub(super) arbiter_restores: u32,
    /// Whether it may be done by somebody who knows of no incarnation but the backup's.
    pub(super) careless: bool,
    /// Forget messages that can never have an effect again, which keeps states apart for nothing. Off for mutants,
    /// whose point may be that they do have one.
    pub(super) prune: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Used {
    pub(super) backups: u32,
    pub(super) restores: u32,
    pub(super) failovers: u32,
    pub(super) losses: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) region: RegionId,
    pub(super) database: Option<Holder>,
    pub(super) backup: Option<Backup>,
    /// Everything that was sent and may still arrive.
    pub(super) answers: Vec<Answer>,
    pub(super) returns: Vec<(Incarnation, Epoch, Tickets)>,
    pub(super) reports: Vec<(Incarnation, Epoch, Counters)>,
    pub(super) registers: Vec<Register>,
    pub(super) registered: Vec<Registered>,
    pub(super) used: Used,
    pub(super) identities: u32,
    /// Ghost: sales and refunds that really happened, in whichever database.
    pub(super) sold: u32,
    pub(super) refunded: u32,
    /// Ghost: refunds that a backup has forgotten; doing them again gives nobody money or tickets twice.
    pub(super) refunds_forgotten: u32,
    /// Ghost: the live database has forgotten nothing, so nothing may ever refuse it.
    pub(super) honest: bool,
    /// Ghost: empty databases begun, and which of them the live one descends from.
    pub(super) generation: u32,
    pub(super) live_generation: u32,
    /// Ghost: databases of this generation and earlier ones were written off.
    pub(super) dead_generation: Option<u32>,
    /// Ghost: the last row of the database that spoke for the region before the live one.
    pub(super) last: Counters,
}

#[derive(Clone, Debug)]
pub(super) struct Backup {
    pub(super) database: Holder,
    pub(super) generation: u32,
}

#[derive(Clone, Debug)]
pub(super) struct ArbiterBackup {
    pub(super) issuer: Issuer,
    /// Ghost: which generation each region was in.
    pub(super) generations: Vec<u32>,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) issuer: Issuer,
    /// Shared between states until one of them changes a site.
    pub(super) sites: Vec<Rc<Site>>,
    pub(super) total_changes: u32,
    pub(super) arbiter_backup: Option<ArbiterBackup>,
    pub(super) arbiter_restores: u32,
}

pub(super) fn pool() -> PoolId {
    static POOL: LazyLock<PoolId> = LazyLock::new(|| "demo/A".parse().unwrap());
    *POOL
}

impl Site {
    fn new(number: usize) -> Self {
        let region = ["east", "west", "south"][number].parse().unwrap();
        let mut site = Self {
            region,
            database: None,
            backup: None,
            answers: Vec::new(),
            returns: Vec::new(),
            reports: Vec::new(),
            registers: Vec::new(),
            registered: Vec::new(),
            used: Used::default(),
            identities: 0,
            sold: 0,
            refunded: 0,
            refunds_forgotten: 0,
            honest: true,
            generation: 0,
            live_generation: 0,
            dead_generation: None,
            last: Counters::ZERO,
        };
        site.database = Some(Holder::new(region, site.fresh_identity()));
        site
    }

    pub(super) fn fresh_identity(&mut self) -> Identity {
        self.identities += 1;
        Identity { system: 1, timeline: 1, copy: u128::from(self.identities) }
    }

    pub(super) fn row(&self) -> Counters {
        self.database.as_ref().map(|database| database.counters(&pool())).unwrap_or_default()
    }

    pub(super) fn sold_net(&self) -> u32 {
        self.sold - self.refunded
    }
}

impl World {
    /// Every region has registered its first database; nothing is granted.
    pub(super) fn new(bounds: &Bounds) -> Self {
        let mut issuer = Issuer::default();
        issuer.apply(&Command::CreatePool { pool: pool(), total: Tickets::from_u32(bounds.total) });
        let mut world = Self {
            issuer,
            sites: (0..bounds.sites.len()).map(|number| Rc::new(Site::new(number))).collect(),
            total_changes: 0,
            arbiter_backup: None,
            arbiter_restores: 0,
        };
        for site in 0..world.sites.len() {
            world.settle_registration(site).unwrap();
            world.after_step(site, bounds);
        }
        world
    }

    /// What can be sent is sent: answers and returns are under way from the moment they are true.
    pub(super) fn after_step(&mut self, site: usize, bounds: &Bounds) {
        let site_returns = bounds.sites[site].returns > 0;
        let site = Rc::make_mut(&mut self.sites[site]);
        if let Some(answer) = self.issuer.answer(&site.region, |_| Tickets::ZERO)
            && !site.answers.contains(&answer)
        {
            site.answers.push(answer);
        }
        let live = site.database.as_ref().filter(|_| site_returns);
        if let Some(report) = live.and_then(|database| database.report(|_| Default::default())) {
            for pool in report.pools.iter().filter(|pool| !pool.counters.returned.is_zero()) {
                let returned = (report.incarnation, report.epoch, pool.counters.returned);
                if !site.returns.contains(&returned) {
                    site.returns.push(returned);
                }
            }
        }
        if bounds.prune {
            site.forget_what_cannot_matter(&self.issuer);
        }
    }

    pub(super) fn fingerprint(&self) -> u64 {
        let mut hash = FixedState::with_seed(0x7161_6f74).build_hasher();
        hash_issuer(&self.issuer, &mut hash);
        self.arbiter_backup.is_some().hash(&mut hash);
        if let Some(backup) = &self.arbiter_backup {
            hash_issuer(&backup.issuer, &mut hash);
            backup.generations.hash(&mut hash);
        }
        for site in &self.sites {
            site.hash_into(&mut hash);
        }
        (self.total_changes, self.arbiter_restores).hash(&mut hash);
        hash.finish()
    }
}

impl Site {
    /// Messages that change nothing now can do so later only if what they compare with goes back, and none of it does:
    /// epochs, accepted returns, floors and rows only grow, and a database under another identity begins a new epoch.
    fn forget_what_cannot_matter(&mut self, issuer: &Issuer) {
        let Some(known) = issuer.regions().get(&self.region) else { return };
        let slice = issuer.slice(&self.region, &pool());
        let own = self.database.as_ref().and_then(Holder::epoch);
        let identity = self.database.as_ref().map(Holder::identity);
        let stored = self.database.as_ref().and_then(Holder::registration).map(|stored| stored.epoch);
        let row = self.row();
        self.registered.retain(|answer| Some(answer.identity) == identity && Some(answer.epoch) > stored);
        for answer in self.answers.iter_mut().filter(|answer| Some(answer.epoch) == own) {
            for slice in answer.slices.iter_mut().filter(|slice| row.below(&slice.floor).is_none()) {
                slice.floor = Counters::ZERO;
            }
        }
        let registered = &self.registered;
        self.answers.retain(|answer| {
            let current = answer.epoch == known.epoch || registered.iter().any(|waits| waits.epoch == answer.epoch);
            let new = answer.slices.iter().any(|slice| slice.granted > row.granted || slice.floor != Counters::ZERO);
            if Some(answer.epoch) == own { new } else { current && own < Some(answer.epoch) }
        });
        self.answers.sort_by_key(|answer| (answer.epoch, answer.slices[0].granted, columns(&answer.slices[0].floor)));
        self.answers.dedup();
        self.returns.retain(|(_, epoch, returned)| *epoch == known.epoch && *returned > slice.accepted);
        self.returns.sort();
        self.reports
            .retain(|(_, epoch, row)| *epoch == known.epoch && (!known.heard || slice.floor.below(row).is_some()));
        self.reports.sort_by_key(|(_, epoch, row)| (*epoch, columns(row)));
        self.registers.retain(|register| register.epoch_as_read == known.epoch);
    }

    fn hash_into(&self, hash: &mut impl Hasher) {
        let database = |database: &Holder, hash: &mut dyn Hasher| {
            let mut hash = hash;
            let stored = database.registration();
            let stored = stored.map(|stored| (stored.incarnation, stored.epoch, stored.registered_as.copy));
            (database.identity().copy, database.incarnation(), stored, database.halted().is_some()).hash(&mut hash);
            for row in database.rows().values() {
                (row.counters, row.epoch, row.registered_as.copy, row.seeded).hash(&mut hash);
            }
            // Orders of one ticket each are all alike: how many there are in each state says it all.
            let mut states = [0_u32; 4];
            for order in database.orders().values() {
                states[match order.state {
                    OrderState::Held => 0,
                    OrderState::Released => 1,
                    OrderState::Sold => 2,
                    OrderState::Refunded => 3,
                }] += 1;
            }
            states.hash(&mut hash);
            database.undebited_total().hash(&mut hash);
        };
        self.database.is_some().hash(hash);
        if let Some(live) = &self.database {
            database(live, hash);
        }
        self.backup.is_some().hash(hash);
        if let Some(backup) = &self.backup {
            database(&backup.database, hash);
            backup.generation.hash(hash);
        }
        self.answers.len().hash(hash);
        for answer in &self.answers {
            (answer.incarnation, answer.epoch, answer.slices[0].granted, answer.slices[0].floor).hash(hash);
        }
        (&self.returns, &self.reports, self.registers.len(), self.registered.len()).hash(hash);
        for register in &self.registers {
            (register.identity.copy, register.incarnation, register.epoch_as_read, &register.database).hash(hash);
        }
        for registered in &self.registered {
            let seed = registered.seeds.values().next();
            (registered.identity.copy, registered.incarnation, registered.epoch, seed).hash(hash);
        }
        (self.used, self.identities, self.sold, self.refunded, self.refunds_forgotten).hash(hash);
        (self.honest, self.generation, self.live_generation, self.dead_generation, self.last).hash(hash);
    }
}

fn hash_issuer(issuer: &Issuer, hash: &mut impl Hasher) {
    (issuer.incarnation(), issuer.recovering().map(std::collections::BTreeSet::len)).hash(hash);
    for book in issuer.pools().values() {
        (book.total, book.pool).hash(hash);
        for (region, slice) in &book.slices {
            (region.as_str(), slice).hash(hash);
        }
    }
    for (id, region) in issuer.regions() {
        let copy = region.identity.map(|identity| identity.copy);
        let waits = issuer.recovering().is_some_and(|waiting| waiting.contains(id));
        (region.state, region.epoch, region.oldest, region.heard, copy, region.seeded, waits).hash(hash);
    }
}

fn columns(row: &Counters) -> [Tickets; 6] {
    row.columns().map(|(_, value)| value)
}
