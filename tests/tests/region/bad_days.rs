//! What happens to a region around a node: an emptied queue, an older database, an end in the middle of a sale.

use nix::sys::signal::Signal;
use ops::load;
use ops::stage::{Spec, Stage};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use super::buyers::Buyer;
use super::ground::*;
use super::repeats::{crowd, must_add_up, one_ticket};
use super::wire::must_refuse;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_queue_is_reclaimed_by_its_owners_in_order_and_once() {
    let mut stage = region_of(Spec::default(), 1, one_ticket()).await;
    let first = Buyer::new(&stage).await;
    let held = first.hold(1).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let buyer = Buyer::new(&stage).await;
        let place = buyer.join(1).await;
        waiting.push((buyer, place));
    }
    stage.redis.kill();
    std::fs::remove_dir_all(stage.redis.folder().join("appendonlydir")).unwrap();
    stage.redis.start_again().await.unwrap();
    // Whoever comes now finds no queue, and has one begun.
    let newcomer = Buyer::new(&stage).await;
    let begun = Instant::now();
    let late = loop {
        let answer = newcomer.ask(uuid::Uuid::new_v4(), 1).await;
        if answer.status == 202 {
            break super::buyers::reservation(&answer);
        }
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", answer.text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let sql = stage.sql().await.unwrap();
    let one = "SELECT count(*) FROM queue_generation WHERE lost_at IS NOT NULL";
    while sql.query_one(one, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody notices that the queue was lost");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Back to their places: by a poll or by asking for it, by several at once, and only by their owners.
    for (number, (buyer, place)) in waiting.iter().enumerate() {
        let reclaim = format!("/v1/reservations/{place}/reclaim");
        must_refuse(&newcomer.call("POST", &reclaim, &Value::Null).await, 403, "forbidden", "somebody else's place");
        for _ in 0..2 {
            let answer = match number {
                0 | 1 => buyer.call("POST", &reclaim, &Value::Null).await,
                _ => buyer.poll(place).await,
            };
            assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("queued")), "{}", answer.text());
        }
    }
    let begun = Instant::now();
    loop {
        let rows: i64 = sql.query_one("SELECT count(*) FROM waiting", &[]).await.unwrap().get(0);
        assert!(rows <= 4, "{rows} places of four people");
        if rows == 4 {
            break;
        }
        // A node learns of a lost generation with its next look, a second later.
        assert!(begun.elapsed() < Duration::from_secs(20), "{rows} of 4 came back");
        for (buyer, place) in &waiting {
            assert_eq!(buyer.poll(place).await.json()["status"], "queued");
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    first.cancel(&held).await;
    for (buyer, place) in &waiting {
        buyer.until(place, &["held"]).await;
        assert_eq!(newcomer.poll(&late).await.json()["status"], "queued", "who came later is later");
        assert_eq!(buyer.cancel(place).await.json()["status"], "cancelled");
    }
    newcomer.until(&late, &["held"]).await;
    must_add_up(&stage).await;
    // It logged what was lost, as an error: that is what an operator looks for.
    assert!(!stage.nodes[0].ended());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_not_read_its_books_yet_says_so_and_not_that_nothing_is_there() {
    let mut stage = region(10).await;
    let buyer = Buyer::new(&stage).await;
    let place = buyer.hold(1).await;
    stage.nodes[0].kill();
    let books = stage.sql_superuser().await.unwrap();
    books.batch_execute("BEGIN; LOCK TABLE tier IN ACCESS EXCLUSIVE MODE").await.unwrap();
    stage.nodes[0].start_again(&[]).unwrap();
    let begun = Instant::now();
    while tokio::net::TcpStream::connect(stage.public()).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the node does not come back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let reservation = format!("/v1/reservations/{place}");
    for (method, path) in [
        ("GET", reservation.as_str()),
        ("DELETE", &reservation),
        ("POST", &format!("{reservation}/payment")),
        ("GET", &format!("{reservation}/events")),
        ("GET", "/v1/concerts/demo"),
        ("GET", "/v1/concerts"),
    ] {
        must_refuse(&buyer.call(method, path, &Value::Null).await, 503, "unavailable", path);
    }
    must_refuse(&buyer.ask(uuid::Uuid::new_v4(), 1).await, 503, "unavailable", "a join");
    let admin = stage.admin().unwrap();
    let listed = stage.http().get(format!("{}/v1/concerts", admin.url)).bearer_auth(&admin.token).send().await.unwrap();
    assert_eq!(listed.status(), 503, "an empty list would be taken for the truth");
    books.batch_execute("COMMIT").await.unwrap();
    stage.ready().await.unwrap();
    assert_eq!(buyer.poll(&place).await.json()["status"], "held");
    must_add_up(&stage).await;
}

/// Exchanges the region's database for its copy of that name while the node runs.
async fn swap_in(stage: &Stage, copy: &str) {
    let admin = stage.postgres.superuser("postgres").connect().await.unwrap();
    let statements = [
        "ALTER DATABASE boxoffice ALLOW_CONNECTIONS false".to_owned(),
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'boxoffice'".to_owned(),
        "ALTER DATABASE boxoffice RENAME TO newer".to_owned(),
        format!("ALTER DATABASE {copy} RENAME TO boxoffice"),
    ];
    for statement in statements {
        admin.batch_execute(&statement).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_the_database_sells_nothing_until_an_operator_says_so() {
    let mut stage = region(20).await;
    Buyer::new(&stage).await.buy(&stage, 1).await;
    // A copy cannot be made of what is in use.
    stage.nodes[0].stop();
    let admin = stage.postgres.superuser("postgres").connect().await.unwrap();
    admin.batch_execute("CREATE DATABASE older TEMPLATE boxoffice OWNER boxoffice").await.unwrap();
    stage.nodes[0].start_again(&[]).unwrap();
    stage.ready().await.unwrap();
    Buyer::new(&stage).await.buy(&stage, 2).await;
    let before = stage.concert_status("demo").await.unwrap();
    // The witness outside is written a moment after the commit.
    tokio::time::sleep(Duration::from_millis(500)).await;
    swap_in(&stage, "older").await;

    let late = Buyer::new(&stage).await;
    let place = late.join(1).await;
    let ready = format!("http://{}/readyz", stage.public());
    let begun = Instant::now();
    let told = loop {
        let answer = stage.http().get(&ready).send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        if status == 503 && text.contains("halted") {
            break text;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "the node goes on: {status} {text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(told.contains("demo") && told.contains("older") && told.contains("accept-books"), "{told}");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(late.poll(&place).await.json()["status"], "queued", "nothing is held out of old books");

    let access = stage.admin().unwrap();
    let accept = async |body: &Value| {
        let url = format!("{}/v1/concerts/demo/accept-books", access.url);
        stage.http().post(url).bearer_auth(&access.token).json(body).send().await.unwrap()
    };
    assert_eq!(accept(&json!({ "reason": " " })).await.status().as_u16(), 400);
    let accepted = accept(&json!({ "reason": "the newer database is lost for good" })).await;
    assert_eq!(accepted.status().as_u16(), 200, "{}", accepted.text().await.unwrap());
    late.until(&place, &["held"]).await;
    let after = stage.concert_status("demo").await.unwrap();
    assert!(after.book > before.book, "above every number that was witnessed: {} {}", after.book, before.book);
    let sql = stage.sql().await.unwrap();
    let acts =
        "SELECT count(*) FROM operator_act WHERE what::text LIKE '%lost for good%' OR who LIKE '%lost for good%'";
    assert_eq!(sql.query_one(acts, &[]).await.unwrap().get::<_, i64>(0), 1, "it is written down who said so");
    stage.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_told_to_end_under_load_answers_what_it_took_and_ends_in_time() {
    let mut stage = region_of(Spec::default(), 300, json!({ "hold_ms": 12_000 })).await;
    let (target, options) = (stage.load_target(), crowd(300, 0.2));
    let people = tokio::spawn(async move { load::run(&target, &options, false).await });
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        stage.nodes[0].signal(Signal::SIGTERM);
        let status = stage.nodes[0].exits_within(Duration::from_secs(30)).await;
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
        stage.nodes[0].start_again(&[]).unwrap();
        stage.ready().await.unwrap();
    }
    let done = people.await.unwrap().unwrap();
    let report = done.report(300, true);
    assert_eq!(report.errors, 0, "{report:?}");
    assert!(report.sold > 50, "{report:?}");
    must_add_up(&stage).await;
    is_well(&mut stage).await;
}
