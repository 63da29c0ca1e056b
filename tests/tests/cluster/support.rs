//! What cluster tests share: a cluster, concerts, crowds, and the verdict over everything.

use ops::load::plan::Curve;
use ops::load::tally::{Outcome, Report};
use ops::load::{self, Options};
use ops::stage::{Sites, SitesSpec};
use ops::verify::Verdict;
use serde_json::{Value, json};
use std::fs::File;
use std::time::{Duration, Instant};

/// A cluster, and the turn that its test has.
pub(crate) struct Turn {
    pub(crate) sites: Sites,
    _lock: File,
}

/// Waits for this test's turn, then starts a cluster.
pub(crate) async fn cluster(spec: SitesSpec) -> Turn {
    let path = std::env::temp_dir().join("boxoffice-cluster-tests.lock");
    let waiting = tokio::task::spawn_blocking(move || {
        let file = File::options().create(true).append(true).open(path).unwrap();
        file.lock().unwrap();
        file
    });
    let lock = waiting.await.unwrap();
    Turn { sites: Sites::start(spec).await.unwrap_or_else(|error| panic!("{error:#}")), _lock: lock }
}

/// A concert with two tiers of so many tickets.
pub(crate) fn concert(total: u64) -> Value {
    let tier = |name: &str| json!({"tier": name, "price": {"amount": 1000, "currency": "EUR"}, "total": total});
    json!({"hold_ms": 4000, "tiers": [tier("A"), tier("B")]})
}

/// A crowd that arrives evenly.
pub(crate) fn crowd(concert: &str, users: u64, over: Duration) -> Options {
    Options {
        concert: concert.to_owned(),
        users,
        seed: 11,
        spread: None,
        via: None,
        over,
        curve: Curve::Flat,
        lapse: 0.05,
        cancel: 0.05,
        double: 0.1,
        poll_every: Some(Duration::from_millis(900)),
        until: Duration::from_secs(120),
    }
}

/// Sends a crowd, in a task of its own.
pub(crate) fn send(sites: &Sites, options: &Options) -> tokio::task::JoinHandle<load::Done> {
    let (target, options) = (sites.load_target(), options.clone());
    tokio::spawn(async move { load::run(&target, &options, false).await.unwrap() })
}

/// Waits until every region has some of the concert, so that each could go on alone.
pub(crate) async fn stocked(sites: &Sites, concert: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let view = sites.quota(concert).await.unwrap();
        let regions = sites.regions.len();
        if view.tiers.iter().all(|tier| tier.regions.values().filter(|row| !row.available.is_zero()).count() == regions)
        {
            return;
        }
        assert!(Instant::now() < deadline, "no stock for every region: {view:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Tickets sold or on hold in all regions that answer.
pub(crate) async fn promised(sites: &Sites, concert: &str) -> i64 {
    let mut promised = 0;
    for at in 0..sites.regions.len() {
        let Ok(status) = sites.status(at).await else { continue };
        let ours = status.concerts.into_iter().filter(|known| known.concert.as_str() == concert);
        promised += ours.flat_map(|known| known.pools).map(|pool| pool.columns.held_in).sum::<i64>();
    }
    promised
}

/// Everybody was answered properly, everything came to rest, and the books are in order.
pub(crate) async fn settled(sites: &Sites, done: &load::Done, users: u64) -> (Report, Verdict) {
    let problems = done.scene.tally.problems();
    assert_eq!(done.scene.tally.count(Outcome::Error), 0, "{problems:?}");
    sites.quiet(Duration::from_secs(60)).await.unwrap();
    let verdict = books(sites).await;
    (done.report(users, true), verdict)
}

/// The books are in order.
pub(crate) async fn books(sites: &Sites) -> Verdict {
    let verdict = sites.verify().await.unwrap();
    assert!(verdict.ok, "{:#?}", verdict.problems);
    assert_eq!(verdict.looked_at.arbiters, Some(sites.arbiters.len()));
    assert!(verdict.looked_at.at_rest && verdict.looked_at.log_entries > 0, "{:?}", verdict.looked_at);
    verdict
}
