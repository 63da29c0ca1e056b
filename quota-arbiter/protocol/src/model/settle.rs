//! What must be true of one state: the invariants, and that from here the system can come to rest with every ticket
//! accounted for. Coming to rest is not part of the search: it is tried on a copy of every state.

use std::rc::Rc;

use super::{
    step::Wrong,
    world::{Bounds, Site, World, pool},
};
use crate::{
    command::{Command, Heard, Outcome},
    counters::Tickets,
    holder::{Action, Contact, Done, Holder},
    ids::Epoch,
    invariant::{
        Broken, invariant_agreement, invariant_books, invariant_conservation, invariant_growth, invariant_no_oversell,
        invariant_nothing_stranded, invariant_row,
    },
    issuer::RegionState,
};

impl From<Broken> for Wrong {
    fn from(broken: Broken) -> Self {
        Self(broken.to_string())
    }
}

impl World {
    /// Whether everything holds that must hold in every state; `before` is the state that a step led here from.
    pub(super) fn check(&self, before: Option<&Self>) -> Result<(), Wrong> {
        let book = &self.issuer.pools()[&pool()];
        invariant_conservation(&self.issuer, book)?;
        if let Some(forgotten) = self.issuer.forgotten() {
            return Err(Wrong(forgotten.to_string()));
        }
        let mut promised = 0;
        for (at, site) in self.sites.iter().enumerate() {
            promised += u64::from(site.sold_net());
            let Some(database) = &site.database else { continue };
            let row = database.counters(&pool());
            invariant_row(&row)?;
            invariant_books(database)?;
            let earlier = before.and_then(|before| before.sites[at].database.as_ref());
            if let Some(earlier) = earlier.filter(|earlier| earlier.identity() == database.identity()) {
                invariant_growth(&earlier.counters(&pool()), &row)?;
            }
            let Some(epoch) = database.epoch() else { continue };
            promised += row.held().get();
            let known = &self.issuer.regions()[&site.region];
            if known.state != RegionState::WrittenOff {
                let slice = self.issuer.slice(&site.region, &pool());
                // Restored arbiters have to be told what they granted.
                if self.issuer.recovering().is_none() {
                    invariant_agreement(&slice, &row)?;
                }
                if epoch == known.epoch {
                    invariant_growth(&slice.floor, &row)?;
                }
            }
        }
        invariant_no_oversell(Tickets::new(promised).unwrap(), book.total)?;
        Ok(())
    }

    /// Lets every message arrive, every database register or be written off, and nobody buy anything; then looks for
    /// every ticket.
    pub(super) fn check_rest(&self, bounds: &Bounds) -> Result<(), Wrong> {
        let mut world = self.clone();
        world.recover_again(bounds);
        for site in 0..world.sites.len() {
            world.settle_registration(site)?;
        }
        if world.issuer.recovering().is_some() {
            let outcome = world.issuer.apply(&Command::FinishRecovery);
            if outcome != Outcome::Done {
                return Err(Wrong(format!("at rest, the arbiters cannot recover: {outcome:?}")));
            }
        }
        for site in 0..world.sites.len() {
            world.settle_counters(site, bounds)?;
        }
        world.check(None)?;
        let mut rows = Vec::new();
        for site in &world.sites {
            let slice = world.issuer.slice(&site.region, &pool());
            let real = Tickets::from_u32(site.sold_net());
            match &site.database {
                Some(database) => {
                    let row = database.counters(&pool());
                    if row.granted != slice.granted || row.returned != slice.accepted {
                        return Err(Wrong(format!("at rest, {row:?} and {slice:?} differ")));
                    }
                    if row.sold_net() != real + Tickets::from_u32(site.refunds_forgotten) {
                        return Err(Wrong(format!("at rest, the books say {row:?}, but {real} were really sold")));
                    }
                    rows.push(row);
                }
                None if slice.granted - slice.accepted != real => {
                    return Err(Wrong(format!("written off with {real} really sold, but {slice:?} stays out")));
                }
                None => rows.push(slice.floor),
            }
        }
        let book = &world.issuer.pools()[&pool()];
        Ok(invariant_nothing_stranded(book.pool, rows.into_iter(), book.total)?)
    }

    /// The region's database registers, or is fenced and written off if it is refused for good reason.
    pub(super) fn settle_registration(&mut self, site: usize) -> Result<(), Wrong> {
        for _ in 0..4 {
            let view = self.issuer.view(&self.sites[site].region);
            let Site { region, database, honest, .. } = Rc::make_mut(&mut self.sites[site]);
            let Some(live) = database.as_mut().filter(|database| database.halted().is_none()) else { break };
            let adopt = match live.contact(&view) {
                Contact::Registered => return Ok(()),
                Contact::AskAgain => self.issuer.registration(region, &live.identity()),
                Contact::Register => {
                    let _ = live.apply(Epoch::default(), &Action::Observe(view.incarnation));
                    let request = live.register_request(&view);
                    match self.issuer.apply(&Command::Register(request)) {
                        Outcome::Registered(registered) => Some(registered),
                        outcome if *honest => {
                            return Err(Wrong(format!(
                                "at rest, a database that lost nothing is refused: {outcome:?}"
                            )));
                        }
                        _ => break,
                    }
                }
                Contact::Superseded(reason) if *honest => {
                    return Err(Wrong(format!("at rest, a database that lost nothing is told: {reason}")));
                }
                Contact::Superseded(_) => break,
                Contact::ArbitersBehind(behind) => return Err(Wrong(format!("at rest: {behind}"))),
            };
            match adopt.map(|registered| live.apply(Epoch::default(), &Action::Adopt(registered))) {
                Some(Ok(Done::Changed)) => *honest = true,
                other => return Err(Wrong(format!("at rest, a registration is not taken: {other:?}"))),
            }
        }
        Rc::make_mut(&mut self.sites[site]).database = None;
        let state = self.issuer.regions().get(&self.sites[site].region).map(|region| region.state);
        if state == Some(RegionState::WrittenOff) || state.is_none() {
            return Ok(());
        }
        match self.write_off(site, "destroyed at rest") {
            Outcome::WrittenOff(_) => Ok(()),
            outcome => Err(Wrong(format!("at rest, a true count after fencing is not taken: {outcome:?}"))),
        }
    }

    fn settle_counters(&mut self, site: usize, bounds: &Bounds) -> Result<(), Wrong> {
        let region = self.sites[site].region;
        let Some(answer) = self.issuer.answer(&region, |_| Tickets::ZERO) else { return Ok(()) };
        let Some(database) = &mut Rc::make_mut(&mut self.sites[site]).database else { return Ok(()) };
        let node = database.epoch().unwrap_or_default();
        database.debit_late(node);
        match database.apply(node, &Action::Deliver(answer)) {
            Ok(Done::Changed | Done::Unchanged) => {}
            other => return Err(Wrong(format!("at rest, an answer is not taken: {other:?}"))),
        }
        let Some(report) = database.report(|_| Default::default()) else { return Ok(()) };
        for row in report.pools {
            let epoch = report.epoch;
            let counters = row.counters;
            if bounds.sites[site].reports {
                let heard = vec![Heard { region, epoch, pool: row.pool, counters }];
                self.issuer.apply(&Command::RaiseFloors { heard });
            }
            let returned = counters.returned;
            self.issuer.apply(&Command::AcceptReturn { region, epoch, pool: row.pool, returned });
        }
        Ok(())
    }
}

/// The identity of a live database, for messages.
impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let book = &self.issuer.pools()[&pool()];
        write!(f, "T{} P{}", book.total, book.pool)?;
        for site in &self.sites {
            let slice = self.issuer.slice(&site.region, &pool());
            let known = &self.issuer.regions()[&site.region];
            write!(f, " | {} {:?} e{}", site.region, known.state, known.epoch)?;
            write!(f, " G{} R{} floor({:?})", slice.granted, slice.accepted, slice.floor)?;
            match &site.database {
                Some(database) => {
                    let epoch = database.registration().map(|stored| stored.epoch.get());
                    let copy = database.identity().copy;
                    write!(f, " db{copy}(e{epoch:?} {:?})", Holder::counters(database, &pool()))?;
                }
                None => write!(f, " no database")?,
            }
            write!(f, " really sold {}-{}", site.sold, site.refunded)?;
        }
        Ok(())
    }
}
