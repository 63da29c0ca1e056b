//! Days on which a region is on another database than it was, or alone.

use ops::local::testing;
use region_node::db::book::{self, Known};
use region_node::db::{Db, DbError};
use std::time::Duration;

use super::arbiter::TestArbiter;
use super::region::{Region, until};
use super::sql::{db_config, definition};

const LONG: u64 = 60_000;

/// A region that holds two of five, and whose arbiter knows that.
async fn region_with_five(address: &ops::local::postgres::DatabaseAddress, arbiter: &TestArbiter) -> Region {
    arbiter.define(&definition(&[100]));
    let region = Region::new(address.clone(), arbiter, LONG).await;
    region.registered().await;
    region.on_sale().await;
    arbiter.grant("A", 5);
    let place = region.join(1, 2).await;
    region.held(&place).await;
    known(&region, arbiter).await;
    region
}

/// Until the arbiter's floor is the region's row.
async fn known(region: &Region, arbiter: &TestArbiter) {
    until("the arbiter knows the row", || async { region.counters("A").await == arbiter.pool("A").3 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_that_comes_back_halts_and_says_what_to_do() {
    let arbiter = TestArbiter::start().await;
    let database = testing::database().await.unwrap();
    let mut region = region_with_five(database.address(), &arbiter).await;
    region.stop().await;
    let mut admin = database.superuser().clone();
    admin.database = "postgres".into();
    let admin = admin.connect().await.unwrap();
    let (name, copy) = (database.address().database.clone(), format!("{}_copy", database.address().database));
    let owner = &database.address().user;
    admin.batch_execute(&format!("CREATE DATABASE {copy} TEMPLATE {name} OWNER {owner}")).await.unwrap();
    region.start().await;
    region.registered().await;
    region.on_sale().await;
    let later = region.join(2, 2).await;
    region.held(&later).await;
    known(&region, &arbiter).await;
    region.stop().await;
    // The copy has the same system, timeline and id, and the epoch with its rows: only the floor tells.
    region.address.database.clone_from(&copy);
    region.folder.push("of-the-copy");
    region.start().await;
    until("halted", || async { region.own().await.halted_text.is_some() }).await;
    let why = region.own().await.halted_text.unwrap();
    for words in ["gone back in time", "held_in of demo/A is 2, but 4 was reported", "write the region off"] {
        assert!(why.contains(words), "{why}");
    }
    until("the node knows", || async { !region.books().standing.is_registered() }).await;
    until("every concert says so", || async {
        let view = region.catalog().view("demo");
        view.is_some_and(|view| view.parts().snapshot.halted.as_deref() == Some(why.as_str()))
    })
    .await;
    let place = region.join(3, 1).await;
    region.stays_queued(&place, Duration::from_millis(500)).await;
    // Durable: also without an arbiter, and for whoever does not ask first.
    arbiter.away(true);
    region.stop().await;
    region.start().await;
    let mut client = region.books().db.client().await.unwrap();
    let tx = client.transaction().await.unwrap();
    let locked = book::lock(&tx, 1, Known { book: 0, epoch: Some(1) }).await;
    assert!(matches!(&locked, Err(DbError::RegionHalted { why: said }) if *said == why), "{locked:?}");
    drop(tx);
    drop(client);
    region.on_sale().await;
    region.stays_queued(&place, Duration::from_millis(500)).await;
    region.stop().await;
    admin.batch_execute(&format!("DROP DATABASE {copy} WITH (FORCE)")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_spends_nothing_until_it_is_registered_also_over_a_connection_from_before() {
    let arbiter = TestArbiter::start().await;
    let mut server = testing::own_postgres().await.unwrap();
    let address = server.ensure_database("boxoffice", "secret", "boxoffice").await.unwrap();
    let mut region = region_with_five(&address, &arbiter).await;
    let before = region.own().await.stored.identity;
    region.stop().await;
    server.stop();
    let standby = server.log().with_file_name("data").join("standby.signal");
    std::fs::write(&standby, "").unwrap();
    server.start_again().await.unwrap();
    let db = Db::connect(&db_config(&address)).await.unwrap();
    let backend = "SELECT pg_backend_pid()::bigint, pg_is_in_recovery()";
    let row = db.client().await.unwrap().query_one(backend, &[]).await.unwrap();
    let (pid, standby): (i64, bool) = (row.get(0), row.get(1));
    assert!(standby);
    let admin = server.superuser("postgres").connect().await.unwrap();
    assert!(admin.query_one("SELECT pg_promote()", &[]).await.unwrap().get::<_, bool>(0));
    let mut client = db.client().await.unwrap();
    assert_eq!(client.query_one(backend, &[]).await.unwrap().get::<_, i64>(0), pid, "the connection lived on");
    let tx = client.transaction().await.unwrap();
    let locked = book::lock(&tx, 1, Known { book: 0, epoch: Some(1) }).await;
    assert!(matches!(locked, Err(DbError::Unregistered)), "{locked:?}");
    drop(tx);
    // With an arbiter away it stays so; once heard, it is registered and sells.
    arbiter.away(true);
    region.start().await;
    region.on_sale().await;
    let place = region.join(2, 1).await;
    region.stays_queued(&place, Duration::from_millis(700)).await;
    arbiter.away(false);
    region.held(&place).await;
    let own = region.own().await;
    let now = own.stored.identity;
    assert_eq!((now.system, now.timeline, now.copy), (before.system, before.timeline + 1, before.copy));
    assert_eq!(own.stored.registration.unwrap().epoch.get(), 2);
    arbiter.audit(&own.stored.rows);
    region.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_restarts_and_sells_with_no_arbiter_reachable() {
    let arbiter = TestArbiter::start().await;
    let database = testing::database().await.unwrap();
    let mut region = region_with_five(database.address(), &arbiter).await;
    arbiter.away(true);
    region.stop().await;
    region.start().await;
    region.on_sale().await;
    let place = region.join(2, 2).await;
    region.held(&place).await;
    assert!(!region.books().standing.link().connected);
    assert!(!region.books().standing.heard_since_start());
    // A database that knows more than its witnesses might be any copy: it waits for the arbiters.
    region.stop().await;
    let client = database.connect().await.unwrap();
    client.batch_execute("UPDATE book SET book = book + 1").await.unwrap();
    region.start().await;
    region.on_sale().await;
    let place = region.join(3, 1).await;
    region.stays_queued(&place, Duration::from_secs(1)).await;
    arbiter.away(false);
    region.held(&place).await;
    known(&region, &arbiter).await;
    arbiter.audit(&region.own().await.stored.rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_its_autonomy_ends_a_region_takes_people_and_holds_nothing_until_it_is_heard_again() {
    let arbiter = TestArbiter::start().await;
    arbiter.define(&definition(&[100]));
    let database = testing::database().await.unwrap();
    let mut region = Region::new(database.address().clone(), &arbiter, 3_000).await;
    region.registered().await;
    region.on_sale().await;
    arbiter.grant("A", 5);
    let first = region.join(1, 1).await;
    region.held(&first).await;
    arbiter.away(true);
    let second = region.join(2, 1).await;
    region.held(&second).await;
    until("the autonomy ends", || async { !region.books().standing.may_hold() }).await;
    let third = region.join(3, 1).await;
    region.stays_queued(&third, Duration::from_millis(700)).await;
    // A restart does not begin it anew.
    region.stop().await;
    region.start().await;
    region.on_sale().await;
    region.stays_queued(&third, Duration::from_millis(700)).await;
    assert!(!region.books().standing.may_hold());
    // What is on hold can still be given up.
    let given_up = region_node::db::finals::end(
        &region.books().db,
        1,
        &second,
        region_node::db::finals::Ending::Cancel,
        &**region.books(),
    );
    given_up.await.unwrap();
    arbiter.away(false);
    region.held(&third).await;
    region.stop().await;
}
