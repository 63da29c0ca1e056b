//! The node's thread: mail and ticks go into the driver; what it says is persisted, then sent, then applied, in
//! [`Owner::turn`] and nowhere else. A store that fails ends the thread, and with it the process.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use arbiter_api::PoolStock;
use parking_lot::RwLock;
use quota_protocol::{
    Command, Outcome, PoolId, RegionId, Tickets,
    command::{CommandRefused, RecoveryRefused},
    sold_out,
};

use super::{
    AskSync, Consistency, Ended, Leads, NodeConfig, Outbox, Status, Synced, Unavailable, View, afterwards,
    mail::{self, Mail, Reply},
    polls::{Poll, Polls},
    proposals::{Proposals, Waiting},
    reads::Reads,
    view,
};
use crate::{
    command::{LogEntry, Order, Work},
    failpoints::fail_point,
    leader::Leader,
    limits::{
        BACKGROUND_ENTRIES_MAX, FINISH_AGAIN_MS, MAIL_PER_TURN_MAX, ROUND_MIN_MS, STOCK_REFRESH_MS, TICKS_AT_ONCE_MAX,
    },
    raft::{Committed, Driver, Membership, Message, Output, ProposalId, ProposeRefused},
    state::{Applied, Done, Effect, State},
    store::{LogStore, Stored},
};

pub(super) struct Owner {
    config: NodeConfig,
    driver: Driver<State>,
    store: Box<dyn LogStore + Send>,
    outbox: Box<dyn Outbox>,
    leader: Leader,
    led: bool,
    proposals: Proposals,
    reads: Reads,
    polls: Polls,
    /// What is left anywhere, and of which index and when that was summed up.
    stock: Arc<BTreeMap<PoolId, PoolStock>>,
    stock_of: (u64, Instant),
    started: Instant,
    last_round_ms: u64,
    /// When to try next to finish a recovery.
    finish_at_ms: u64,
    status: Arc<RwLock<Arc<Status>>>,
    /// Distinguishes this life's proposals from an earlier one's.
    life: u64,
    number: u64,
    ended: Option<Reply<()>>,
}

impl Owner {
    pub(super) fn new(
        config: NodeConfig,
        store: Box<dyn LogStore + Send>,
        stored: Stored,
        mut outbox: Box<dyn Outbox>,
    ) -> Result<Self, Ended> {
        let driver = Driver::new(config.raft, stored, State::default())?;
        outbox.addresses(&addresses(&config, driver.machine()));
        let started = Instant::now();
        let mut owner = Self {
            leader: Leader::new(config.policy.clone()),
            config,
            driver,
            store,
            outbox,
            led: false,
            proposals: Proposals::default(),
            reads: Reads::default(),
            polls: Polls::default(),
            stock: Arc::default(),
            stock_of: (0, started),
            started,
            last_round_ms: 0,
            finish_at_ms: 0,
            status: Arc::default(),
            life: uuid::Uuid::new_v4().as_u64_pair().0,
            number: 0,
            ended: None,
        };
        owner.refresh_stock();
        owner.note_status();
        Ok(owner)
    }

    pub(super) fn status(&self) -> Arc<RwLock<Arc<Status>>> {
        self.status.clone()
    }

    /// Until it is stopped, or nobody holds a handle any more, or the store fails.
    pub(super) fn run(mut self, mailbox: &mpsc::Receiver<Mail>) -> Result<(), Ended> {
        let mut tick_at = Instant::now() + self.config.tick;
        loop {
            let first = match mailbox.recv_timeout(tick_at.saturating_duration_since(Instant::now())) {
                Ok(mail) => Some(mail),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            };
            // Whatever is there goes into one transaction.
            for mail in first.into_iter().chain(mailbox.try_iter().take(MAIL_PER_TURN_MAX)) {
                self.take(mail)?;
            }
            let now = Instant::now();
            let mut ticks = 0;
            while tick_at <= now {
                tick_at += self.config.tick;
                ticks += 1;
                if ticks <= TICKS_AT_ONCE_MAX {
                    self.driver.tick();
                }
            }
            // A process that was stopped for long does not make up for all of it.
            tick_at = tick_at.max(now);
            if ticks > 0 {
                self.each_tick(now);
            }
            self.lead(ticks > 0);
            self.turn()?;
            if let Some(reply) = self.ended.take() {
                drop(reply.send(Ok(())));
                return Ok(());
            }
        }
    }

    /// Everything that the driver has to say: persist, then send, then apply.
    fn turn(&mut self) -> Result<(), Ended> {
        let mut news = BTreeSet::new();
        while let Some(work) = self.driver.ready() {
            // A leader's appends may go out while its own disk works.
            self.outbox.send(work.messages);
            let compacts = work.batch.compact.is_some();
            fail_point("node.before_persist");
            if compacts {
                fail_point("node.before_compact");
            }
            let since = Instant::now();
            self.store.persist(&work.batch)?;
            metrics::histogram!("boxoffice_arbiter_persist_duration_seconds").record(since.elapsed().as_secs_f64());
            fail_point("node.after_persist");
            if compacts {
                fail_point("node.after_compact");
            }
            let mut output = self.driver.persisted()?;
            fail_point("node.after_apply");
            self.outbox.send(std::mem::take(&mut output.messages));
            fail_point("node.after_send");
            self.follow(output, &mut news);
        }
        self.note_status();
        self.notice_leadership();
        for region in news {
            self.push(&region);
        }
        Ok(())
    }

    fn take(&mut self, mail: Mail) -> Result<(), Ended> {
        match mail {
            Mail::Raft(messages) => {
                for message in messages {
                    self.step(message)?;
                }
            }
            Mail::Unreachable(id) => self.driver.unreachable(id),
            Mail::Propose { work, reply } => self.propose_for(*work, reply),
            Mail::Sync(mail) => {
                let (ask, reply) = *mail;
                self.sync(ask, reply);
            }
            Mail::Read { consistency, read } => self.read(consistency, read),
            Mail::Members { change, reply } => {
                let id = self.fresh();
                match self.driver.change_members(id, change) {
                    Ok(_) => self.proposals.wait(id, Waiting::Members(reply)),
                    Err(refused) => drop(reply.send(Ok(Err(refused)))),
                }
            }
            Mail::Transfer { to, reply } => drop(reply.send(self.transfer(to))),
            Mail::Stop { reply } => self.ended = Some(reply),
        }
        Ok(())
    }

    fn step(&mut self, message: Message) -> Result<(), Ended> {
        if let Some((relied, last)) = self.driver.forgot(&message) {
            return Err(Ended::Forgot { from: message.from, id: self.driver.id(), relied, last });
        }
        if self.driver.plausible(&message) {
            self.driver.step(message);
        } else {
            tracing::warn!(from = message.from, kind = message.msg_type, "dropped a message that cannot be");
        }
        Ok(())
    }

    fn fresh(&mut self) -> ProposalId {
        self.number += 1;
        ProposalId(u128::from(self.life) << 64 | u128::from(self.number))
    }

    fn leads(&self) -> Option<Leads> {
        let id = self.driver.leader();
        let address = self.driver.machine().members().get(&id).or(self.config.founding.members.get(&id));
        (id != 0).then(|| Leads { id, address: address.cloned() })
    }

    fn not_leader(&self) -> Unavailable {
        Unavailable::NotLeader(self.leads().filter(|leads| leads.id != self.driver.id()))
    }

    fn propose(&mut self, work: Work) -> Result<ProposalId, Unavailable> {
        let Ok(bytes) = LogEntry::new(view::wall_ms(), work).encode() else { return Err(Unavailable::Busy) };
        let id = self.fresh();
        match self.driver.propose(id, bytes) {
            Ok(_) => Ok(id),
            Err(ProposeRefused::NotLeader(_)) => Err(self.not_leader()),
            Err(ProposeRefused::Busy) => Err(Unavailable::Busy),
        }
    }

    fn propose_for(&mut self, work: Work, reply: Reply<(crate::raft::At, Applied)>) {
        let afterwards = afterwards(&work);
        match self.propose(work) {
            Ok(id) => self.proposals.wait(id, Waiting::Request { reply, afterwards }),
            Err(unavailable) => drop(reply.send(Err(unavailable))),
        }
    }

    fn transfer(&mut self, to: Option<u64>) -> Result<Option<u64>, Unavailable> {
        if !self.driver.leads() {
            return Err(self.not_leader());
        }
        let own = self.driver.id();
        let voters = self.driver.members().voters;
        let others = voters.into_iter().filter(|voter| *voter != own);
        let target = match to {
            Some(to) => others.into_iter().find(|voter| *voter == to),
            None => others.max_by_key(|voter| self.driver.matched(*voter)),
        };
        if let Some(target) = target {
            self.driver.transfer(target);
        }
        Ok(target)
    }

    fn read(&mut self, consistency: Consistency, read: mail::Read) {
        match consistency {
            Consistency::Linearizable if self.driver.leads() => {
                let id = self.fresh();
                self.driver.read(id);
                self.reads.wait(id, read);
            }
            Consistency::Leader | Consistency::Linearizable if !self.driver.leads() => read(Err(self.not_leader())),
            Consistency::Leader | Consistency::Linearizable | Consistency::Stale => read(Ok(&self.view())),
        }
    }

    fn view(&self) -> View<'_> {
        View { driver: &self.driver, leader: &self.leader, started: self.started }
    }

    fn each_tick(&mut self, now: Instant) {
        self.proposals.give_up(now);
        let late = self.reads.give_up(now);
        let ids = (0..late).map(|_| self.fresh()).collect::<Vec<_>>();
        for id in &ids {
            self.driver.read(*id);
        }
        self.reads.ask_again(now, ids);
        for (region, poll) in self.polls.due(now) {
            self.answer(region, poll.concerts_version, poll.reply);
        }
        if self.driver.leads() {
            self.promote();
        }
    }

    /// A learner that has caught up gets its vote.
    fn promote(&mut self) {
        let learners = self.driver.members().learners;
        for learner in learners {
            let id = self.fresh();
            if self.driver.change_members(id, Membership::Promote(learner)).is_ok() {
                self.proposals.wait(id, Waiting::Background);
                return;
            }
        }
    }

    /// The leader's own work: on each tick, and earlier when somebody is dry.
    fn lead(&mut self, ticked: bool) {
        if !self.driver.leads() {
            return;
        }
        let now_ms = view::now_ms(self.started);
        let hurried = self.leader.hurried() && now_ms >= self.last_round_ms + ROUND_MIN_MS;
        // What is under way is not proposed twice; behind a majority that is away it would only pile up.
        if !(ticked || hurried) || self.proposals.in_background() > BACKGROUND_ENTRIES_MAX {
            return;
        }
        self.last_round_ms = now_ms;
        let state = self.driver.machine();
        if !state.founded() {
            let founding = self.config.founding.clone();
            self.propose_in_background(Work::Found(founding));
            return;
        }
        let voters = self.driver.members().voters.into_iter();
        let has_log = |id: &u64| self.driver.matched(*id).is_some_and(|matched| matched > 1);
        let seen = voters.filter(|id| has_log(id) && !state.seen().contains(id)).collect::<Vec<_>>();
        let all_registered = state.issuer().recovering().is_some_and(BTreeSet::is_empty);
        let finishes = all_registered && now_ms >= self.finish_at_ms;
        let round = self.leader.round(state, now_ms);
        if finishes {
            // It may be refused (more is out than there is), and an operator has to raise a total first.
            self.finish_at_ms = now_ms + FINISH_AGAIN_MS;
            self.propose_in_background(Work::Quota(vec![Command::FinishRecovery]));
        }
        if !seen.is_empty() {
            self.propose_in_background(Work::Seen(seen));
        }
        for commands in round.entries {
            self.propose_in_background(Work::Quota(commands));
        }
        for region in round.asked {
            self.push(&region);
        }
    }

    fn propose_in_background(&mut self, work: Work) {
        match self.propose(work) {
            Ok(id) => self.proposals.wait(id, Waiting::Background),
            // It is asked for again in the next round.
            Err(unavailable) => tracing::debug!(%unavailable, "not proposed"),
        }
    }

    fn follow(&mut self, output: Output<Applied>, news: &mut BTreeSet<RegionId>) {
        let mut applied_here = BTreeMap::new();
        let now_ms = view::now_ms(self.started);
        let members = self.driver.machine().members().clone();
        let mut moved = false;
        for committed in output.committed {
            match committed {
                Committed::Applied { at, applied } => {
                    metrics::counter!("boxoffice_arbiter_entries_applied_total").increment(1);
                    self.leader.applied(self.driver.machine(), now_ms, &applied.news);
                    if applied.news.everybody {
                        news.extend(self.polls.regions());
                        // Whoever hears of another concert hears of its stock, too.
                        self.stock_of.0 = 0;
                    }
                    news.extend(applied.news.told());
                    if let Done::Quota(outcomes) = &applied.done {
                        warn_of_totals(outcomes);
                    }
                    applied_here.insert(at.index, applied);
                }
                Committed::Members { .. } | Committed::Installed { .. } => moved = true,
            }
        }
        for acknowledged in &output.acknowledged {
            if let Some((order, applied)) = self.proposals.acknowledge(acknowledged, &mut applied_here) {
                self.after_order(&order, &applied, now_ms);
            }
        }
        for read in self.reads.answered(&output.reads) {
            read(Ok(&self.view()));
        }
        if moved || !applied_here.is_empty() || members != *self.driver.machine().members() {
            self.outbox.addresses(&addresses(&self.config, self.driver.machine()));
        }
    }

    /// What is left to do for an order, by the leader that took it.
    fn after_order(&mut self, order: &Order, applied: &Applied, now_ms: u64) {
        if !matches!(applied.done, Done::Request(Effect::Changed(_))) {
            return;
        }
        let state = self.driver.machine();
        match order {
            Order::Move { pool, from: arbiter_api::Place::Region(from), to, tickets } => {
                let to = match to {
                    arbiter_api::Place::Pool => None,
                    arbiter_api::Place::Region(to) => Some(*to),
                };
                self.leader.begin_errand(state, now_ms, *pool, (*from, to), *tickets);
                self.push(from);
            }
            Order::Rebalance { concert } => {
                let pools = state.issuer().pools().keys().filter(|pool| pool.concert == *concert).copied();
                self.leader.rebalance(pools.collect::<Vec<_>>());
            }
            _ => {}
        }
    }

    fn sync(&mut self, mut ask: AskSync, reply: Reply<Synced>) {
        // A new leader that has not applied what was committed before it would not know of grants that regions have.
        if !self.driver.leads() || self.driver.applied().term < self.driver.term() {
            drop(reply.send(Err(self.not_leader())));
            return;
        }
        self.leader.note_incarnation(ask.region, ask.knows.incarnation);
        if let Some(report) = ask.report.take()
            && let Err(refused) = self.leader.hear(self.driver.machine().issuer(), view::now_ms(self.started), report)
        {
            drop(reply.send(Ok(Synced { answer: Err(refused), ..self.synced(&ask.region, ask.concerts_version) })));
            return;
        }
        if ask.look {
            let id = self.fresh();
            self.driver.read(id);
            let AskSync { region, concerts_version, .. } = ask;
            let stock = self.stock.clone();
            let read = move |view: Result<&View<'_>, Unavailable>| {
                drop(reply.send(view.map(|view| synced(view, &region, concerts_version, stock))));
            };
            self.reads.wait(id, Box::new(read));
            return;
        }
        let AskSync { region, knows, concerts_version, wait_until, .. } = ask;
        let until = wait_until.filter(|until| *until > Instant::now());
        let state = self.driver.machine();
        let quiet = concerts_version == state.concerts_version()
            && !self.polls.is_news(&region, &knows, &self.leader.answer(state.issuer(), &region));
        match until.filter(|_| quiet) {
            None => self.answer(region, concerts_version, reply),
            Some(until) => {
                let poll = Poll { knows, concerts_version, until, reply };
                if let Some(oldest) = self.polls.wait(region, poll) {
                    self.answer(region, oldest.concerts_version, oldest.reply);
                }
            }
        }
    }

    fn synced(&self, region: &RegionId, concerts_version: u64) -> Synced {
        synced(&self.view(), region, concerts_version, self.stock.clone())
    }

    fn answer(&mut self, region: RegionId, concerts_version: u64, reply: Reply<Synced>) {
        let synced = self.synced(&region, concerts_version);
        if let Ok(answer) = &synced.answer {
            self.polls.tell(region, answer);
        }
        drop(reply.send(Ok(synced)));
    }

    /// Answers a region's heartbeats that wait, if there is news for them.
    fn push(&mut self, region: &RegionId) {
        if !self.driver.leads() {
            return;
        }
        let waiting = self.polls.take(region);
        if waiting.is_empty() {
            return;
        }
        let state = self.driver.machine();
        let (answer, version) = (self.leader.answer(state.issuer(), region), state.concerts_version());
        let (told, quiet): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|poll| poll.concerts_version != version || self.polls.is_news(region, &poll.knows, &answer));
        for poll in quiet {
            self.polls.wait(*region, poll);
        }
        for poll in told {
            self.answer(*region, poll.concerts_version, poll.reply);
        }
    }

    /// What was heard as leader is of no use to anybody else.
    fn notice_leadership(&mut self) {
        let leads = self.driver.leads();
        if leads == self.led {
            return;
        }
        self.led = leads;
        tracing::info!(node = self.driver.id(), term = self.driver.term(), leads, "leadership");
        self.leader.resign();
        for poll in self.polls.resign() {
            drop(poll.reply.send(Err(self.not_leader())));
        }
    }

    fn note_status(&mut self) {
        self.refresh_stock();
        let status = Status {
            id: self.driver.id(),
            term: self.driver.term(),
            applied: self.driver.applied().index,
            leads: self.driver.leads(),
            leader: self.leads(),
            incarnation: self.driver.machine().issuer().incarnation(),
            recovering: self.driver.machine().issuer().recovering().is_some(),
        };
        if **self.status.read() != status {
            *self.status.write() = Arc::new(status);
        }
    }

    /// Summing up all regions of all pools is dear, and nobody decides by it.
    fn refresh_stock(&mut self) {
        let applied = self.driver.applied().index;
        let young = self.stock_of.1.elapsed() < Duration::from_millis(STOCK_REFRESH_MS) && self.stock_of.0 > 0;
        if applied == self.stock_of.0 || young {
            return;
        }
        let issuer = self.driver.machine().issuer();
        let stock = issuer.pools().keys().filter_map(|pool| {
            let stock = match sold_out::stock(issuer, pool)? {
                sold_out::Stock::MayCome { at_most } => PoolStock { unsold_at_most: at_most, sold_out: false },
                sold_out::Stock::SoldOut => PoolStock { unsold_at_most: Tickets::ZERO, sold_out: true },
            };
            Some((*pool, stock))
        });
        self.stock = Arc::new(stock.collect());
        self.stock_of = (applied, Instant::now());
    }
}

fn synced(
    view: &View<'_>,
    region: &RegionId,
    concerts_version: u64,
    stock: Arc<BTreeMap<PoolId, PoolStock>>,
) -> Synced {
    let state = view.state();
    let changed = concerts_version != state.concerts_version();
    Synced {
        meta: view.meta(),
        answer: Ok(view.leader().answer(state.issuer(), region)),
        stock,
        concerts_version: state.concerts_version(),
        concerts: changed.then(|| state.concerts().values().cloned().collect()),
    }
}

/// A recovery that cannot be finished without an operator says why.
fn warn_of_totals(outcomes: &[Outcome]) {
    for outcome in outcomes {
        if let Outcome::Refused(CommandRefused::Recovery(reason @ RecoveryRefused::TotalTooSmall { .. })) = outcome {
            tracing::warn!(%reason, "the recovery cannot be finished");
        }
    }
}

/// Where members are found: as the log says, before that as the configuration says.
fn addresses(config: &NodeConfig, state: &State) -> Vec<(u64, crate::command::Address)> {
    let mut members = config.founding.members.clone();
    members.extend(state.members().iter().map(|(id, address)| (*id, address.clone())));
    members.into_iter().collect()
}
