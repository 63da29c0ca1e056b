//! What the allocator does about once a second beside batches: certain noes, the waiting list's bound, the close.
//!
//! Must never: say a no that is not certain: it is worked out under the book's lock, from unpaid holds and all.

use crate::books::{Books, BooksError};
use crate::db::concerts::ConcertRow;
use crate::db::ranges::{self, Cover};
use crate::db::snapshot::{self, Generation, RangeReason, RejectedRange, TierStock};
use crate::db::{DbError, book, db_fail_point};
use crate::queue::{Sample, ShardState};
use sale::early_no::{self, people_kept, waitlist_bound};
use tokio_postgres::Transaction;

/// People told no in one transaction when they waited in SQL: enough to be quick, few enough to hold no lock long.
const END_WAITING_MOST: i64 = 5_000;

/// What housekeeping found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct House {
    /// Book number of what was written, if anything.
    pub(crate) book: Option<u64>,
    /// Cursors passed places: read them anew.
    pub(crate) passed: bool,
    /// People who waited were told no; there may be more of them.
    pub(crate) ended: u64,
    /// People who waited beside the queue before that.
    pub(crate) waiting: u64,
}

/// One round for a concert. `tails` are Redis's states of the shards.
pub(crate) async fn keep(books: &Books, concert: &ConcertRow, tails: &[ShardState]) -> Result<House, BooksError> {
    let id = concert.concert_id;
    // Without a lock first: nearly always there is nothing to do.
    let now = snapshot::snapshot(&books.db, id).await?;
    let bound = waiting_bound(books, concert, &now.generations, &now.stock, now.waiting.count).await?;
    let over = is_over(concert, now.now_ms);
    let plan = plan(concert, over, &now.stock, &with_tails(&now.generations, tails), &now.ranges, bound.as_deref());
    let end_waiting = match &plan.doomed {
        Some(doomed) if now.waiting.count > 0 => ranges::anybody_doomed(&books.db, id, doomed.as_deref()).await?,
        _ => false,
    };
    let close = over && concert.closed_at_ms.is_none();
    if plan.is_empty() && !end_waiting && !close {
        return Ok(House { waiting: now.waiting.count, ..House::default() });
    }
    let mut client = books.db.client().await?;
    let tx = client.transaction().await.map_err(DbError::from)?;
    let locked = book::lock(&tx, id, book::Floor::of(books, id)).await?;
    let (stock, generations, ranges) = read(&tx, id).await?;
    let generations = with_tails(&generations, tails);
    let plan = self::plan(concert, over, &stock, &generations, &ranges, bound.as_deref());
    let book = Some(u64::try_from(locked.book).unwrap_or(0));
    let mut house = House { book, waiting: now.waiting.count, ..House::default() };
    write(&tx, id, locked.book, &plan, &mut house).await?;
    if let Some(doomed) = &plan.doomed {
        house.ended = ranges::end_waiting(&tx, id, doomed.as_deref(), END_WAITING_MOST).await?;
    }
    if close && house.ended < END_WAITING_MOST as u64 {
        let set = "UPDATE concert SET closed_at = now(), version = version + 1
                   WHERE concert_id = $1 AND closed_at IS NULL
                       AND NOT EXISTS (SELECT FROM waiting WHERE concert_id = $1)";
        tx.execute(set, &[&id]).await.map_err(DbError::from)?;
    }
    before_commit()?;
    tx.commit().await.map_err(DbError::from)?;
    for cover in plan.passed() {
        // Those decided one by one keep their places until the outbox tells of them; the rest is forgotten.
        let decided = generations.iter().find(|g| (g.shard, g.generation) == (cover.shard, cover.generation));
        let cursor = decided.map_or(0, |g| g.cursor_seq);
        books.queue.trim(concert.queue(), cover.shard, cover.generation, cursor, false).await?;
        books.queue.trim(concert.queue(), cover.shard, cover.generation, cover.to_seq, true).await?;
    }
    Ok(house)
}

fn before_commit() -> Result<(), DbError> {
    db_fail_point!("house.before_commit");
    Ok(())
}

async fn write(tx: &Transaction<'_>, id: i32, book: i64, plan: &Plan, house: &mut House) -> Result<(), DbError> {
    for rule in &plan.rules {
        ranges::write(tx, id, book, &rule.covers, rule.reason, rule.unsold.as_deref()).await?;
        if rule.passes {
            ranges::pass(tx, id, &rule.covers).await?;
            house.passed = true;
        }
    }
    Ok(())
}

async fn read(tx: &Transaction<'_>, id: i32) -> Result<(Vec<TierStock>, Vec<Generation>, Vec<RejectedRange>), DbError> {
    let stock = tx.query(snapshot::STOCK, &[&id]).await?;
    let generations = tx.query(snapshot::GENERATIONS, &[&id]).await?;
    let ranges = tx.query(snapshot::RANGES, &[&id]).await?;
    Ok((
        stock.iter().map(snapshot::stock_row).collect(),
        generations.iter().map(snapshot::generation_row).collect(),
        ranges.iter().map(snapshot::range_row).collect::<Result<_, _>>()?,
    ))
}

fn is_over(concert: &ConcertRow, now_ms: u64) -> bool {
    let closes = concert.definition.sale_closes_at.map(|at| at.ms());
    concert.cancelled_at_ms.is_some() || concert.closed_at_ms.is_some() || closes.is_some_and(|at| at <= now_ms)
}

fn with_tails(generations: &[Generation], tails: &[ShardState]) -> Vec<Generation> {
    let raise = |g: &Generation| {
        let here = |state: &&ShardState| (state.shard, state.generation) == (g.shard, g.generation);
        let tail = tails.iter().find(here).map_or(0, |state| state.tail_seq);
        Generation { tail_seq: g.tail_seq.max(tail), ..*g }
    };
    generations.iter().map(raise).collect()
}

/// Rules to write, and whose wait is over.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    rules: Vec<Rule>,
    /// Whose waiting rows go: `Some(None)` everybody's, `Some(unsold)` of those whom so many tickets cannot serve.
    doomed: Option<Option<Vec<u16>>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Rule {
    covers: Vec<Cover>,
    reason: RangeReason,
    unsold: Option<Vec<u16>>,
    /// Everybody up to there is answered: the cursor goes along.
    passes: bool,
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
    fn passed(&self) -> impl Iterator<Item = &Cover> {
        self.rules.iter().filter(|rule| rule.passes).flat_map(|rule| &rule.covers)
    }
}

/// What has to be written, given what is there. Pure; worked out once without and once with the lock.
fn plan(
    concert: &ConcertRow,
    over: bool,
    stock: &[TierStock],
    generations: &[Generation],
    ranges: &[RejectedRange],
    bound: Option<&[Cover]>,
) -> Plan {
    let mut plan = Plan::default();
    let unsold = unsold_by_tier(stock);
    let most = concert.definition.max_per_order;
    if over || unsold.iter().all(|&left| left == 0) {
        let reason = if over { RangeReason::SaleClosed } else { RangeReason::SoldOut };
        let covers: Vec<Cover> = generations.iter().filter_map(ranges::whole).collect();
        let covers = not_yet(covers, ranges, None);
        plan.doomed = Some(None);
        if !covers.is_empty() {
            plan.rules.push(Rule { covers, reason, unsold: None, passes: true });
        }
        return plan;
    }
    // Somebody may only be told no by what the tickets are now: a number above what anybody may order says nothing.
    if unsold.iter().any(|&left| left < most) {
        let capped: Vec<u16> = unsold.iter().map(|&left| left.min(most)).collect();
        let covers: Vec<Cover> = generations.iter().filter_map(ranges::whole).collect();
        let covers = not_yet(covers, ranges, Some(&capped));
        if !covers.is_empty() {
            plan.rules.push(Rule { covers, reason: RangeReason::SoldOut, unsold: Some(capped.clone()), passes: false });
        }
        plan.doomed = Some(Some(capped));
    }
    if let Some(bound) = bound {
        let covers = not_yet(bound.to_vec(), ranges, None);
        if !covers.is_empty() {
            plan.rules.push(Rule { covers, reason: RangeReason::SoldOut, unsold: None, passes: false });
        }
    }
    plan
}

fn unsold_by_tier(stock: &[TierStock]) -> Vec<u16> {
    // What nobody knows may be plenty: then nobody is told no.
    stock.iter().map(|tier| tier.unsold_anywhere().map_or(u16::MAX, |n| u16::try_from(n).unwrap_or(u16::MAX))).collect()
}

/// The covers of which some part is not under a rule that says at least as much.
fn not_yet(covers: Vec<Cover>, ranges: &[RejectedRange], unsold: Option<&[u16]>) -> Vec<Cover> {
    let says_it = |range: &RejectedRange| match (&range.unsold, unsold) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(old), Some(new)) => old.len() >= new.len() && new.iter().zip(old).all(|(new, old)| old <= new),
    };
    let missing = |cover: &Cover| {
        !ranges.iter().any(|range| {
            (range.shard, range.generation) == (cover.shard, cover.generation)
                && range.from_seq <= cover.from_seq
                && range.to_seq >= cover.to_seq
                && says_it(range)
        })
    };
    covers.into_iter().filter(missing).collect()
}

/// Whom a bounded waiting list does not keep: everybody in each shard who came after the bound.
async fn waiting_bound(
    books: &Books,
    concert: &ConcertRow,
    generations: &[Generation],
    stock: &[TierStock],
    waiting: u64,
) -> Result<Option<Vec<Cover>>, BooksError> {
    let Some(factor) = concert.definition.waitlist_factor else { return Ok(None) };
    let unsold: Option<u64> = stock.iter().map(TierStock::unsold_anywhere).sum();
    let Some(unsold) = unsold else { return Ok(None) };
    let kept = people_kept(factor, unsold);
    let current: Vec<&Generation> = generations.iter().filter(|g| g.survived_seq.is_none()).collect();
    let tails = books.queue.shards(concert.queue()).await?;
    let queued: u64 = tails.iter().map(|state| state.tail_seq.saturating_sub(cursor(&current, state))).sum();
    if queued + waiting <= kept {
        return Ok(None);
    }
    let mut samples = Vec::with_capacity(tails.len());
    for state in &tails {
        let mut of_shard = books.queue.samples(concert.queue(), state.shard).await?;
        of_shard.retain(|sample| sample.generation == state.generation);
        samples.push(of_shard);
    }
    Ok(bound(kept, waiting, &current, &tails, &samples))
}

fn cursor(current: &[&Generation], state: &ShardState) -> u64 {
    let here = |g: &&&Generation| (g.shard, g.generation) == (state.shard, state.generation);
    current.iter().find(here).map_or(0, |g| g.cursor_seq)
}

/// The last number that a shard is known to have given out up to a time: never too few.
fn given_out(samples: &[Sample], tail_seq: u64, at_ms: u64) -> u64 {
    samples.iter().find(|sample| sample.arrival_ms > at_ms).map_or(tail_seq, |sample| sample.sequence)
}

fn bound(
    kept: u64,
    waiting: u64,
    current: &[&Generation],
    tails: &[ShardState],
    samples: &[Vec<Sample>],
) -> Option<Vec<Cover>> {
    let mut times: Vec<u64> = samples.iter().flatten().map(|sample| sample.arrival_ms).collect();
    times.extend(tails.iter().map(|state| state.tail_arrival_ms));
    times.sort_unstable();
    times.dedup();
    let people = |at_ms: u64| {
        let of_shard = |(state, samples): (&ShardState, &Vec<Sample>)| {
            given_out(samples, state.tail_seq, at_ms).saturating_sub(cursor(current, state))
        };
        waiting + tails.iter().zip(samples).map(of_shard).sum::<u64>()
    };
    let points: Vec<early_no::Sample> =
        times.iter().map(|&arrival_ms| early_no::Sample { arrival_ms, people: people(arrival_ms) }).collect();
    let at_ms = waitlist_bound(kept, &points)?;
    let cover = |(state, samples): (&ShardState, &Vec<Sample>)| {
        let from_seq = given_out(samples, state.tail_seq, at_ms).max(cursor(current, state)) + 1;
        let (shard, generation) = (state.shard, state.generation);
        (from_seq <= state.tail_seq).then_some(Cover { shard, generation, from_seq, to_seq: state.tail_seq })
    };
    Some(tails.iter().zip(samples).filter_map(cover).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(shard: u16, cursor_seq: u64, tail_seq: u64) -> Generation {
        Generation { shard, generation: 1, cursor_seq, tail_seq, survived_seq: None }
    }
    fn state(shard: u16, tail_seq: u64, tail_arrival_ms: u64) -> ShardState {
        ShardState { shard, generation: 1, head_seq: 1, tail_seq, tail_arrival_ms }
    }
    fn sample(arrival_ms: u64, sequence: u64) -> Sample {
        Sample { arrival_ms, generation: 1, sequence }
    }

    #[test]
    fn the_waiting_list_ends_at_one_time_in_every_shard_and_never_too_early() {
        let generations = [generation(0, 100, 1000), generation(1, 0, 500)];
        let current: Vec<&Generation> = generations.iter().collect();
        let tails = [state(0, 1000, 9_000), state(1, 500, 9_000)];
        let samples = vec![vec![sample(1_000, 0), sample(5_000, 400)], vec![sample(1_000, 0), sample(5_000, 300)]];
        assert_eq!(bound(1400, 0, &current, &tails, &samples), None, "everybody is kept");
        let covers = bound(600, 0, &current, &tails, &samples).unwrap();
        // Up to 5 s there are 300 + 300 people.
        let cover = |shard, from_seq, to_seq| Cover { shard, generation: 1, from_seq, to_seq };
        assert_eq!(covers, [cover(0, 401, 1000), cover(1, 301, 500)]);
    }
}
