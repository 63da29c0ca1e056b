//! Arbiters that die, lose their disk, fall behind or are replaced. What was acknowledged is there afterwards.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_within_three_seconds_and_nothing_is_lost() {
    let mut world = World::start(3, "").await;
    for round in 0..3 {
        let name = format!("before-{round}");
        world.concert(&name, 10).await;
        let old = world.leader().await;
        world.arbiters.get_mut(&old).unwrap().kill();
        let since = Instant::now();
        let new = world.leader_within(Duration::from_secs(3)).await;
        let took = since.elapsed();
        assert!(new.is_some_and(|new| new != old), "no leader after {took:?}");
        let after = format!("after-{round}");
        world.concert(&after, 10).await;
        let known = world.get("/v1/concerts").await.to_string();
        assert!(known.contains(&name) && known.contains(&after), "{known}");
        world.arbiters.get_mut(&old).unwrap().start_with(&[]);
        world.has(old, &after).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_done_and_with_it_everything_goes_on() {
    let mut world = World::start(3, "").await;
    world.concert("demo", 10).await;
    let leader = world.leader().await;
    let others = world.arbiters.keys().copied().filter(|id| *id != leader).collect::<Vec<_>>();
    for id in &others {
        world.arbiters.get_mut(id).unwrap().kill();
    }
    assert_eq!(world.leader_within(Duration::from_secs(1)).await, None, "a linearizable read without a majority");
    let put = world.operator.post(world.arbiters[&leader].url("/v1/concerts/demo/close")).send().await.unwrap();
    assert!([503, 307].contains(&put.status().as_u16()), "{}", put.status());
    // What is here can still be seen.
    assert_eq!(world.concerts_of(leader).await, ["demo"]);
    for id in &others {
        world.arbiters.get_mut(id).unwrap().start_with(&[]);
    }
    world.concert("more", 10).await;
    for id in [1, 2, 3] {
        world.has(id, "more").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_far_behind_gets_a_snapshot_and_a_wiped_one_is_replaced() {
    let mut world = World::start(3, "log_size_max_bytes = 20000").await;
    let leader = world.leader().await;
    let behind = world.arbiters.keys().copied().find(|id| *id != leader).unwrap();
    world.arbiters.get_mut(&behind).unwrap().kill();
    // Beyond the log's trail of a thousand entries, so that only a snapshot helps.
    for round in 0..12 {
        let orders = (0..100).map(|number| {
            let (operator, url) = (world.operator.clone(), world.arbiters[&leader].url("/v1/quota/demo/rebalance"));
            async move { (number, operator.post(url).send().await.unwrap().status().as_u16()) }
        });
        if round == 0 {
            world.concert("demo", 10).await;
        }
        for (number, status) in futures::future::join_all(orders).await {
            assert_eq!(status, 200, "{number}");
        }
    }
    world.concert("late", 10).await;
    world.arbiters.get_mut(&behind).unwrap().start_with(&[]);
    world.has(behind, "late").await;

    // Its disk is lost: it must not come back under its id.
    let arbiter = world.arbiters.get_mut(&behind).unwrap();
    arbiter.kill();
    std::fs::remove_dir_all(arbiter.data()).unwrap();
    arbiter.start_with(&[]);
    let ended = arbiter.exits_within(Duration::from_secs(20)).await.expect("a wiped arbiter runs");
    assert!(!ended.success() && arbiter.log().contains("was wiped"), "{}", arbiter.log());
    let (status, body) = world.ask(reqwest::Method::DELETE, &format!("/v1/cluster/members/{behind}"), None).await;
    assert_eq!(status, 200, "{body}");
    // Under its old id it cannot be added, under a new one it can.
    world.place(4);
    let member = |id: u64| {
        let arbiter = &world.arbiters[&4];
        json!({"id": id, "address": arbiter.url(""), "people": arbiter.people_url("")})
    };
    let (status, body) = world.ask(reqwest::Method::POST, "/v1/cluster/members", Some(&member(behind))).await;
    assert_eq!(status, 409, "{body}");
    let members = world.members();
    world.configure(4, &members, true);
    let (status, body) = world.ask(reqwest::Method::POST, "/v1/cluster/members", Some(&member(4))).await;
    assert_eq!(status, 200, "{body}");
    world.arbiters.get_mut(&4).unwrap().start_with(&[]);
    world.has(4, "late").await;
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let cluster = world.get("/v1/cluster").await;
        let new = cluster["members"].as_array().unwrap().iter().find(|member| member["id"] == 4).cloned();
        if new.as_ref().is_some_and(|new| new["role"] == "follower") {
            break;
        }
        assert!(Instant::now() < end, "{cluster}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It counts: with it and one other there is a majority.
    let leader = world.leader().await;
    let third = world.arbiters.keys().copied().find(|id| ![leader, behind, 4].contains(id)).unwrap();
    world.arbiters.get_mut(&third).unwrap().kill();
    world.concert("with-the-new-one", 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_loses_nothing_that_was_acknowledged() {
    let mut world = World::start(3, "log_size_max_bytes = 10000").await;
    let mut expected = Vec::new();
    for (number, point) in quota_arbiter::failpoints::ALL.iter().enumerate() {
        // Once as whoever it is, and once more a little later in its life.
        for nth in [3, 40] {
            let victim = world.leader().await;
            let arbiter = world.arbiters.get_mut(&victim).unwrap();
            arbiter.kill();
            let crash = if point.contains("compact") { (*point).to_owned() } else { format!("{point}:{nth}") };
            arbiter.start_with(&[("BOXOFFICE_CRASH_AT", &crash)]);
            let end = Instant::now() + Duration::from_secs(40);
            let mut created = 0;
            loop {
                let name = format!("c{number}-{nth}-{created}");
                world.concert(&name, 10).await;
                expected.push(name);
                created += 1;
                let arbiter = world.arbiters.get_mut(&victim).unwrap();
                if let Some(status) = arbiter.exits_within(Duration::ZERO).await {
                    assert!(!status.success());
                    break;
                }
                assert!(Instant::now() < end, "{crash} was never reached\n{}", arbiter.log());
            }
            let arbiter = world.arbiters.get_mut(&victim).unwrap();
            arbiter.kill();
            arbiter.start_with(&[]);
            let last = expected.last().unwrap().clone();
            world.has(victim, &last).await;
            let known = world.concerts_of(victim).await;
            let lost = expected.iter().filter(|name| !known.contains(name)).collect::<Vec<_>>();
            assert!(lost.is_empty(), "lost after {crash}: {lost:?}");
        }
    }
}
