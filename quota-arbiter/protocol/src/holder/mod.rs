//! The holder: a region's half of the protocol, as it stands in the region's database. Each action is one transaction:
//! it is checked and done as a whole, or refused and leaves nothing behind. It must never spend what it was not
//! granted, nor anything at all before the database it runs on has been registered.
//!
//! This one is kept in memory: the model and the simulation run on it, and it is what the SQL holder is compared with,
//! action by action (see [`crate::conformance`]).

mod contact;
mod orders;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use contact::{Contact, HaltReason};
pub use orders::{Order, OrderState};

use crate::{
    counters::{Counters, Tickets},
    ids::{Epoch, Identity, Incarnation, OrderId, PoolId, RegionId},
    message::{Answer, Registered},
};

/// One pool's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// The six counters.
    pub counters: Counters,
    /// The epoch under which this row may be spent.
    pub epoch: Epoch,
    /// The database that registered under that epoch.
    pub registered_as: Identity,
    /// Of `sold`, what the row was seeded with: sales of a database that was written off, without orders here.
    pub seeded: Tickets,
}

/// A region's registration, as its database stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Registration {
    /// The incarnation of the arbiters that registered it: restored arbiters may count through the same epochs again.
    pub incarnation: Incarnation,
    /// The epoch.
    pub epoch: Epoch,
    /// The database that registered.
    pub registered_as: Identity,
}

/// A region's database, in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    region: RegionId,
    /// The database that this runs on: not part of what a backup carries.
    identity: Identity,
    incarnation: Incarnation,
    registration: Option<Registration>,
    halted: Option<Halted>,
    rows: BTreeMap<PoolId, Row>,
    orders: BTreeMap<OrderId, Order>,
    /// A mutant's: returns reported and not yet debited.
    #[cfg(test)]
    undebited: BTreeMap<PoolId, Tickets>,
}

/// Why a database sells nothing any more. It concerns that database alone: a copy brought back on purpose has another
/// identity and is judged anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halted {
    /// The database.
    pub identity: Identity,
    /// Why.
    pub reason: HaltReason,
}

/// What a holder's database stores, orders aside: a holder that lies elsewhere is judged by the same code, by way of
/// [`Holder::from_stored`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The region.
    pub region: RegionId,
    /// The database that this runs on.
    pub identity: Identity,
    /// The arbiters' incarnation that it heard of last.
    pub incarnation: Incarnation,
    /// The last registration, of whichever database.
    pub registration: Option<Registration>,
    /// Why a database halted: this one, or one that it is a copy of.
    pub halted: Option<Halted>,
    /// Its rows.
    pub rows: BTreeMap<PoolId, Row>,
}

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put tickets on hold for an order that is new, or whose earlier hold was released.
    Hold {
        /// The pool.
        pool: PoolId,
        /// The order.
        order: OrderId,
        /// How many; not zero.
        tickets: Tickets,
    },
    /// End a hold without a sale.
    Release {
        /// The order.
        order: OrderId,
    },
    /// End a hold with a sale.
    Sell {
        /// The order.
        order: OrderId,
    },
    /// Undo a sale; its tickets are available again.
    Refund {
        /// The order.
        order: OrderId,
    },
    /// Give tickets back to the arbiter: only what is available, never what is on hold.
    Return {
        /// The pool.
        pool: PoolId,
        /// How many; not zero.
        tickets: Tickets,
    },
    /// Take in what the arbiters answered.
    Deliver(Answer),
    /// Remember an incarnation of the arbiters before registering with it: answers of earlier ones are ignored from now.
    Observe(Incarnation),
    /// Store a registration: before this, nothing is spent.
    Adopt(Registered),
    /// Stop for good: the arbiters refused this database.
    Halt(HaltReason),
}

/// What an action did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It changed the database.
    Changed,
    /// It came late or twice, and changed nothing.
    Unchanged,
    /// The row is behind what the region itself reported: the database halts.
    Halted(HaltReason),
}

/// Why an action was refused. Checked in this order.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// The database was told to stop.
    #[error("halted")]
    Halted,
    /// No such order.
    #[error("no such order")]
    NoSuchOrder,
    /// No row of this pool.
    #[error("no row of this pool")]
    NoRow,
    /// The database is not the one that registered: restored, promoted or replaced.
    #[error("this database has not registered")]
    NotRegistered,
    /// The node works under another epoch than the row.
    #[error("the row is of another epoch")]
    OtherEpoch,
    /// An action with zero tickets.
    #[error("no tickets asked for")]
    NothingAsked,
    /// The order is not in a state in which this can be done.
    #[error("the order is {0:?}")]
    OrderState(OrderState),
    /// Fewer are available.
    #[error("only {0} are available")]
    TooFew(Tickets),
}

impl Holder {
    /// An empty database for a region.
    pub fn new(region: RegionId, identity: Identity) -> Self {
        Self {
            region,
            identity,
            incarnation: Incarnation::default(),
            registration: None,
            halted: None,
            rows: BTreeMap::new(),
            orders: BTreeMap::new(),
            #[cfg(test)]
            undebited: BTreeMap::new(),
        }
    }

    /// What a database stores, without its orders: for whatever does not depend on them.
    pub fn from_stored(stored: Stored) -> Self {
        let Stored { region, identity, incarnation, registration, halted, rows } = stored;
        Self { incarnation, registration, halted, rows, ..Self::new(region, identity) }
    }

    /// The same rows on another database: a promoted standby, or a backup brought back.
    #[must_use]
    pub fn moved_to(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// The region.
    pub fn region(&self) -> RegionId {
        self.region
    }

    /// The database that this runs on.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The arbiters' incarnation that it heard of last.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Its rows.
    pub fn rows(&self) -> &BTreeMap<PoolId, Row> {
        &self.rows
    }

    /// The counters of one row; zero where there is none.
    pub fn counters(&self, pool: &PoolId) -> Counters {
        self.rows.get(pool).map(|row| row.counters).unwrap_or_default()
    }

    /// Every order.
    pub fn orders(&self) -> &BTreeMap<OrderId, Order> {
        &self.orders
    }

    /// What is stored of the last registration, of whichever database.
    pub fn registration(&self) -> Option<Registration> {
        self.registration
    }

    /// The epoch under which this database may spend, if it is the one that registered.
    pub fn epoch(&self) -> Option<Epoch> {
        self.registration.filter(|stored| stored.registered_as == self.identity).map(|stored| stored.epoch)
    }

    /// Why this database halted, if it did.
    pub fn halted(&self) -> Option<&HaltReason> {
        self.halted.as_ref().filter(|halted| halted.identity == self.identity).map(|halted| &halted.reason)
    }

    /// One transaction, begun by a node that works under epoch `node`.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub fn apply(&mut self, node: Epoch, action: &Action) -> Result<Done, Refused> {
        match action {
            Action::Hold { pool, order, tickets } => self.hold(node, pool, *order, *tickets),
            Action::Release { order } => self.release(node, *order),
            Action::Sell { order } => self.sell(node, *order),
            Action::Refund { order } => self.refund(node, *order),
            Action::Return { pool, tickets } => self.give_back(node, pool, *tickets),
            Action::Deliver(answer) => self.deliver(answer),
            Action::Observe(incarnation) => Ok(self.observe(*incarnation)),
            Action::Adopt(registered) => self.adopt(registered),
            Action::Halt(reason) => Ok(self.halt(reason.clone())),
        }
    }

    /// The row, if this node may spend of it. Looked up in the transaction that spends: a restored copy carries the
    /// epoch with its rows, and a pooled connection would not notice that it leads to another database.
    fn spendable(&mut self, node: Epoch, pool: &PoolId) -> Result<&mut Row, Refused> {
        if self.halted().is_some() {
            return Err(Refused::Halted);
        }
        let identity = self.identity;
        let row = self.rows.get_mut(pool).ok_or(Refused::NoRow)?;
        if row.registered_as != identity && !mutated!(SpendingBeforeTheEpochIsHeard) {
            return Err(Refused::NotRegistered);
        }
        if row.epoch != node {
            return Err(Refused::OtherEpoch);
        }
        Ok(row)
    }
}
