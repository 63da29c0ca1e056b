//! Arbiters and their disks: full, damaged, gone, restored from a backup.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::world::{Region, World};

fn log_file(world: &World, id: u64) -> std::path::PathBuf {
    world.arbiters[&id].data().join("raft.redb")
}

/// A concert whose definition takes some ten kilobytes of log.
async fn large_concert(world: &World, name: &str) {
    let title = "T".repeat(150);
    let tiers = (0..60).map(|tier| {
        json!({"tier": format!("T{tier}"), "title": title, "price": {"amount": 100, "currency": "EUR"}, "total": 10})
    });
    let definition = json!({"title": "A night", "sale_opens_at": "2030-01-01T00:00:00Z",
        "tiers": tiers.collect::<Vec<_>>()});
    let (status, body) = world.ask(reqwest::Method::PUT, &format!("/v1/concerts/{name}"), Some(&definition)).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_the_arbiter_with_what_to_do_and_loses_nothing() {
    let mut world = World::start(3, "").await;
    let victim = world.leader().await;
    let most = std::fs::metadata(log_file(&world, victim)).unwrap().len() + 50_000;
    let pid = world.arbiters[&victim].pid().to_string();
    // To the process, a limit on a file's size is a disk that is full: a write fails.
    let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={most}")]).status().unwrap();
    assert!(limited.success());
    let mut expected = Vec::new();
    let end = Instant::now() + Duration::from_secs(60);
    let status = loop {
        let name = format!("c{}", expected.len());
        large_concert(&world, &name).await;
        expected.push(name);
        if let Some(status) = world.arbiters.get_mut(&victim).unwrap().exits_within(Duration::ZERO).await {
            break status;
        }
        assert!(Instant::now() < end, "the disk is never full");
    };
    let log = world.arbiters[&victim].log();
    assert!(status.code() == Some(1) && log.contains("make room or repair the disk"), "{status}\n{log}");
    let arbiter = world.arbiters.get_mut(&victim).unwrap();
    arbiter.kill();
    arbiter.start_with(&[]);
    world.has(victim, expected.last().unwrap()).await;
    let known = world.concerts_of(victim).await;
    assert!(expected.iter().all(|name| known.contains(name)), "{known:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_refused_with_what_to_do_and_left_as_it_is() {
    let mut world = World::start(3, "").await;
    world.concert("demo", 10).await;
    let victim = world.leader().await;
    world.has(victim, "demo").await;
    world.arbiters.get_mut(&victim).unwrap().kill();
    let path = log_file(&world, victim);
    let good = std::fs::read(&path).unwrap();
    // Rot in the middle of what was committed, and a file that lost its end.
    let rotten = {
        let mut bytes = good.clone();
        let places = good.windows(7).enumerate().filter(|(_, bytes)| *bytes == b"A night").map(|(at, _)| at);
        for at in places {
            bytes[at] ^= 1;
        }
        assert_ne!(bytes, good);
        bytes
    };
    let torn = good[..good.len() / 2].to_vec();
    for bytes in [rotten, torn] {
        std::fs::write(&path, &bytes).unwrap();
        let arbiter = world.arbiters.get_mut(&victim).unwrap();
        arbiter.start_with(&[]);
        let status = arbiter.exits_within(Duration::from_secs(20)).await.expect("it runs on a damaged log");
        assert_eq!(status.code(), Some(1), "{}", arbiter.log());
        assert!(arbiter.log().contains("Remove this node from the cluster, wipe its folder"), "{}", arbiter.log());
        assert!(std::fs::metadata(&path).unwrap().len() >= bytes.len() as u64, "it was shortened");
        std::fs::remove_file(arbiter.folder.join("log")).unwrap();
        arbiter.kill();
    }
    // The two others go on.
    world.concert("more", 10).await;
}

fn run(config: &Path, arguments: &[&str]) -> std::process::Output {
    let program = ops::stage::program("quota-arbiter").unwrap();
    Command::new(program).arg("--config").arg(config).args(arguments).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_restored_from_a_backup_waits_for_its_regions() {
    let mut world = World::start(3, "").await;
    world.concert("demo", 100).await;
    let mut east = Region::new(&world, "east");
    east.register(&world).await;
    let file = world.folder.path().join("backup.json");
    let name = file.to_str().unwrap();
    let made = run(&world.arbiters[&1].config(), &["backup", "--out", name]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for arbiter in world.arbiters.values_mut() {
        arbiter.kill();
    }
    // A copy of a folder will do as well.
    let copy = world.folder.path().join("copy.json");
    let made = run(&world.arbiters[&2].config(), &["backup", "--out", copy.to_str().unwrap()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let restore = ["restore", "--from", name, "--regions", "east,west"];
    let refused = run(&world.arbiters[&1].config(), &restore);
    assert!(!refused.status.success(), "over a folder that has a log");
    std::fs::remove_dir_all(world.arbiters[&1].data()).unwrap();
    let done = run(&world.arbiters[&1].config(), &restore);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    // An old arbiter that comes back has no say.
    for id in [1, 2] {
        world.arbiters.get_mut(&id).unwrap().start_with(&[]);
    }
    assert_eq!(world.leader().await, 1);
    let cluster = world.get("/v1/cluster").await;
    assert_eq!(&cluster["awaited"], &json!(["east", "west"]), "{cluster}");
    let incarnation = &cluster["incarnation"];
    assert!(incarnation.as_u64() > Some(0), "{cluster}");
    assert_eq!(cluster["members"].as_array().unwrap().len(), 1);
    let order = json!({"from": "pool", "to": "east", "tickets": 10, "request_id": uuid::Uuid::new_v4().to_string()});
    let (status, body) = world.ask(reqwest::Method::POST, "/v1/quota/demo/A/move", Some(&order)).await;
    assert_eq!(status, 409, "frozen: {body}");
    // East says what it has, and is waited for no more.
    let (_, view) = east.post(&world, "sync", &look(&east)).await;
    let body = json!({"version": 1, "register": {"region": "east", "identity": crate::world::IDENTITY, "incarnation": incarnation,
        "epoch_as_read": view["sync"]["epoch"], "database": {"epoch": east.epoch, "rows": {}}}});
    let (status, answer) = east.post(&world, "register", &body).await;
    assert!(status == 200 && answer["answer"]["registered"].is_object(), "{answer}");
    assert_eq!(world.get("/v1/cluster").await["awaited"], json!(["west"]));
    assert_eq!(world.leader().await, 1);
}

fn look(region: &Region) -> Value {
    let mut body = region.sync_body(json!([]));
    body["look"] = json!(true);
    body["sync"]["epoch"] = Value::Null;
    body
}
