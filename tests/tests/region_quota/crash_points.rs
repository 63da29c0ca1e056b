//! A real node that dies at every step between it and the arbiter, and is started again: nothing is lost or doubled.

use ops::stage::{Spec, Stage};
use quota_protocol::holder::Row;
use region_node::db::{Db, holder};
use std::collections::BTreeMap;
use std::time::Duration;

use super::arbiter::{TestArbiter, pool};
use super::certificates::as_toml;
use super::region::until;
use super::sql::{db_config, definition};

pub(crate) struct Node {
    pub(crate) stage: Stage,
    pub(crate) arbiter: TestArbiter,
    db: Db,
    _folder: tempfile::TempDir,
}

impl Node {
    /// A region of one node with ten tickets, of which two are on hold.
    pub(crate) async fn start() -> Self {
        let arbiter = TestArbiter::start().await;
        arbiter.define(&definition(&[100]));
        let folder = tempfile::tempdir().unwrap();
        let config = arbiter.authority.files(folder.path(), "boxoffice://region/east", &arbiter.urls, 60_000);
        let stage = Stage::start(Spec { more: as_toml(&config), ..Spec::default() }).await.unwrap();
        let address = stage.postgres.superuser("boxoffice");
        let db = Db::connect(&db_config(&address)).await.unwrap();
        let node = Self { stage, arbiter, db, _folder: folder };
        until("shown", || async { node.stage.shown("demo").await.is_ok() }).await;
        node.arbiter.grant("A", 10);
        node.buy(2).await;
        node
    }

    async fn rows(&self) -> BTreeMap<quota_protocol::PoolId, Row> {
        holder::read(&self.db).await.unwrap().stored.rows
    }

    /// A buyer gets so many on hold.
    async fn buy(&self, quantity: u16) {
        let base = format!("http://{}", self.stage.public());
        let http = self.stage.http();
        let session: serde_json::Value =
            http.post(format!("{base}/v1/session")).body("{}").send().await.unwrap().json().await.unwrap();
        let token = session["session"].as_str().unwrap().to_owned();
        let body = serde_json::json!({
            "request_id": uuid::Uuid::new_v4(), "quantity": quantity, "tiers": ["A"], "any_quantity": false,
        });
        let url = format!("{base}/v1/concerts/demo/reservations");
        until("joined", || {
            let request = http.post(&url).bearer_auth(&token).json(&body);
            async move { request.send().await.is_ok_and(|answer| answer.status().is_success()) }
        })
        .await;
        let again = http.post(&url).bearer_auth(&token).json(&body).send().await.unwrap();
        let joined: serde_json::Value = again.json().await.unwrap();
        let url = format!("{base}/v1/reservations/{}", joined["reservation"].as_str().unwrap());
        until("held", || {
            let request = http.get(&url).bearer_auth(&token);
            async move {
                let answer: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
                tokio::time::sleep(Duration::from_millis(1_100)).await;
                answer["status"] == "held"
            }
        })
        .await;
    }

    /// Starts the node so that it dies at this point, has it come there, and starts it again.
    async fn dies_at(&mut self, point: &str, lure: impl AsyncFn(&Self)) {
        self.stage.nodes[0].kill();
        lure(self).await;
        self.stage.nodes[0].start_again(&[("BOXOFFICE_CRASH_AT", point)]).unwrap();
        assert!(self.stage.nodes[0].ends_within(Duration::from_secs(30)).await, "{point} was never reached");
        self.stage.nodes[0].start_again(&[]).unwrap();
        self.stage.ready().await.unwrap();
    }

    /// Until both sides say the same and everything adds up.
    async fn agrees(&self, point: &str) {
        until(point, || async {
            let rows = self.rows().await;
            self.arbiter.audit(&rows);
            let row = rows[&pool("A")].counters;
            let (free, granted, accepted, floor) = self.arbiter.pool("A");
            let same = row == floor && granted == row.granted.get() && accepted == row.returned.get();
            same && free + row.available().get() + row.held().get() == 100
        })
        .await;
        let sql = self.stage.sql().await.unwrap();
        let ledger = "SELECT sum(tickets) FILTER (WHERE kind = 'grant'), sum(tickets) FILTER (WHERE kind = 'return')
                      FROM ledger";
        let row = sql.query_one(ledger, &[]).await.unwrap();
        let (granted, returned): (Option<i64>, Option<i64>) = (row.get(0), row.get(1));
        let counters = self.rows().await[&pool("A")].counters;
        assert_eq!(granted.unwrap_or(0) as u64, counters.granted.get(), "{point}");
        assert_eq!(returned.unwrap_or(0) as u64, counters.returned.get(), "{point}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_between_its_debit_and_its_report_loses_no_ticket() {
    let mut node = Node::start().await;
    for point in ["quota.deliver.before_commit", "quota.deliver.after_commit"] {
        node.dies_at(point, async |node| node.arbiter.grant("A", 3)).await;
        node.agrees(point).await;
    }
    for point in ["quota.return.before_commit", "quota.return.after_commit"] {
        node.dies_at(point, async |node| node.arbiter.ask_back("A", 2)).await;
        node.agrees(point).await;
    }
    node.arbiter.inside.lock().asks.clear();
    node.dies_at("quota.before_report", async |_| {}).await;
    node.agrees("quota.before_report").await;
    let row = node.rows().await[&pool("A")].counters;
    assert_eq!((row.granted.get(), row.held().get()), (16, 2));
    assert!(row.returned.get() >= 2, "{row:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_while_its_database_is_registered_goes_on_under_the_new_epoch() {
    let mut node = Node::start().await;
    for point in ["quota.before_register", "quota.adopt.before_commit", "quota.adopt.after_commit"] {
        node.dies_at(point, async |node| {
            // As a restore does it: the same rows are another database.
            let sql = node.stage.sql().await.unwrap();
            sql.execute("UPDATE region SET identity = gen_random_uuid()", &[]).await.unwrap();
        })
        .await;
        node.buy(1).await;
        node.agrees(point).await;
    }
    let epoch = node.rows().await[&pool("A")].epoch.get();
    assert_eq!((epoch, node.arbiter.inside.lock().registered), (4, 4), "one epoch for each database");
}
