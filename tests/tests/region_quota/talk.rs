//! The sync task against a small arbiter: grants come, dry regions are fed, returns go, whatever the network does.

use ops::local::testing;
use quota_protocol::Tickets;
use region_api::wire::Availability;
use std::time::Duration;

use super::arbiter::{TestArbiter, east, pool};
use super::region::{Region, until};
use super::sql::definition;

const LONG: u64 = 60_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_region_is_fed_and_gives_back_what_nobody_here_needs() {
    let arbiter = TestArbiter::start().await;
    arbiter.define(&definition(&[100, 50]));
    let database = testing::database().await.unwrap();
    let region = Region::new(database.address().clone(), &arbiter, LONG).await;
    region.registered().await;
    region.on_sale().await;
    // Nothing was granted: the first ones wait, and the arbiter hears how many they are and what they want.
    let mut places = Vec::new();
    for (user, quantity) in [3, 2, 1].into_iter().enumerate() {
        places.push(region.join(user as u64, quantity).await);
        // Not in one millisecond: then their shards would say who is first.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    until("the arbiter hears what the queue wants", || async {
        let inside = arbiter.inside.lock();
        let report = inside.reports.get(&east());
        let wanted = report.and_then(|report| report.pools.iter().find(|row| row.pool == pool("A")));
        wanted.is_some_and(|row| {
            let mut head: Vec<u64> = row.demand.head_quantities.iter().map(|quantity| quantity.get()).collect();
            head.sort_unstable();
            row.demand.queued.get() == 6 && head == [1, 2, 3]
        })
    })
    .await;
    let shown = region.catalog().view("demo").unwrap().concert(region.catalog().now_ms());
    assert_eq!(shown.tiers[0].availability, Availability::NoneHere, "there are some with the arbiters");
    arbiter.grant("A", 5);
    region.held(&places[0]).await;
    region.held(&places[1]).await;
    region.stays_queued(&places[2], Duration::from_millis(300)).await;
    arbiter.grant("A", 11);
    region.held(&places[2]).await;
    // Ten are free. They go back when they are asked for, and what is on hold does not.
    arbiter.ask_back("A", 50);
    until("ten came back", || async { arbiter.pool("A").2 == 10 }).await;
    let row = region.counters("A").await;
    assert_eq!((row.granted.get(), row.returned.get(), row.held().get()), (16, 10, 6));
    assert_eq!(arbiter.pool("A").0, 94);
    // What somebody here waits for stays, though it is asked for.
    arbiter.inside.lock().asks.clear();
    let late = region.join(9, 4).await;
    until("the queue is known", || async {
        let inside = arbiter.inside.lock();
        inside.reports[&east()].pools.iter().any(|row| row.demand.queued.get() == 4)
    })
    .await;
    arbiter.grant("A", 4);
    arbiter.ask_back("A", 4);
    region.held(&late).await;
    arbiter.audit(&region.own().await.stored.rows);
    let ledger = region
        .count("SELECT sum(CASE kind WHEN 'grant' THEN tickets ELSE -tickets END) FROM ledger WHERE entry IS NULL")
        .await;
    let row = region.counters("A").await;
    assert_eq!(ledger as u64, row.granted.get() - row.returned.get());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_network_moves_no_ticket_twice_and_loses_none() {
    let arbiter = TestArbiter::start().await;
    arbiter.define(&definition(&[200]));
    arbiter.inside.lock().faults = [15, 15, 30, 30];
    let database = testing::database().await.unwrap();
    let mut region = Region::new(database.address().clone(), &arbiter, LONG).await;
    region.registered().await;
    region.on_sale().await;
    let mut places = Vec::new();
    for round in 0..40 {
        for user in 0..2 {
            places.push(region.join(round * 2 + user, 1 + (user as u8)).await);
        }
        arbiter.grant("A", 1 + rand::random::<u64>() % 6);
        if round % 3 == 0 {
            arbiter.ask_back("A", rand::random::<u64>() % 8);
        }
        if round == 20 {
            region.stop().await;
            region.start().await;
            region.on_sale().await;
        }
        tokio::time::sleep(Duration::from_millis(rand::random::<u64>() % 60)).await;
        arbiter.audit(&region.own().await.stored.rows);
    }
    arbiter.inside.lock().asks.clear();
    arbiter.inside.lock().faults = [0; 4];
    until("everybody has tickets", || async {
        arbiter.grant("A", 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
        region.count("SELECT count(*) FROM reservation WHERE state = 'held'").await == places.len() as i64
    })
    .await;
    until("the arbiter knows", || async {
        let row = region.counters("A").await;
        let (pool, granted, accepted, floor) = arbiter.pool("A");
        let at_rest = row == floor && granted == row.granted.get() && accepted == row.returned.get();
        assert!(row.held().get() + row.available().get() + pool <= 200);
        at_rest && row.held().get() == 120 && pool + granted - accepted == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sold_out_is_said_when_the_arbiters_say_it_and_only_while_they_are_heard() {
    let arbiter = TestArbiter::start().await;
    arbiter.define(&definition(&[3]));
    let database = testing::database().await.unwrap();
    let region = Region::new(database.address().clone(), &arbiter, LONG).await;
    region.registered().await;
    region.on_sale().await;
    let availability =
        || region.catalog().view("demo").unwrap().concert(region.catalog().now_ms()).tiers[0].availability;
    until("none here", || async { availability() == Availability::NoneHere }).await;
    arbiter.grant("A", 3);
    let first = region.join(1, 3).await;
    region.held(&first).await;
    let second = region.join(2, 3).await;
    region.stays_queued(&second, Duration::from_millis(1_500)).await;
    assert_eq!(availability(), Availability::NoneHere, "an unpaid hold may come back");
    let sell =
        "WITH paid AS (UPDATE reservation SET state = 'sold' WHERE state = 'held' RETURNING entry, tier, quantity),
        booked AS (INSERT INTO ledger (concert_id, kind, tier, entry, tickets)
                   SELECT 1, 'sell', tier, entry, quantity FROM paid RETURNING ledger_id, tier, tickets)
        INSERT INTO unfolded (ledger_id, concert_id, tier, tickets) SELECT ledger_id, 1, tier, tickets FROM booked";
    region.books().db.client().await.unwrap().batch_execute(sell).await.unwrap();
    until("sold out", || async { availability() == Availability::SoldOut }).await;
    until("who waits is told no", || async {
        region.count("SELECT count(*) FROM rejected_range WHERE unsold IS NULL").await > 0
    })
    .await;
    assert_eq!(arbiter.pool("A").3.sold, Tickets::from_u32(3), "sales count before they are folded");
    // Without news nobody knows.
    arbiter.away(true);
    region
        .books()
        .db
        .client()
        .await
        .unwrap()
        .batch_execute("UPDATE elsewhere SET heard_at = now() - interval '1 minute'")
        .await
        .unwrap();
    until("none here", || async { availability() == Availability::NoneHere }).await;
    arbiter.away(false);
    until("sold out again", || async { availability() == Availability::SoldOut }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_concert_closed_by_the_arbiters_ends_here_and_stays_closed() {
    let arbiter = TestArbiter::start().await;
    arbiter.define(&definition(&[10]));
    let database = testing::database().await.unwrap();
    let mut region = Region::new(database.address().clone(), &arbiter, LONG).await;
    region.registered().await;
    region.on_sale().await;
    let place = region.join(1, 2).await;
    arbiter.close();
    let closed = "SELECT count(*) FROM concert WHERE closed_at IS NOT NULL";
    until("everybody was answered", || async { region.count(closed).await == 1 }).await;
    assert_eq!(region.state(place.entry).await, None, "told no with everybody");
    let version = region.count("SELECT version FROM concert").await;
    region.stop().await;
    region.start().await;
    region.registered().await;
    until("synced again", || async { region.books().standing.link().connected }).await;
    assert_eq!(region.count("SELECT version FROM concert").await, version, "nothing is written for what is closed");
    assert_eq!(region.count("SELECT total::bigint FROM (SELECT sum(granted) AS total FROM quota) q").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_certificates_are_taken_up_and_bad_ones_are_not() {
    let arbiter = TestArbiter::start().await;
    arbiter.define(&definition(&[10]));
    let database = testing::database().await.unwrap();
    let mut region = Region::new(database.address().clone(), &arbiter, LONG).await;
    region.registered().await;
    region.on_sale().await;
    // Rubbish: the last good ones stay.
    let folder = region.config.certificate_file.parent().unwrap().to_owned();
    std::fs::write(&region.config.certificate_file, "rubbish").unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    arbiter.grant("A", 1);
    until("granted", || async { region.counters("A").await.granted.get() == 1 }).await;
    // Of a stranger: refused at the handshake; then of the authority again, without a restart.
    let stranger = super::certificates::Authority::new();
    stranger.renew(&folder, "boxoffice://region/east");
    until("refused", || async { !region.books().standing.link().connected }).await;
    arbiter.authority.renew(&folder, "boxoffice://region/east");
    until("let in", || async { region.books().standing.link().connected }).await;
    region.stop().await;
}
