//! The checks across regions and arbiters are themselves tested: a small sale in two regions whose books are in order,
//! and every way in which it can be wrong must be found and named.

#![allow(missing_docs, clippy::unwrap_used)]

use arbiter_api::{LogItem, QuotaView};
use ops::verify::across;
use ops::verify::books::Books;
use ops::verify::history::{self, Arbitration, Start};
use ops::verify::log::{ArbiterLog, Base};
use ops::verify::problem::Found;
use ops::verify::replay::Replay;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const NOW: &str = "2030-01-01T00:00:00Z";
const PERSON: &str = "00000000-0000-0000-0000-0000000000aa";

/// What was read of a sale.
#[derive(Clone)]
struct Sale {
    books: Vec<Books>,
    arbitration: Arbitration,
}

fn definition(total: u64) -> Value {
    json!({"title": "demo", "sale_opens_at": NOW, "max_per_person": 4,
        "tiers": [{"tier": "A", "price": {"amount": 1, "currency": "EUR"}, "total": total}]})
}

fn log(id: u64) -> ArbiterLog {
    let register = |region: &str, copy: u8| {
        json!({"quota": [{"register": {"region": region, "identity": format!("7:1:{copy:032x}"), "incarnation": 0,
            "epoch_as_read": 0, "database": null}}]})
    };
    let grant = |region: &str, granted: u64| json!({"quota": [{"grant_up_to": {"region": region, "epoch": 1, "pool": "demo/A", "granted": granted}}]});
    let put = json!({"request": {"id": 77, "who": "ann", "order": {"put_concert": {"concert": "demo",
        "definition": definition(10)}}}});
    let row = json!({"granted": 6, "returned": 2, "held_in": 3, "released": 0, "sold": 2, "refunded": 0});
    let work = [
        json!({"found": {"members": {}, "regions": ["east", "west"]}}),
        put.clone(),
        // Sent again by a client that lost the answer: must count once.
        put,
        register("east", 1),
        register("west", 2),
        grant("east", 6),
        grant("west", 4),
        json!({"quota": [{"accept_return": {"region": "east", "epoch": 1, "pool": "demo/A", "returned": 2}}]}),
        json!({"quota": [{"raise_floors": {"heard": [{"region": "east", "epoch": 1, "pool": "demo/A", "counters": row}]}}]}),
        grant("west", 6),
    ];
    let item = |(at, work): (usize, Value)| json!({"index": at + 2, "term": 1, "proposed_at": NOW, "work": work});
    let entries: Vec<LogItem> =
        work.into_iter().enumerate().map(|entry| serde_json::from_value(item(entry)).unwrap()).collect();
    ArbiterLog { id, base: Base::default(), first_index: 1, read_to: entries.last().unwrap().index, entries }
}

fn view(index: u64) -> QuotaView {
    let region = |granted: u64, returned: u64| {
        json!({"granted": granted, "returned": returned, "held": 0, "sold": 0, "refunded": 0, "available": 0, "queue": 0,
            "earmark": 0, "last_report": null, "silent": false, "state": "active"})
    };
    serde_json::from_value(json!({"node": 1, "term": 1, "index": index, "as_of": NOW, "concert": "demo", "moves": [],
        "tiers": [{"tier": "A", "total": 10, "pool": 0, "frozen": false, "quarantined": 0, "sold_out": false,
            "regions": {"east": region(6, 2), "west": region(6, 0)}}]}))
    .unwrap()
}

/// Books of a region: its quota row, and ledger rows that add up to it.
fn books(region: &str, row: [i64; 6], sold_to: &str) -> Books {
    let [granted, returned, held_in, released, sold, refunded] = row;
    let kinds = ["grant", "return", "hold", "release", "sell", "refund"];
    let ledger = kinds.iter().zip(row).enumerate().map(|(id, (kind, tickets))| {
        json!({"ledger_id": id, "book": 1, "kind": kind, "tier": 0, "entry": null, "tickets": tickets, "at": NOW})
    });
    let reservation = json!({"entry": 1, "user_hash": sold_to, "request_id": null, "identity_hash": null, "arrival_ms": 1,
        "state": "sold", "reason": null, "tier": 0, "quantity": sold, "amount": sold, "held_at": NOW,
        "hold_expires_at": null, "extended": false, "revived": false, "intent": null, "alias_of": null, "book": 1,
        "changed_at": NOW});
    let state = json!({"concert": "demo", "concert_id": 1, "region": region, "identity": PERSON,
        "definition": definition(10), "version": 1, "closed_at": null, "cancelled_at": null, "book": 1, "halted": null,
        "quota": [{"tier": 0, "granted": granted, "returned": returned, "held_in": held_in, "released": released,
            "sold": sold, "refunded": refunded, "epoch": 1, "registered_as": PERSON}],
        "generations": [], "counts": [], "as_of": NOW});
    Books {
        state: serde_json::from_value(state).unwrap(),
        ledger: ledger.map(|row| serde_json::from_value(row).unwrap()).collect(),
        folds: Vec::new(),
        unfolded: Vec::new(),
        reservations: vec![serde_json::from_value(reservation).unwrap()],
        waiting: Vec::new(),
        ranges: Vec::new(),
        payments: Vec::new(),
        refunds: Vec::new(),
        tickets: Vec::new(),
        queued: None,
    }
}

fn sale() -> Sale {
    let logs: Vec<ArbiterLog> = (1..=3).map(log).collect();
    let end = logs[0].read_to;
    let other = "00000000-0000-0000-0000-0000000000bb";
    Sale {
        books: vec![books("east", [6, 2, 3, 0, 2, 0], PERSON), books("west", [6, 0, 4, 0, 3, 0], other)],
        arbitration: Arbitration { logs, silent: Vec::new(), before: end, views: vec![view(end)], at_rest: true },
    }
}

fn judge(sale: &Sale) -> BTreeSet<&'static str> {
    let mut found = Found::default();
    across::invariant_people(&sale.books, &mut found);
    if let Some(accounts) = history::invariant_logs(&sale.arbitration, &mut found) {
        across::invariant_regions(&sale.books, &accounts, &mut found);
        across::invariant_all_tickets(&sale.books, &sale.arbitration, &accounts, &mut found);
    }
    found.finish().into_iter().map(|problem| problem.invariant).collect()
}

fn ledger(sale: &mut Sale, region: usize, kind: usize, by: i32) {
    sale.books[region].ledger[kind].tickets += by;
}

fn edit(log: &mut ArbiterLog, at: usize, path: &str, value: Value) {
    *log.entries[at].work.pointer_mut(path).unwrap() = value;
}

#[test]
fn a_sale_in_order_has_no_problem() {
    assert_eq!(judge(&sale()), BTreeSet::new());
}

type Corruption = (&'static str, fn(&mut Sale), &'static str);

const CORRUPTIONS: &[Corruption] = &[
    ("a region with more than it was granted", |sale| ledger(sale, 1, 0, 1), "invariant_agreement"),
    ("a return that was accepted and never made", |sale| ledger(sale, 0, 1, -1), "invariant_agreement"),
    ("a region that sold what it gave back", |sale| ledger(sale, 0, 2, 3), "invariant_row"),
    ("more sold than held", |sale| ledger(sale, 1, 4, 9), "invariant_row"),
    ("more refunded than sold", |sale| ledger(sale, 1, 5, 7), "invariant_row"),
    (
        "a database behind what it had reported",
        |sale| sale.books[0].state.quota[0].columns.sold = 1,
        "invariant_growth",
    ),
    ("a database of a later epoch", |sale| sale.books[0].state.quota[0].epoch = 2, "invariant_agreement"),
    ("a ticket that nobody has", |sale| drop_ticket(sale), "invariant_nothing_stranded"),
    ("somebody who waits for what lies in the pool", |sale| strand(sale), "invariant_nothing_stranded"),
    (
        "somebody in a queue who wants what lies in the pool",
        |sale| {
            strand(sale);
            sale.books[1].waiting.clear();
            sale.books[1].queued = Some(queued(&[0], 1));
        },
        "invariant_nothing_stranded",
    ),
    (
        "one person with four tickets in each of two regions",
        |sale| {
            sale.books[1].reservations[0].user_hash = PERSON.parse().unwrap();
            sale.books[1].reservations[0].quantity = 3;
        },
        "invariant_limits",
    ),
    (
        "one person with a hold in each of two regions",
        |sale| {
            for books in &mut sale.books {
                books.reservations[0].user_hash = PERSON.parse().unwrap();
                books.reservations[0].state = region_api::wire::books::RowState::Held;
            }
        },
        "invariant_one_place",
    ),
    ("an entry missing in one log", |sale| drop(sale.arbitration.logs[1].entries.remove(4)), "invariant_logs"),
    (
        "an entry that differs in one log",
        |sale| edit(&mut sale.arbitration.logs[2], 5, "/quota/0/grant_up_to/granted", json!(5)),
        "invariant_logs",
    ),
    ("an entry of another term", |sale| sale.arbitration.logs[0].entries[3].term = 2, "invariant_logs"),
    (
        "a grant that all logs have and the leader does not know",
        |sale| {
            for log in &mut sale.arbitration.logs {
                edit(log, 5, "/quota/0/grant_up_to/granted", json!(5));
            }
        },
        "invariant_logs",
    ),
    (
        "a grant that all logs lack",
        |sale| {
            for log in &mut sale.arbitration.logs {
                log.entries.remove(9);
                log.read_to -= 1;
            }
            sale.arbitration.views.clear();
        },
        "invariant_agreement",
    ),
    (
        "a return accepted twice as large",
        |sale| {
            for log in &mut sale.arbitration.logs {
                edit(log, 7, "/quota/0/accept_return/returned", json!(4));
            }
            sale.arbitration.views.clear();
        },
        "invariant_agreement",
    ),
    (
        "an entry that nobody understands",
        |sale| {
            for log in &mut sale.arbitration.logs {
                log.entries[6].work = json!({"quota": [{"sell_everything": {}}]});
            }
        },
        "invariant_logs",
    ),
    (
        "a log without its beginning",
        |sale| {
            for log in &mut sale.arbitration.logs {
                log.first_index = 7;
                log.entries.drain(..5);
            }
        },
        "invariant_logs",
    ),
    (
        "a snapshot that is not what the log adds up to",
        |sale| {
            let mut base = state_after(&sale.arbitration.logs[2], 6);
            base.index = 7;
            sale.arbitration.logs[2].base = base;
        },
        "invariant_logs",
    ),
    (
        "a snapshot that does not add up",
        |sale| {
            let mut base = state_after(&sale.arbitration.logs[0], 7);
            let mut text = serde_json::to_value(&base.issuer).unwrap();
            text["pools"]["demo/A"]["pool"] = json!(9);
            base.issuer = serde_json::from_value(text).unwrap();
            for log in &mut sale.arbitration.logs {
                (log.base, log.first_index) = (base.clone(), 8);
                log.entries.drain(..6);
            }
        },
        "invariant_logs",
    ),
    (
        "a region that was written off and sold more than was counted",
        |sale| write_west_off(sale, 2),
        "invariant_no_oversell",
    ),
    ("a region that the arbiters do not know", unknown_region, "invariant_agreement"),
    ("a concert that the arbiters do not know", unknown_tier, "invariant_agreement"),
];

/// West is granted one less by the books of all, so that the pool has one that the leader's view does not name.
fn drop_ticket(sale: &mut Sale) {
    for log in &mut sale.arbitration.logs {
        edit(log, 1, "/request/order/put_concert/definition/tiers/0/total", json!(11));
        log.entries.remove(2);
    }
    sale.arbitration.views.clear();
    // The pool has the eleventh; a hold of the east's is in no column any more.
    sale.books[0].ledger[0].tickets = 6;
    sale.books[0].ledger[1].tickets = 2;
    sale.books[1].waiting = vec![waits(1)];
}

/// The east gave back one more, nobody was granted it, and somebody in the west wants one.
fn strand(sale: &mut Sale) {
    ledger(sale, 0, 1, 1);
    sale.books[0].state.quota[0].columns.returned = 3;
    for log in &mut sale.arbitration.logs {
        edit(log, 7, "/quota/0/accept_return/returned", json!(3));
    }
    sale.arbitration.views.clear();
    sale.books[1].waiting = vec![waits(1)];
}

fn waits(need: i16) -> region_api::wire::books::WaitingRow {
    serde_json::from_value(json!({"entry": 9, "tier": 0, "need": need, "arrival_ms": 1, "user_hash": PERSON,
        "request_id": null, "identity_hash": null, "quantity": need, "any_quantity": false, "tiers": [0]}))
    .unwrap()
}

fn queued(tiers: &[u8], least: u64) -> region_api::wire::QueueWishes {
    let wishes = json!([{"tiers": tiers, "requests": 1, "least": least}]);
    let queue = json!({"concert": "demo", "region": "west", "requests": 1, "complete": true, "wishes": wishes});
    serde_json::from_value(queue).unwrap()
}

/// The state after an entry, as a snapshot would have it.
fn state_after(log: &ArbiterLog, index: u64) -> Base {
    let mut replay = Replay::from(&log.base);
    replay.advance(log, index).unwrap();
    let Replay { issuer, concerts, .. } = replay;
    Base { index, founded: true, issuer, concerts, done: ["77".to_owned()].into() }
}

/// The west is written off; its operator counted so many sold of the three.
fn write_west_off(sale: &mut Sale, counted: u64) {
    let sales = json!([{"pool": "demo/A", "sold": counted, "refunded": 0}]);
    let order =
        json!({"quota": {"write_off": {"region": "west", "fenced": "its disks were destroyed", "sales": sales}}});
    let work = json!({"request": {"id": 78, "who": "ann", "order": order}});
    let index = sale.arbitration.before + 1;
    for log in &mut sale.arbitration.logs {
        let item = json!({"index": index, "term": 1, "proposed_at": NOW, "work": work});
        log.entries.push(serde_json::from_value(item).unwrap());
        log.read_to = index;
    }
    sale.arbitration.views.clear();
}

#[test]
fn a_log_without_its_beginning_is_judged_from_its_oldest_snapshot_and_that_is_said() {
    let mut sale = sale();
    let start = |sale: &Sale| history::invariant_logs(&sale.arbitration, &mut Found::default()).unwrap().start;
    assert_eq!(start(&sale), Start::Beginning);
    for (log, index) in sale.arbitration.logs.iter_mut().zip([6, 6, 8]) {
        (log.base, log.first_index) = (state_after(log, index), index + 1);
        log.entries.retain(|item| item.index > index);
    }
    assert_eq!(judge(&sale), BTreeSet::new());
    assert_eq!(start(&sale), Start::Snapshot { index: 6, confirmed_by: 1 });
    for log in &mut sale.arbitration.logs {
        let Base { issuer, concerts, .. } = log.base.clone();
        log.base = Base { index: 1, founded: true, issuer, concerts, ..Base::default() };
        log.first_index = 2;
    }
    sale.arbitration.logs.truncate(2);
    assert_eq!(start(&sale), Start::Restored);
}

#[test]
fn a_region_that_was_written_off_counts_with_what_its_operator_counted() {
    let mut sale = sale();
    write_west_off(&mut sale, 3);
    assert_eq!(judge(&sale), BTreeSet::new(), "its database can still be read");
    sale.books.pop();
    assert_eq!(judge(&sale), BTreeSet::new(), "its database is gone");
    // One that the pool has again, and somebody in the east waits.
    sale.books[0].queued = Some(queued(&[0], 1));
    assert_eq!(judge(&sale), ["invariant_nothing_stranded"].into());
}

fn unknown_region(sale: &mut Sale) {
    sale.books[1].state.region = "north".parse().unwrap();
}

fn unknown_tier(sale: &mut Sale) {
    let mut more = sale.books[0].state.definition.tiers[0].clone();
    more.tier = "B".parse().unwrap();
    sale.books[0].state.definition.tiers.push(more);
}

#[test]
fn every_corruption_across_regions_and_arbiters_is_found_and_named() {
    let mut missed = Vec::new();
    for (what, corrupt, invariant) in CORRUPTIONS {
        let mut sale = sale();
        corrupt(&mut sale);
        let found = judge(&sale);
        if !found.contains(invariant) {
            missed.push(format!("{what}: {invariant} did not notice; found {found:?}"));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn tickets_on_their_way_are_no_problem() {
    // Returned and not yet accepted; granted and not yet delivered; a log read before and after the ledgers.
    let mut sale = sale();
    ledger(&mut sale, 0, 1, 1);
    ledger(&mut sale, 1, 0, -2);
    sale.books[1].waiting = vec![waits(1)];
    assert_eq!(judge(&sale), BTreeSet::new());
    // The grant to the west came after the ledgers were read, the return before.
    sale.arbitration.before = 9;
    assert_eq!(judge(&sale), BTreeSet::new());
}
