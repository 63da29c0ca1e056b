//! What a node shows about a concert, read in one round trip about once a second; never by a request.

use super::{Db, DbError, to_i64, to_u64};
use futures::try_join;
use region_api::{Entry, TierNo, UserHash};
use std::str::FromStr;
use tokio_postgres::Row;

/// Everything that positions, chances, availability and range rejections are worked out from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The database's clock when it was read, milliseconds since 1970.
    pub now_ms: u64,
    /// Book number.
    pub book: u64,
    /// Why nothing is held, if so.
    pub halted: Option<String>,
    /// The concert's version: another one means that the definition or state changed.
    pub version: u64,
    /// Stock by tier number.
    pub stock: Vec<TierStock>,
    /// How far the queues are decided; also generations that were lost.
    pub generations: Vec<Generation>,
    /// Who was told no without a row of their own.
    pub ranges: Vec<RejectedRange>,
    /// Who waits beside the queue.
    pub waiting: WaitingSample,
}

/// The holder's row of one tier, and sales not yet counted in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TierStock {
    /// Tier number.
    pub tier: TierNo,
    /// Tickets ever granted to this region.
    pub granted: u64,
    /// Ever returned.
    pub returned: u64,
    /// Ever put on hold.
    pub held_in: u64,
    /// Holds that ended without a sale.
    pub released: u64,
    /// Sold and folded in.
    pub sold: u64,
    /// Refunded.
    pub refunded: u64,
    /// Sold and not yet folded in.
    pub unfolded: u64,
    /// What there is beyond this region.
    pub beyond: Beyond,
}

/// What is known of a tier's tickets in other regions and with the arbiters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Beyond {
    /// A standalone region: there is nothing else.
    #[default]
    Nothing,
    /// No arbiter was heard lately.
    Unknown,
    /// Heard lately.
    Heard {
        /// At most so many are unsold anywhere, this region and unpaid holds included.
        unsold_at_most: u64,
        /// Every region says that there are none, and the arbiters have none.
        sold_out: bool,
    },
}

impl TierStock {
    /// Tickets that may be put on hold now.
    pub fn available(&self) -> u64 {
        (self.granted + self.released + self.refunded).saturating_sub(self.returned + self.held_in)
    }
    /// Tickets on hold now.
    pub fn held(&self) -> u64 {
        self.held_in.saturating_sub(self.released + self.sold + self.unfolded)
    }
    /// Tickets that are not sold, anywhere; `None` when nobody knows. Not too few, unless sales are undone elsewhere.
    pub fn unsold_anywhere(&self) -> Option<u64> {
        match self.beyond {
            Beyond::Nothing => Some(self.unsold()),
            Beyond::Unknown => None,
            Beyond::Heard { unsold_at_most, .. } => Some(unsold_at_most.max(self.unsold())),
        }
    }
    /// Whether it may be said that there will never be any again.
    pub fn is_sold_out(&self) -> bool {
        self.unsold() == 0 && matches!(self.beyond, Beyond::Nothing | Beyond::Heard { sold_out: true, .. })
    }
    /// Tickets here that are not sold: free or on hold.
    pub fn unsold(&self) -> u64 {
        (self.granted + self.refunded).saturating_sub(self.returned + self.sold + self.unfolded)
    }
}

/// How far one shard's queue of one generation is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// Shard.
    pub shard: u16,
    /// Generation.
    pub generation: u16,
    /// The last sequence number decided.
    pub cursor_seq: u64,
    /// The highest sequence number known to have been given out.
    pub tail_seq: u64,
    /// Of a lost one: the last sequence number that was still in Redis.
    pub survived_seq: Option<u64>,
}

/// Why a whole range was told no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RangeReason {
    /// Nothing that they want can come any more.
    SoldOut,
    /// The sale ended first.
    SaleClosed,
}

impl RangeReason {
    /// As the database and the contract spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SoldOut => "sold_out",
            Self::SaleClosed => "sale_closed",
        }
    }
}

impl FromStr for RangeReason {
    type Err = DbError;
    fn from_str(text: &str) -> Result<Self, DbError> {
        match text {
            "sold_out" => Ok(Self::SoldOut),
            "sale_closed" => Ok(Self::SaleClosed),
            _ => Err(DbError::Corrupt(format!("range reason {text:?}"))),
        }
    }
}

/// One row of `rejected_range`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedRange {
    /// Shard.
    pub shard: u16,
    /// Generation.
    pub generation: u16,
    /// First sequence number that it covers.
    pub from_seq: u64,
    /// Last one.
    pub to_seq: u64,
    /// Why.
    pub reason: RangeReason,
    /// Tickets by tier that could still come when it was written; `None`: everybody in the range.
    pub unsold: Option<Vec<u16>>,
}

impl RejectedRange {
    /// Whether somebody without a row of their own is told no by this range. `need` is the fewest tickets that they
    /// would take.
    pub fn rejects(&self, entry: Entry, need: u16, tiers: &[TierNo]) -> bool {
        let covered = entry.shard() == self.shard
            && entry.generation() == self.generation
            && (self.from_seq..=self.to_seq).contains(&entry.sequence());
        covered && self.unsold.as_ref().is_none_or(|unsold| cannot_serve(unsold, need, tiers))
    }
}

/// Whether no tier named could ever serve `need` tickets. A tier beyond the list was added later: not judged.
pub fn cannot_serve(unsold: &[u16], need: u16, tiers: &[TierNo]) -> bool {
    tiers.iter().all(|&tier| unsold.get(usize::from(tier)).is_some_and(|&left| left < need))
}

/// How many wait in SQL, and when every `step`-th of them came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WaitingSample {
    /// People waiting.
    pub count: u64,
    /// One arrival in so many.
    pub step: u64,
    /// Arrivals, milliseconds since 1970, ascending: of the first, the `step`+1-th, …
    pub arrivals_ms: Vec<u64>,
}

const HEAD: &str = concat!(
    "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, b.book, ",
    super::book::halted!(),
    ", c.version FROM book b JOIN concert c USING (concert_id) WHERE concert_id = $1"
);
pub(crate) const STOCK: &str = "
SELECT q.tier, q.granted, q.returned, q.held_in, q.released, q.sold, q.refunded, coalesce(u.tickets, 0)::bigint,
       (SELECT mode = 'arbiters' FROM region),
       CASE WHEN e.heard_at > now() - interval '10 seconds' THEN e.unsold_at_most END, e.sold_out
FROM quota q LEFT JOIN (SELECT tier, sum(tickets) AS tickets FROM unfolded WHERE concert_id = $1 GROUP BY tier) u
    USING (tier)
LEFT JOIN elsewhere e ON e.concert_id = q.concert_id AND e.tier = q.tier
WHERE q.concert_id = $1 ORDER BY q.tier";
pub(crate) const GENERATIONS: &str = "
SELECT shard, generation, cursor_seq, tail_seq, survived_seq FROM queue_generation
WHERE concert_id = $1 ORDER BY shard, generation";
pub(crate) const RANGES: &str = "
SELECT shard, generation, from_seq, to_seq, reason, unsold FROM rejected_range
WHERE concert_id = $1 ORDER BY shard, generation, from_seq, book";
// One row per person: the one of the tier they like best. Read in order from an index of its own: nothing is sorted.
const WAITING: &str = "
WITH n AS (SELECT count(*) AS people FROM waiting WHERE concert_id = $1 AND tier = tiers[1])
SELECT n.people, greatest(1, n.people / 256),
       coalesce((SELECT array_agg(w.arrival_ms ORDER BY w.place)
                 FROM (SELECT arrival_ms, row_number() OVER (ORDER BY arrival_ms) - 1 AS place
                       FROM waiting WHERE concert_id = $1 AND tier = tiers[1]) w
                 WHERE w.place % greatest(1, n.people / 256) = 0), '{}')
FROM n";

/// Reads everything that a node shows about a concert. The statements are pipelined; each is consistent in itself.
pub async fn snapshot(db: &Db, concert_id: i32) -> Result<Snapshot, DbError> {
    let client = db.client().await?;
    let (head, stock, generations, ranges, waiting) = try_join!(
        client.prepare_cached(HEAD),
        client.prepare_cached(STOCK),
        client.prepare_cached(GENERATIONS),
        client.prepare_cached(RANGES),
        client.prepare_cached(WAITING),
    )?;
    let id: &(dyn tokio_postgres::types::ToSql + Sync) = &concert_id;
    let by_concert = [id];
    let (head, stock, generations, ranges, waiting) = try_join!(
        client.query_opt(&head, &by_concert),
        client.query(&stock, &by_concert),
        client.query(&generations, &by_concert),
        client.query(&ranges, &by_concert),
        client.query_one(&waiting, &by_concert),
    )?;
    let head = head.ok_or(DbError::NoConcert)?;
    Ok(Snapshot {
        now_ms: to_u64(head.get(0)),
        book: to_u64(head.get(1)),
        halted: head.get(2),
        version: to_u64(head.get(3)),
        stock: stock.iter().map(stock_row).collect(),
        generations: generations.iter().map(generation_row).collect(),
        ranges: ranges.iter().map(range_row).collect::<Result<_, _>>()?,
        waiting: WaitingSample {
            count: to_u64(waiting.get(0)),
            step: to_u64(waiting.get(1)),
            arrivals_ms: waiting.get::<_, Vec<i64>>(2).into_iter().map(to_u64).collect(),
        },
    })
}

pub(crate) fn stock_row(row: &Row) -> TierStock {
    let count = |index: usize| to_u64(row.get(index));
    TierStock {
        tier: TierNo::try_from(row.get::<_, i16>(0)).unwrap_or(TierNo::MAX),
        granted: count(1),
        returned: count(2),
        held_in: count(3),
        released: count(4),
        sold: count(5),
        refunded: count(6),
        unfolded: count(7),
        beyond: match (row.get::<_, Option<bool>>(8), row.get::<_, Option<i64>>(9)) {
            (Some(true), Some(unsold_at_most)) => {
                Beyond::Heard { unsold_at_most: to_u64(unsold_at_most), sold_out: row.get(10) }
            }
            (Some(true), None) => Beyond::Unknown,
            _ => Beyond::Nothing,
        },
    }
}

pub(crate) fn generation_row(row: &Row) -> Generation {
    Generation {
        shard: row.get::<_, i16>(0).unsigned_abs(),
        generation: row.get::<_, i16>(1).unsigned_abs(),
        cursor_seq: to_u64(row.get(2)),
        tail_seq: to_u64(row.get(3)),
        survived_seq: row.get::<_, Option<i64>>(4).map(to_u64),
    }
}

pub(crate) fn range_row(row: &Row) -> Result<RejectedRange, DbError> {
    let unsold: Option<Vec<i16>> = row.get(5);
    Ok(RejectedRange {
        shard: row.get::<_, i16>(0).unsigned_abs(),
        generation: row.get::<_, i16>(1).unsigned_abs(),
        from_seq: to_u64(row.get(2)),
        to_seq: to_u64(row.get(3)),
        reason: row.get::<_, &str>(4).parse()?,
        unsold: unsold.map(|unsold| unsold.into_iter().map(i16::unsigned_abs).collect()),
    })
}

/// Somebody who left the queue before being decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// The place.
    pub entry: Entry,
    /// Whose.
    pub user: UserHash,
    /// By their own wish; otherwise voided for too many polls.
    pub cancelled: bool,
    /// When, milliseconds since 1970 by the database's clock.
    pub at_ms: u64,
}

/// Who left the queue undecided since a time (milliseconds since 1970), oldest first, at most `most`. A transaction
/// becomes visible up to some seconds after its time: ask again from 30 s before the last one that you saw.
pub async fn left_since(db: &Db, concert_id: i32, since_ms: u64, most: u32) -> Result<Vec<Left>, DbError> {
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "SELECT entry, user_hash, state = 'cancelled', (extract(epoch FROM changed_at) * 1000)::bigint
             FROM reservation WHERE concert_id = $1 AND state IN ('cancelled', 'voided') AND book IS NULL
                 AND changed_at >= 'epoch'::timestamptz + $2::bigint * interval '1 ms'
             ORDER BY changed_at LIMIT $3",
        )
        .await?;
    let rows = client.query(&statement, &[&concert_id, &to_i64(since_ms), &i64::from(most)]).await?;
    let read = |row: &Row| {
        let entry = Entry::from_i64(row.get(0)).ok_or_else(|| DbError::Corrupt("a negative entry".into()))?;
        let user = UserHash::from_uuid(row.get(1));
        Ok(Left { entry, user, cancelled: row.get(2), at_ms: to_u64(row.get(3)) })
    };
    rows.iter().map(read).collect()
}

/// Somebody who bought a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bought {
    /// The concert's number here.
    pub concert_id: i32,
    /// Who.
    pub user: UserHash,
    /// When, milliseconds since 1970 by the database's clock.
    pub at_ms: u64,
}

/// Tickets issued since a time (milliseconds since 1970), oldest first, at most `most`. As with [`left_since`], ask
/// again from 30 s before the last one that you saw.
pub async fn bought_since(db: &Db, since_ms: u64, most: u32) -> Result<Vec<Bought>, DbError> {
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "SELECT t.concert_id, r.user_hash, (extract(epoch FROM t.issued_at) * 1000)::bigint
             FROM ticket t JOIN reservation r ON r.concert_id = t.concert_id AND r.entry = t.entry
             WHERE t.issued_at >= 'epoch'::timestamptz + $1::bigint * interval '1 ms'
             ORDER BY t.issued_at LIMIT $2",
        )
        .await?;
    let rows = client.query(&statement, &[&to_i64(since_ms), &i64::from(most)]).await?;
    let read =
        |row: &Row| Bought { concert_id: row.get(0), user: UserHash::from_uuid(row.get(1)), at_ms: to_u64(row.get(2)) };
    Ok(rows.iter().map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_rejects_whom_no_named_tier_can_serve_and_nobody_else() {
        let range = RejectedRange {
            shard: 2,
            generation: 1,
            from_seq: 5,
            to_seq: 9,
            reason: RangeReason::SoldOut,
            unsold: Some(vec![1, 3]),
        };
        let at = |sequence| Entry::new(2, 1, sequence).unwrap();
        assert!(range.rejects(at(5), 2, &[0]));
        assert!(range.rejects(at(9), 4, &[0, 1]));
        assert!(!range.rejects(at(9), 2, &[0, 1]), "tier 1 may still serve two");
        assert!(!range.rejects(at(10), 4, &[0, 1]) && !range.rejects(at(4), 4, &[0]));
        assert!(!range.rejects(Entry::new(2, 2, 6).unwrap(), 4, &[0]), "another generation");
        assert!(!range.rejects(at(6), 4, &[0, 2]), "tier 2 was added later");
        assert!(RejectedRange { unsold: None, ..range }.rejects(at(6), 1, &[1]));
    }
}
