//! The issuer, rebuilt from a log with the protocol's own rules: what the arbiters must have come to.

use super::log::{ArbiterLog, Base, Order, Request, Work};
use arbiter_api::Place;
use quota_protocol::invariant::invariant_conservation;
use quota_protocol::{Command, ConcertId, Issuer, Outcome, PoolId, RegionId, Tickets, TierId};
use region_api::ConcertName;
use region_api::body::Checked as _;
use region_api::wire::ConcertDefinition;
use std::collections::{BTreeMap, HashSet};

/// A region that was written off.
#[derive(Debug, Clone)]
pub struct WrittenOff {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What stays sold, as its operator counted.
    pub sold: BTreeMap<PoolId, Tickets>,
}

/// What a log adds up to.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    /// The issuer after the last entry applied.
    pub issuer: Issuer,
    /// The concerts, as operators defined them.
    pub concerts: BTreeMap<ConcertId, ConcertDefinition>,
    /// The last index applied.
    pub index: u64,
    /// Regions that were written off, the last time.
    pub written_off: BTreeMap<RegionId, WrittenOff>,
    founded: bool,
    done: HashSet<String>,
}

impl Replay {
    /// From what a log follows on.
    pub fn from(base: &Base) -> Self {
        let Base { index, founded, issuer, concerts, done } = base.clone();
        Self { issuer, concerts, index, founded, done, written_off: BTreeMap::new() }
    }

    /// Applies the entries of `log` after its own index, up to `to`. An error is an entry that breaks a rule or that is
    /// not understood.
    pub fn advance(&mut self, log: &ArbiterLog, to: u64) -> Result<(), String> {
        let from = self.index;
        for item in log.entries.iter().filter(|item| item.index > from && item.index <= to) {
            let work = Work::read(item).map_err(|error| format!("entry {} is not understood: {error}", item.index))?;
            match work {
                Work::Quota(commands) => commands.iter().for_each(|command| drop(self.issuer.apply(command))),
                Work::Request(request) => self.request(&request, item.proposed_at.ms()),
                Work::Seen(_) => {}
                Work::Found(founding) => {
                    if !std::mem::replace(&mut self.founded, true) {
                        for region in founding.regions {
                            self.issuer.apply(&Command::AddRegion { region });
                        }
                    }
                }
            }
            for (id, pool) in self.issuer.pools() {
                invariant_conservation(&self.issuer, pool)
                    .map_err(|broken| format!("after entry {}: {id}: {broken}", item.index))?;
            }
        }
        self.index = self.index.max(to);
        Ok(())
    }

    fn request(&mut self, request: &Request, at_ms: u64) {
        if !self.done.insert(request.id.to_string()) {
            return;
        }
        match &request.order {
            Order::Quota(command) => self.command(command, at_ms),
            Order::PutConcert { concert, definition } => self.put(*concert, definition),
            Order::FreezeConcert { concert, frozen } => {
                let pools: Vec<PoolId> =
                    self.issuer.pools().keys().filter(|pool| pool.concert == *concert).copied().collect();
                for pool in pools {
                    self.issuer.apply(&if *frozen { Command::Freeze { pool } } else { Command::Thaw { pool } });
                }
            }
            Order::Move { pool, from: Place::Pool, to: Place::Region(region), tickets } => {
                let left = self.issuer.pools().get(pool).map_or(Tickets::ZERO, |known| known.pool);
                if left >= *tickets && !tickets.is_zero() {
                    let granted = self.issuer.slice(region, pool).granted + *tickets;
                    let epoch = self.issuer.view(region).epoch;
                    self.issuer.apply(&Command::GrantUpTo { region: *region, epoch, pool: *pool, granted });
                }
            }
            // From a region it is a request: what comes of it are returns and grants of their own.
            Order::Move { .. }
            | Order::CloseConcert { .. }
            | Order::Rebalance { .. }
            | Order::Transfer { .. }
            | Order::PutMember { .. }
            | Order::ForgetMember { .. } => {}
        }
    }

    fn command(&mut self, command: &Command, at_ms: u64) {
        let outcome = self.issuer.apply(command);
        if let (Command::WriteOff { region, .. }, Outcome::WrittenOff(_)) = (command, &outcome) {
            let slices = self.issuer.pools().iter().filter_map(|(id, pool)| Some((*id, pool.slices.get(region)?)));
            let sold = slices.map(|(id, slice)| (id, slice.granted.minus_or_zero(slice.accepted))).collect();
            self.written_off.insert(*region, WrittenOff { at_ms, sold });
        }
        if let (Command::SetTotal { pool, to, .. }, Outcome::Done) = (command, outcome)
            && let Some(concert) = self.concerts.get_mut(&pool.concert)
            && let Some(tier) = concert.tiers.iter_mut().find(|tier| tier.tier.as_str() == pool.tier.as_str())
        {
            tier.total = to.get();
        }
    }

    /// As a whole or not at all, as the arbiters do it.
    fn put(&mut self, concert: ConcertId, definition: &ConcertDefinition) {
        let Ok(name) = ConcertName::new(concert.as_str()) else { return };
        let before = self.concerts.get(&concert);
        let allowed = definition.check_name(&name).is_ok()
            && definition.check().is_ok()
            && before.is_none_or(|before| definition.check_change(before).is_ok());
        if !allowed {
            return;
        }
        let mut issuer = self.issuer.clone();
        for tier in &definition.tiers {
            let (Ok(id), Ok(to)) = (TierId::new(tier.tier.as_str()), Tickets::new(tier.total)) else { return };
            let pool = PoolId { concert, tier: id };
            let command = match issuer.pools().get(&pool) {
                None => Command::CreatePool { pool, total: to },
                Some(known) if known.total == to => continue,
                Some(known) => Command::SetTotal { pool, from: known.total, to },
            };
            if let Outcome::Refused(_) = issuer.apply(&command) {
                return;
            }
        }
        self.issuer = issuer;
        self.concerts.insert(concert, definition.clone());
    }
}
