//! What can happen next, and what it does. Each step is one atomic event: one committed command, one transaction, one
//! arrival, one accident.

use std::rc::Rc;

use super::world::{ArbiterBackup, Backup, Bounds, Site, World, pool};
use crate::{
    command::{Command, Heard, Outcome, Sales},
    counters::{Counters, Tickets},
    holder::{Action, Contact, Done, Holder, OrderState},
    ids::{Epoch, Incarnation, OrderId},
    issuer::RegionState,
};

/// One event at one region; numbers are positions among what is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Grant,
    DeliverAnswer(u8),
    Hold,
    Release,
    Sell,
    /// The first event about a sold order, or one more about an order refunded before.
    Refund,
    RefundAgain,
    Return,
    DebitLate,
    AcceptReturn(u8),
    SendReport,
    LoseReport(u8),
    HearReport(u8),
    HearNow,
    SendRegister,
    DeliverRegister(u8),
    AskAgain,
    DeliverRegistered(u8),
    Crash,
    Backup,
    Failover,
    Restore,
    Lose,
    StartEmpty,
    WriteOff,
    WriteOffWithoutFence,
    RaiseTotal,
    LowerTotal,
    BackUpArbiters,
    RestoreArbiters,
    /// By an operator who counts from the backup; what is drawn by chance is lower or higher than in other lives.
    RestoreArbitersCountingFromTheBackup {
        higher: bool,
    },
    /// A region has said that it knows of a later life of the arbiters.
    RecoverAgain,
    FinishRecovery,
}

const ALL: [Step; 28] = [
    Step::Grant,
    Step::Hold,
    Step::Release,
    Step::Sell,
    Step::Refund,
    Step::RefundAgain,
    Step::Return,
    Step::DebitLate,
    Step::SendReport,
    Step::HearNow,
    Step::SendRegister,
    Step::AskAgain,
    Step::Crash,
    Step::Backup,
    Step::Failover,
    Step::Restore,
    Step::Lose,
    Step::StartEmpty,
    Step::WriteOff,
    Step::WriteOffWithoutFence,
    Step::RaiseTotal,
    Step::LowerTotal,
    Step::BackUpArbiters,
    Step::RestoreArbiters,
    Step::RestoreArbitersCountingFromTheBackup { higher: false },
    Step::RestoreArbitersCountingFromTheBackup { higher: true },
    Step::RecoverAgain,
    Step::FinishRecovery,
];

/// A rule that a step broke at once, apart from the invariants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong(pub(super) String);

impl World {
    /// Everything that may be tried next at a site; trying may turn out to change nothing. What can be seen to be
    /// pointless is left out here, since trying costs a copy of the world.
    pub(super) fn steps(&self, site: usize, bounds: &Bounds) -> Vec<Step> {
        let here = &self.sites[site];
        let limits = &bounds.sites[site];
        let row = here.row();
        let under = |bound: u32, column: Tickets| column < Tickets::from_u32(bound);
        let undebited = here.database.as_ref().is_some_and(|database| database.undebited_total() > 0);
        let has = |state| here.database.as_ref().is_some_and(|database| first(database, state).is_some());
        let mut steps = ALL.to_vec();
        steps.retain(|step| match step {
            Step::RaiseTotal | Step::LowerTotal => site == 0 && self.total_changes < bounds.total_changes,
            Step::BackUpArbiters => {
                let other_life = |backup: &ArbiterBackup| backup.issuer.incarnation() != self.issuer.incarnation();
                site == 0
                    && self.arbiter_restores < bounds.arbiter_restores
                    && self.arbiter_backup.as_ref().is_none_or(other_life)
            }
            Step::RestoreArbiters => site == 0 && self.restorable(bounds),
            Step::RestoreArbitersCountingFromTheBackup { .. } => {
                site == 0 && bounds.careless && self.restorable(bounds)
            }
            Step::RecoverAgain => site == 0 && self.known_later().is_some(),
            Step::FinishRecovery => site == 0 && self.issuer.recovering().is_some(),
            Step::Hold => under(limits.holds, row.held_in) && !row.available().is_zero(),
            Step::Release => under(limits.releases, row.released) && has(OrderState::Held),
            Step::Sell => has(OrderState::Held),
            Step::Refund => under(limits.refunds, row.refunded) && has(OrderState::Sold),
            Step::RefundAgain => under(limits.refunds, row.refunded) && has(OrderState::Refunded),
            Step::Return => under(limits.returns, row.returned) && row.granted > row.returned,
            Step::DebitLate | Step::Crash => undebited,
            Step::SendReport => limits.reports && here.reports.len() < limits.late_reports,
            Step::HearNow => limits.reports,
            Step::Backup => here.used.backups < limits.backups,
            Step::Failover => here.used.failovers < limits.failovers,
            Step::Restore => here.used.restores < limits.restores && here.backup.is_some(),
            Step::Lose => here.used.losses < limits.losses,
            Step::StartEmpty | Step::WriteOff => here.database.is_none(),
            Step::WriteOffWithoutFence => here.database.is_some() && limits.losses > 0,
            Step::SendRegister | Step::AskAgain => {
                let known = self.issuer.regions().get(&here.region);
                let current = known.map(|region| (region.epoch, region.identity));
                let own = here.database.as_ref().map(|live| (live.epoch().unwrap_or_default(), Some(live.identity())));
                own.is_some() && own != current
            }
            _ => true,
        });
        let numbered = |many: usize| 0..many as u8;
        steps.extend(numbered(here.answers.len()).map(Step::DeliverAnswer));
        steps.extend(numbered(here.returns.len()).map(Step::AcceptReturn));
        steps.extend(numbered(here.reports.len()).map(Step::HearReport));
        steps.extend(numbered(here.reports.len()).map(Step::LoseReport));
        steps.extend(numbered(here.registers.len()).map(Step::DeliverRegister));
        steps.extend(numbered(here.registered.len()).map(Step::DeliverRegistered));
        steps
    }

    /// Does one step; `Ok(false)` if it cannot happen or changes nothing.
    pub(super) fn take(&mut self, site: usize, step: Step, bounds: &Bounds) -> Result<bool, Wrong> {
        let limits = bounds.sites[site];
        let at = |number: u8| usize::from(number);
        let region = self.sites[site].region;
        let row = self.sites[site].row();
        let under = |bound: u32, column: Tickets| column < Tickets::from_u32(bound);
        match step {
            Step::Grant => {
                let granted = self.issuer.slice(&region, &pool()).granted + Tickets::from_u32(1);
                let epoch = self.issuer.view(&region).epoch;
                Ok(self.command(&Command::GrantUpTo { region, epoch, pool: pool(), granted }))
            }
            Step::DeliverAnswer(number) => {
                let answer = self.sites[site].answers[at(number)].clone();
                self.deliver(site, &Action::Deliver(answer))
            }
            Step::Hold if under(limits.holds, row.held_in) => Ok(self.spend(site, |holder| {
                let order = OrderId::new(holder.orders().len() as u128);
                Some(Action::Hold { pool: pool(), order, tickets: Tickets::from_u32(1) })
            })),
            Step::Release if under(limits.releases, row.released) => {
                Ok(self.spend(site, |holder| first(holder, OrderState::Held).map(|order| Action::Release { order })))
            }
            Step::Sell => {
                let sold =
                    self.spend(site, |holder| first(holder, OrderState::Held).map(|order| Action::Sell { order }));
                Rc::make_mut(&mut self.sites[site]).sold += u32::from(sold);
                Ok(sold)
            }
            Step::Refund if under(limits.refunds, row.refunded) => {
                let refunded =
                    self.spend(site, |holder| first(holder, OrderState::Sold).map(|order| Action::Refund { order }));
                let here = Rc::make_mut(&mut self.sites[site]);
                if refunded && here.refunds_forgotten > 0 {
                    here.refunds_forgotten -= 1;
                } else {
                    here.refunded += u32::from(refunded);
                }
                Ok(refunded)
            }
            Step::RefundAgain if under(limits.refunds, row.refunded) => {
                Ok(self.spend(site, |holder| first(holder, OrderState::Refunded).map(|order| Action::Refund { order })))
            }
            Step::Return if under(limits.returns, row.returned) => {
                Ok(self.spend(site, |_| Some(Action::Return { pool: pool(), tickets: Tickets::from_u32(1) })))
            }
            Step::AcceptReturn(number) => {
                let (incarnation, epoch, returned) = self.sites[site].returns[at(number)];
                // A report is read by the arbiters that it was sent to; a proposal does not outlive their log.
                Ok(incarnation == self.issuer.incarnation()
                    && self.command(&Command::AcceptReturn { region, epoch, pool: pool(), returned }))
            }
            Step::RaiseTotal | Step::LowerTotal if self.total_changes < bounds.total_changes => {
                let from = self.issuer.pools()[&pool()].total;
                let one = Tickets::from_u32(1);
                let to = if step == Step::RaiseTotal { Some(from + one) } else { from.minus(one) };
                let Some(to) = to else { return Ok(false) };
                self.total_changes += 1;
                Ok(self.command(&Command::SetTotal { pool: pool(), from, to }))
            }
            Step::BackUpArbiters => {
                let generations = self.sites.iter().map(|site| site.generation).collect();
                self.arbiter_backup = Some(ArbiterBackup { issuer: self.issuer.clone(), generations });
                Ok(true)
            }
            Step::RestoreArbiters => {
                let last = self.known_later().unwrap_or(self.issuer.incarnation());
                Ok(self.restore_arbiters(bounds, last, 10))
            }
            Step::RestoreArbitersCountingFromTheBackup { higher } => {
                let last = self.arbiter_backup.as_ref().map(|backup| backup.issuer.incarnation()).unwrap_or_default();
                Ok(self.restore_arbiters(bounds, last, if higher { 20 } else { 0 }))
            }
            Step::RecoverAgain => Ok(self.recover_again(bounds)),
            Step::FinishRecovery => Ok(self.command(&Command::FinishRecovery)),
            Step::SendReport | Step::LoseReport(_) | Step::HearReport(_) | Step::HearNow if limits.reports => {
                Ok(self.take_report(site, step, limits.late_reports))
            }
            Step::SendRegister | Step::DeliverRegister(_) | Step::AskAgain | Step::DeliverRegistered(_) => {
                self.take_registration(site, step)
            }
            _ => self.take_accident(site, step, bounds),
        }
    }

    fn restorable(&self, bounds: &Bounds) -> bool {
        self.arbiter_restores < bounds.arbiter_restores && self.arbiter_backup.is_some()
    }

    /// The latest incarnation that a region knows of, if it is later than the arbiters'.
    fn known_later(&self) -> Option<Incarnation> {
        let known = self.sites.iter().filter_map(|site| site.database.as_ref()).map(Holder::incarnation).max()?;
        self.issuer.behind(known).map(|behind| behind.known)
    }

    /// Every arbiter is gone, and they start again from a backup, which may be needed once more: what was committed since
    /// is forgotten, while what the old ones sent may still arrive.
    fn restore_arbiters(&mut self, bounds: &Bounds, last: Incarnation, chance: u32) -> bool {
        let Some(backup) = self.arbiter_backup.clone() else { return false };
        self.issuer = backup.issuer;
        self.arbiter_restores += 1;
        for (site, generation) in self.sites.iter_mut().zip(backup.generations) {
            // Begun on an empty disk since: its row is below the floor that its region had before it was written off.
            Rc::make_mut(site).honest &= site.generation == generation;
        }
        self.begin_recovery(bounds, last.following(chance + self.arbiter_restores))
    }

    /// What an operator does who is shown that the arbiters are behind what a region knows.
    pub(super) fn recover_again(&mut self, bounds: &Bounds) -> bool {
        let Some(last) = self.known_later() else { return false };
        self.begin_recovery(bounds, last.following(30 + self.arbiter_restores))
    }

    fn begin_recovery(&mut self, bounds: &Bounds, incarnation: Incarnation) -> bool {
        let regions = self.sites.iter().map(|site| site.region).collect();
        self.issuer.apply(&Command::BeginRecovery { incarnation, regions });
        for site in 0..self.sites.len() {
            let here = Rc::make_mut(&mut self.sites[site]);
            // They cannot know whether an empty database is the first one of its region.
            here.honest &= here.database.as_ref().is_none_or(|database| database.registration().is_some());
            self.after_step(site, bounds);
        }
        true
    }

    fn command(&mut self, command: &Command) -> bool {
        matches!(
            self.issuer.apply(command),
            Outcome::Done | Outcome::Granted(_) | Outcome::Returned(_) | Outcome::FloorsRaised(_)
        )
    }

    fn deliver(&mut self, site: usize, action: &Action) -> Result<bool, Wrong> {
        let honest = self.sites[site].honest;
        let Some(database) = &mut Rc::make_mut(&mut self.sites[site]).database else { return Ok(false) };
        match database.apply(Epoch::default(), action) {
            Ok(Done::Changed) => Ok(true),
            Ok(Done::Unchanged) | Err(_) => Ok(false),
            Ok(Done::Halted(reason)) if honest => Err(Wrong(format!("a database that lost nothing halts: {reason}"))),
            Ok(Done::Halted(_)) => Ok(true),
        }
    }

    /// A node of the region spends: it works under whatever epoch its database had when it looked.
    fn spend(&mut self, site: usize, choose: impl FnOnce(&Holder) -> Option<Action>) -> bool {
        let Some(database) = &mut Rc::make_mut(&mut self.sites[site]).database else { return false };
        let Some(node) = database.rows().get(&pool()).map(|row| row.epoch) else { return false };
        let Some(action) = choose(database) else { return false };
        database.apply(node, &action) == Ok(Done::Changed)
    }

    fn take_report(&mut self, site: usize, step: Step, late_max: usize) -> bool {
        let region = self.sites[site].region;
        let here = Rc::make_mut(&mut self.sites[site]);
        let now = here.database.as_ref().and_then(|database| database.report(|_| Default::default()));
        let now =
            now.and_then(|report| report.pools.first().map(|pool| (report.incarnation, report.epoch, pool.counters)));
        let heard = match step {
            Step::SendReport => {
                let Some(now) = now.filter(|now| here.reports.len() < late_max && !here.reports.contains(now)) else {
                    return false;
                };
                here.reports.push(now);
                return true;
            }
            Step::LoseReport(number) => {
                here.reports.remove(usize::from(number));
                return true;
            }
            Step::HearReport(number) => Some(here.reports[usize::from(number)]),
            _ => now,
        };
        let heard = heard.filter(|heard| heard.0 == self.issuer.incarnation());
        let Some((_, epoch, counters)) = heard else { return false };
        self.command(&Command::RaiseFloors { heard: vec![Heard { region, epoch, pool: pool(), counters }] })
    }

    fn take_registration(&mut self, site: usize, step: Step) -> Result<bool, Wrong> {
        let view = self.issuer.view(&self.sites[site].region);
        let here = Rc::make_mut(&mut self.sites[site]);
        match step {
            Step::SendRegister => {
                let Some(database) = here.database.as_mut().filter(|database| database.halted().is_none()) else {
                    return Ok(false);
                };
                match database.contact(&view) {
                    Contact::Register => {
                        let _ = database.apply(Epoch::default(), &Action::Observe(view.incarnation));
                        let request = database.register_request(&view);
                        if here.registers.contains(&request) || here.registers.len() > 2 {
                            return Ok(false);
                        }
                        here.registers.push(request);
                        Ok(true)
                    }
                    Contact::Superseded(reason) if here.honest => {
                        Err(Wrong(format!("a database that lost nothing is told: {reason}")))
                    }
                    _ => Ok(false),
                }
            }
            Step::DeliverRegister(number) => {
                let register = here.registers[usize::from(number)].clone();
                let own = here.database.as_ref().map(Holder::identity) == Some(register.identity);
                match self.issuer.apply(&Command::Register(register)) {
                    Outcome::Registered(registered) => {
                        Rc::make_mut(&mut self.sites[site]).registered.push(registered);
                        Ok(true)
                    }
                    Outcome::Refused(reason) if own && self.sites[site].honest => {
                        Err(Wrong(format!("a database that lost nothing is refused: {reason}")))
                    }
                    _ => Ok(false),
                }
            }
            Step::AskAgain => {
                let Some(identity) = here.database.as_ref().map(Holder::identity) else { return Ok(false) };
                match self.issuer.registration(&here.region, &identity) {
                    Some(registered) if !here.registered.contains(&registered) => {
                        here.registered.push(registered);
                        Ok(true)
                    }
                    _ => Ok(false),
                }
            }
            Step::DeliverRegistered(number) => {
                let registered = here.registered[usize::from(number)].clone();
                let of_now = registered.incarnation == self.issuer.incarnation();
                let changed = self.deliver(site, &Action::Adopt(registered))?;
                // From here on the database is the region's, whatever came before; arbiters restored since may know less.
                Rc::make_mut(&mut self.sites[site]).honest |= changed && of_now;
                Ok(changed)
            }
            _ => Ok(false),
        }
    }

    fn take_accident(&mut self, site: usize, step: Step, bounds: &Bounds) -> Result<bool, Wrong> {
        let limits = bounds.sites[site];
        let here = Rc::make_mut(&mut self.sites[site]);
        let known = self.issuer.regions().get(&here.region).map(|region| region.state);
        match step {
            Step::DebitLate | Step::Crash => {
                let Some(database) = here.database.as_mut().filter(|database| database.undebited_total() > 0) else {
                    return Ok(false);
                };
                let node = database.epoch().unwrap_or_default();
                if step == Step::Crash {
                    database.crash()
                } else {
                    database.debit_late(node)
                }
                Ok(true)
            }
            Step::Backup if here.used.backups < limits.backups => {
                let Some(database) = here.database.clone() else { return Ok(false) };
                here.used.backups += 1;
                here.backup = Some(Backup { database, generation: here.live_generation });
                Ok(true)
            }
            // The standby is synchronous: it has every row, and by being promoted it fences the old primary.
            Step::Failover if here.used.failovers < limits.failovers => {
                let identity = here.fresh_identity();
                let Some(mut database) = here.database.take() else { return Ok(false) };
                database.crash();
                here.used.failovers += 1;
                // An empty standby cannot be told from an empty disk, so it may be refused.
                here.honest &= database.registration().is_some();
                here.database = Some(database.moved_to(identity));
                Ok(true)
            }
            Step::Restore if here.used.restores < limits.restores => Ok(self.restore(site)),
            // Gone for good: destroyed, or its storage revoked.
            Step::Lose if here.used.losses < limits.losses => {
                here.note_last();
                here.used.losses += 1;
                Ok(here.database.take().is_some())
            }
            Step::StartEmpty if here.database.is_none() => {
                let identity = here.fresh_identity();
                here.database = Some(Holder::new(here.region, identity));
                here.generation += 1;
                here.live_generation = here.generation;
                here.last = Counters::ZERO;
                // Only the first empty database to register is seeded; whichever comes second may be refused.
                here.honest = known == Some(RegionState::WrittenOff) && here.registers.is_empty();
                here.refunds_forgotten = 0;
                Ok(true)
            }
            Step::WriteOff if here.database.is_none() => match self.write_off(site, "disk destroyed") {
                Outcome::WrittenOff(_) => {
                    let here = Rc::make_mut(&mut self.sites[site]);
                    here.dead_generation = Some(here.generation);
                    Ok(true)
                }
                Outcome::Refused(crate::command::CommandRefused::WrittenOff) => Ok(false),
                other => Err(Wrong(format!("a true count after fencing is not taken: {other:?}"))),
            },
            Step::WriteOffWithoutFence if here.database.is_some() && limits.losses > 0 => {
                Ok(matches!(self.write_off(site, ""), Outcome::WrittenOff(_)))
            }
            _ => Ok(false),
        }
    }

    /// An operator writes the region off, with what really was sold.
    pub(super) fn write_off(&mut self, site: usize, fenced: &str) -> Outcome {
        let here = &self.sites[site];
        let slice = self.issuer.slice(&here.region, &pool());
        let sold = Tickets::from_u32(here.sold);
        let sales = Sales { pool: pool(), sold, refunded: Tickets::from_u32(here.refunded) };
        let unknown = self.issuer.recovering().is_some_and(|waiting| waiting.contains(&here.region));
        let sales = if slice.granted.is_zero() && !unknown { Vec::new() } else { vec![sales] };
        self.issuer.apply(&Command::WriteOff { region: here.region, fenced: fenced.to_owned(), sales })
    }

    /// An older backup comes back. What it sold after the backup was made is lost to everybody: so this happens only if
    /// nothing was, or the floor shows it, or the region was written off since.
    fn restore(&mut self, site: usize) -> bool {
        let floor = self.issuer.slice(&self.sites[site].region, &pool()).floor;
        let here = Rc::make_mut(&mut self.sites[site]);
        let Some(backup) = here.backup.clone() else { return false };
        here.note_last();
        let (now, then) = (here.last, backup.database.counters(&pool()));
        let written_off = here.dead_generation.is_some_and(|dead| backup.generation <= dead);
        let lost_nothing = backup.generation == here.generation && now.sold == then.sold;
        let shown = backup.generation == here.generation && now.sold > then.sold && floor.sold > then.sold;
        if !(written_off || lost_nothing || shown) {
            return false;
        }
        if lost_nothing {
            here.refunds_forgotten += now.refunded.minus_or_zero(then.refunded).get() as u32;
        }
        let identity = here.fresh_identity();
        here.used.restores += 1;
        here.honest = false;
        here.live_generation = backup.generation;
        here.database = Some(backup.database.moved_to(identity));
        true
    }
}

impl Site {
    /// Before the live database goes: what its row was, if it is the one that the region goes on from.
    fn note_last(&mut self) {
        if self.database.is_some() && self.live_generation == self.generation {
            self.last = self.row();
        }
    }
}

fn first(holder: &Holder, state: OrderState) -> Option<OrderId> {
    holder.orders().iter().find(|(_, order)| order.state == state).map(|(id, _)| *id)
}
