//! Holds, releases, sales, refunds and returns: what a region does by itself, out of its own slice. Each order goes
//! through its states once, however often an event about it arrives.

use super::{Done, Holder, Refused};
use crate::{
    counters::Tickets,
    ids::{Epoch, OrderId, PoolId},
};

/// One order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Order {
    /// Of which pool.
    pub pool: PoolId,
    /// How many tickets.
    pub tickets: Tickets,
    /// How far it has come.
    pub state: OrderState,
}

/// How far an order has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OrderState {
    /// On hold.
    Held,
    /// The hold ended without a sale.
    Released,
    /// Sold.
    Sold,
    /// Sold, and undone.
    Refunded,
}

impl Holder {
    pub(super) fn hold(
        &mut self,
        node: Epoch,
        pool: &PoolId,
        order: OrderId,
        tickets: Tickets,
    ) -> Result<Done, Refused> {
        let before = self.orders.get(&order).copied();
        let row = self.spendable(node, pool)?;
        if tickets.is_zero() {
            return Err(Refused::NothingAsked);
        }
        if let Some(before) = before.filter(|before| before.state != OrderState::Released) {
            return Err(Refused::OrderState(before.state));
        }
        let available = row.counters.available();
        if available < tickets {
            return Err(Refused::TooFew(available));
        }
        row.counters.held_in += tickets;
        self.orders.insert(order, Order { pool: *pool, tickets, state: OrderState::Held });
        Ok(Done::Changed)
    }

    pub(super) fn release(&mut self, node: Epoch, order: OrderId) -> Result<Done, Refused> {
        let (row, order) = self.order_in(node, order, OrderState::Held)?;
        row.counters.released += order.tickets;
        order.state = OrderState::Released;
        Ok(Done::Changed)
    }

    pub(super) fn sell(&mut self, node: Epoch, order: OrderId) -> Result<Done, Refused> {
        let (row, order) = self.order_in(node, order, OrderState::Held)?;
        row.counters.sold += order.tickets;
        order.state = OrderState::Sold;
        Ok(Done::Changed)
    }

    pub(super) fn refund(&mut self, node: Epoch, order: OrderId) -> Result<Done, Refused> {
        let mut from = OrderState::Sold;
        if mutated!(RefundTwice) && self.orders.get(&order).is_some_and(|order| order.state == OrderState::Refunded) {
            from = OrderState::Refunded;
        }
        let (row, order) = self.order_in(node, order, from)?;
        row.counters.refunded += order.tickets;
        order.state = OrderState::Refunded;
        Ok(Done::Changed)
    }

    /// The order, if it is in state `from`, with its row, if this node may spend of it.
    fn order_in(
        &mut self,
        node: Epoch,
        id: OrderId,
        from: OrderState,
    ) -> Result<(&mut super::Row, &mut Order), Refused> {
        if self.halted().is_some() {
            return Err(Refused::Halted);
        }
        let pool = self.orders.get(&id).ok_or(Refused::NoSuchOrder)?.pool;
        self.spendable(node, &pool)?;
        let Self { rows, orders, .. } = self;
        let row = rows.get_mut(&pool).ok_or(Refused::NoRow)?;
        let order = orders.get_mut(&id).ok_or(Refused::NoSuchOrder)?;
        if order.state != from {
            return Err(Refused::OrderState(order.state));
        }
        Ok((row, order))
    }

    pub(super) fn give_back(&mut self, node: Epoch, pool: &PoolId, tickets: Tickets) -> Result<Done, Refused> {
        let row = self.spendable(node, pool)?;
        if tickets.is_zero() {
            return Err(Refused::NothingAsked);
        }
        let mut free = row.counters.available();
        if mutated!(ReturningHeldTickets) {
            free += row.counters.held();
        }
        if free < tickets {
            return Err(Refused::TooFew(free));
        }
        #[cfg(test)]
        if mutated!(ReturnSentBeforeItsDebit) {
            *self.undebited.entry(*pool).or_default() += tickets;
            return Ok(Done::Changed);
        }
        row.counters.returned += tickets;
        Ok(Done::Changed)
    }
}
