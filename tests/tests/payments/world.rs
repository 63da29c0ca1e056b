//! A region's payments over a real PostgreSQL and the real sandbox provider, with an auditor that trusts neither.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use futures::future::BoxFuture;
use ops::local::testing::{TestDatabase, database_from};
use ops::sandbox::{self, SandboxConfig};
use parking_lot::Mutex;
use region_api::Entry;
use region_node::db::Db;
use region_node::db::book::{Floor, Known};
use region_node::db::payments::Rechecks;
use region_node::db::payments::settle::Tail;
use region_node::payments::provider::Provider;
use region_node::payments::stripe::Stripe;
use region_node::payments::{Payments, PaymentsConfig, Started, Surroundings, WebhookError};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::region::{connect, east};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;
use zeroize::Zeroizing;

pub(crate) const SECRET: &str = "whsec_test";
pub(crate) const PRICE: i64 = 5000;
/// What stands for the buyer's own text of the reservation's id.
pub(crate) const ID_TEXT: &str = "the-text-that-the-buyer-has";

/// The queue and the witnesses, as a test wants them.
#[derive(Default)]
pub(crate) struct Around {
    pub(crate) tails: Mutex<Vec<Tail>>,
    pub(crate) noted: Mutex<Vec<i64>>,
    /// As a region whose autonomy has ended.
    pub(crate) no_new_holds: AtomicBool,
}

impl Floor for Around {
    fn of(&self, _: i32) -> Known {
        Known::default()
    }
}

impl Surroundings for Around {
    fn note_book<'a>(&'a self, _: i32, book: i64) -> BoxFuture<'a, ()> {
        self.noted.lock().push(book);
        Box::pin(std::future::ready(()))
    }
    fn may_hold(&self) -> bool {
        !self.no_new_holds.load(Ordering::Relaxed)
    }
    fn tails<'a>(&'a self, _: i32) -> BoxFuture<'a, Result<Vec<Tail>, String>> {
        Box::pin(std::future::ready(Ok(self.tails.lock().clone())))
    }
}

pub(crate) struct World {
    pub(crate) sql: tokio_postgres::Client,
    pub(crate) db: Db,
    pub(crate) payments: Payments,
    pub(crate) around: Arc<Around>,
    pub(crate) concert_id: i32,
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
    pub(crate) stop: CancellationToken,
    next: std::sync::atomic::AtomicU64,
    _stop: DropGuard,
    _database: TestDatabase,
}

/// `POST /v1/webhooks/stripe` without the rest of the region around it.
async fn hook(State(payments): State<Payments>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = headers.get("stripe-signature").and_then(|value| value.to_str().ok()).unwrap_or_default();
    match payments.webhook(&body, header, region_node::clock::now_ms()).await {
        Ok(()) => StatusCode::OK,
        Err(WebhookError::Signature(_) | WebhookError::Malformed(_)) => StatusCode::BAD_REQUEST,
        Err(WebhookError::Foreign(_) | WebhookError::Db(_)) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn database() -> TestDatabase {
    let key = format!("payments_{:016x}", region_node::db::migrate::fingerprint());
    let fill = |address: ops::local::postgres::DatabaseAddress| async move {
        connect(&address).await.migrate(&east()).await.map(|_| ())
    };
    database_from(&key, fill).await.unwrap()
}

pub(crate) fn quick(config: &mut PaymentsConfig) {
    config.extension = Duration::from_millis(400);
    config.keep = Duration::from_millis(500);
    config.jitter = Duration::from_millis(20);
    config.poll = Duration::from_millis(20);
    config.retry = Duration::from_millis(150);
    config.rechecks = Rechecks { first: Duration::from_millis(600), last: Duration::from_millis(1_500) };
}

impl World {
    /// A concert with so many tickets, its background work running.
    pub(crate) async fn new(tickets: i64) -> Self {
        Self::with(tickets, |_| {}).await
    }

    pub(crate) async fn with(tickets: i64, change: impl FnOnce(&mut SandboxConfig)) -> Self {
        let world = Self::still(tickets, change).await;
        world.go();
        world
    }

    /// The same, with nothing at work in the background.
    pub(crate) async fn still(tickets: i64, change: impl FnOnce(&mut SandboxConfig)) -> Self {
        // What went wrong on the way is shown when a test fails.
        let _ = tracing_subscriber::fmt()
            .with_test_writer()
            .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
            .try_init();
        let database = database().await;
        let db = connect(database.address()).await;
        let sql = database.connect().await.unwrap();
        let stop = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hooks = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut sandbox = SandboxConfig::new(&url, "sk_test", "control", SECRET);
        sandbox.webhook_urls = vec![format!("http://{}/hook", hooks.local_addr().unwrap())];
        sandbox.processing = Duration::from_secs(3600);
        sandbox.retry_first = Duration::from_millis(50);
        change(&mut sandbox);
        let token = stop.clone();
        tokio::spawn(async move { sandbox::run(listener, sandbox, token).await.unwrap() });
        let provider = Stripe::new("sandbox", url.parse().unwrap(), Zeroizing::new("sk_test".to_owned())).unwrap();
        let provider: Arc<dyn Provider> = Arc::new(provider);
        let around = Arc::new(Around::default());
        let secrets = vec![Zeroizing::new(SECRET.to_owned())];
        let mut config = PaymentsConfig::new(east(), secrets);
        quick(&mut config);
        let payments = Payments::new(db.clone(), provider, around.clone(), config);
        let app = Router::new().route("/hook", post(hook)).with_state(payments.clone());
        tokio::spawn(axum::serve(hooks, app).with_graceful_shutdown(stop.clone().cancelled_owned()).into_future());
        let concert_id = concert(&sql, tickets).await;
        let guard = stop.clone().drop_guard();
        let (http, next) = (reqwest::Client::new(), 1.into());
        Self { sql, db, payments, around, concert_id, url, http, stop, next, _stop: guard, _database: database }
    }

    /// Starts the background work.
    pub(crate) fn go(&self) -> tokio::task::JoinHandle<()> {
        let (payments, stop) = (self.payments.clone(), self.stop.clone());
        tokio::spawn(async move { payments.run(stop).await })
    }

    /// Holds tickets as the allocator does.
    pub(crate) async fn hold(&self, quantity: i16, hold_ms: f64) -> Entry {
        self.hold_for(Uuid::new_v4(), quantity, hold_ms).await
    }

    pub(crate) async fn hold_for(&self, user: Uuid, quantity: i16, hold_ms: f64) -> Entry {
        let sequence = self.next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let entry = Entry::new(0, 1, sequence).unwrap();
        let amount = PRICE * i64::from(quantity);
        let held = self
            .sql
            .execute(
                "WITH b AS (UPDATE book SET book = book + 1 WHERE concert_id = $1 RETURNING book),
                 g AS (UPDATE queue_generation SET tail_seq = greatest(tail_seq, $6), cursor_seq = greatest(cursor_seq, $6)
                       WHERE concert_id = $1 AND shard = 0),
                 l AS (INSERT INTO ledger (concert_id, book, kind, tier, entry, tickets)
                       SELECT $1, book, 'hold', 0, $2, $4::smallint FROM b),
                 q AS (UPDATE quota SET held_in = held_in + $4::smallint WHERE concert_id = $1)
                 INSERT INTO reservation (concert_id, entry, user_hash, request_id, arrival_ms, state, tier, quantity,
                                          amount, held_at, hold_expires_at, book)
                 SELECT $1, $2, $3, gen_random_uuid(), 1, 'held', 0, $4, $5, now(),
                        now() + make_interval(secs => $7), book FROM b",
                &[
                    &self.concert_id,
                    &entry.to_i64(),
                    &user,
                    &quantity,
                    &amount,
                    &i64::try_from(sequence).unwrap(),
                    &(hold_ms / 1000.0),
                ],
            )
            .await
            .unwrap();
        assert_eq!(held, 1);
        entry
    }

    /// Its owner cancels a held reservation: the stock goes back at once.
    pub(crate) async fn cancel(&self, entry: Entry) -> bool {
        let done = self
            .sql
            .execute(
                "WITH b AS (UPDATE book SET book = book + 1 WHERE concert_id = $1 RETURNING book),
                 r AS (UPDATE reservation SET state = 'cancelled', changed_at = now()
                       WHERE concert_id = $1 AND entry = $2 AND state IN ('held', 'expiring') RETURNING quantity),
                 q AS (UPDATE quota SET released = released + quantity FROM r WHERE concert_id = $1)
                 INSERT INTO ledger (concert_id, book, kind, tier, entry, tickets)
                 SELECT $1, book, 'release', 0, $2, quantity FROM b, r",
                &[&self.concert_id, &entry.to_i64()],
            )
            .await;
        done.unwrap() == 1
    }

    pub(crate) async fn start(&self, entry: Entry) -> Started {
        self.payments.start(self.concert_id, entry, ID_TEXT).await.unwrap()
    }

    /// A buyer pays; the provider's HTTP status.
    pub(crate) async fn pay(&self, started: &Started, method: &str) -> u16 {
        let form = [("client_secret", started.client_secret.as_str()), ("payment_method", method)];
        let url = format!("{}/v1/payment_intents/{}/confirm", self.url, started.intent);
        self.http.post(url).form(&form).send().await.unwrap().status().as_u16()
    }

    pub(crate) async fn faults(&self, faults: Value) {
        let url = format!("{}/control/faults", self.url);
        let put = self.http.put(url).bearer_auth("control").json(&faults).send().await.unwrap();
        assert_eq!(put.status(), 200);
    }

    /// Makes something happen to a payment at the provider.
    pub(crate) async fn happen(&self, intent: &str, what: &str) {
        let url = format!("{}/control/payments/{intent}/{what}", self.url);
        let done = self.http.post(url).bearer_auth("control").send().await.unwrap();
        assert_eq!(done.status(), 200, "{what} {intent}");
    }

    /// A payment for this reservation that this region did not open, paid at once.
    pub(crate) async fn stray_payment(&self, entry: Entry, amount: i64) -> String {
        let (amount, entry) = (amount.to_string(), entry.to_i64().to_string());
        let form = [
            ("amount", amount.as_str()),
            ("currency", "eur"),
            ("metadata[region]", "east"),
            ("metadata[concert]", "demo"),
            ("metadata[entry]", entry.as_str()),
        ];
        let url = format!("{}/v1/payment_intents", self.url);
        // The provider may have been told to fail: until it is made.
        let intent = loop {
            let made = self.http.post(&url).bearer_auth("sk_test").form(&form).send().await.unwrap();
            if made.status().is_success() {
                break made.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
            }
        };
        self.happen(&intent, "succeed").await;
        intent
    }

    /// Sends a webhook of our own making.
    pub(crate) async fn webhook(&self, id: &str, kind: &str, object: Value) -> Result<(), WebhookError> {
        let body = json!({"id": id, "type": kind, "data": {"object": object}}).to_string();
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let header = sandbox::signature(&[SECRET.to_owned()], now, &body);
        self.payments.webhook(body.as_bytes(), &header, region_node::clock::now_ms()).await
    }

    /// State and reason of a reservation.
    pub(crate) async fn state(&self, entry: Entry) -> (String, Option<String>) {
        let query = "SELECT state::text, reason FROM reservation WHERE concert_id = $1 AND entry = $2";
        let row = self.sql.query_one(query, &[&self.concert_id, &entry.to_i64()]).await.unwrap();
        (row.get(0), row.get(1))
    }

    /// Waits for a reservation to be in a state.
    pub(crate) async fn becomes(&self, entry: Entry, state: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let now = self.state(entry).await;
            if now.0 == state {
                return;
            }
            assert!(Instant::now() < deadline, "{entry:?} is {now:?}, not {state}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for a query to give true.
    pub(crate) async fn holds(&self, query: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.sql.query_one(query, &[]).await.unwrap().get::<_, Option<bool>>(0).unwrap_or(false) {
            assert!(Instant::now() < deadline, "never true: {query}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }

    /// Waits until nothing is to be done: no webhook under way or unprocessed, no refund owed, no payment to be asked
    /// about again.
    pub(crate) async fn quiet(&self) {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let url = format!("{}/control/webhooks", self.url);
            let hooks: Value = self.http.get(url).bearer_auth("control").send().await.unwrap().json().await.unwrap();
            let open = self
                .number(
                    "SELECT (SELECT count(*) FROM webhook_event WHERE processed_at IS NULL)
                          + (SELECT count(*) FROM refund WHERE done_at IS NULL)
                          + (SELECT count(*) FROM payment p JOIN reservation r USING (concert_id, entry)
                             WHERE p.status = 'open' AND r.state NOT IN ('held', 'expiring'))
                          + (SELECT count(*) FROM payment WHERE status = 'cancelled' AND check_after < 'infinity')",
                )
                .await;
            if hooks["pending"] == 0 && open == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "never quiet: {open} open, webhooks {hooks}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everything the provider has.
    pub(crate) async fn provider(&self) -> Vec<sandbox::PaymentRow> {
        let url = format!("{}/control/payments", self.url);
        let page: sandbox::PaymentsPage =
            self.http.get(url).bearer_auth("control").send().await.unwrap().json().await.unwrap();
        assert!(page.next.is_none());
        page.payments
    }

    /// Waits for quiet, then holds everything against everything: the ledger against the quota row and the
    /// reservations, the tickets against the sales, and the money here against the money at the provider.
    pub(crate) async fn books_add_up(&self) {
        self.quiet().await;
        let problems = self
            .sql
            .query(
                "SELECT 'quota ' || q.* FROM quota q, LATERAL (SELECT
                     coalesce(sum(tickets) FILTER (WHERE kind = 'hold'), 0) h,
                     coalesce(sum(tickets) FILTER (WHERE kind = 'release'), 0) r,
                     coalesce(sum(tickets) FILTER (WHERE kind = 'sell'), 0) s,
                     coalesce(sum(tickets) FILTER (WHERE kind = 'refund'), 0) f FROM ledger) l,
                   LATERAL (SELECT coalesce(sum(tickets), 0) u FROM unfolded) u
                 WHERE (q.held_in, q.released, q.sold + u.u, q.refunded) <> (l.h, l.r, l.s, l.f)
                 UNION ALL
                 SELECT 'entry ' || r.entry || ' ' || r.state FROM reservation r, LATERAL (SELECT
                     coalesce(sum(tickets) FILTER (WHERE kind = 'hold'), 0)
                       - coalesce(sum(tickets) FILTER (WHERE kind = 'release'), 0) kept,
                     coalesce(sum(tickets) FILTER (WHERE kind = 'sell'), 0) sold,
                     coalesce(sum(tickets) FILTER (WHERE kind = 'refund'), 0) refunded
                   FROM ledger l WHERE l.entry = r.entry) l
                 WHERE (l.kept, l.sold, l.refunded) <> CASE
                     WHEN r.state IN ('held', 'expiring') THEN (r.quantity::bigint, 0::bigint, 0::bigint)
                     WHEN r.state = 'sold' THEN (r.quantity::bigint, r.quantity::bigint, 0::bigint)
                     WHEN r.state = 'refunded' THEN (r.quantity::bigint, r.quantity::bigint, r.quantity::bigint)
                     ELSE (0::bigint, 0::bigint, 0::bigint) END
                 UNION ALL
                 SELECT 'tickets of ' || r.entry FROM reservation r, LATERAL (
                     SELECT count(*) FILTER (WHERE status <> 'void') alive, count(*) FILTER (WHERE status = 'void') void
                     FROM ticket t WHERE t.entry = r.entry) t
                 WHERE (t.alive, t.void) <> CASE r.state WHEN 'sold' THEN (r.quantity::bigint, 0::bigint)
                     WHEN 'refunded' THEN (0::bigint, r.quantity::bigint) ELSE (0::bigint, 0::bigint) END",
                &[],
            )
            .await
            .unwrap();
        let problems: Vec<String> = problems.iter().map(|row| row.get(0)).collect();
        assert!(problems.is_empty(), "{problems:?}");
        let provider = self.provider().await;
        let kept: i64 = provider.iter().map(|row| row.kept).sum();
        let sold = self.number("SELECT coalesce(sum(amount), 0)::bigint FROM reservation WHERE state = 'sold'").await;
        assert_eq!(kept, sold, "the provider keeps {kept}, {sold} is sold: {provider:#?}");
        for row in provider.iter().filter(|row| row.kept > 0) {
            let owner = "SELECT count(*) FROM reservation WHERE state = 'sold' AND intent = $1";
            assert_eq!(self.sql.query_one(owner, &[&row.intent]).await.unwrap().get::<_, i64>(0), 1, "{row:?}");
            assert!(row.refunds.is_empty());
        }
        assert!(provider.iter().all(|row| row.refunds.len() <= 1), "money went back twice: {provider:#?}");
    }
}

async fn concert(sql: &tokio_postgres::Client, tickets: i64) -> i32 {
    let insert =
        "INSERT INTO concert (concert, title, venue, sale_opens_at, hold_ms, max_per_order, max_per_person, shards)
                  VALUES ('demo', 'Demo', 'Hall', now(), 600000, 4, 4, 1) RETURNING concert_id";
    let concert_id: i32 = sql.query_one(insert, &[]).await.unwrap().get(0);
    let rest = format!(
        "INSERT INTO tier (concert_id, tier, name, title, price_amount, price_currency)
             VALUES ({concert_id}, 0, 'A', 'A', {PRICE}, 'EUR');
         INSERT INTO book (concert_id) VALUES ({concert_id});
         INSERT INTO quota (concert_id, tier, granted, registered_as)
             SELECT {concert_id}, 0, {tickets}, identity FROM region;
         INSERT INTO ledger (concert_id, book, kind, tier, tickets) VALUES ({concert_id}, 0, 'grant', 0, {tickets});
         INSERT INTO queue_generation (concert_id, shard, generation) VALUES ({concert_id}, 0, 1);"
    );
    sql.batch_execute(&rest).await.unwrap();
    concert_id
}
