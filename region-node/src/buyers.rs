//! Who has bought tickets already, as far as this node knows: so that their next join is checked against their limit at
//! once, while everybody else's join never asks the database.
//!
//! Read anew by the catalog's task. Not exact: whoever is missing here is told by the allocator, whoever is here without
//! reason (refunded since) costs one look-up.

use foldhash::fast::RandomState;
use parking_lot::RwLock;
use region_api::UserHash;
use std::collections::HashSet;

use crate::db::{Db, DbError, snapshot};
use crate::limits;

/// How far back a ticket may become visible after its own time (a transaction's), milliseconds.
const LATE_ROWS_MS: u64 = 30_000;

/// Who has bought.
#[derive(Debug, Default)]
pub struct Buyers {
    known: RwLock<HashSet<(i32, u64), RandomState>>,
}

/// How far the tickets were read.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    since_ms: u64,
}

/// Half of a hash is enough: a chance likeness costs one look-up.
fn short(user: UserHash) -> u64 {
    user.0.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Buyers {
    /// Whether somebody may have bought for this concert.
    pub fn have(&self, concert_id: i32, user: UserHash) -> bool {
        self.known.read().contains(&(concert_id, short(user)))
    }

    /// Reads who has bought since the last time, a bounded number of tickets at once.
    pub(crate) async fn read(&self, db: &Db, reading: &mut Reading) -> Result<(), DbError> {
        let most = limits::BUYERS_READ_MAX;
        let mut since_ms = reading.since_ms.saturating_sub(LATE_ROWS_MS);
        for _ in 0..limits::BUYERS_READS_MAX {
            let bought = snapshot::bought_since(db, since_ms, most).await?;
            let newest_ms = bought.last().map_or(reading.since_ms, |last| last.at_ms);
            let more = bought.len() == most as usize && newest_ms > since_ms;
            self.note(bought.iter().map(|bought| (bought.concert_id, bought.user)));
            reading.since_ms = reading.since_ms.max(newest_ms);
            since_ms = newest_ms;
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn note(&self, bought: impl Iterator<Item = (i32, UserHash)>) {
        let mut new: Vec<_> = bought.map(|(concert_id, user)| (concert_id, short(user))).collect();
        {
            let known = self.known.read();
            new.retain(|buyer| !known.contains(buyer));
            new.truncate(limits::BUYERS_MAX.saturating_sub(known.len()));
        }
        if !new.is_empty() {
            self.known.write().extend(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_bought_is_known_for_that_concert_only() {
        let (one, other) = (UserHash([1; 16]), UserHash([2; 16]));
        let buyers = Buyers::default();
        buyers.note([(7, one), (7, one)].into_iter());
        assert!(buyers.have(7, one) && !buyers.have(8, one) && !buyers.have(7, other));
        assert_eq!(buyers.known.read().len(), 1);
    }
}
