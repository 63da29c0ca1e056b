//! The world of one run: parties, network, disks and what happens next, on virtual time and one thread. Nothing here
//! depends on the machine, on real time or on an order that a hash map chooses, so a seed always gives the same run.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use quota_arbiter::{
    raft::{Machine, Message},
    state::State,
    store::Stored,
};
use quota_protocol::{Action, Done, Holder, OrderId, PoolId, Tickets, holder::OrderState, policy::Policy};

use crate::{
    Settings,
    arbiter::{Answer, Arbiter, Ask, Effects, Input},
    auditor::Auditor,
    dice::{Dice, mix},
    network::{Network, Party},
    operator::Operator,
    region::{Buyer, Node, Region},
};

const TICK_MS: u64 = 100;
const HEARTBEAT_MS: u64 = 1_000;
const ALLOCATE_MS: u64 = 50;
/// Between two reports that cannot wait for the heartbeat.
const URGENT_GAP_MS: u64 = 100;

#[derive(Debug)]
pub(crate) enum Event {
    Tick(u64),
    Written(u64, u64),
    Raft(Box<Message>),
    ToArbiter(u64, Ask),
    ToRegion(usize, Answer),
    Heartbeat(usize),
    Allocate(usize),
    Commit(usize, u64),
    /// A payment, a lapse or a refund of an order, sent again until it is taken.
    Order(usize, Action),
    Arrive,
    /// One buyer of a sale that is laid out in advance.
    Join(usize, Buyer),
    Accident,
    Operate,
    StartArbiter(u64),
    StartRegion(usize),
}

struct Queued {
    at_ms: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        Reverse((self.at_ms, self.number)).cmp(&Reverse((other.at_ms, other.number)))
    }
}

pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) dice: Dice,
    pub(crate) now_ms: u64,
    events: BinaryHeap<Queued>,
    number: u64,
    pub(crate) steps: u64,
    pub(crate) hash: u64,
    pub(crate) network: Network,
    pub(crate) disk_slow_ms: u64,
    pub(crate) arbiters: BTreeMap<u64, Arbiter>,
    pub(crate) next_arbiter: u64,
    lives: u64,
    pub(crate) regions: Vec<Region>,
    pub(crate) backups: BTreeMap<usize, Holder>,
    pub(crate) policy: Policy,
    pub(crate) auditor: Auditor,
    pub(crate) operator: Operator,
    pub(crate) pools: Vec<PoolId>,
    pub(crate) total: Tickets,
    orders: u64,
    /// When the last sale was committed.
    pub(crate) last_sale_ms: u64,
    pub(crate) to_arrive: u64,
    pub(crate) seed: u64,
    pub(crate) calm: bool,
    pub(crate) refunds: bool,
    tell: bool,
}

pub(crate) fn party_of(arbiter: &Arbiter) -> Party {
    Party::Arbiter(arbiter.id)
}

impl World {
    pub(crate) fn new(settings: Settings, batch: u32, seed: u64, tell: bool) -> Self {
        let dice = Dice::new(seed);
        let mut regions = Vec::new();
        for number in 0..settings.regions {
            if let Ok(id) = format!("region-{number}").parse() {
                regions.push(Region::new(number, id));
            }
        }
        let total = Tickets::from_u32(settings.tickets);
        let policy = Policy { batch: Tickets::from_u32(batch), heartbeat_ms: HEARTBEAT_MS, ..Policy::default() };
        let mut world = Self {
            settings,
            dice,
            now_ms: 0,
            events: BinaryHeap::new(),
            number: 0,
            steps: 0,
            hash: 0,
            network: Network::default(),
            disk_slow_ms: 5,
            arbiters: BTreeMap::new(),
            next_arbiter: 1,
            lives: 0,
            regions,
            backups: BTreeMap::new(),
            policy,
            auditor: Auditor::default(),
            operator: Operator::default(),
            pools: ["demo/A", "demo/B"].iter().filter_map(|pool| pool.parse().ok()).collect(),
            total,
            orders: 0,
            last_sale_ms: 0,
            to_arrive: u64::from(settings.tickets) * 2,
            seed,
            calm: false,
            refunds: true,
            tell,
        };
        let first = Stored::first((1..=3).collect(), State::default().snapshot());
        for _ in 0..3 {
            world.add_arbiter(first.clone());
        }
        for number in 0..settings.regions {
            let at = world.dice.below(HEARTBEAT_MS);
            world.after(at, Event::Heartbeat(number));
            world.after(at, Event::Allocate(number));
        }
        world.operator_begins();
        world.after(500, Event::Operate);
        world.after(2_000, Event::Arrive);
        world.after(3_000, Event::Accident);
        world
    }

    pub(crate) fn add_arbiter(&mut self, disk: Stored) -> u64 {
        let id = self.next_arbiter;
        self.next_arbiter += 1;
        self.arbiters.insert(id, Arbiter::new(id, disk));
        self.start_arbiter(id);
        let at = self.dice.below(TICK_MS);
        self.after(at, Event::Tick(id));
        id
    }

    pub(crate) fn start_arbiter(&mut self, id: u64) {
        let election_ticks = self.dice.between(10, 20) as usize;
        self.lives += 1;
        let born = self.lives;
        if let Some(arbiter) = self.arbiters.get_mut(&id).filter(|arbiter| arbiter.life.is_none() && !arbiter.removed) {
            arbiter.start(election_ticks, &self.policy, born);
        }
    }

    pub(crate) fn after(&mut self, delay_ms: u64, event: Event) {
        self.number += 1;
        self.events.push(Queued { at_ms: self.now_ms + delay_ms, number: self.number, event });
    }

    pub(crate) fn note(&mut self, what: &str) {
        if self.tell {
            eprintln!("{:>7} {what}", self.now_ms);
        }
        for byte in what.bytes() {
            self.hash = mix(self.hash ^ u64::from(byte));
        }
    }

    /// Runs until that moment.
    pub(crate) fn run_until(&mut self, until_ms: u64) {
        while self.events.peek().is_some_and(|next| next.at_ms <= until_ms) {
            let Some(Queued { at_ms, number, event }) = self.events.pop() else { break };
            self.now_ms = at_ms;
            self.steps += 1;
            self.hash = mix(self.hash ^ mix(at_ms) ^ number);
            self.happens(event);
            if !self.auditor.problems.is_empty() {
                return;
            }
        }
        self.now_ms = until_ms;
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Tick(id) => {
                self.feed_arbiter(id, Input::Tick);
                if self.arbiters.get(&id).is_some_and(|arbiter| !arbiter.removed) {
                    self.after(TICK_MS, Event::Tick(id));
                }
            }
            Event::Written(id, born) => {
                let now_ms = self.now_ms;
                let mut effects = Effects::default();
                let Some(arbiter) = self.arbiters.get_mut(&id).filter(|arbiter| arbiter.born() == Some(born)) else {
                    return;
                };
                let more = arbiter.written(now_ms, &mut effects);
                self.follow_arbiter(id, effects, more);
            }
            Event::Raft(message) => self.feed_arbiter(message.to, Input::Raft(message)),
            Event::ToArbiter(id, ask) => self.feed_arbiter(id, Input::Ask(ask)),
            Event::ToRegion(number, answer) => {
                self.regions[number].hear(answer);
                self.pump(number);
            }
            Event::Heartbeat(number) => {
                self.regions[number].measure_demand();
                self.heartbeat(number);
                self.after(HEARTBEAT_MS, Event::Heartbeat(number));
            }
            Event::Allocate(number) => {
                self.allocate(number);
                self.after(ALLOCATE_MS, Event::Allocate(number));
            }
            Event::Commit(number, life) => {
                if self.regions[number].life == life {
                    self.commit(number);
                }
            }
            Event::Order(number, action) => self.order_event(number, action),
            Event::Arrive => self.arrive(),
            Event::Join(number, buyer) => self.regions[number].join(buyer),
            Event::Accident => {
                if !self.calm {
                    let next = self.accident();
                    self.after(next, Event::Accident);
                }
            }
            Event::Operate => {
                self.operate();
                self.after(500, Event::Operate);
            }
            Event::StartArbiter(id) => self.start_arbiter(id),
            Event::StartRegion(number) => {
                if self.regions[number].node.is_none() {
                    self.regions[number].start_node();
                }
            }
        }
    }

    pub(crate) fn feed_arbiter(&mut self, id: u64, input: Input) {
        let now_ms = self.now_ms;
        let mut effects = Effects::default();
        let Some(arbiter) = self.arbiters.get_mut(&id) else { return };
        let more = arbiter.take(input, now_ms, &mut effects);
        self.follow_arbiter(id, effects, more);
    }

    fn follow_arbiter(&mut self, id: u64, effects: Effects, writes: bool) {
        let from = Party::Arbiter(id);
        for message in effects.raft {
            let to = Party::Arbiter(message.to);
            for delay in self.network.delays(from, to, &mut self.dice) {
                self.after(delay, Event::Raft(Box::new(message.clone())));
            }
        }
        for (number, answer) in effects.regions {
            for delay in self.network.delays(from, Party::Region(number), &mut self.dice) {
                self.after(delay, Event::ToRegion(number, answer.clone()));
            }
        }
        for (index, digest) in &effects.applied {
            self.hash = mix(self.hash ^ mix(*index) ^ digest);
            self.auditor.applied(id, *index, *digest);
        }
        if !effects.applied.is_empty()
            && let Some(life) = self.arbiters.get(&id).and_then(|arbiter| arbiter.life.as_ref())
        {
            self.auditor.state(life.driver.machine());
        }
        for (number, told) in effects.operators {
            self.operator_told(number, told);
        }
        if writes && let Some(born) = self.arbiters.get(&id).and_then(Arbiter::born) {
            let delay = self.dice.between(1, self.disk_slow_ms);
            self.after(delay, Event::Written(id, born));
        }
    }

    fn heartbeat(&mut self, number: usize) {
        let Some(ask) = self.regions[number].heartbeat(self.now_ms) else { return };
        self.ask_all(number, &ask);
    }

    /// A region asks every arbiter: whoever leads answers.
    fn ask_all(&mut self, number: usize, ask: &Ask) {
        let ids = self.arbiters.keys().copied().collect::<Vec<_>>();
        for id in ids {
            for delay in self.network.delays(Party::Region(number), Party::Arbiter(id), &mut self.dice) {
                self.after(delay, Event::ToArbiter(id, ask.clone()));
            }
        }
    }

    fn allocate(&mut self, number: usize) {
        self.regions[number].allocate();
        let now_ms = self.now_ms;
        let due = |node: &&mut Node| node.urgent && now_ms >= node.reported_at_ms + URGENT_GAP_MS;
        if let Some(node) = self.regions[number].node.as_mut().filter(due) {
            (node.urgent, node.reported_at_ms) = (false, now_ms);
            self.heartbeat(number);
        }
        self.pump(number);
    }

    /// Starts writing the next transaction, if none is being written.
    pub(crate) fn pump(&mut self, number: usize) {
        let delay = self.dice.between(1, self.disk_slow_ms);
        let region = &mut self.regions[number];
        let life = region.life;
        let waiting = region.node.as_mut().filter(|node| !node.committing && !node.transactions.is_empty());
        if let Some(node) = waiting {
            node.committing = true;
            self.after(delay, Event::Commit(number, life));
        }
    }

    fn commit(&mut self, number: usize) {
        // What one flush of the disk takes: everything that was begun before it.
        let many = self.regions[number].node.as_ref().map_or(0, |node| node.transactions.len());
        for _ in 0..many {
            let Some((action, done)) = self.regions[number].commit() else { break };
            self.hash = mix(self.hash ^ number as u64 ^ u64::from(done.is_ok()));
            let region = self.regions[number].id;
            if let Some(database) = &self.regions[number].database {
                self.auditor.database(region, database);
            }
            if done == Ok(Done::Changed) {
                self.committed(number, &action);
            }
            if let Ok(Done::Halted(reason)) = done {
                self.note(&format!("{region} halts: {reason}"));
            }
        }
        if let Some(node) = &mut self.regions[number].node {
            node.committing = false;
        }
        self.pump(number);
    }

    fn committed(&mut self, number: usize, action: &Action) {
        let region = self.regions[number].id;
        let order_of = |world: &Self, order: &OrderId| {
            world.regions[number].database.as_ref().and_then(|database| database.orders().get(order).copied())
        };
        match action {
            Action::Hold { order, .. } => {
                // A buyer's mind does not depend on where and when the hold came about.
                let mut mind = Dice::new(order.get() as u64 ^ mix(self.seed));
                let (delay, then) = if mind.per_mille(750) {
                    (mind.between(100, 2_500), Action::Sell { order: *order })
                } else {
                    (mind.between(1_500, 3_000), Action::Release { order: *order })
                };
                self.after(delay, Event::Order(number, then));
            }
            Action::Sell { order } => {
                let Some(sold) = order_of(self, order) else { return };
                let total = self.highest_total(&sold.pool);
                self.auditor.sale(region, *order, sold.pool, sold.tickets, total);
                self.last_sale_ms = self.now_ms;
                if self.refunds && self.dice.per_mille(60) {
                    for _ in 0..self.dice.between(1, 3) {
                        let delay = self.dice.between(100, 4_000);
                        self.after(delay, Event::Order(number, Action::Refund { order: *order }));
                    }
                }
            }
            Action::Refund { order } => self.auditor.refund(region, *order),
            // Somebody is waiting for what is given back.
            Action::Return { .. } => self.heartbeat(number),
            _ => {}
        }
    }

    /// The total may have been raised at one arbiter and not yet be known at another.
    fn highest_total(&self, pool: &PoolId) -> Tickets {
        let lives = self.arbiters.values().filter_map(|arbiter| arbiter.life.as_ref());
        let known = lives.filter_map(|life| life.driver.machine().issuer().pools().get(pool).map(|book| book.total));
        known.max().unwrap_or(self.total).max(self.operator.highest_total)
    }

    /// A payment, a lapse or a refund: tried again until the region has taken it or knows that it cannot.
    fn order_event(&mut self, number: usize, action: Action) {
        let (Action::Sell { order } | Action::Release { order } | Action::Refund { order }) = action else { return };
        let region = &mut self.regions[number];
        let wanted = if matches!(action, Action::Refund { .. }) { OrderState::Sold } else { OrderState::Held };
        let state =
            region.database.as_ref().and_then(|database| database.orders().get(&order)).map(|order| order.state);
        if region.database.is_some() && state != Some(wanted) {
            return;
        }
        region.begin(action.clone());
        self.pump(number);
        let again = self.dice.between(1_000, 3_000);
        self.after(again, Event::Order(number, action));
    }

    /// New buyers: most of them in one region, so that tickets have to move.
    fn arrive(&mut self) {
        if self.to_arrive == 0 {
            return;
        }
        let crowd = self.dice.between(1, 1 + u64::from(self.settings.tickets) / 20).min(self.to_arrive);
        self.to_arrive -= crowd;
        for _ in 0..crowd {
            let busy = self.dice.per_mille(800);
            let number = if busy { 0 } else { self.dice.below(self.regions.len() as u64) as usize };
            self.orders += 1;
            let pool = self.pools[self.dice.below(self.pools.len() as u64) as usize];
            let quantity = Tickets::from_u32(self.dice.between(1, 4) as u32);
            let order = OrderId::new(u128::from(self.orders));
            self.regions[number].join(Buyer { order, pool, quantity, joined_ms: self.now_ms });
        }
        let delay = self.dice.between(100, 2_000);
        self.after(delay, Event::Arrive);
    }
}
