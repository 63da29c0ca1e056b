//! What these tests share: a crowd in a few words, and the judgement.

use ops::load::plan::Curve;
use ops::load::tally::{Outcome, Report};
use ops::load::{Done, Options};
use ops::stage::Stage;
use ops::verify::Verdict;
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) fn crowd(concert: &str, users: u64, over: Duration) -> Options {
    Options {
        concert: concert.to_owned(),
        users,
        seed: users,
        spread: None,
        via: None,
        over,
        curve: Curve::Spike,
        lapse: 0.1,
        cancel: 0.05,
        double: 0.1,
        // Holds are short here, and told pace is made for holds of minutes.
        poll_every: Some(Duration::from_millis(700)),
        until: Duration::from_secs(150),
    }
}

/// Tiers A and B with so many tickets each, holds of three seconds.
pub(crate) fn concert(tickets: u64) -> Value {
    let tier = |name: &str| json!({"tier": name, "price": {"amount": 4500, "currency": "EUR"}, "total": tickets});
    json!({"hold_ms": 3_000, "tiers": [tier("A"), tier("B")]})
}

/// Everybody got a proper answer and the books are in order; returns the crowd's report.
pub(crate) async fn settled(stage: &Stage, done: &Done, users: u64) -> (Report, Verdict) {
    let verdict = verdict(stage).await;
    let report = done.report(users, verdict.ok);
    let tally = &done.scene.tally;
    assert_eq!(tally.count(Outcome::Error), 0, "{:?}", tally.problems());
    assert_eq!(report.voided, 0, "nobody polls faster than told");
    assert!(verdict.looked_at.accepted >= report.accepted && report.accepted > 0 && report.sold > 0, "{report:?}");
    (report, verdict)
}

/// The verdict, which must be in order.
pub(crate) async fn verdict(stage: &Stage) -> Verdict {
    let verdict = stage.verify().await.unwrap();
    assert!(verdict.ok, "{:#?}", verdict.problems);
    verdict
}

pub(crate) async fn start(spec: ops::stage::Spec) -> Stage {
    Stage::start(spec).await.unwrap_or_else(|error| panic!("{error:#}"))
}
