//! One arbiter: the real driver with the real state, a disk that may be slow and forget, and the leader's work: reading
//! reports, answering regions, planning. Everything but what the disk has is lost in a crash.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quota_arbiter::{
    command::{LogEntry, Request, Work as Task},
    leader::Leader,
    limits::{BACKGROUND_ENTRIES_MAX, ROUND_MIN_MS},
    raft::{Acknowledged, Committed, Driver, Membership, Message, Output, ProposalId, Settings},
    state::{Applied, Done, Effect, State},
    store::{Batch, Stored},
};
use quota_protocol::{
    Command, Identity, Outcome, RegionId, Register, Report,
    command::CommandRefused,
    holder::HaltReason,
    policy::Policy,
    wire::{RegisterAnswer, SyncAnswer},
};

/// What a region asks of an arbiter.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// Its report.
    Sync { region: usize, id: RegionId, report: Option<Box<Report>> },
    /// A linearizable look at how the arbiters know it.
    Look { region: usize, id: RegionId, identity: Identity },
    /// A registration.
    Register { region: usize, register: Box<Register> },
}

/// What an arbiter says to a region.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Sync(Box<SyncAnswer>),
    Register(Box<RegisterAnswer>),
    Look(Box<SyncAnswer>),
    AskAgain(Box<RegisterAnswer>),
}

/// What became of an operator's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Outcome(Outcome),
    Repeated,
    Unknown,
}

/// Something that was proposed and is waited for.
#[derive(Clone, Debug)]
enum Waiting {
    Register(usize),
    Request(u64),
    Background,
    Members,
}

/// What comes out of an arbiter.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) raft: Vec<Message>,
    pub(crate) regions: Vec<(usize, Answer)>,
    pub(crate) operators: Vec<(u64, Told)>,
    /// Log index, digest of what was applied there.
    pub(crate) applied: Vec<(u64, u64)>,
}

pub(crate) struct Arbiter {
    pub(crate) id: u64,
    pub(crate) disk: Stored,
    pub(crate) life: Option<Life>,
    pub(crate) removed: bool,
}

/// What a crash ends.
pub(crate) struct Life {
    pub(crate) driver: Driver<State>,
    /// Being written; the driver waits for it.
    writing: Option<Batch>,
    /// What arrived meanwhile.
    inbox: VecDeque<Input>,
    waiting: BTreeMap<ProposalId, Waiting>,
    applied: BTreeMap<u64, Applied>,
    looks: BTreeMap<ProposalId, (usize, RegionId, Identity)>,
    leader: Leader,
    round_at_ms: u64,
    /// Where each region's long poll waits.
    polls: BTreeMap<RegionId, usize>,
    next: u64,
    born: u64,
}

#[derive(Debug)]
pub(crate) enum Input {
    Raft(Box<Message>),
    Tick,
    Ask(Ask),
    Request(u64, Box<Request>),
    Members(Membership),
    Transfer(u64),
}

impl Arbiter {
    pub(crate) fn new(id: u64, disk: Stored) -> Self {
        Self { id, disk, life: None, removed: false }
    }

    pub(crate) fn start(&mut self, election_ticks: usize, policy: &Policy, born: u64) {
        let settings = Settings {
            election_ticks_exact: Some(election_ticks),
            log_size_max_bytes: 30_000,
            log_trail_entries: 20,
            ..Settings::new(self.id)
        };
        let driver = match Driver::new(settings, self.disk.clone(), State::default()) {
            Ok(driver) => driver,
            Err(error) => panic!("arbiter {} does not start: {error}", self.id),
        };
        self.life = Some(Life {
            driver,
            writing: None,
            inbox: VecDeque::new(),
            waiting: BTreeMap::new(),
            applied: BTreeMap::new(),
            looks: BTreeMap::new(),
            leader: Leader::new(policy.clone()),
            round_at_ms: 0,
            polls: BTreeMap::new(),
            next: 0,
            born,
        });
    }

    /// The power goes: what was being written is on the disk as a whole, or not at all.
    pub(crate) fn crash(&mut self, written: bool) {
        if let Some(batch) = self.life.take().and_then(|life| life.writing)
            && written
        {
            self.disk.apply(&batch);
        }
    }

    /// Which life this is, so that a write of an earlier one does not end in this one.
    pub(crate) fn born(&self) -> Option<u64> {
        self.life.as_ref().map(|life| life.born)
    }

    pub(crate) fn leads(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.driver.leads())
    }

    /// Takes an input now, or later if the disk is busy. True if there is something new to write.
    pub(crate) fn take(&mut self, input: Input, now_ms: u64, effects: &mut Effects) -> bool {
        let Some(life) = &mut self.life else { return false };
        if life.writing.is_some() {
            life.inbox.push_back(input);
            return false;
        }
        life.handle(input, now_ms, effects);
        life.hurry(now_ms, effects);
        life.begin_write(effects)
    }

    /// The disk has it. True if there is more to write.
    pub(crate) fn written(&mut self, now_ms: u64, effects: &mut Effects) -> bool {
        let Some(life) = &mut self.life else { return false };
        let Some(batch) = life.writing.take() else { return false };
        self.disk.apply(&batch);
        let output = match life.driver.persisted() {
            Ok(output) => output,
            Err(error) => panic!("arbiter {} stops: {error}", self.id),
        };
        life.follow(output, now_ms, effects);
        life.hurry(now_ms, effects);
        if life.begin_write(effects) {
            return true;
        }
        while let Some(input) = life.inbox.pop_front() {
            life.handle(input, now_ms, effects);
            life.hurry(now_ms, effects);
            if life.begin_write(effects) {
                return true;
            }
        }
        false
    }
}

impl Life {
    fn begin_write(&mut self, effects: &mut Effects) -> bool {
        let Some(work) = self.driver.ready() else { return false };
        effects.raft.extend(work.messages);
        self.writing = Some(work.batch);
        true
    }

    fn fresh(&mut self) -> ProposalId {
        self.next += 1;
        ProposalId(u128::from(self.driver.id()) << 96 | u128::from(self.born) << 64 | u128::from(self.next))
    }

    fn handle(&mut self, input: Input, now_ms: u64, effects: &mut Effects) {
        match input {
            Input::Raft(message) => self.driver.step(*message),
            Input::Tick => {
                self.driver.tick();
                if self.driver.leads() {
                    self.lead(now_ms, effects);
                } else {
                    self.leader.resign();
                    self.polls.clear();
                }
            }
            Input::Ask(ask) => self.ask(ask, now_ms, effects),
            Input::Request(number, request) => {
                let task = Task::Request(*request);
                if !self.propose(now_ms, task, Waiting::Request(number)) {
                    effects.operators.push((number, Told::Unknown));
                }
            }
            Input::Members(change) => {
                let id = self.fresh();
                if self.driver.change_members(id, change).is_ok() {
                    self.waiting.insert(id, Waiting::Members);
                }
            }
            Input::Transfer(to) => self.driver.transfer(to),
        }
    }

    fn propose(&mut self, now_ms: u64, task: Task, waiting: Waiting) -> bool {
        let id = self.fresh();
        let Ok(bytes) = LogEntry::new(now_ms, task).encode() else { return false };
        let proposed = self.driver.propose(id, bytes).is_ok();
        if proposed {
            self.waiting.insert(id, waiting);
        }
        proposed
    }

    fn ask(&mut self, ask: Ask, now_ms: u64, effects: &mut Effects) {
        if !self.driver.leads() {
            return;
        }
        match ask {
            Ask::Sync { region, id, report } => {
                let issuer = self.driver.machine().issuer();
                if let Some(report) = report {
                    // A leader that has not applied everything yet does not know of every grant. The log does, and the
                    // auditor sees whether it finds that something was forgotten; the region says it again.
                    if self.leader.hear(issuer, now_ms, *report).is_err() {
                        return;
                    }
                    self.polls.insert(id, region);
                }
                effects.regions.push((region, Answer::Sync(Box::new(self.answer(&id)))));
            }
            Ask::Look { region, id, identity } => {
                let read = self.fresh();
                self.looks.insert(read, (region, id, identity));
                self.driver.read(read);
            }
            Ask::Register { region, register } => {
                self.propose(now_ms, Task::Quota(vec![Command::Register(*register)]), Waiting::Register(region));
            }
        }
    }

    fn answer(&self, region: &RegionId) -> SyncAnswer {
        self.leader.answer(self.driver.machine().issuer(), region)
    }

    /// As the server does it: when somebody is short, a round does not wait for the tick.
    fn hurry(&mut self, now_ms: u64, effects: &mut Effects) {
        if self.driver.leads() && self.leader.hurried() && now_ms >= self.round_at_ms + ROUND_MIN_MS {
            self.lead(now_ms, effects);
        }
    }

    /// What a leader does every tick.
    fn lead(&mut self, now_ms: u64, effects: &mut Effects) {
        // What is under way is not proposed twice; behind a majority that is away it would only pile up.
        if self.waiting.values().filter(|waiting| matches!(waiting, Waiting::Background)).count()
            > BACKGROUND_ENTRIES_MAX
        {
            return;
        }
        self.round_at_ms = now_ms;
        let round = self.leader.round(self.driver.machine(), now_ms);
        self.push(&round.asked, effects);
        for commands in round.entries {
            self.propose(now_ms, Task::Quota(commands), Waiting::Background);
        }
    }

    /// Answers the long polls of regions for which there is news.
    fn push(&self, regions: &[RegionId], effects: &mut Effects) {
        for region in regions {
            if let Some(number) = self.polls.get(region) {
                effects.regions.push((*number, Answer::Sync(Box::new(self.answer(region)))));
            }
        }
    }

    fn follow(&mut self, output: Output<Applied>, now_ms: u64, effects: &mut Effects) {
        effects.raft.extend(output.messages);
        let mut told = BTreeSet::new();
        for committed in output.committed {
            match committed {
                Committed::Applied { at, applied } => {
                    self.leader.applied(self.driver.machine(), now_ms, &applied.news);
                    told.extend(applied.news.told());
                    effects.applied.push((at.index, digest(&format!("{} {applied:?}", at.term))));
                    self.applied.insert(at.index, applied);
                }
                Committed::Members { at, members } => {
                    effects.applied.push((at.index, digest(&format!("{} {members:?}", at.term))));
                }
                Committed::Installed { .. } => {}
            }
        }
        for acknowledged in output.acknowledged {
            self.acknowledge(acknowledged, effects);
        }
        self.applied.clear();
        if self.driver.leads() {
            self.push(&Vec::from_iter(told), effects);
        }
        for read in output.reads {
            if let Some((region, id, identity)) = self.looks.remove(&read) {
                let issuer = self.driver.machine().issuer();
                effects.regions.push((region, Answer::Look(Box::new(self.answer(&id)))));
                if let Some(registered) = issuer.registration(&id, &identity) {
                    let answer = RegisterAnswer::Registered(registered);
                    effects.regions.push((region, Answer::AskAgain(Box::new(answer))));
                }
            }
        }
    }

    fn acknowledge(&mut self, acknowledged: Acknowledged, effects: &mut Effects) {
        let (id, applied) = match acknowledged {
            Acknowledged::Committed { id, at } => (id, self.applied.remove(&at.index)),
            Acknowledged::Displaced(id) | Acknowledged::Unknown(id) => (id, None),
        };
        let Some(waiting) = self.waiting.remove(&id) else { return };
        match (waiting, applied.map(|applied| applied.done)) {
            (Waiting::Register(region), Some(Done::Quota(outcomes))) => {
                let answer = match outcomes.into_iter().next() {
                    Some(Outcome::Registered(registered)) => RegisterAnswer::Registered(registered),
                    Some(Outcome::Refused(CommandRefused::Register(reason))) => {
                        RegisterAnswer::Refused(HaltReason::Refused(reason))
                    }
                    _ => RegisterAnswer::ReadAgain,
                };
                effects.regions.push((region, Answer::Register(Box::new(answer))));
            }
            (Waiting::Request(number), Some(Done::Request(Effect::Quota(outcome)))) => {
                effects.operators.push((number, Told::Outcome(outcome)));
            }
            (Waiting::Request(number), Some(Done::Repeated(_))) => effects.operators.push((number, Told::Repeated)),
            (Waiting::Request(number), _) => effects.operators.push((number, Told::Unknown)),
            (Waiting::Register(_) | Waiting::Background | Waiting::Members, _) => {}
        }
    }
}

fn digest(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}
