//! The servers that other tests stand on: apart from each other, durable as in production, gone when their test is.

use ops::local::process::Record;
use ops::local::testing;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

#[tokio::test]
async fn every_test_has_a_database_of_its_own_from_one_template() {
    let fill = |address: ops::local::postgres::DatabaseAddress| async move {
        address.connect().await?.batch_execute("CREATE TABLE thing (n int); INSERT INTO thing VALUES (7)").await?;
        Ok::<(), ops::local::LocalError>(())
    };
    let (one, other) =
        tokio::join!(testing::database_from("local_servers_1", fill), testing::database_from("local_servers_1", fill),);
    let (one, other) = (one.unwrap(), other.unwrap());
    let (client, other_client) = (one.connect().await.unwrap(), other.connect().await.unwrap());
    client.batch_execute("UPDATE thing SET n = 8").await.unwrap();
    let n: i32 = other_client.query_one("SELECT n FROM thing", &[]).await.unwrap().get(0);
    assert_eq!(n, 7);
    let refused = client.batch_execute("CREATE ROLE another").await.unwrap_err();
    assert_eq!(refused.code().map(|code| code.code()), Some("42501"), "the role has no rights beyond its database");
    let fsync: String = client.query_one("SHOW fsync", &[]).await.unwrap().get(0);
    assert_eq!(fsync, "on");
}

#[tokio::test]
async fn a_dropped_database_is_gone() {
    let database = testing::database().await.unwrap();
    let (name, mut admin) = (database.address().database.clone(), database.superuser().clone());
    drop(database);
    admin.database = "postgres".to_owned();
    let client = admin.connect().await.unwrap();
    let rows = client.query("SELECT 1 FROM pg_database WHERE datname = $1", &[&name]).await.unwrap();
    assert!(rows.is_empty());
}

#[tokio::test]
async fn redis_is_durable_and_keeps_what_it_said_across_a_kill() {
    let mut server = testing::redis().await.unwrap();
    let mut connection = server.connect().await.unwrap();
    for (setting, wanted) in [("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction")] {
        let (_, value): (String, String) =
            redis::cmd("CONFIG").arg("GET").arg(setting).query_async(&mut connection).await.unwrap();
        assert_eq!(value, wanted, "{setting}");
    }
    let without_password = redis::Client::open(server.url()).unwrap();
    let mut refused = without_password.get_multiplexed_async_connection().await.unwrap();
    let error = redis::cmd("PING").query_async::<String>(&mut refused).await.unwrap_err();
    assert!(error.to_string().contains("NOAUTH"), "{error}");
    redis::cmd("SET").arg("key").arg("value").exec_async(&mut connection).await.unwrap();
    server.kill();
    server.start_again().await.unwrap();
    let mut connection = server.connect().await.unwrap();
    let value: String = redis::cmd("GET").arg("key").query_async(&mut connection).await.unwrap();
    assert_eq!(value, "value");
}

#[tokio::test]
async fn a_killed_postgres_comes_back_with_what_it_committed() {
    let mut server = testing::own_postgres().await.unwrap();
    let address = server.ensure_database("region", "a password", "region").await.unwrap();
    let client = address.connect().await.unwrap();
    client.batch_execute("CREATE TABLE thing (n int); INSERT INTO thing VALUES (1)").await.unwrap();
    for _ in 0..2 {
        server.kill();
        server.start_again().await.unwrap();
    }
    let client = address.connect().await.unwrap();
    assert_eq!(client.query_one("SELECT n FROM thing", &[]).await.unwrap().get::<_, i32>(0), 1);
    server.pause();
    let stuck = tokio::time::timeout(Duration::from_millis(300), client.query_one("SELECT 1", &[])).await;
    assert!(stuck.is_err(), "a paused server answered");
    server.resume();
    client.query_one("SELECT 1", &[]).await.unwrap();
}

/// Started by the next test as a process of its own, and killed by it.
#[tokio::test]
#[ignore = "only the other half of the next test"]
async fn half_that_starts_servers_and_waits() {
    let redis = testing::redis().await.unwrap();
    let postgres = testing::own_postgres().await.unwrap();
    println!("pids {} {}", redis.record().unwrap().pid(), postgres.record().unwrap().pid());
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[test]
fn servers_of_a_killed_test_die_with_it() {
    let mut half = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "half_that_starts_servers_and_waits", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(half.stdout.take().unwrap()).lines().map_while(Result::ok);
    let pids = lines.find_map(|line| Some(line.split_once("pids ")?.1.to_owned())).expect("the half printed its pids");
    let servers: Vec<Record> = pids.split(' ').map(|pid| Record::of_pid(pid.parse().unwrap()).unwrap()).collect();
    half.kill().unwrap();
    half.wait().unwrap();
    for server in servers {
        assert!(server.wait_gone(Duration::from_secs(10)), "{server:?} outlived its test");
    }
}
