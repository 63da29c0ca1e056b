//! What must always hold, each rule a function of its own, so that the model, the simulation and the check of the real
//! books judge by the same words. A function here only looks; it never repairs.

use thiserror::Error;

use crate::{
    counters::{Column, Counters, Tickets},
    holder::Holder,
    issuer::{Issuer, Pool, Slice},
};

/// A broken invariant, with the numbers that show it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Broken {
    /// I1
    #[error("conservation: pool {pool} + outstanding {outstanding} is not the total {total}")]
    Conservation {
        /// P
        pool: Tickets,
        /// Σ(G − R)
        outstanding: Tickets,
        /// T
        total: Tickets,
    },
    /// I1, in one region: more accepted as returned than was ever granted.
    #[error("conservation: {accepted} accepted back of {granted} granted")]
    AcceptedOverGranted {
        /// R
        accepted: Tickets,
        /// G
        granted: Tickets,
    },
    /// I2
    #[error("row: {rule} does not hold in {counters:?}")]
    Row {
        /// Which of the three.
        rule: &'static str,
        /// The row.
        counters: Counters,
    },
    /// I3
    #[error("agreement: {rule} does not hold: issuer {issuer}, holder {holder}")]
    Agreement {
        /// Which of the two.
        rule: &'static str,
        /// The issuer's number.
        issuer: Tickets,
        /// The holder's number.
        holder: Tickets,
    },
    /// I4
    #[error("growth: {column} went from {before} to {after}")]
    Growth {
        /// The column.
        column: Column,
        /// Its value before, or the floor's.
        before: Tickets,
        /// Its value after.
        after: Tickets,
    },
    /// The orders of a region do not add up to its row.
    #[error("books: {column} says {row}, the orders say {orders}")]
    Books {
        /// The column.
        column: &'static str,
        /// What the row says.
        row: Tickets,
        /// What the orders add up to.
        orders: Tickets,
    },
    /// More promised than there are.
    #[error("oversell: {promised} held or sold of {total}")]
    Oversell {
        /// Σ(held + sold − refunded), or the sales that really happened.
        promised: Tickets,
        /// T
        total: Tickets,
    },
    /// Tickets that nobody can sell.
    #[error("stranded: pool, slices, holds and sales add up to {found} of {total}")]
    Stranded {
        /// What could be found at rest.
        found: Tickets,
        /// T
        total: Tickets,
    },
}

/// I1: what the issuer has and what is out add up to the total, pool by pool. Says nothing while the arbiters are
/// recovering from a backup, when the pool's number is not yet known.
///
/// # Errors
/// When it is broken.
pub fn invariant_conservation(issuer: &Issuer, pool: &Pool) -> Result<(), Broken> {
    let mut outstanding = Tickets::ZERO;
    for slice in pool.slices.values() {
        let Some(out) = slice.granted.minus(slice.accepted) else {
            return Err(Broken::AcceptedOverGranted { accepted: slice.accepted, granted: slice.granted });
        };
        outstanding += out;
    }
    if issuer.recovering().is_none() && pool.pool + outstanding != pool.total {
        return Err(Broken::Conservation { pool: pool.pool, outstanding, total: pool.total });
    }
    Ok(())
}

/// I2: `available ≥ 0`, `held ≥ 0`, `refunded ≤ sold` in one row.
///
/// # Errors
/// When it is broken.
pub fn invariant_row(row: &Counters) -> Result<(), Broken> {
    let broken = |rule| Err(Broken::Row { rule, counters: *row });
    if row.returned + row.held_in > row.granted + row.released + row.refunded {
        return broken("available ≥ 0");
    }
    if row.released + row.sold > row.held_in {
        return broken("held ≥ 0");
    }
    if row.refunded > row.sold {
        return broken("refunded ≤ sold");
    }
    Ok(())
}

/// I3: a region has no more than it was granted, and no more was accepted back than it gave: for every region that is
/// not written off, and the database that is registered for it.
///
/// # Errors
/// When it is broken.
pub fn invariant_agreement(slice: &Slice, row: &Counters) -> Result<(), Broken> {
    if row.granted > slice.granted {
        return Err(Broken::Agreement { rule: "g ≤ G", issuer: slice.granted, holder: row.granted });
    }
    if slice.accepted > row.returned {
        return Err(Broken::Agreement { rule: "R ≤ ret", issuer: slice.accepted, holder: row.returned });
    }
    Ok(())
}

/// I4: no column ever goes down. `before` is an earlier row of the same database, or its region's floor.
///
/// # Errors
/// When it is broken.
pub fn invariant_growth(before: &Counters, after: &Counters) -> Result<(), Broken> {
    match after.below(before) {
        Some((column, after, before)) => Err(Broken::Growth { column, before, after }),
        None => Ok(()),
    }
}

/// The books of one region: each row is what its orders (and its seed) add up to.
///
/// # Errors
/// When it is broken.
pub fn invariant_books(holder: &Holder) -> Result<(), Broken> {
    for (pool, row) in holder.rows() {
        let (mut held, mut sold, mut refunded) = (Tickets::ZERO, row.seeded, Tickets::ZERO);
        for order in holder.orders().values().filter(|order| order.pool == *pool) {
            use crate::holder::OrderState::{Held, Refunded, Released, Sold};
            match order.state {
                Held => held += order.tickets,
                Released => {}
                Sold => sold += order.tickets,
                Refunded => {
                    sold += order.tickets;
                    refunded += order.tickets;
                }
            }
        }
        let counters = &row.counters;
        let pairs =
            [("held", counters.held(), held), ("sold", counters.sold, sold), ("refunded", counters.refunded, refunded)];
        for (column, row, orders) in pairs {
            if row != orders {
                return Err(Broken::Books { column, row, orders });
            }
        }
    }
    Ok(())
}

/// No oversell: what is promised to people everywhere (held and sold, less refunds) is within the total.
///
/// # Errors
/// When it is broken.
pub fn invariant_no_oversell(promised: Tickets, total: Tickets) -> Result<(), Broken> {
    if promised > total { Err(Broken::Oversell { promised, total }) } else { Ok(()) }
}

/// Nothing is stranded: at rest, `T = P + Σ(available + held + sold − refunded)`.
///
/// # Errors
/// When it is broken.
pub fn invariant_nothing_stranded(
    pool: Tickets,
    rows: impl Iterator<Item = Counters>,
    total: Tickets,
) -> Result<(), Broken> {
    let found = pool + rows.map(|row| row.available() + row.held() + row.sold_net()).sum::<Tickets>();
    if found == total { Ok(()) } else { Err(Broken::Stranded { found, total }) }
}
