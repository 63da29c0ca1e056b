//! A region's database by itself: migrations from every older version, whose database it is, definitions, and what
//! the schema refuses whatever the program says.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

use ops::local::testing;
use region_api::wire::{BookKind, ConcertDefinition, LedgerCursor};
use region_api::{ConcertName, Entry, RegionName};
use region_node::db::book::NoFloor;
use region_node::db::concerts::PutError;
use region_node::db::status::Found;
use region_node::db::{self, Db, DbError, concerts, ledger, migrate};
use tests::region::east;

async fn connect(database: &testing::TestDatabase) -> Db {
    tests::region::connect(database.address()).await
}

fn name() -> ConcertName {
    ConcertName::new("demo").unwrap()
}

fn definition(totals: &[u64]) -> ConcertDefinition {
    tests::region::definition(totals, 4)
}

#[tokio::test]
async fn an_empty_database_becomes_this_region_s_and_stays_it() {
    let database = testing::database().await.unwrap();
    let db = connect(&database).await;
    let east = east();
    let (first, second) = tokio::join!(db.migrate(&east), db.migrate(&east));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first, second, "two nodes that start together agree");
    assert_eq!(first.system_identifier, first.system_identifier_now);
    let west = RegionName::new("west").unwrap();
    assert!(matches!(db.migrate(&west).await, Err(DbError::OtherRegion { .. })));
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_refused_and_left_alone() {
    let database = testing::database().await.unwrap();
    let db = connect(&database).await;
    db.migrate(&east()).await.unwrap();
    let newer = migrate::newest_version() + 7;
    let client = db.client().await.unwrap();
    let record =
        format!("INSERT INTO refinery_schema_history VALUES ({newer}, 'from_the_future', '2030-01-01T00:00:00Z', '1')");
    client.batch_execute(&record).await.unwrap();
    let error = db.migrate(&east()).await.unwrap_err();
    assert!(matches!(error, DbError::NewerSchema { database, .. } if database == newer), "{error}");
    assert!(error.to_string().contains("start the newer program"), "{error}");
    let versions = client.query_one("SELECT count(*) FROM refinery_schema_history", &[]).await.unwrap();
    assert_eq!(versions.get::<_, i64>(0), migrate::newest_version() + 1);
}

/// Rows that a database of a version may hold, so that later migrations meet real rows. A new version that changes a
/// table adds its own file beside these; one that does not (an index, say) names the last one again.
const ROWS_OF_VERSION: [&str; 4] = [ROWS_V1, ROWS_V1, ROWS_V1, ROWS_V4];
const ROWS_V1: &str = include_str!("region_database/rows_v1.sql");
const ROWS_V4: &str = concat!(include_str!("region_database/rows_v1.sql"), include_str!("region_database/rows_v4.sql"));

#[tokio::test]
async fn every_older_version_with_rows_in_it_migrates_to_the_newest() {
    let newest = usize::try_from(migrate::newest_version()).unwrap();
    assert_eq!(newest, ROWS_OF_VERSION.len(), "each version has rows of its own to test with");
    for (index, rows) in ROWS_OF_VERSION.iter().enumerate() {
        let database = testing::database().await.unwrap();
        let db = connect(&database).await;
        db.migrate_to_version(i32::try_from(index + 1).unwrap()).await.unwrap();
        db.client().await.unwrap().batch_execute(rows).await.unwrap();
        let identity = db.migrate(&east()).await.unwrap();
        assert_eq!(identity.identity, uuid::Uuid::from_u128(0x11));
        let all = concerts::load_all(&db).await.unwrap();
        assert_eq!(all.len(), 1);
        let snapshot = db::snapshot(&db, all[0].concert_id).await.unwrap();
        assert_eq!((snapshot.stock[0].available(), snapshot.stock[0].held()), (94, 2));
        assert_eq!((snapshot.stock[0].unsold(), snapshot.waiting.count), (96, 1));
        let asked: Vec<_> = [1, 2, 4, 9].map(|n| (all[0].concert_id, Entry::new(0, 1, n).unwrap())).into();
        let found = db::status(&db, &asked).await.unwrap();
        assert!(matches!(&found[0], Found::Row(row) if row.state == db::status::State::Held));
        assert!(matches!(&found[1], Found::Row(row) if row.tickets.len() == 4 && row.quantity == 4));
        assert!(matches!(found[2], Found::Waiting { arrival_ms: 1004, .. }));
        assert_eq!(found[3], Found::Nothing);
        assert_eq!(walk(&db, 2).await, walk(&db, 1_000).await, "pages of two and one big page are the same books");
    }
}

/// Walks through all pages and returns how many rows of each kind there were, which must be what the state says.
async fn walk(db: &Db, most: u32) -> Vec<(BookKind, u64)> {
    let mut counts: Vec<(BookKind, u64)> = BookKind::ALL.map(|kind| (kind, 0)).into();
    let mut cursor = LedgerCursor::start();
    loop {
        let page = ledger::page(db, &name(), &cursor, most).await.unwrap();
        counts.iter_mut().find(|(kind, _)| *kind == page.rows.kind()).unwrap().1 += page.rows.len() as u64;
        let Some(next) = page.next else {
            let state: Vec<_> = page.state.counts.iter().map(|count| (count.kind, count.rows)).collect();
            assert_eq!(counts, state);
            assert!(counts.iter().filter(|(_, rows)| *rows > 0).count() >= 6, "{counts:?}");
            return counts;
        };
        cursor = next;
    }
}

#[tokio::test]
async fn a_definition_grants_takes_back_and_refuses() {
    let database = testing::database().await.unwrap();
    let db = connect(&database).await;
    db.migrate(&east()).await.unwrap();
    let put =
        async |definition: &ConcertDefinition| concerts::put(&db, &name(), definition, 8, "operator", &NoFloor).await;
    let first = put(&definition(&[100, 50])).await.unwrap();
    assert_eq!((first.shards, first.book, first.definition.tiers[1].total), (4, 1, 50));
    let again = put(&definition(&[100, 50])).await.unwrap();
    assert_eq!(again, first, "the same again changes nothing");
    let less = put(&definition(&[100, 20, 5])).await.unwrap();
    assert_eq!((less.definition.tiers[1].total, less.definition.tiers[2].total), (20, 5));
    assert!(less.version > first.version && less.book == first.book + 1);
    assert!(matches!(put(&definition(&[100])).await, Err(PutError::Invalid(_))), "a tier may not vanish");
    let client = db.client().await.unwrap();
    client.batch_execute("UPDATE quota SET held_in = 90 WHERE tier = 0").await.unwrap();
    let refused = put(&definition(&[80, 20, 5])).await;
    assert!(matches!(refused, Err(PutError::TotalTooLow { in_use: 90, wanted: 80, .. })), "{refused:?}");
    let ledger =
        client.query("SELECT kind::text, tier, tickets, book FROM ledger ORDER BY ledger_id", &[]).await.unwrap();
    let ledger: Vec<(String, i16, i32, i64)> =
        ledger.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    let row = |kind: &str, tier, tickets, book| (kind.to_owned(), tier, tickets, book);
    assert_eq!(
        ledger,
        [row("grant", 0, 100, 1), row("grant", 1, 50, 1), row("return", 1, 30, 2), row("grant", 2, 5, 2)]
    );
    let closed = concerts::close(&db, &name(), "operator").await.unwrap();
    assert!(closed.definition.sale_closes_at.is_some());
    assert_eq!(concerts::close(&db, &name(), "operator").await.unwrap(), closed);
}

#[tokio::test]
async fn the_schema_refuses_an_oversell_a_shrinking_column_and_a_changed_ledger() {
    let database = testing::database().await.unwrap();
    let db = connect(&database).await;
    db.migrate(&east()).await.unwrap();
    concerts::put(&db, &name(), &definition(&[100]), 8, "operator", &NoFloor).await.unwrap();
    let client = db.client().await.unwrap();
    for wrong in [
        "UPDATE quota SET held_in = 101",
        "UPDATE quota SET released = 1",
        "UPDATE quota SET sold = 1",
        "UPDATE quota SET refunded = 1",
        "UPDATE quota SET granted = 99",
        "UPDATE quota SET held_in = -1",
        "UPDATE ledger SET tickets = 1",
        "DELETE FROM ledger",
        "TRUNCATE ledger CASCADE",
    ] {
        let error = DbError::from(client.batch_execute(wrong).await.unwrap_err());
        let code = match &error {
            DbError::Postgres(error) => error.code().unwrap().code().to_owned(),
            other => panic!("{other}"),
        };
        assert!(code == "23514" || code == "23001", "{wrong}: {error}");
        assert!(!error.is_transient(), "{wrong}");
    }
}
