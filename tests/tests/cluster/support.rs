//! What cluster tests share: a cluster, concerts, crowds, and the verdict over everything.

use ops::load::plan::Curve;
use ops::load::tally::{Outcome, Report};
use ops::load::{self, Options};
use ops::stage::{Sites, SitesSpec, program};
use ops::verify::Verdict;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
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

/// Everybody was answered properly and nothing is on its way any more.
pub(crate) async fn settled_sale(sites: &Sites, done: &load::Done) {
    let problems = done.scene.tally.problems();
    assert_eq!(done.scene.tally.count(Outcome::Error), 0, "{problems:?}");
    sites.quiet(Duration::from_secs(60)).await.unwrap();
}

/// The books are in order once everything is at rest: tickets may still be moving when the last buyer has an answer.
async fn books_at_rest(sites: &Sites) -> Verdict {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let verdict = sites.verify().await.unwrap();
        assert!(verdict.ok, "{:#?}", verdict.problems);
        if verdict.looked_at.at_rest {
            return verdict;
        }
        assert!(Instant::now() < deadline, "tickets never came to rest: {:?}", verdict.looked_at);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The books are in order, and these words are among what is not proven.
pub(crate) async fn books_without(sites: &Sites, not_proven: &[&str]) -> Verdict {
    let verdict = books_at_rest(sites).await;
    let said = &verdict.not_proven;
    assert_eq!(said.len(), not_proven.len(), "{said:#?}");
    for (line, words) in said.iter().zip(not_proven) {
        assert!(line.contains(words), "{words}: {line}");
    }
    verdict
}

/// The books are in order.
pub(crate) async fn books(sites: &Sites) -> Verdict {
    let verdict = books_at_rest(sites).await;
    assert_eq!(verdict.looked_at.arbiters, Some(sites.arbiters.len()));
    assert!(verdict.looked_at.log_entries > 0, "{:?}", verdict.looked_at);
    verdict
}

/// Runs `ops` on the cluster, without a terminal.
pub(crate) async fn ops(sites: &Sites, arguments: &[&str]) -> Output {
    let mut command = Command::new(program("ops").unwrap());
    command.arg("--home").arg(sites.describe().unwrap()).args(arguments).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Its only line of standard output, as JSON.
pub(crate) async fn json(sites: &Sites, arguments: &[&str]) -> Value {
    let output = ops(sites, &[&["--json"], arguments].concat()).await;
    let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {said}{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

/// Runs `ops` and returns what a person reads; it must end well.
pub(crate) async fn shown(sites: &Sites, arguments: &[&str]) -> String {
    let output = ops(sites, arguments).await;
    let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {said}{text}");
    text.into_owned()
}

/// Runs `ops` on a terminal of its own (script(1) makes one), types a line, and returns the exit code and everything
/// that was on the screen.
pub(crate) async fn on_terminal(sites: &Sites, arguments: &[&str], typed: &str) -> (i32, String) {
    let words = [program("ops").unwrap().to_str().unwrap(), "--home", sites.describe().unwrap().to_str().unwrap()]
        .into_iter()
        .chain(arguments.iter().copied())
        .map(|word| format!("'{}'", word.replace('\'', "'\\''")))
        .collect::<Vec<_>>();
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--flush", "--command", &words.join(" "), "/dev/null"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let typed = format!("{typed}\n");
    let run = move || {
        let mut child = command.spawn().expect("script(1) makes the terminal; it is part of util-linux");
        let mut keys = child.stdin.take().unwrap();
        keys.write_all(typed.as_bytes()).unwrap();
        // The end of what is typed would be the end of the terminal.
        let output = child.wait_with_output().unwrap();
        drop(keys);
        output
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits for something that must come true soon.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !check().await {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Somebody with a browser in one region.
pub(crate) struct Buyer {
    http: reqwest::Client,
    session: String,
    url: String,
}

impl Buyer {
    /// Joins the queue.
    pub(crate) async fn joins(sites: &Sites, at: usize, concert: &str, tier: &str, quantity: u32) -> Self {
        let (http, base) = (sites.http().clone(), format!("http://{}", sites.regions[at].node.public));
        let session = http.post(format!("{base}/v1/session")).json(&json!({})).send().await.unwrap();
        let session: Value = session.json().await.unwrap();
        let session = session["session"].as_str().unwrap().to_owned();
        let join = json!({"request_id": uuid::Uuid::new_v4(), "quantity": quantity, "tiers": [tier]});
        let joined = http.post(format!("{base}/v1/concerts/{concert}/reservations")).bearer_auth(&session).json(&join);
        let joined: Value = joined.send().await.unwrap().json().await.unwrap();
        let place = joined["reservation"].as_str().unwrap_or_else(|| panic!("{joined}"));
        let url = format!("{base}/v1/reservations/{place}");
        Self { http, session, url }
    }

    /// How it stands.
    pub(crate) async fn sees(&self) -> Value {
        let seen = self.http.get(&self.url).bearer_auth(&self.session).send().await.unwrap();
        seen.json().await.unwrap()
    }

    /// Waits until it holds tickets; seldom enough not to be voided for polling.
    pub(crate) async fn holds(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let seen = self.sees().await;
            if seen["status"] == "held" {
                return;
            }
            assert!(Instant::now() < deadline, "{seen}");
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    }

    /// Gives up.
    pub(crate) async fn leaves(&self) {
        let left = self.http.delete(&self.url).bearer_auth(&self.session).send().await.unwrap();
        assert!(left.status().is_success(), "{}", left.text().await.unwrap());
    }
}
