//! How fast batches are decided: the allocator's transaction against the same batch in hand-written SQL and against one
//! row lock per order, on the same server, in the same run. `cargo test -p tests --test allocate_speed -- --ignored`.

#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub, dead_code, reason = "a measurement")]

#[path = "region_books/world.rs"]
mod world;

use region_node::allocator::Allocator;
use std::time::Instant;
use world::{World, definition};

const PEOPLE: u64 = 60_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, run by itself"]
async fn decisions_a_second() {
    let mut definition = definition(&[1_000_000]);
    definition.shards = Some(8);
    let world = World::new(&definition).await;
    for first in (0..PEOPLE).step_by(2_000) {
        futures::future::join_all((first..first + 2_000).map(|user| world.join(user, 2, &[0], false))).await;
    }
    let mut allocator = Allocator::unlocked(&world.books).await.unwrap();
    let began = Instant::now();
    while world.count("SELECT held_in FROM quota").await < 2 * PEOPLE as i64 {
        allocator.round().await.unwrap();
    }
    let allocated = PEOPLE as f64 / began.elapsed().as_secs_f64();
    let by_hand = by_hand(&world).await;
    let row_lock = row_lock_per_order(&world).await;
    println!("allocator {allocated:.0}/s, by hand {by_hand:.0}/s, row lock per order {row_lock:.0}/s");
    println!("ratios: {:.2} x by hand, {:.1} x row lock per order", allocated / by_hand, allocated / row_lock);
}

/// The same rows for 1,000 orders a transaction, as somebody would write it who needs no queue, no limits, no aliases.
async fn by_hand(world: &World) -> f64 {
    let mut client = world.books.db.client().await.unwrap();
    client.batch_execute("CREATE TABLE hand_queue AS SELECT n::bigint AS entry, gen_random_uuid() AS user_hash, gen_random_uuid() AS request_id FROM generate_series(1, 60000) n; CREATE INDEX ON hand_queue (entry);
        CREATE TABLE hand_reservation (LIKE reservation INCLUDING ALL); CREATE TABLE hand_ledger (LIKE ledger INCLUDING ALL); CREATE TABLE hand_quota (LIKE quota INCLUDING ALL); INSERT INTO hand_quota SELECT * FROM quota").await.unwrap();
    let began = Instant::now();
    for batch in 0..60i64 {
        let tx = client.transaction().await.unwrap();
        let statement = tx.prepare_cached("WITH q AS (SELECT * FROM hand_queue WHERE entry > $1 AND entry <= $1 + 1000), r AS (
                INSERT INTO hand_reservation (concert_id, entry, user_hash, request_id, arrival_ms, state, tier, quantity, amount, held_at, hold_expires_at, book)
                SELECT 1, entry, user_hash, request_id, 1, 'held', 0, 2, 2000, now(), now() + interval '10 min', $1 FROM q RETURNING entry, quantity),
            l AS (INSERT INTO hand_ledger (concert_id, book, kind, tier, entry, tickets) SELECT 1, $1, 'hold', 0, entry, quantity FROM r)
            UPDATE hand_quota SET granted = granted + 2000, held_in = held_in + (SELECT sum(quantity) FROM r)").await.unwrap();
        tx.execute(&statement, &[&(batch * 1000)]).await.unwrap();
        tx.commit().await.unwrap();
    }
    60_000.0 / began.elapsed().as_secs_f64()
}

/// One transaction and one lock of the quota row for each order, from eight connections.
async fn row_lock_per_order(world: &World) -> f64 {
    let began = Instant::now();
    let orders = 400;
    let work = (0..8i64).map(|worker| {
        let db = world.books.db.clone();
        tokio::spawn(async move {
            let mut client = db.client().await.unwrap();
            for n in 0..orders {
                let tx = client.transaction().await.unwrap();
                let s = tx.prepare_cached("UPDATE hand_quota SET granted = granted + 2, held_in = held_in + 2").await.unwrap();
                tx.execute(&s, &[]).await.unwrap();
                let s = tx.prepare_cached("WITH r AS (INSERT INTO hand_reservation (concert_id, entry, user_hash, request_id, arrival_ms, state, tier, quantity, amount, held_at, hold_expires_at, book)
                    VALUES (1, $1, gen_random_uuid(), gen_random_uuid(), 1, 'held', 0, 2, 2000, now(), now(), 1) RETURNING entry)
                    INSERT INTO hand_ledger (concert_id, book, kind, tier, entry, tickets) SELECT 1, 1, 'hold', 0, entry, 2 FROM r").await.unwrap();
                tx.execute(&s, &[&(1_000_000 + worker * orders + n)]).await.unwrap();
                tx.commit().await.unwrap();
            }
        })
    });
    futures::future::join_all(work).await;
    8.0 * orders as f64 / began.elapsed().as_secs_f64()
}
