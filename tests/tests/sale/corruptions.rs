//! `verify` is itself tested: seeded corruptions of the real database, each of which it must find and name.

use crate::support::{concert, crowd, settled, start};
use ops::cluster::node_config::ALL_ROLES;
use ops::stage::{Spec, Stage};
use std::time::Duration;

/// What is done to the database behind everybody's back, and the invariant that must notice.
const CORRUPTIONS: &[(&str, &str, &str)] = &[
    ("a counter raised", "UPDATE quota SET granted = granted + 1 WHERE tier = 0", "invariant_conservation"),
    (
        "a sale of a database that there never was",
        "UPDATE quota SET granted = granted + 1, seeded = 1, sold = sold + 1, held_in = held_in + 1 WHERE tier = 0; \
         INSERT INTO ledger (concert_id, book, kind, tier, tickets) SELECT concert_id, book, 'grant', 0, 1 FROM book",
        "invariant_conservation",
    ),
    (
        "a ledger row of a hold deleted",
        "DELETE FROM ledger WHERE ledger_id = (SELECT max(ledger_id) FROM ledger WHERE kind = 'hold')",
        "invariant_conservation",
    ),
    (
        "a ledger row changed in size",
        "UPDATE ledger SET tickets = tickets + 1 WHERE ledger_id = (SELECT min(ledger_id) FROM ledger WHERE kind = 'sell')",
        "invariant_state_is_in_the_ledger",
    ),
    (
        "a sale that nobody made",
        "UPDATE reservation SET state = 'sold', reason = NULL WHERE entry = \
         (SELECT min(entry) FROM reservation WHERE state = 'expired')",
        "invariant_state_is_in_the_ledger",
    ),
    (
        "a sale forgotten",
        "UPDATE reservation SET state = 'expired' WHERE entry = (SELECT min(entry) FROM reservation WHERE state = 'sold')",
        "invariant_state_is_in_the_ledger",
    ),
    (
        "a reservation deleted",
        "DELETE FROM ticket WHERE entry = (SELECT min(entry) FROM reservation WHERE state = 'sold'); \
         DELETE FROM payment WHERE entry = (SELECT min(entry) FROM reservation WHERE state = 'sold'); \
         DELETE FROM reservation WHERE entry = (SELECT min(entry) FROM reservation WHERE state = 'sold')",
        "invariant_accepted",
    ),
    (
        "all that was decided gone",
        "DELETE FROM ticket; DELETE FROM payment; DELETE FROM reservation",
        "invariant_accepted",
    ),
    (
        "a ticket too few",
        "DELETE FROM ticket WHERE ticket_id = (SELECT min(ticket_id::text)::uuid FROM ticket)",
        "invariant_tickets",
    ),
    (
        "a ticket too many",
        "INSERT INTO ticket (ticket_id, concert_id, entry, number, tier, holder_hash, status) \
         SELECT gen_random_uuid(), concert_id, entry, 99, tier, holder_hash, 'valid' FROM ticket LIMIT 1",
        "invariant_tickets",
    ),
    (
        "a ticket of somebody else",
        "UPDATE ticket SET holder_hash = gen_random_uuid() WHERE ticket_id = (SELECT min(ticket_id::text)::uuid FROM ticket)",
        "invariant_tickets",
    ),
    (
        "a person over the limit",
        "UPDATE reservation SET quantity = 50 WHERE entry = (SELECT min(entry) FROM reservation WHERE state = 'sold')",
        "invariant_limits",
    ),
    (
        "a payment forgotten",
        "DELETE FROM payment WHERE intent = (SELECT min(intent) FROM payment WHERE status = 'succeeded')",
        "invariant_payments",
    ),
    (
        "a payment of another amount",
        "UPDATE payment SET amount = amount - 1 WHERE intent = (SELECT min(intent) FROM payment WHERE status = 'succeeded')",
        "invariant_provider",
    ),
    (
        "a refund that never happened",
        "INSERT INTO refund (refund_id, intent, concert_id, entry, amount, reason, done_at) \
         SELECT gen_random_uuid(), intent, concert_id, entry, amount, 'late_payment', now() FROM payment \
         WHERE status = 'succeeded' AND intent NOT IN (SELECT intent FROM refund) LIMIT 1",
        "invariant_provider",
    ),
    (
        "a sale counted twice",
        "INSERT INTO unfolded (ledger_id, concert_id, tier, tickets) \
         SELECT ledger_id, concert_id, tier, tickets FROM ledger WHERE kind = 'sell' LIMIT 1",
        "invariant_folds",
    ),
    ("a book number set back", "UPDATE book SET book = 1", "invariant_book_numbers"),
    (
        "a cursor moved past somebody",
        "UPDATE queue_generation SET cursor_seq = cursor_seq + 3, tail_seq = tail_seq + 3",
        "invariant_cursors",
    ),
    (
        "somebody else's reservation",
        "UPDATE reservation SET user_hash = gen_random_uuid() WHERE entry = (SELECT min(entry) FROM reservation)",
        "invariant_accepted",
    ),
    (
        "one request with two reservations",
        "INSERT INTO reservation (concert_id, entry, user_hash, request_id, arrival_ms, state, quantity) \
         SELECT concert_id, entry + 1000000, user_hash, request_id, arrival_ms, 'cancelled', 1 FROM reservation \
         WHERE request_id IS NOT NULL LIMIT 1",
        "invariant_one_place",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_corruption_is_found_and_named() {
    let mut stage = start(Spec { nodes: vec![vec!["intake"], ALL_ROLES.to_vec()], ..Spec::default() }).await;
    stage.define("victim", concert(60)).await.unwrap();
    let options = crowd("victim", 80, Duration::from_secs(1));
    let done = stage.crowd(&options).await.unwrap();
    stage.quiet(Duration::from_secs(30)).await.unwrap();
    settled(&stage, &done, options.users).await;
    // Nobody who writes the books may go on while they are corrupted: what stays is the node that `verify` asks.
    stage.nodes[1].stop();
    let mut missed = Vec::new();
    for (what, sql, invariant) in CORRUPTIONS {
        let (found, untouched) = corrupted(&stage, sql).await;
        if untouched {
            missed.push(format!("{what}: the statement changed nothing"));
        } else if !found.contains(*invariant) {
            missed.push(format!("{what}: {invariant} did not notice; found {found:?}"));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
    crate::support::verdict(&stage).await;
}

/// Corrupts a copy of the database's tables, reads the verdict, and puts everything back. Returns the invariants that
/// noticed, and whether the statement changed nothing at all.
async fn corrupted(stage: &Stage, sql: &str) -> (std::collections::BTreeSet<&'static str>, bool) {
    const TABLES: [&str; 10] = [
        "quota",
        "ledger",
        "reservation",
        "ticket",
        "payment",
        "refund",
        "unfolded",
        "fold",
        "book",
        "queue_generation",
    ];
    let admin = stage.sql_superuser().await.unwrap();
    // Triggers, foreign keys and the append-only rule stand aside for a superuser who says so.
    let mut keep = "SET session_replication_role = replica;".to_owned();
    for table in TABLES {
        keep += &format!("DROP TABLE IF EXISTS kept_{table}; CREATE TABLE kept_{table} AS TABLE {table};");
    }
    admin.batch_execute(&keep).await.unwrap();
    admin
        .batch_execute("DROP INDEX IF EXISTS reservation_request; DROP INDEX IF EXISTS reservation_active")
        .await
        .unwrap();
    admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let mut untouched = true;
    for table in TABLES {
        let differs = format!(
            "SELECT EXISTS (TABLE {table} EXCEPT TABLE kept_{table}) OR EXISTS (TABLE kept_{table} EXCEPT TABLE {table})"
        );
        untouched &= !admin.query_one(&differs, &[]).await.unwrap().get::<_, bool>(0);
    }
    let verdict = stage.verify().await.unwrap();
    let mut restore = String::new();
    for table in TABLES {
        restore += &format!("TRUNCATE {table} CASCADE;");
    }
    for table in TABLES {
        restore += &format!("INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE kept_{table}; DROP TABLE kept_{table};");
    }
    admin.batch_execute(&restore).await.unwrap_or_else(|error| panic!("{error:?}"));
    (verdict.problems.iter().map(|problem| problem.invariant).collect(), untouched)
}
