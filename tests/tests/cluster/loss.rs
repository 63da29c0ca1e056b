//! A region falls silent, is drained, is lost for good and begins again; its old database comes back. What an operator
//! does about each, by the command line, and the books after it.

use crate::support::{Buyer, Turn, books_without, cluster, concert, crowd, json, on_terminal, ops, send, settled_sale};
use crate::support::{shown, stocked, until};
use nix::sys::signal::Signal;
use ops::stage::{Sites, SitesSpec};
use serde_json::Value;
use std::time::{Duration, Instant};

const SOUTH: usize = 2;

async fn region(sites: &Sites, name: &str) -> Value {
    let listed = json(sites, &["region", "list"]).await;
    let found = listed["regions"].as_array().unwrap().iter().find(|row| row["region"] == name).cloned();
    found.unwrap_or_else(|| panic!("{listed}"))
}

/// Numbers of south's rows of some tiers, as the arbiters have them at one moment.
async fn quota(sites: &Sites, cells: &[(usize, &str)]) -> Vec<u64> {
    let shown = json(sites, &["quota", "show", "far"]).await;
    let cell = |&(tier, column): &(usize, &str)| shown["tiers"][tier]["regions"]["south"][column].as_u64();
    cells.iter().map(cell).collect::<Option<_>>().unwrap_or_else(|| panic!("{shown}"))
}

async fn sale(sites: &Sites, users: u64, spread: Option<&str>) {
    let spread = spread.map(str::to_owned);
    let options = ops::load::Options { spread, ..crowd("far", users, Duration::from_secs(3)) };
    let done = send(sites, &options).await.unwrap();
    settled_sale(sites, &done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_silent_then_drained_then_lost_and_begins_again() {
    let mut turn = cluster(SitesSpec::default()).await;
    let Turn { sites, .. } = &mut turn;
    sites.define("far", concert(600)).await.unwrap();
    stocked(sites, "far").await;
    sale(sites, 150, None).await;
    frozen_process_is_quarantined(sites).await;
    drained_to_empty(sites).await;
    lost_and_written_off(sites).await;
    begins_again_and_the_old_one_halts(sites).await;
}

/// A node that does not run and does not end: nothing of it is given to others, and it is back when it is heard again.
async fn frozen_process_is_quarantined(sites: &Sites) {
    let begun = Instant::now();
    sites.regions[SOUTH].node.signal(Signal::SIGSTOP);
    until("south is silent", || async { region(sites, "south").await["silent"] == true }).await;
    // Four heartbeats of a second; the last one may have come just before.
    assert!(begun.elapsed() > Duration::from_millis(2_500), "silent after {:?}", begun.elapsed());
    let quarantined = json(sites, &["region", "quarantine"]).await;
    let unsold = &quarantined["regions"][0]["unsold"]["far/A"];
    assert!(quarantined["regions"][0]["region"] == "south" && unsold.as_u64().unwrap() > 0, "{quarantined}");
    let said = shown(sites, &["region", "quarantine", "south"]).await;
    assert!(said.contains("It may be selling them") && said.contains("write-off south"), "{said}");
    let table = shown(sites, &["quota", "show", "far"]).await;
    assert!(table.contains("SILENT") && table.contains("tickets are quarantined"), "{table}");
    let listed = shown(sites, &["region", "list"]).await;
    assert!(listed.contains("SILENT") && listed.contains("stays its own"), "{listed}");
    let has = async || quota(sites, &[(0, "granted"), (0, "returned")]).await;
    let before = has().await;
    Buyer::joins(sites, 0, "far", "A", 2).await.holds().await;
    assert_eq!(has().await, before);
    sites.regions[SOUTH].node.signal(Signal::SIGCONT);
    until("south is heard again", || async { region(sites, "south").await["silent"] == false }).await;
    Buyer::joins(sites, SOUTH, "far", "A", 2).await.holds().await;
    books_without(sites, &[]).await;
}

/// Its stock goes to the others, who waits there is told the truth, and gets tickets when it is resumed.
async fn drained_to_empty(sites: &Sites) {
    let drain = ["region", "drain", "south"];
    let (code, screen) = on_terminal(sites, &drain, "no").await;
    assert!(code == 2 && screen.contains("type \"south\"") && screen.contains("nothing was done"), "{code} {screen}");
    assert_eq!(region(sites, "south").await["state"], "active");
    let (code, screen) = on_terminal(sites, &drain, "south").await;
    assert!(code == 0 && screen.contains("✓"), "{code} {screen}");
    assert_eq!(region(sites, "south").await["state"], "draining");
    until("south is empty", || async {
        // Those on hold as well: what lapses there is the next one's there.
        let left = [(0, "available"), (0, "held"), (1, "available"), (1, "held")];
        quota(sites, &left).await.iter().all(|&tickets| tickets == 0)
    })
    .await;
    let waits = Buyer::joins(sites, SOUTH, "far", "A", 2).await;
    let url = format!("http://{}/v1/concerts/far", sites.regions[SOUTH].node.public);
    until("south says that it has none", || async {
        let concert: Value = sites.http().get(&url).send().await.unwrap().json().await.unwrap();
        concert["tiers"][0]["availability"] == "none_here"
    })
    .await;
    Buyer::joins(sites, 0, "far", "A", 1).await.holds().await;
    let seen = waits.sees().await;
    assert_eq!(seen["status"], "queued", "{seen}");
    // Whoever verifies knows of this wish, wherever it waits.
    let evidence = sites.evidence().await.unwrap();
    let books = evidence.books.iter().find(|books| books.state.region.as_str() == "south").unwrap();
    let queued = books.queued.as_ref().unwrap();
    let wishes = queued.wishes.iter().filter(|wish| wish.least == 2 && wish.tiers.contains(&0)).count();
    let waiting = books.waiting.iter().filter(|row| row.need == 2).count();
    assert!(queued.complete && wishes + waiting == 1, "{queued:?}");
    let listed = shown(sites, &["region", "list"]).await;
    assert!(listed.contains("draining"), "{listed}");
    let verdict = json(sites, &["verify"]).await;
    assert_eq!(verdict["ok"], true, "tickets lie still on purpose: {verdict:#}");
    assert_eq!(json(sites, &["region", "resume", "south"]).await["changed"], true);
    waits.holds().await;
    waits.leaves().await;
    sale(sites, 60, Some("south=8,east=1,west=1")).await;
    books_without(sites, &[]).await;
}

/// How many a region sold, and of those refunded, of each tier, by its own database.
async fn sold(sites: &Sites, at: usize) -> Vec<(i64, i64)> {
    let status = sites.status(at).await.unwrap();
    let concert = status.concerts.iter().find(|known| known.concert.as_str() == "far").unwrap();
    concert.pools.iter().map(|pool| (pool.columns.sold + pool.unfolded, pool.columns.refunded)).collect()
}

/// It is written off with what it sold; what it had free comes back; nobody sells a ticket twice.
async fn lost_and_written_off(sites: &mut Sites) {
    // Nothing is on hold there any more, so that what is lost is known to the ticket.
    sites.quiet(Duration::from_secs(60)).await.unwrap();
    let counted = sold(sites, SOUTH).await;
    assert!(counted[0].0 > 0 && counted[1].0 > 0, "{counted:?}");
    sites.regions[SOUTH].node.kill();
    let unsold = region(sites, "south").await["unsold"].clone();
    let unsold: u64 = unsold.as_object().unwrap().values().map(|tickets| tickets.as_u64().unwrap()).sum();
    let write_off = |less: i64| {
        let pools = [format!("far/A={}", counted[0].0 - less), format!("far/B={}", counted[1].0)];
        let words = ["region", "write-off", "south", "--fenced", "its disks were wiped", "--sold"];
        let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        words.extend([pools[0].clone(), "--sold".to_owned(), pools[1].clone()]);
        for (tier, (_, refunded)) in ["A", "B"].iter().zip(&counted) {
            words.extend(["--refunded".to_owned(), format!("far/{tier}={refunded}")]);
        }
        words
    };
    fn as_str(words: &[String]) -> Vec<&str> {
        words.iter().map(String::as_str).collect()
    }
    let words = write_off(0);
    let asked = ops(sites, &as_str(&words)).await;
    let said = String::from_utf8_lossy(&asked.stderr);
    assert!(asked.status.code() == Some(2) && said.contains("--yes") && said.contains("given up for ever"), "{said}");
    let (code, screen) = on_terminal(sites, &as_str(&words), "no").await;
    assert!(code == 2 && screen.contains("nothing was done"), "{screen}");
    let less = [write_off(1), vec!["--yes".to_owned()]].concat();
    let refused = ops(sites, &as_str(&less)).await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("far/A") && said.contains("sold"), "{said}");
    assert_eq!(region(sites, "south").await["state"], "active");
    let done = json(sites, &as_str(&[words, vec!["--yes".to_owned()]].concat())).await;
    let back = format!("written off; {unsold} tickets came back into the pools");
    assert_eq!((done["changed"].as_bool(), done["said"].as_str()), (Some(true), Some(back.as_str())), "{done}");
    assert_eq!(region(sites, "south").await["state"], "written_off");
    let listed = shown(sites, &["region", "list"]).await;
    assert!(listed.contains("south: fenced: its disks were wiped"), "{listed}");
    Buyer::joins(sites, 0, "far", "A", 2).await.holds().await;
    let verdict = books_without(sites, &["database is gone", "acknowledged requests", "payments bought"]).await;
    let a = &verdict.concerts[0];
    assert_eq!(a.regions["south"].sold, counted[0].0 - counted[0].1, "{a:?}");
}

/// Nothing is sold there, and whoever looks is told why and what to do.
async fn halts(sites: &Sites, words: &[&str]) {
    let arbiter = async || sites.status(SOUTH).await.ok().and_then(|status| status.arbiter);
    until("it halts", || async { arbiter().await.is_some_and(|arbiter| arbiter.halted.is_some()) }).await;
    let why = arbiter().await.unwrap().halted.unwrap();
    assert!(words.iter().all(|words| why.contains(words)), "{why}");
    let ready = sites.http().get(format!("http://{}/readyz", sites.regions[SOUTH].node.public)).send().await.unwrap();
    assert_eq!(ready.status().as_u16(), 503);
    assert!(ready.text().await.unwrap().contains(words[0]), "it says so to whoever asks");
    let log = std::fs::read_to_string(sites.regions[SOUTH].node.log()).unwrap();
    assert!(log.contains("the region is halted: nothing is sold until an operator has acted"), "and in its log");
}

/// Under its old name on an empty database; the old one, should it come back, halts and says what to do.
async fn begins_again_and_the_old_one_halts(sites: &mut Sites) {
    let gone = ["database is gone", "acknowledged requests", "payments bought"];
    // The dead one comes back, as it was: it halts, and its books say no more than was counted.
    sites.start_node_again(SOUTH).unwrap();
    halts(sites, &["was written off", "start it on an empty database"]).await;
    books_without(sites, &[]).await;
    sites.regions[SOUTH].node.kill();
    let old = sites.begin_again(SOUTH).await.unwrap();
    sites.ready().await.unwrap();
    until("south is back", || async { region(sites, "south").await["state"] == "active" }).await;
    let url = format!("http://{}/v1/concerts/far", sites.regions[SOUTH].node.public);
    until("south sells the concert", || async {
        sites.http().get(&url).send().await.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    Buyer::joins(sites, SOUTH, "far", "B", 2).await.holds().await;
    books_without(sites, &gone).await;
    sites.regions[SOUTH].node.kill();
    let new = sites.bring_back(SOUTH, old).unwrap();
    // Durably: it need not ask again.
    halts(sites, &["was written off", "start it on an empty database"]).await;
    sites.regions[SOUTH].node.kill();
    sites.bring_back(SOUTH, new).unwrap();
    sites.ready().await.unwrap();
    Buyer::joins(sites, SOUTH, "far", "B", 2).await.holds().await;
    sale(sites, 60, None).await;
    books_without(sites, &gone).await;
}
