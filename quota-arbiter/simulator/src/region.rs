//! One region: its database, and the node that works on it. Every transaction takes a while and happens as a whole when
//! it commits; a crash before that moment means that it never was. What the node has in memory is lost with it.

use std::collections::VecDeque;

use quota_protocol::{
    Action, Counters, Done, Epoch, Holder, Identity, OrderId, PoolId, RegionId, Report, Tickets,
    holder::{Contact, OrderState},
    limits::HEAD_QUANTITIES_MAX,
    message::{Demand, RegionView},
    wire::{RegisterAnswer, SyncAnswer},
};

use crate::arbiter::{Answer, Ask};

/// Somebody in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buyer {
    pub(crate) order: OrderId,
    pub(crate) pool: PoolId,
    pub(crate) quantity: Tickets,
    pub(crate) joined_ms: u64,
}

pub(crate) struct Region {
    pub(crate) number: usize,
    pub(crate) id: RegionId,
    /// The database and, always the same, its synchronous standby.
    pub(crate) database: Option<Holder>,
    /// The queue is durable too: it outlives the node and the database.
    pub(crate) queue: VecDeque<Buyer>,
    pub(crate) node: Option<Node>,
    /// Tickets asked for since the last heartbeat, and per minute before it.
    pub(crate) asked_for: Tickets,
    pub(crate) rate_per_min: Tickets,
    /// Orders that one batch of the allocator decides.
    pub(crate) batch_orders: usize,
    /// Every database gets another number.
    pub(crate) copies: u64,
    pub(crate) life: u64,
}

/// What a crash ends.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// Begun and not committed, in order.
    pub(crate) transactions: VecDeque<(Epoch, Action)>,
    /// The first of them is being written.
    pub(crate) committing: bool,
    /// Somebody waits for more than is free here, or something is free again and nobody here waits for it: the arbiters
    /// should hear of it at once.
    pub(crate) urgent: bool,
    pub(crate) reported_at_ms: u64,
    /// Nothing was free when the allocator looked last.
    bare: bool,
    view: Option<RegionView>,
}

impl Region {
    pub(crate) fn new(number: usize, id: RegionId) -> Self {
        let mut region = Self {
            number,
            id,
            database: None,
            queue: VecDeque::new(),
            node: None,
            asked_for: Tickets::ZERO,
            rate_per_min: Tickets::ZERO,
            batch_orders: 20,
            copies: 0,
            life: 0,
        };
        region.start_empty();
        region
    }

    pub(crate) fn fresh_identity(&mut self) -> Identity {
        self.copies += 1;
        Identity { system: self.number as u64 + 1, timeline: 1, copy: u128::from(self.copies) }
    }

    pub(crate) fn start_empty(&mut self) {
        let identity = self.fresh_identity();
        self.database = Some(Holder::new(self.id, identity));
        self.start_node();
    }

    pub(crate) fn start_node(&mut self) {
        self.life += 1;
        self.node = self.database.as_ref().map(|_| Node::default());
    }

    pub(crate) fn stop_node(&mut self) {
        self.life += 1;
        self.node = None;
    }

    fn epoch(&self) -> Option<Epoch> {
        self.database.as_ref().and_then(Holder::epoch)
    }

    pub(crate) fn begin(&mut self, action: Action) {
        let epoch = self.epoch().unwrap_or_default();
        if let Some(node) = &mut self.node {
            node.transactions.push_back((epoch, action));
        }
    }

    fn demand(&self, pool: &PoolId, now_ms: u64) -> Demand {
        let waiting = || self.queue.iter().filter(|buyer| buyer.pool == *pool);
        let mut head_quantities = waiting().take(HEAD_QUANTITIES_MAX).map(|buyer| buyer.quantity).collect::<Vec<_>>();
        if let (Some(least), Some(last)) = (waiting().map(|buyer| buyer.quantity).min(), head_quantities.last_mut()) {
            *last = (*last).min(least);
        }
        Demand {
            queued: waiting().map(|buyer| buyer.quantity).sum(),
            head_quantities,
            waited_ms: waiting().next().map_or(0, |buyer| now_ms - buyer.joined_ms),
            rate_per_min: self.rate_per_min,
        }
    }

    fn report(&self, now_ms: u64) -> Option<Report> {
        let mut report = self.database.as_ref()?.report(|pool| self.demand(pool, now_ms))?;
        // A pool of which nothing was granted yet has no row, and may have a queue.
        let mut wanted = self.queue.iter().map(|buyer| buyer.pool).collect::<Vec<_>>();
        wanted.sort();
        wanted.dedup();
        for pool in wanted {
            if !report.pools.iter().any(|row| row.pool == pool) {
                let demand = self.demand(&pool, now_ms);
                report.pools.push(quota_protocol::message::PoolReport { pool, counters: Counters::ZERO, demand });
            }
        }
        Some(report)
    }

    /// Somebody joins the queue.
    pub(crate) fn join(&mut self, buyer: Buyer) {
        self.asked_for += buyer.quantity;
        self.queue.push_back(buyer);
    }

    /// A heartbeat has passed, which is one second.
    pub(crate) fn measure_demand(&mut self) {
        self.rate_per_min = (0..60).map(|_| self.asked_for).sum();
        self.asked_for = Tickets::ZERO;
    }

    /// What to ask of the arbiters now.
    pub(crate) fn heartbeat(&mut self, now_ms: u64) -> Option<Ask> {
        let (region, id) = (self.number, self.id);
        let database = self.database.as_ref()?;
        let node = self.node.as_ref()?;
        if database.halted().is_some() {
            return None;
        }
        let identity = database.identity();
        let registers = node.view.filter(|view| database.contact(view) == Contact::Register);
        if let Some(view) = registers.filter(|view| database.incarnation() >= view.incarnation) {
            let register = Box::new(database.register_request(&view));
            // One look serves one registration: if it was too late, look again.
            self.node.as_mut()?.view = None;
            return Some(Ask::Register { region, register });
        }
        if self.epoch().is_none() || node.view.is_some_and(|view| database.contact(&view) != Contact::Registered) {
            self.node.as_mut()?.view = None;
            return Some(Ask::Look { region, id, identity });
        }
        let report = self.report(now_ms);
        if report.is_none() {
            return Some(Ask::Look { region, id, identity });
        }
        Some(Ask::Sync { region, id, report: report.map(Box::new) })
    }

    /// What an arbiter said becomes transactions.
    pub(crate) fn hear(&mut self, answer: Answer) {
        if self.node.is_none() {
            return;
        }
        match answer {
            Answer::Sync(answer) | Answer::Look(answer) => self.hear_sync(*answer),
            Answer::Register(answer) | Answer::AskAgain(answer) => match *answer {
                RegisterAnswer::Registered(registered) => self.begin(Action::Adopt(registered)),
                RegisterAnswer::Refused(reason) => self.begin(Action::Halt(reason)),
                RegisterAnswer::ReadAgain => {
                    if let Some(node) = &mut self.node {
                        node.view = None;
                    }
                }
            },
        }
    }

    fn hear_sync(&mut self, answer: SyncAnswer) {
        let Ok((view, answer)) = answer.parts() else { return };
        let Some(database) = &self.database else { return };
        let (contact, own) = (database.contact(&view), database.incarnation());
        if let Some(node) = &mut self.node {
            node.view = Some(view);
        }
        match contact {
            Contact::Registered => {
                for slice in &answer.slices {
                    self.return_some(&slice.pool, slice.return_up_to);
                }
                self.begin(Action::Deliver(answer));
            }
            Contact::Register if own < view.incarnation => self.begin(Action::Observe(view.incarnation)),
            Contact::Superseded(reason) => self.begin(Action::Halt(reason)),
            Contact::AskAgain | Contact::Register | Contact::ArbitersBehind(_) => {}
        }
    }

    /// What was asked back, as far as it can be spared.
    fn return_some(&mut self, pool: &PoolId, up_to: Tickets) {
        let Some(database) = &self.database else { return };
        let row = database.counters(pool);
        let under_way = self
            .node
            .iter()
            .flat_map(|node| &node.transactions)
            .any(|(_, action)| matches!(action, Action::Return { .. }));
        let tickets = up_to.minus_or_zero(row.returned).min(row.available());
        if !tickets.is_zero() && !under_way {
            self.begin(Action::Return { pool: *pool, tickets });
        }
    }

    /// The allocator: holds for the head of the queue what there is; passes over who wants more than there is.
    pub(crate) fn allocate(&mut self) {
        let Some(database) = &self.database else { return };
        let Some(node) = &self.node else { return };
        let Some(epoch) = database.epoch() else { return };
        if node.transactions.iter().any(|(_, action)| matches!(action, Action::Hold { .. })) {
            return;
        }
        let mut free = database.rows().iter().map(|(pool, row)| (*pool, row.counters.available())).collect::<Vec<_>>();
        let bare = free.iter().all(|(_, left)| left.is_zero());
        let mut served = Vec::new();
        let mut short = false;
        for buyer in &self.queue {
            let left = free.iter_mut().find(|(pool, _)| *pool == buyer.pool).map(|(_, left)| left);
            match left.and_then(|left| left.minus(buyer.quantity).map(|rest| (left, rest))) {
                Some((left, rest)) if served.len() < self.batch_orders => {
                    *left = rest;
                    served.push(*buyer);
                }
                Some(_) => break,
                None => short = true,
            }
        }
        let halted = database.halted().is_some();
        if let Some(node) = &mut self.node {
            let idle_again = node.bare && !bare && served.is_empty();
            (node.urgent, node.bare) = ((node.urgent || short || idle_again) && !halted, bare);
            for buyer in served {
                let Buyer { order, pool, quantity, .. } = buyer;
                node.transactions.push_back((epoch, Action::Hold { pool, order, tickets: quantity }));
            }
        }
    }

    /// The next transaction commits.
    pub(crate) fn commit(&mut self) -> Option<(Action, Result<Done, quota_protocol::Refused>)> {
        let (epoch, action) = self.node.as_mut()?.transactions.pop_front()?;
        let database = self.database.as_mut()?;
        let done = database.apply(epoch, &action);
        if let (Action::Hold { order, .. }, Ok(Done::Changed)) = (&action, &done) {
            self.queue.retain(|buyer| buyer.order != *order);
        }
        Some((action, done))
    }

    /// Orders of this database in a state.
    pub(crate) fn orders(&self, state: OrderState) -> Vec<OrderId> {
        let orders = self.database.iter().flat_map(|database| database.orders());
        orders.filter(|(_, order)| order.state == state).map(|(id, _)| *id).collect()
    }
}
