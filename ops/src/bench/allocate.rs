//! `bench allocate`: decisions per second of the real allocator, beside two programs that write the same rows.
//!
//! * One row lock per order: eight connections, each order a transaction that locks its tier's quota row, looks up what
//!   its buyer has already (as the allocator does for everybody) and writes. What most shops do. And once without the
//!   look-up.
//! * The same batch by hand: one connection, the statements that one would write for a batch of 2,000, with rows made up
//!   on the spot; no queue to read, nothing to decide, nothing to trim.
//!
//! All three write into the same server, in turn, reservations and ledger rows alike, each into a concert of its own.

use super::drive::{Drive, drive};
use super::report::Line;
use super::stage::Stage;
use super::work::{Joins, Users};
use super::{FILL_TIME_MAX, Options, rounds_note};
use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// Reservations per round for the allocator and for the batch by hand.
const RESERVATIONS: u64 = 200_000;
/// Orders of a batch, as the allocator's.
const BATCH: usize = 2_000;
/// Connections of the row-lock program.
const CONNECTIONS: usize = 8;
/// After this an allocator counts as stuck.
const DECIDED_WITHIN: Duration = Duration::from_secs(120);

/// Runs it.
pub async fn run(options: &Options) -> Result<Vec<Line>> {
    let mut by_lock = Vec::new();
    let mut by_bare_lock = Vec::new();
    let mut by_hand = Vec::new();
    for round in 0..options.rounds {
        let mut stage = Stage::start(&["intake"], options).await?;
        stage.run_in().await?;
        let allocated = allocator(&mut stage, options).await?;
        let batches = batch_by_hand(&stage).await?;
        let locks = lock_per_order(&stage, options.time, true).await?;
        let bare = lock_per_order(&stage, options.time, false).await?;
        rounds_note(round, allocated, batches, locks);
        by_lock.push((allocated, locks));
        by_bare_lock.push((allocated, bare));
        by_hand.push((allocated, batches));
    }
    Ok(vec![
        Line::beside("allocate", "decisions, beside one row lock per order", "1/s", &by_lock),
        Line::beside("allocate", "decisions, beside one that looks up nothing", "1/s", &by_bare_lock),
        Line::beside("allocate", "decisions, beside the same batch by hand", "1/s", &by_hand),
    ])
}

/// Fills a queue, then starts the allocator on it. The clock runs from its first batch to its last.
async fn allocator(stage: &mut Stage, options: &Options) -> Result<f64> {
    let concert = stage.concert("bench", RESERVATIONS * 2, "30m").await?;
    let fill = Drive {
        address: stage.public(),
        connections: options.connections,
        requests_max: RESERVATIONS,
        time_max: FILL_TIME_MAX,
    };
    let users = Users::new(stage.ring()?, stage.region(), 0);
    drive(fill, Arc::new(Joins::new(users, &concert, stage.public().to_string()))).await?;
    stage.restart_node(&["allocator"]).await?;
    let sql = stage.sql().await?;
    let decided = async || -> Result<i64> {
        let row = sql.query_one("SELECT coalesce(sum(cursor_seq), 0)::bigint FROM queue_generation", &[]).await?;
        Ok(row.get(0))
    };
    let deadline = Instant::now() + DECIDED_WITHIN;
    let mut first = None;
    loop {
        let now = decided().await?;
        if now > 0 && first.is_none() {
            first = Some((Instant::now(), now));
        }
        if let (true, Some((since, before))) = (now as u64 >= RESERVATIONS, first) {
            let rate = (now - before) as f64 / since.elapsed().as_secs_f64();
            return Ok(rate);
        }
        if Instant::now() > deadline {
            bail!("the allocator decided {now} of {RESERVATIONS} in {DECIDED_WITHIN:?}");
        }
        // Rarely, on seconds: each look takes processor time from what is measured.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A concert that only the baselines write to: a definition row and one tier, copied from the bench's own.
async fn own_concert(sql: &Client, name: &str) -> Result<i32> {
    let row = sql
        .query_one(
            "INSERT INTO concert (concert, title, venue, sale_opens_at, hold_ms, max_per_order, max_per_person, shards) \
             VALUES ($1, 'baseline', '', now(), 600000, 4, 4, 1) RETURNING concert_id",
            &[&name],
        )
        .await?;
    let concert: i32 = row.get(0);
    sql.execute(
        "INSERT INTO tier (concert_id, tier, name, title, price_amount, price_currency) VALUES ($1, 0, 'A', 'A', 1, 'EUR')",
        &[&concert],
    )
    .await?;
    sql.execute("INSERT INTO book (concert_id) VALUES ($1)", &[&concert]).await?;
    sql.execute(
        "INSERT INTO quota (concert_id, tier, granted, registered_as) VALUES ($1, 0, 1000000000, gen_random_uuid())",
        &[&concert],
    )
    .await?;
    Ok(concert)
}

async fn lock_per_order(stage: &Stage, time: Duration, looks_up: bool) -> Result<f64> {
    let name = if looks_up { "by-lock" } else { "by-bare-lock" };
    let concert = own_concert(&stage.sql().await?, name).await?;
    let next = Arc::new(AtomicI64::new(1));
    let started = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut sql = stage.sql().await?;
        let next = Arc::clone(&next);
        tasks.push(tokio::spawn(async move {
            let lock = sql
                .prepare("UPDATE quota SET held_in = held_in + 1 WHERE concert_id = $1 AND tier = 0 AND granted > held_in")
                .await?;
            let owned = sql.prepare(OWNED_BY_ONE).await?;
            let insert = sql.prepare(INSERT_ONE).await?;
            let ledger = sql
                .prepare("INSERT INTO ledger (concert_id, book, kind, tier, entry, tickets) VALUES ($1, 1, 'hold', 0, $2, 1)")
                .await?;
            while started.elapsed() < time {
                let entry = next.fetch_add(1, Relaxed);
                let order = sql.transaction().await?;
                order.execute(&lock, &[&concert]).await?;
                let user = Uuid::new_v4();
                if looks_up {
                    order.query_one(&owned, &[&concert, &user]).await?;
                }
                order.execute(&insert, &[&concert, &entry, &user, &Uuid::new_v4()]).await?;
                order.execute(&ledger, &[&concert, &entry]).await?;
                order.commit().await?;
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await.context("a connection's task ended badly")??;
    }
    Ok((next.load(Relaxed) - 1) as f64 / started.elapsed().as_secs_f64())
}

const OWNED_BY_ONE: &str = "SELECT coalesce(sum(quantity), 0) FROM reservation \
     WHERE concert_id = $1 AND user_hash = $2 AND state IN ('held', 'expiring', 'sold')";

const INSERT_ONE: &str = "INSERT INTO reservation \
     (concert_id, entry, user_hash, request_id, arrival_ms, state, tier, quantity, amount, held_at, hold_expires_at, book) \
     VALUES ($1, $2, $3, $4, 0, 'held', 0, 1, 1, now(), now() + interval '10 minutes', 1)";

const INSERT_BATCH: &str = "INSERT INTO reservation \
     (concert_id, entry, user_hash, request_id, arrival_ms, state, tier, quantity, amount, held_at, hold_expires_at, book) \
     SELECT $1, entry, user_hash, request_id, 0, 'held', 0, 1, 1, now(), now() + interval '10 minutes', $5 \
     FROM unnest($2::bigint[], $3::uuid[], $4::uuid[]) AS batch (entry, user_hash, request_id) ON CONFLICT DO NOTHING";

async fn batch_by_hand(stage: &Stage) -> Result<f64> {
    let mut sql = stage.sql().await?;
    let concert = own_concert(&sql, "by-hand").await?;
    let book = sql.prepare("UPDATE book SET book = book + 1 WHERE concert_id = $1").await?;
    let quota = sql.prepare("UPDATE quota SET held_in = held_in + $2 WHERE concert_id = $1 AND tier = 0").await?;
    let insert = sql.prepare(INSERT_BATCH).await?;
    let ledger = sql
        .prepare(
            "INSERT INTO ledger (concert_id, book, kind, tier, entry, tickets) \
             SELECT $1, $3, 'hold', 0, entry, 1 FROM unnest($2::bigint[]) AS batch (entry)",
        )
        .await?;
    let started = Instant::now();
    let batches = RESERVATIONS as usize / BATCH;
    for batch in 0..batches as i64 {
        let entries: Vec<i64> = (0..BATCH as i64).map(|i| batch * BATCH as i64 + i + 1).collect();
        let users: Vec<Uuid> = entries.iter().map(|_| Uuid::new_v4()).collect();
        let requests: Vec<Uuid> = entries.iter().map(|_| Uuid::new_v4()).collect();
        let number = batch + 1;
        let transaction = sql.transaction().await?;
        // Sent in one go; PostgreSQL works on one while the next is on its way.
        let tickets = BATCH as i64;
        let orders: [&(dyn ToSql + Sync); 5] = [&concert, &entries, &users, &requests, &number];
        let (moved, held): ([&(dyn ToSql + Sync); 3], [&(dyn ToSql + Sync); 2]) =
            ([&concert, &entries, &number], [&concert, &tickets]);
        futures::try_join!(
            transaction.execute(&book, &held[..1]),
            transaction.execute(&insert, &orders),
            transaction.execute(&ledger, &moved),
            transaction.execute(&quota, &held),
        )?;
        transaction.commit().await?;
    }
    Ok((batches * BATCH) as f64 / started.elapsed().as_secs_f64())
}
