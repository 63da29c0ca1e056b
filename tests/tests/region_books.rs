//! The books of a region against a real PostgreSQL and a real Redis: each transaction's effect and its refusal, order,
//! races, crashes between any two steps, lost queues, older databases.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test's helpers")]

#[path = "region_books/ahead.rs"]
mod ahead;
#[path = "region_books/interleave.rs"]
mod interleave;
#[path = "region_books/world.rs"]
mod world;

use region_node::db::book::{self, Floor as _};
use region_node::db::finals::{self, Ended, Ending};
use region_node::db::reclaim::{Reclaimed, reclaim};
use region_node::db::snapshot::RangeReason;
use region_node::db::status::{Found, State};
use region_node::db::{self, DbError, concerts, snapshot};
use region_node::{folder, generations, outbox, recycler};
use std::time::Duration;
use world::{World, definition};

#[tokio::test]
async fn holds_go_out_in_order_of_arrival_and_stop_when_dry() {
    let world = World::new(&definition(&[10])).await;
    let mut joined = Vec::new();
    for user in 0..30 {
        joined.push(world.join(user, 1, &[0], false).await);
    }
    world.allocate(4).await.unwrap();
    for (n, place) in joined.iter().enumerate() {
        assert_eq!(world.state(place).await, if n < 10 { "held" } else { "none" }, "number {n}");
    }
    let snapshot = snapshot(&world.books.db, world.id()).await.unwrap();
    assert_eq!((snapshot.stock[0].available(), snapshot.stock[0].held()), (0, 10));
    let decided: u64 = snapshot.generations.iter().map(|g| g.cursor_seq).sum();
    assert_eq!(decided, 10, "the cursors stop where the stock does");
    world.audit(&joined).await;
}

#[tokio::test]
async fn who_wants_another_tier_waits_once_and_is_served_before_the_queue() {
    let world = World::new(&definition(&[1, 5])).await;
    let first = world.join(1, 1, &[0], false).await;
    let passed_over = world.join(2, 1, &[0], false).await;
    let served = world.join(3, 1, &[1], false).await;
    world.allocate(4).await.unwrap();
    assert_eq!(world.state(&first).await, "held");
    assert_eq!(world.state(&served).await, "held");
    let found = db::status(&world.books.db, &[(world.id(), passed_over.entry)]).await.unwrap();
    assert!(matches!(found[0], Found::Waiting { .. }), "{found:?}");
    let later = world.join(4, 1, &[0], false).await;
    world.allocate(4).await.unwrap();
    let ended = finals::end(&world.books.db, world.id(), &first, Ending::Cancel, &*world.books).await.unwrap();
    assert!(matches!(ended, Ended::WhileHeld { intent: None, .. }), "{ended:?}");
    world.allocate(4).await.unwrap();
    assert_eq!(world.state(&passed_over).await, "held", "who came first is served first");
    assert_ne!(world.state(&later).await, "held");
    world.audit(&[first, passed_over, served, later]).await;
}

#[tokio::test]
async fn whoever_leaves_the_queue_first_is_never_held() {
    let world = World::new(&definition(&[10])).await;
    let leaves = world.join(1, 2, &[0], false).await;
    let voided = world.join(2, 2, &[0], false).await;
    let stays = world.join(3, 2, &[0], false).await;
    let end =
        async |place, ending| finals::end(&world.books.db, world.id(), place, ending, &*world.books).await.unwrap();
    assert_eq!(end(&leaves, Ending::Cancel).await, Ended::WhileQueued);
    assert_eq!(end(&leaves, Ending::Cancel).await, Ended::Already(State::Cancelled), "again changes nothing");
    assert_eq!(end(&voided, Ending::Void).await, Ended::WhileQueued);
    world.allocate(4).await.unwrap();
    assert_eq!(world.state(&leaves).await, "cancelled");
    assert_eq!(world.state(&stays).await, "held");
    assert_eq!(end(&stays, Ending::Void).await, Ended::Already(State::Held), "a hold is not voided");
    let mut foreign = stays.clone();
    foreign.user = world::user_hash(99);
    assert_eq!(end(&foreign, Ending::Cancel).await, Ended::NotYours);
    let left = snapshot::left_since(&world.books.db, world.id(), 0, 10).await.unwrap();
    assert_eq!(left.iter().map(|left| left.entry).collect::<Vec<_>>(), [leaves.entry, voided.entry]);
    assert_eq!(world.count("SELECT held_in FROM quota").await, 2);
    world.audit(&[leaves, voided, stays]).await;
}

#[tokio::test]
async fn unpaid_holds_come_back_in_bulk_and_paid_ones_do_not() {
    let world = World::new(&definition(&[10])).await;
    let (lapses, paid, paying) =
        (world.join(1, 2, &[0], false).await, world.join(2, 3, &[0], false).await, world.join(3, 1, &[0], false).await);
    world.allocate(4).await.unwrap();
    assert!(world.sell(paid.entry).await);
    world.exec("UPDATE reservation SET hold_expires_at = now() - interval '1 s'").await;
    let entry = paying.entry.to_i64();
    world.exec(&format!("UPDATE reservation SET intent = 'pi_1' WHERE entry = {entry}")).await;
    assert_eq!(recycler::round(&world.books).await.unwrap(), 1);
    assert_eq!(recycler::round(&world.books).await.unwrap(), 0);
    assert_eq!(world.state(&lapses).await, "expired");
    assert_eq!(world.state(&paid).await, "sold");
    assert_eq!(world.state(&paying).await, "held", "a provider is asked before that one is given up");
    assert_eq!(folder::round(&world.books).await.unwrap(), 1);
    assert_eq!(folder::round(&world.books).await.unwrap(), 0);
    let stock = snapshot(&world.books.db, world.id()).await.unwrap().stock[0];
    assert_eq!((stock.sold, stock.unfolded, stock.available(), stock.held()), (3, 0, 6, 1));
    assert_eq!(outbox::round(&world.books).await.unwrap(), 2);
    assert_eq!(world.count("SELECT count(*) FROM outbox").await, 0);
    // Told to Redis: the user may have another place.
    let again = world.join(1, 1, &[0], false).await;
    assert_ne!(again.entry, lapses.entry);
    world.audit(&[lapses, paid, paying, again]).await;
}

#[tokio::test]
async fn a_no_that_is_certain_is_one_row_a_shard_and_not_said_before() {
    let world = World::new(&definition(&[4])).await;
    let first = world.join(1, 3, &[0], false).await;
    let two = world.join(2, 2, &[0], false).await;
    let one = world.join(3, 1, &[0], true).await;
    world.allocate(3).await.unwrap();
    assert_eq!(world.state(&one).await, "held", "one ticket was left for whoever takes one");
    assert_eq!(world.count("SELECT count(*) FROM waiting").await, 1, "three are held, and may come back: no no yet");
    assert!(world.sell(first.entry).await);
    world.allocate(3).await.unwrap();
    let now = snapshot(&world.books.db, world.id()).await.unwrap();
    assert!(now.ranges.iter().any(|range| range.rejects(two.entry, 2, &[0])), "one is unsold, two are wanted");
    assert!(!now.ranges.iter().any(|range| range.rejects(two.entry, 1, &[0])));
    assert_eq!(now.waiting.count, 0);
    let late = world.join(4, 1, &[0], false).await;
    assert!(world.sell(one.entry).await);
    world.allocate(3).await.unwrap();
    let now = snapshot(&world.books.db, world.id()).await.unwrap();
    let covers = |place: &region_node::db::allocate::Place| {
        now.ranges.iter().any(|r| r.reason == RangeReason::SoldOut && r.rejects(place.entry, 1, &[0]))
    };
    assert!(covers(&late) && covers(&two));
    assert!(now.ranges.len() <= 3 * 4, "rows do not grow with people: {}", now.ranges.len());
    world.audit(&[first, two, one, late]).await;
}

#[tokio::test]
async fn at_the_close_everybody_who_waits_is_answered_and_late_comers_too() {
    let world = World::new(&definition(&[1, 9])).await;
    let held = world.join(1, 1, &[0], false).await;
    let waits = world.join(2, 1, &[0], false).await;
    world.allocate(4).await.unwrap();
    concerts::close(&world.books.db, &world.concert.concert, "operator").await.unwrap();
    let late = world.join(3, 1, &[1], false).await;
    world.allocate(2).await.unwrap();
    let closed = concerts::load(&world.books.db, &world.concert.concert).await.unwrap().unwrap();
    assert!(closed.closed_at_ms.is_some());
    assert_eq!((world.state(&held).await.as_str(), world.state(&late).await.as_str()), ("held", "none"));
    let later = world.join(4, 1, &[1], false).await;
    world.allocate(2).await.unwrap();
    let now = snapshot(&world.books.db, world.id()).await.unwrap();
    for place in [&waits, &late, &later] {
        let told = |r: &&db::snapshot::RejectedRange| r.reason == RangeReason::SaleClosed;
        assert!(now.ranges.iter().filter(told).any(|r| r.rejects(place.entry, 1, &place.tiers)), "{:?}", place.entry);
    }
    assert_eq!(now.waiting.count, 0);
    world.audit(&[held, waits, late, later]).await;
}

#[tokio::test]
async fn a_queue_that_was_lost_begins_anew_and_its_owners_reclaim_their_places_once() {
    let mut world = World::new(&definition(&[2])).await;
    let mut joined = Vec::new();
    for user in 0..20 {
        joined.push(world.join(user, 1, &[0], false).await);
    }
    world.allocate(4).await.unwrap();
    world.redis.connect().await.map(drop).unwrap();
    let mut connection = world.redis.connect().await.unwrap();
    let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
    generations::ensure(&world.books, &world.concert).await.unwrap();
    let fresh = world.join(100, 1, &[0], false).await;
    assert_eq!(fresh.entry.generation(), 2, "numbers of the lost generation are never given out again");
    let lost = &joined[10];
    let again = async |place| reclaim(&world.books.db, world.id(), place, &*world.books).await.unwrap();
    assert_eq!(again(lost).await, Reclaimed::Back);
    assert_eq!(again(lost).await, Reclaimed::NoOp, "once");
    assert_eq!(again(&joined[0]).await, Reclaimed::NoOp, "it has a row");
    assert_eq!(again(&fresh).await, Reclaimed::NoOp, "its queue is not lost");
    let first = finals::end(&world.books.db, world.id(), &joined[0], Ending::Cancel, &*world.books).await.unwrap();
    assert!(matches!(first, Ended::WhileHeld { .. }));
    world.allocate(4).await.unwrap();
    assert_eq!(world.state(lost).await, "held", "at its old place: before whoever came after the loss");
    assert_eq!(world.state(&fresh).await, "none");
    let there = [joined[0].clone(), joined[1].clone(), lost.clone(), fresh];
    world.audit(&there).await;
    world.redis.kill();
    assert!(world.allocate(1).await.is_err(), "a queue that is away is not a queue that is lost");
}

#[tokio::test]
async fn an_older_copy_of_the_database_halts_until_an_operator_accepts_it() {
    let world = World::new(&definition(&[10])).await;
    let place = world.join(1, 1, &[0], false).await;
    world.allocate(3).await.unwrap();
    world.books.write_witnesses().await.unwrap();
    let witnessed = world.books.of(world.id()).book;
    assert_eq!(world.books.queue.book(world.concert.queue()).await.unwrap(), Some(witnessed));
    assert_eq!(std::fs::read_to_string(world.folder.path().join("books/demo")).unwrap().trim(), witnessed.to_string());
    world.exec("UPDATE book SET book = book - 1").await;
    let next = world.join(2, 1, &[0], false).await;
    let error = world.allocate(2).await.unwrap_err();
    assert!(error.to_string().contains("witnessed"), "{error}");
    let (_, halted) = book::read(&world.books.db, world.id()).await.unwrap();
    assert!(halted.unwrap().contains("accept-books"), "the text says what to do");
    world.allocate(2).await.unwrap();
    assert_eq!(world.state(&next).await, "none", "nothing is held while halted");
    let refused = finals::end(&world.books.db, world.id(), &place, Ending::Cancel, &*world.books).await;
    assert!(matches!(refused, Err(DbError::Halted { .. })), "{refused:?}");
    let concert = concerts::load(&world.books.db, &world.concert.concert).await.unwrap().unwrap();
    assert!(world.books.accept(&concert, "operator").await.unwrap() > witnessed);
    world.allocate(3).await.unwrap();
    assert_eq!(world.state(&next).await, "held");
    assert_eq!(world.count("SELECT count(*) FROM operator_act WHERE what ->> 'act' = 'accept books'").await, 1);
    world.audit(&[place, next]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_allocators_at_once_decide_everybody_once() {
    let world = World::new(&definition(&[150, 100])).await;
    let mut joined = Vec::new();
    for user in 0..400 {
        joined.push(world.join(user, 1 + (user % 3) as u8, &[(user % 2) as u8], user % 5 == 0).await);
    }
    let run = async || {
        for _ in 0..6 {
            // A lost race is an error that begins again, as in `allocator::run`.
            let _ = world.allocate(4).await;
        }
    };
    tokio::join!(run(), run());
    let now = snapshot(&world.books.db, world.id()).await.unwrap();
    assert!(now.stock.iter().all(|tier| tier.available() == 0), "{:?}", now.stock);
    world.audit(&joined).await;
}

/// Every fail point of the allocator, one after the other, as an error in mid-transaction (the connection is dropped with
/// it, as a crash would): nothing is decided twice, nothing is skipped.
#[tokio::test]
async fn a_crash_between_any_two_steps_repeats_nothing_and_skips_nothing() {
    let scenario = fail::FailScenario::setup();
    let world = World::new(&definition(&[60])).await;
    let mut joined = Vec::new();
    let mut user = 0;
    let points = region_node::failpoints::ALL.iter().filter(|name| {
        ["allocator.", "house.", "recycler.", "folder.", "outbox."].iter().any(|part| name.starts_with(part))
    });
    for point in points {
        for _ in 0..6 {
            joined.push(world.join(user, 1, &[0], false).await);
            user += 1;
        }
        fail::cfg(*point, "1*return").unwrap();
        let mut failed = false;
        for _ in 0..3 {
            // The third round finds nobody and trims the rest.
            failed |= world.allocate(3).await.is_err();
            world
                .exec(
                    "UPDATE reservation SET hold_expires_at = now() - interval '1 s' WHERE entry IN
                     (SELECT entry FROM reservation WHERE state = 'held' ORDER BY arrival_ms, entry LIMIT 2)",
                )
                .await;
            if let Some(paid) = joined.iter().rev().nth(1) {
                world.sell(paid.entry).await;
            }
            failed |= recycler::round(&world.books).await.is_err();
            failed |= folder::round(&world.books).await.is_err();
            failed |= outbox::round(&world.books).await.is_err();
            world.audit(&joined).await;
        }
        fail::remove(*point);
        assert!(failed || *point == "house.before_commit", "{point} was never passed");
    }
    world.allocate(4).await.unwrap();
    world.audit(&joined).await;
    scenario.teardown();
}

/// One ticket is left, everybody wants two: no endless list of people who wait for what will hardly come.
#[tokio::test]
async fn those_whom_the_rest_does_not_fit_wait_up_to_a_bound() {
    let world = World::new(&definition(&[3])).await;
    let first = world.join(1, 2, &[0], false).await;
    world.allocate(2).await.unwrap();
    let mut others = Vec::new();
    for user in 2..12 {
        others.push(world.join(user, 2, &[0], false).await);
    }
    let mut allocator = region_node::allocator::Allocator::unlocked(&world.books).await.unwrap().keeping(2);
    for _ in 0..4 {
        allocator.round().await.unwrap();
    }
    // Three are unsold and two more may wait.
    assert_eq!(world.count("SELECT count(DISTINCT entry) FROM waiting").await, 5);
    assert_eq!(
        world.count("SELECT count(*) FROM reservation WHERE state = 'rejected' AND reason = 'sold_out'").await,
        5
    );
    let one = world.join(20, 1, &[0], false).await;
    for _ in 0..4 {
        allocator.round().await.unwrap();
    }
    assert_eq!(world.state(&one).await, "held", "whom it fits is served");
    let everybody: Vec<_> = [first, one].into_iter().chain(others).collect();
    world.audit(&everybody).await;
}

/// A concert whose books refuse is reported, and the others go on.
#[tokio::test]
async fn one_sick_concert_hides_from_nobody_and_stops_no_other() {
    let world = World::new(&definition(&[10])).await;
    let sick = world.join(1, 2, &[0], false).await;
    world.allocate(2).await.unwrap();
    let name = region_api::ConcertName::new("other").unwrap();
    let second = definition(&[10]);
    let other = concerts::put(&world.books.db, &name, &second, 3, "operator", &*world.books).await.unwrap();
    world
        .exec(&format!(
            "ALTER TABLE quota DISABLE TRIGGER quota_only_grows;
         UPDATE quota SET held_in = 0 WHERE concert_id = {sick};
         UPDATE book SET book = book + 1 WHERE concert_id = {other};
         INSERT INTO ledger (concert_id, book, kind, tier, entry, tickets)
             SELECT {other}, book, 'hold', 0, 1::bigint << 40 | 1, 2 FROM book WHERE concert_id = {other};
         UPDATE quota SET held_in = 2 WHERE concert_id = {other};
         INSERT INTO reservation (concert_id, entry, user_hash, arrival_ms, state, tier, quantity, amount, held_at,
                                  hold_expires_at, book)
             SELECT {other}, 1::bigint << 40 | 1, gen_random_uuid(), 1, 'held', 0, 2, 2000, now(), now(), book
             FROM book WHERE concert_id = {other};
         UPDATE reservation SET hold_expires_at = now() - interval '1 s'",
            sick = world.id(),
            other = other.concert_id
        ))
        .await;
    let error = recycler::round(&world.books).await.unwrap_err();
    assert!(!error.is_transient() && format!("{error:?}").contains("held_not_negative"), "{error:?}");
    assert_eq!(world.state(&sick).await, "held", "what cannot be booked does not happen");
    let released =
        format!("SELECT count(*) FROM reservation WHERE concert_id = {} AND state = 'expired'", other.concert_id);
    assert_eq!(world.count(&released).await, 1, "the other concert's hold came back");
}

/// A node that is stopped in the middle of a `COPY` keeps the book locked: no limit of the server's ends that.
#[tokio::test]
async fn an_allocator_that_never_finishes_loses_its_connection() {
    use region_node::allocator::{ALLOCATOR_LOCK, end_stuck};
    let world = World::new(&definition(&[10])).await;
    let place = world.join(1, 2, &[0], false).await;
    let (stuck, standby) = (world.books.db.client().await.unwrap(), world.books.db.client().await.unwrap());
    stuck.query_one("SELECT pg_advisory_lock($1)", &[&ALLOCATOR_LOCK]).await.unwrap();
    stuck
        .batch_execute(&format!("BEGIN; SELECT FROM book WHERE concert_id = {} FOR UPDATE", world.id()))
        .await
        .unwrap();
    let copy = stuck.copy_in::<_, bytes::Bytes>("COPY outbox FROM STDIN BINARY").await.unwrap();
    assert!(!end_stuck(&standby, Duration::from_secs(60)).await.unwrap(), "it may still finish");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(end_stuck(&standby, Duration::from_millis(10)).await.unwrap());
    assert!(std::pin::pin!(copy).finish().await.is_err());
    assert!(!end_stuck(&standby, Duration::ZERO).await.unwrap(), "there is no other");
    world.allocate(2).await.unwrap();
    assert_eq!(world.state(&place).await, "held");
    world.audit(&[place]).await;
}
