//! What the queue's tests share: items, a queue on a private Redis, and the check that every acknowledged join is there.

#![allow(dead_code, clippy::unwrap_used, reason = "only tests use it, and every test binary its own part")]

use ops::local::Redis;
use region_api::{Entry, UserHash};
use region_node::queue::*;
use sale::allocate::Tiers;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Four shards: some batches touch several, some one.
pub(crate) const CONCERT: ConcertQueue = ConcertQueue { concert_id: 7, shards: 4 };

pub(crate) fn user(number: u64) -> UserHash {
    let mut hash = [0; 16];
    hash[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    hash[8..].copy_from_slice(&number.to_be_bytes());
    UserHash(hash)
}

/// `user`'s request number `request`, always the same content.
pub(crate) fn item(user_number: u64, request: u64) -> JoinItem {
    JoinItem {
        user: user(user_number),
        request_id: Uuid::from_u64_pair(user_number, request),
        quantity: 2,
        tiers: Tiers::from_slice(&[1, 0]),
        any_quantity: false,
        identity: None,
    }
}

pub(crate) fn config_of(redis: &Redis) -> QueueConfig {
    let mut config = QueueConfig::single(redis.url());
    config.password = Some(Secret::new(redis.password().to_owned()));
    config
}

/// A queue on `redis` whose every shard has generation 1.
pub(crate) async fn queue_on(redis: &Redis) -> Queue {
    let queue = Queue::connect(&config_of(redis)).await.unwrap();
    begin_all(&queue, 1).await;
    queue
}

pub(crate) async fn begin_all(queue: &Queue, generation: u16) {
    for shard in 0..CONCERT.shards {
        queue.begin_generation(CONCERT, shard, generation).await.unwrap();
    }
}

/// Everything that the queue holds of a generation, by entry; panics when a number or a user is there twice.
pub(crate) async fn everything(queue: &Queue, generation: u16) -> HashMap<Entry, QueueEntry> {
    let (mut found, mut users) = (HashMap::new(), HashMap::new());
    for shard in 0..CONCERT.shards {
        let mut after = 0;
        loop {
            let page = queue.peek(CONCERT, shard, generation, after, 700).await.unwrap();
            let Some(last) = page.last() else { break };
            let mut arrival_ms = 0;
            for entry in &page {
                assert_eq!(entry.entry.sequence(), after + 1, "numbers leave no gap");
                assert!(entry.arrival_ms >= arrival_ms, "arrivals never go back");
                assert_eq!(entry.entry.shard(), shard_of(&entry.item.user, CONCERT.shards));
                (after, arrival_ms) = (after + 1, entry.arrival_ms);
                let twice = users.insert(entry.item.user, entry.entry);
                assert_eq!(twice, None, "a user has one place");
            }
            assert_eq!(last.entry.sequence(), after);
            found.extend(page.into_iter().map(|entry| (entry.entry, entry)));
        }
    }
    found
}

/// Joins until the queue takes it again, at most ten seconds.
pub(crate) async fn join_again(queue: &Queue, item: &JoinItem) -> Joined {
    let begun = Instant::now();
    loop {
        match queue.join(CONCERT, item.clone()).await {
            Ok(joined) => return joined,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(10), "still refused: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn until_ready(queue: &Queue) {
    let begun = Instant::now();
    while !queue.state().ready {
        assert!(begun.elapsed() < Duration::from_secs(10), "not ready: {queue:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
