//! Generations of the queue: finds out when Redis has lost what it confirmed, and begins anew, in SQL first.
//!
//! A shard's queue is lost when Redis has no generation for it, or an older one than SQL recorded, or fewer numbers than
//! are known to have been given out. What survived of a lost one is still decided, before its successor. Must never:
//! let a sequence number be given out twice, so a generation that was recorded and is missing in Redis is never begun
//! again under its own number.

use crate::books::{Books, BooksError};
use crate::db::DbError;
use crate::db::concerts::ConcertRow;
use crate::db::generations;
use crate::db::snapshot::Generation;
use crate::queue::ShardState;

/// Compares SQL and Redis for every shard of a concert, records what was lost, begins what is missing, and tells the
/// queue how far numbers are known to have come. Idempotent; several nodes may do it at once. Returns SQL's state.
pub async fn ensure(books: &Books, concert: &ConcertRow) -> Result<Vec<Generation>, BooksError> {
    let seen = look(books, concert).await?;
    if seen.shards.iter().all(|(_, sql, redis)| judge(*sql, *redis) == Verdict::Fine) {
        for (shard, sql, redis) in seen.shards {
            ensure_shard(books, concert, shard, sql, redis).await?;
        }
        return Ok(seen.recorded);
    }
    // Recording in SQL and beginning in Redis are two steps. Between them the shard looks lost, so only one node at a
    // time may look and act; the lock goes with the connection, also when this process dies.
    let _turn = books.beginning.lock().await;
    let mut client = books.db.client().await?;
    let locked = client.transaction().await.map_err(DbError::from)?;
    let lock = "SELECT pg_advisory_xact_lock($1, $2)";
    locked.execute(lock, &[&GENERATIONS_LOCK, &concert.concert_id]).await.map_err(DbError::from)?;
    for (shard, sql, redis) in look(books, concert).await?.shards {
        ensure_shard(books, concert, shard, sql, redis).await?;
    }
    locked.commit().await.map_err(DbError::from)?;
    Ok(generations::load(&books.db, concert.concert_id).await?)
}

/// First key of the lock under which generations begin (an arbitrary number); the second is the concert's.
const GENERATIONS_LOCK: i32 = 0x626f_0003;

/// What SQL and Redis say.
struct Seen {
    recorded: Vec<Generation>,
    shards: Vec<(u16, Option<Generation>, Option<ShardState>)>,
}

async fn look(books: &Books, concert: &ConcertRow) -> Result<Seen, BooksError> {
    let recorded = generations::load(&books.db, concert.concert_id).await?;
    let redis = books.queue.shards(concert.queue()).await?;
    let shards = (0..concert.shards)
        .map(|shard| {
            let sql = recorded.iter().rfind(|g| g.shard == shard && g.survived_seq.is_none()).copied();
            (shard, sql, redis.iter().find(|state| state.shard == shard).copied())
        })
        .collect();
    Ok(Seen { recorded, shards })
}

/// What has to happen to one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Both agree.
    Fine,
    /// New in SQL.
    First,
    /// SQL's generation is lost; so much of it survived.
    Lost { survived_seq: u64 },
    /// Redis is ahead of what was read from SQL: another node has just begun it. Record what Redis has.
    Ahead,
}

fn judge(sql: Option<Generation>, redis: Option<ShardState>) -> Verdict {
    let known = |g: Generation| g.tail_seq.max(g.cursor_seq);
    match (sql, redis) {
        (None, None) => Verdict::First,
        (None, Some(_)) => Verdict::Ahead,
        (Some(_), None) => Verdict::Lost { survived_seq: 0 },
        (Some(sql), Some(redis)) if redis.generation > sql.generation => Verdict::Ahead,
        // An older generation came back: of SQL's current one nothing is there.
        (Some(sql), Some(redis)) if redis.generation < sql.generation => Verdict::Lost { survived_seq: 0 },
        (Some(sql), Some(redis)) if redis.tail_seq < known(sql) => Verdict::Lost { survived_seq: redis.tail_seq },
        (Some(_), Some(_)) => Verdict::Fine,
    }
}

async fn ensure_shard(
    books: &Books,
    concert: &ConcertRow,
    shard: u16,
    sql: Option<Generation>,
    redis: Option<ShardState>,
) -> Result<(), BooksError> {
    let (id, queue) = (concert.concert_id, concert.queue());
    match judge(sql, redis) {
        Verdict::Fine => {
            if let (Some(sql), Some(redis)) = (sql, redis) {
                books.queue.note_given_out(queue, shard, redis.generation, redis.tail_seq.max(sql.tail_seq));
            }
            Ok(())
        }
        Verdict::First => {
            let ours = generations::first(&books.db, id, shard).await?;
            stop_here()?;
            if ours {
                books.queue.begin_generation(queue, shard, 1).await?;
            }
            Ok(())
        }
        Verdict::Lost { survived_seq } => {
            let Some(sql) = sql else { return Ok(()) };
            let lost = sql.generation;
            tracing::error!(concert = %concert.concert, shard, generation = lost, survived_seq, tail_seq = sql.tail_seq,
                "the queue lost places that it had confirmed; a new generation begins, owners can reclaim theirs");
            let Some(next) = generations::lose(&books.db, id, shard, lost, survived_seq).await? else {
                let text = format!("shard {shard} of {} has used up its generations", concert.concert);
                return Err(DbError::Corrupt(text).into());
            };
            stop_here()?;
            books.queue.begin_generation(queue, shard, next).await?;
            // Another node may have begun the lost one, and given out places in it, just before: they are in Redis.
            let last = last_left(books, concert, shard, lost, survived_seq).await?;
            generations::raise_survived(&books.db, id, shard, lost, last).await?;
            Ok(())
        }
        Verdict::Ahead => {
            let Some(redis) = redis else { return Ok(()) };
            let reached = catch_up(books, id, shard, sql, redis.generation).await?;
            if reached {
                generations::note_tail(&books.db, id, shard, redis.generation, redis.tail_seq).await?;
            }
            Ok(())
        }
    }
}

/// Records every generation up to the one that Redis has. Where SQL really was behind, nothing is known of the ones
/// between: their owners can reclaim their places.
async fn catch_up(
    books: &Books,
    concert_id: i32,
    shard: u16,
    sql: Option<Generation>,
    wanted: u16,
) -> Result<bool, BooksError> {
    let mut current = match sql {
        Some(sql) => sql.generation,
        None => {
            generations::first(&books.db, concert_id, shard).await?;
            1
        }
    };
    while current < wanted {
        match generations::lose(&books.db, concert_id, shard, current, 0).await? {
            Some(next) if next > current => current = next,
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// The last sequence number that Redis still has of a generation that gets no more.
async fn last_left(
    books: &Books,
    concert: &ConcertRow,
    shard: u16,
    generation: u16,
    after: u64,
) -> Result<u64, BooksError> {
    const PAGE: usize = 10_000;
    let mut last = after;
    loop {
        let page = books.queue.peek(concert.queue(), shard, generation, last, PAGE).await?;
        let Some(end) = page.last() else { return Ok(last) };
        last = end.entry.sequence();
    }
}

/// Between the two steps: recorded in SQL, not yet begun in Redis.
fn stop_here() -> Result<(), DbError> {
    crate::db::db_fail_point!("generations.after_record");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(generation: u16, cursor_seq: u64, tail_seq: u64) -> Option<Generation> {
        Some(Generation { shard: 0, generation, cursor_seq, tail_seq, survived_seq: None })
    }
    fn redis(generation: u16, tail_seq: u64) -> Option<ShardState> {
        Some(ShardState { shard: 0, generation, head_seq: 1, tail_seq, tail_arrival_ms: 1 })
    }

    #[test]
    fn a_queue_is_lost_when_it_is_missing_older_or_shorter_than_known() {
        assert_eq!(judge(None, None), Verdict::First);
        assert_eq!(judge(sql(1, 0, 0), redis(1, 0)), Verdict::Fine);
        assert_eq!(judge(sql(1, 5, 9), redis(1, 9)), Verdict::Fine);
        assert_eq!(judge(sql(1, 5, 9), redis(1, 50)), Verdict::Fine);
        assert_eq!(judge(sql(1, 5, 9), redis(1, 8)), Verdict::Lost { survived_seq: 8 });
        assert_eq!(judge(sql(1, 0, 0), None), Verdict::Lost { survived_seq: 0 });
        assert_eq!(judge(sql(2, 0, 0), redis(1, 70)), Verdict::Lost { survived_seq: 0 });
        assert_eq!(judge(sql(1, 0, 0), redis(2, 3)), Verdict::Ahead);
        assert_eq!(judge(None, redis(1, 3)), Verdict::Ahead);
    }
}
