//! The operator of a run: creates the pools, writes lost regions off with a true count, changes members, drains,
//! restores the arbiters from a backup. Every request is sent again under the same id until it is answered.

use std::collections::BTreeMap;

use quota_arbiter::{
    command::{Order, Request, RequestId},
    raft::{Machine, Membership},
    state::State,
    store::Stored,
};
use quota_protocol::{
    Action, Command, Holder, Incarnation, Outcome, RegionId, Tickets,
    command::{CommandRefused, RecoveryRefused, Sales, WriteOffRefused},
    holder::OrderState,
    issuer::RegionState,
};

use crate::{
    arbiter::{Arbiter, Input, Told},
    dice::mix,
    faults::pick,
    world::{Event, World},
};

#[derive(Debug, Default)]
pub(crate) struct Operator {
    tasks: BTreeMap<u64, Task>,
    next: u64,
    members: Option<Stage>,
    pub(crate) highest_total: Tickets,
    arbiter_backup: Option<Vec<u8>>,
    /// A run either restores the arbiters or restores regions: both at once may lose what nobody can see.
    restores_arbiters: bool,
    /// Does not remember which incarnations there were, and leaves it to the backup.
    careless: bool,
    /// The last incarnation there was, and how many.
    last: Incarnation,
    incarnations: u64,
}

#[derive(Clone, Debug)]
struct Task {
    request: Request,
    aim: Aim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    Change,
    WriteOff(usize),
    FinishRecovery,
    RecoverAgain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Add(u64),
    Promote(u64),
    Remove(u64),
}

impl World {
    pub(crate) fn operator_begins(&mut self) {
        self.operator.highest_total = self.total;
        self.operator.restores_arbiters = self.dice.per_mille(250);
        self.operator.careless = mix(self.seed).is_multiple_of(2);
        for pool in self.pools.clone() {
            self.order(Command::CreatePool { pool, total: self.total }, Aim::Change);
        }
    }

    fn order(&mut self, command: Command, aim: Aim) {
        self.operator.next += 1;
        let request =
            Request { id: RequestId(self.dice.wide()), who: "operator".to_owned(), order: Order::Quota(command) };
        self.operator.tasks.insert(self.operator.next, Task { request, aim });
    }

    pub(crate) fn leader(&self) -> Option<&Arbiter> {
        let leaders = self.arbiters.values().filter(|arbiter| arbiter.leads());
        leaders.max_by_key(|arbiter| arbiter.life.as_ref().map(|life| life.driver.term()))
    }

    pub(crate) fn state(&self) -> Option<&State> {
        let lives = self.arbiters.values().filter_map(|arbiter| arbiter.life.as_ref());
        lives.max_by_key(|life| life.driver.applied().index).map(|life| life.driver.machine())
    }

    pub(crate) fn operate(&mut self) {
        self.help_regions();
        self.help_recovery();
        self.help_members();
        let tasks = self.operator.tasks.iter().map(|(number, task)| (*number, task.request.clone()));
        let tasks = tasks.collect::<Vec<_>>();
        let ids = self.arbiters.keys().copied().collect::<Vec<_>>();
        for (number, request) in tasks {
            for id in &ids {
                if !self.dice.per_mille(self.network.drop_per_mille) {
                    self.feed_arbiter(*id, Input::Request(number, Box::new(request.clone())));
                }
            }
        }
    }

    /// A region whose database is gone, or was told to stop, is written off with what it really sold.
    fn help_regions(&mut self) {
        for number in 0..self.regions.len() {
            let region = &mut self.regions[number];
            let halted = region.database.as_ref().is_some_and(|database| database.halted().is_some());
            if halted {
                // Fenced: this database is never started again.
                region.stop_node();
                region.database = None;
            }
            let helped = self.operator.tasks.values().any(|task| task.aim == Aim::WriteOff(number));
            if region.database.is_none() && !helped {
                let command = self.write_off(number);
                self.order(command, Aim::WriteOff(number));
            }
        }
    }

    fn write_off(&self, number: usize) -> Command {
        let region = self.regions[number].id;
        let mut sales = Vec::new();
        if let Some(state) = self.state() {
            let issuer = state.issuer();
            let unknown = issuer.recovering().is_some_and(|waiting| waiting.contains(&region));
            for pool in issuer.pools().keys() {
                if unknown || !issuer.slice(&region, pool).granted.is_zero() {
                    let (sold, refunded) = self.auditor.count(region, *pool);
                    sales.push(Sales { pool: *pool, sold, refunded });
                }
            }
        }
        Command::WriteOff { region, fenced: "its disk was destroyed".to_owned(), sales }
    }

    pub(crate) fn operator_told(&mut self, number: u64, told: Told) {
        let Some(task) = self.operator.tasks.get(&number).cloned() else { return };
        let outcome = match told {
            Told::Unknown => return,
            Told::Outcome(outcome) => Some(outcome),
            Told::Repeated => None,
        };
        self.note(&format!("{:?}: {outcome:?}", task.request.order));
        self.operator.tasks.remove(&number);
        match task.aim {
            Aim::Change => {}
            Aim::RecoverAgain => {
                if !self.operator.tasks.values().any(|task| task.aim == Aim::FinishRecovery) {
                    self.order(Command::FinishRecovery, Aim::FinishRecovery);
                }
            }
            Aim::WriteOff(region) => self.written_off(region, outcome),
            Aim::FinishRecovery => self.recovered(outcome),
        }
    }

    fn written_off(&mut self, number: usize, outcome: Option<Outcome>) {
        match outcome {
            Some(
                Outcome::WrittenOff(_) | Outcome::Refused(CommandRefused::WrittenOff | CommandRefused::NoSuchRegion(_)),
            ) => {}
            // A grant was committed in between: count again.
            Some(Outcome::Refused(CommandRefused::WriteOff(
                WriteOffRefused::SalesMissing(_) | WriteOffRefused::SalesUnexpected(_),
            ))) => return,
            // An answer was lost; what is there now tells.
            None => {
                let id = self.regions[number].id;
                let known = self.state().and_then(|state| state.issuer().regions().get(&id).map(|region| region.state));
                if known != Some(RegionState::WrittenOff) {
                    return;
                }
            }
            Some(other) => {
                self.auditor.problem(format!("a true count is not taken for region {number}: {other:?}"));
                return;
            }
        }
        if self.regions[number].database.is_none() {
            self.regions[number].start_empty();
        }
    }

    fn recovered(&mut self, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Refused(CommandRefused::Recovery(RecoveryRefused::TotalTooSmall {
                pool, total, ..
            }))) => {
                let to = self.operator.highest_total;
                self.order(Command::SetTotal { pool, from: total, to }, Aim::Change);
            }
            Some(Outcome::Done | Outcome::Refused(CommandRefused::Recovery(RecoveryRefused::NotRecovering))) => return,
            _ => {}
        }
        if self.state().is_some_and(|state| state.issuer().recovering().is_some()) {
            self.order(Command::FinishRecovery, Aim::FinishRecovery);
        }
    }

    pub(crate) fn crash_arbiter(&mut self, id: u64) {
        let written = self.dice.per_mille(500);
        if let Some(arbiter) = self.arbiters.get_mut(&id) {
            arbiter.crash(written);
            let delay = self.dice.between(50, 8_000);
            self.after(delay, Event::StartArbiter(id));
        }
    }

    pub(crate) fn crash_region(&mut self, number: usize, promotes: bool) {
        let region = &mut self.regions[number];
        region.stop_node();
        if promotes {
            let identity = region.fresh_identity();
            region.database = region.database.take().map(|database| database.moved_to(identity));
            self.backups.remove(&number);
        }
        let delay = self.dice.between(50, 6_000);
        self.after(delay, Event::StartRegion(number));
    }

    pub(crate) fn lose_disk(&mut self, number: usize) {
        let region = &mut self.regions[number];
        region.stop_node();
        region.database = None;
        self.backups.remove(&number);
    }

    pub(crate) fn take_backup(&mut self, number: usize) {
        if let Some(database) = &self.regions[number].database {
            self.backups.insert(number, database.clone());
        }
        let complete = self.state().filter(|state| state.issuer().pools().len() == self.pools.len());
        if let Some(snapshot) = complete.map(Machine::snapshot) {
            self.operator.arbiter_backup = Some(snapshot);
        }
    }

    /// A backup comes back that has lost holds, releases and returns, but no sale and no refund: those that nobody was
    /// told of cannot be seen by anybody.
    pub(crate) fn restore_backup(&mut self, number: usize) {
        if self.operator.restores_arbiters {
            return;
        }
        let Some(backup) = self.backups.get(&number).cloned() else { return };
        let Some(now) = &self.regions[number].database else { return };
        let same = |pool| {
            let (then, now) = (Holder::counters(&backup, pool), now.counters(pool));
            (then.sold, then.refunded) == (now.sold, now.refunded)
        };
        if !self.pools.iter().all(same) {
            return;
        }
        let region = &mut self.regions[number];
        region.stop_node();
        let identity = region.fresh_identity();
        region.database = Some(backup.moved_to(identity));
        // A hold that had ended is there again, and the region's recycler finds it past its time.
        for order in self.regions[number].orders(OrderState::Held) {
            let delay = self.dice.between(1_500, 6_000);
            self.after(delay, Event::Order(number, Action::Release { order }));
        }
        let delay = self.dice.between(50, 3_000);
        self.after(delay, Event::StartRegion(number));
    }

    pub(crate) fn members_soon(&mut self) {
        if self.operator.members.is_none() && self.leader().is_some() {
            let id = self.add_arbiter(Stored::default());
            self.operator.members = Some(Stage::Add(id));
        }
    }

    fn help_members(&mut self) {
        let Some(stage) = self.operator.members else { return };
        let Some(life) = self.leader().and_then(|leader| leader.life.as_ref()) else { return };
        let (leader, members) = (life.driver.id(), life.driver.members());
        let voters = members.voters.iter().copied().filter(|id| *id != leader).collect::<Vec<_>>();
        let (next, input) = match stage {
            Stage::Add(id) if members.learners.contains(&id) => (Some(Stage::Promote(id)), None),
            Stage::Add(id) => (Some(stage), Some(Input::Members(Membership::AddLearner(id)))),
            Stage::Promote(id) if members.voters.contains(&id) => {
                // Three or five of them; one goes for the one that came, now and then.
                let others = voters.iter().copied().filter(|other| *other != id).collect::<Vec<_>>();
                let goes = members.voters.len() > 4 || self.dice.per_mille(700);
                (pick(&mut self.dice, &others).filter(|_| goes).map(Stage::Remove), None)
            }
            Stage::Promote(id) => (Some(stage), Some(Input::Members(Membership::Promote(id)))),
            Stage::Remove(id) if !members.voters.contains(&id) => {
                self.arbiters.remove(&id);
                (None, None)
            }
            Stage::Remove(id) if id == leader => {
                let to = pick(&mut self.dice, &voters).unwrap_or(leader);
                (Some(stage), Some(Input::Transfer(to)))
            }
            Stage::Remove(id) => (Some(stage), Some(Input::Members(Membership::Remove(id)))),
        };
        if next != Some(stage) {
            self.note(&format!("members: {stage:?} then {next:?}"));
        }
        self.operator.members = next;
        if let Some(input) = input {
            self.feed_arbiter(leader, input);
        }
    }

    pub(crate) fn transfer_leadership(&mut self) {
        let Some(life) = self.leader().and_then(|leader| leader.life.as_ref()) else { return };
        let (leader, voters) = (life.driver.id(), life.driver.members().voters);
        if let Some(to) = pick(&mut self.dice, &voters) {
            self.feed_arbiter(leader, Input::Transfer(to));
        }
    }

    pub(crate) fn drain_or_resume(&mut self) {
        let ids = self.regions.iter().map(|region| region.id).collect::<Vec<_>>();
        let Some(region) = pick(&mut self.dice, &ids) else { return };
        if self.dice.per_mille(500) {
            self.order(Command::Drain { region }, Aim::Change);
        } else {
            self.resume_all();
        }
    }

    pub(crate) fn resume_all(&mut self) {
        let drained = |state: &State| -> Vec<RegionId> {
            let regions = state.issuer().regions().iter();
            regions.filter(|(_, region)| region.state == RegionState::Draining).map(|(id, _)| *id).collect()
        };
        for region in self.state().map(drained).unwrap_or_default() {
            self.order(Command::Resume { region }, Aim::Change);
        }
    }

    pub(crate) fn move_total(&mut self) {
        if self.operator.restores_arbiters {
            return;
        }
        let Some(pool) = pick(&mut self.dice, &self.pools.clone()) else { return };
        let Some(from) = self.state().and_then(|state| state.issuer().pools().get(&pool).map(|book| book.total)) else {
            return;
        };
        let by = Tickets::from_u32(self.dice.between(1, u64::from(self.settings.tickets) / 10 + 1) as u32);
        let to = if self.dice.per_mille(500) { from + by } else { from.minus_or_zero(by) };
        self.operator.highest_total = self.operator.highest_total.max(to);
        self.order(Command::SetTotal { pool, from, to }, Aim::Change);
    }

    /// Every arbiter and every disk of theirs is gone; three new ones start from an older backup, frozen.
    pub(crate) fn restore_arbiters(&mut self) {
        if !self.operator.restores_arbiters {
            return;
        }
        let Some(backup) = self.operator.arbiter_backup.take() else { return };
        let last = if self.operator.careless { Incarnation::default() } else { self.operator.last };
        // Also those that are written off now: the backup does not know what they sold.
        let regions = self.regions.iter().map(|region| region.id).collect();
        let chance = self.chance();
        let state = match State::restored(&backup, last, chance, regions) {
            Ok(state) => state,
            Err(error) => {
                self.auditor.problem(error);
                return;
            }
        };
        let incarnation = state.issuer().incarnation();
        self.operator.last = self.operator.last.max(incarnation);
        self.note(&self.tell_books());
        self.arbiters.clear();
        self.auditor.new_log(incarnation);
        self.operator.members = None;
        let ids = (self.next_arbiter..self.next_arbiter + 3).collect();
        let first = Stored::first(ids, state.snapshot());
        for _ in 0..3 {
            self.add_arbiter(first.clone());
        }
        self.note(&self.tell_books());
        self.order(Command::FinishRecovery, Aim::FinishRecovery);
    }

    /// Drawn apart from everything else, so that a seed's accidents do not depend on it.
    fn chance(&mut self) -> u32 {
        self.operator.incarnations += 1;
        mix(self.seed ^ self.operator.incarnations) as u32
    }

    /// A region says that the arbiters are behind what it knows: their recovery is begun again, above that.
    fn help_recovery(&mut self) {
        let Some(life) = self.leader().and_then(|leader| leader.life.as_ref()) else { return };
        let known = self.regions.iter().filter_map(|region| region.database.as_ref()).map(Holder::incarnation).max();
        let Some(behind) = known.and_then(|known| life.driver.machine().issuer().behind(known)) else { return };
        if self.operator.tasks.values().any(|task| task.aim == Aim::RecoverAgain) {
            return;
        }
        self.note(&behind.to_string());
        let incarnation = behind.known.following(self.chance());
        self.operator.last = incarnation;
        let regions = self.regions.iter().map(|region| region.id).collect();
        self.order(Command::BeginRecovery { incarnation, regions }, Aim::RecoverAgain);
    }
}
