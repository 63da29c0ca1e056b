//! Every answer that a join can get, and what the other operations of the queue do to it, on a real Redis.

mod queue_support;

use ops::local::testing;
use queue_support::*;
use region_api::IdentityHash;
use region_node::queue::limits::{LAPSE_COOL_DOWN, VOID_COOL_DOWN};
use region_node::queue::*;
use std::time::Duration;

#[tokio::test]
async fn a_join_is_fresh_once_and_a_repeat_after() {
    let redis = testing::redis().await.unwrap();
    let queue = queue_on(&redis).await;
    let first = queue.join(CONCERT, item(1, 1)).await.unwrap();
    assert_eq!(first.outcome, JoinOutcome::Fresh);
    assert_eq!((first.entry.generation(), first.entry.sequence()), (1, 1));
    assert_eq!(first.item, item(1, 1));
    let same = queue.join(CONCERT, item(1, 1)).await.unwrap();
    assert_eq!(same, Joined { outcome: JoinOutcome::Repeat, ..first.clone() });
    // Another intent of the same user gets the first place, with the first one's content.
    let mut other = item(1, 2);
    other.quantity = 4;
    let again = queue.join(CONCERT, other).await.unwrap();
    assert_eq!((again.entry, again.item.quantity, again.outcome), (first.entry, 2, JoinOutcome::Repeat));
    let all = everything(&queue, 1).await;
    assert_eq!(all.len(), 1);
    assert_eq!(all[&first.entry].item, item(1, 1));
    assert_eq!(all[&first.entry].arrival_ms, first.arrival_ms);
}

#[tokio::test]
async fn the_same_request_with_other_content_is_a_conflict() {
    let redis = testing::redis().await.unwrap();
    let queue = queue_on(&redis).await;
    let mut with_identity = item(1, 1);
    with_identity.identity = Some(IdentityHash([9; 16]));
    queue.join(CONCERT, with_identity.clone()).await.unwrap();
    type Change = fn(&mut JoinItem);
    let changes: [Change; 6] = [
        |item| item.quantity = 3,
        |item| item.any_quantity = true,
        |item| item.tiers.swap(0, 1),
        |item| item.tiers.push(5),
        |item| item.identity = None,
        |item| item.identity = Some(IdentityHash([8; 16])),
    ];
    for change in changes {
        let mut changed = with_identity.clone();
        change(&mut changed);
        assert_eq!(queue.join(CONCERT, changed).await, Err(JoinError::Conflict));
    }
    assert_eq!(queue.join(CONCERT, with_identity.clone()).await.unwrap().outcome, JoinOutcome::Repeat);
    let all = everything(&queue, 1).await;
    assert_eq!(all.into_values().next().unwrap().item, with_identity);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_doubled_at_once_get_one_place() {
    let redis = testing::redis().await.unwrap();
    let queue = queue_on(&redis).await;
    let mut running = Vec::new();
    for n in 0..4_000u64 {
        let queue = queue.clone();
        // Every user eight times: four times the same request, four times another.
        running.push(tokio::spawn(async move { queue.join(CONCERT, item(n % 500, n % 1_000 / 500)).await.unwrap() }));
    }
    let (mut fresh, mut places) = (0, std::collections::HashMap::new());
    for task in running {
        let joined = task.await.unwrap();
        fresh += usize::from(joined.outcome == JoinOutcome::Fresh);
        assert_eq!(*places.entry(joined.item.user).or_insert(joined.entry), joined.entry);
    }
    assert_eq!(fresh, 500);
    assert_eq!(everything(&queue, 1).await.len(), 500);
}

#[tokio::test]
async fn a_final_place_answers_for_its_request_and_lets_the_next_one_in() {
    let redis = testing::redis().await.unwrap();
    let queue = queue_on(&redis).await;
    let first = queue.join(CONCERT, item(1, 1)).await.unwrap();
    let done = Settle { user: user(1), entry: first.entry, outcome: SettleOutcome::Done };
    // An entry that is not the user's place settles nothing.
    let other = region_api::Entry::new(first.entry.shard(), 1, first.entry.sequence() + 1).unwrap();
    queue.settle(CONCERT, &[Settle { entry: other, ..done }]).await.unwrap();
    assert_eq!(queue.join(CONCERT, item(1, 1)).await.unwrap().outcome, JoinOutcome::Repeat);
    queue.settle(CONCERT, &[done, done]).await.unwrap();
    queue.settle(CONCERT, &[done]).await.unwrap();
    let asked = queue.join(CONCERT, item(1, 1)).await.unwrap();
    assert_eq!(asked, Joined { outcome: JoinOutcome::Final, ..first.clone() });
    let mut changed = item(1, 1);
    changed.quantity = 9;
    assert_eq!(queue.join(CONCERT, changed).await, Err(JoinError::Conflict));
    let next = queue.join(CONCERT, item(1, 2)).await.unwrap();
    assert_eq!((next.outcome, next.entry.sequence()), (JoinOutcome::Fresh, first.entry.sequence() + 1));
    // The old news does not touch the new place.
    queue.settle(CONCERT, &[done]).await.unwrap();
    assert_eq!(queue.join(CONCERT, item(1, 2)).await.unwrap().outcome, JoinOutcome::Repeat);
}

#[tokio::test]
async fn two_lapsed_holds_or_a_void_bring_a_cool_down() {
    let redis = testing::redis().await.unwrap();
    let queue = queue_on(&redis).await;
    let mut place = queue.join(CONCERT, item(1, 1)).await.unwrap();
    let lapsed = |entry| Settle { user: user(1), entry, outcome: SettleOutcome::Lapsed };
    // Told twice, it counts once.
    queue.settle(CONCERT, &[lapsed(place.entry)]).await.unwrap();
    queue.settle(CONCERT, &[lapsed(place.entry)]).await.unwrap();
    place = queue.join(CONCERT, item(1, 2)).await.unwrap();
    assert_eq!(place.outcome, JoinOutcome::Fresh);
    queue.settle(CONCERT, &[lapsed(place.entry)]).await.unwrap();
    let Err(JoinError::CoolDown(wait)) = queue.join(CONCERT, item(1, 3)).await else { panic!("no cool-down") };
    assert!(wait <= LAPSE_COOL_DOWN && wait > LAPSE_COOL_DOWN - Duration::from_secs(20), "{wait:?}");
    // The same request still learns what became of it.
    assert_eq!(queue.join(CONCERT, item(1, 2)).await.unwrap().outcome, JoinOutcome::Final);

    let place = queue.join(CONCERT, item(2, 1)).await.unwrap();
    let voided = Settle { user: user(2), entry: place.entry, outcome: SettleOutcome::Voided };
    queue.settle(CONCERT, &[voided]).await.unwrap();
    let Err(JoinError::CoolDown(wait)) = queue.join(CONCERT, item(2, 2)).await else { panic!("no cool-down") };
    assert!(wait <= VOID_COOL_DOWN && wait > VOID_COOL_DOWN - Duration::from_secs(20), "{wait:?}");
    let given: u64 = queue.shards(CONCERT).await.unwrap().iter().map(|shard| shard.tail_seq).sum();
    assert_eq!(given, 3, "a refused join takes no place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimming_keeps_or_forgets_places_and_moves_the_head() {
    let redis = testing::redis().await.unwrap();
    let queue = queue_on(&redis).await;
    let joins = (0..3_000).map(|n| queue.join(CONCERT, item(n, 1)));
    futures::future::try_join_all(joins).await.unwrap();
    let states = queue.shards(CONCERT).await.unwrap();
    for state in &states {
        assert_eq!((state.head_seq, state.generation), (1, 1));
        let cut = state.tail_seq / 2;
        queue.trim(CONCERT, state.shard, 1, cut, false).await.unwrap();
        let left = queue.peek(CONCERT, state.shard, 1, cut, 10_000).await.unwrap();
        assert_eq!(left.len() as u64, state.tail_seq - cut, "nothing beyond the cut is lost");
        queue.trim(CONCERT, state.shard, 1, cut, true).await.unwrap();
        queue.trim(CONCERT, state.shard, 1, state.tail_seq, true).await.unwrap();
    }
    for (after, before) in queue.shards(CONCERT).await.unwrap().iter().zip(&states) {
        assert_eq!((after.head_seq, after.tail_seq), (before.tail_seq + 1, before.tail_seq));
    }
    // Those whose entry was still there when places were forgotten may join again; numbers go on.
    let again: Vec<_> =
        futures::future::try_join_all((0..3_000).map(|n| queue.join(CONCERT, item(n, 2)))).await.unwrap();
    let fresh = again.iter().filter(|joined| joined.outcome == JoinOutcome::Fresh).count();
    assert!(fresh >= 1_500, "{fresh}");
    for joined in again.iter().filter(|joined| joined.outcome == JoinOutcome::Fresh) {
        assert!(joined.entry.sequence() > states[usize::from(joined.entry.shard())].tail_seq);
    }
}

#[tokio::test]
async fn a_shard_without_a_generation_refuses_and_generations_only_grow() {
    let redis = testing::redis().await.unwrap();
    let queue = Queue::connect(&config_of(&redis)).await.unwrap();
    assert_eq!(queue.shards(CONCERT).await.unwrap(), []);
    let shard = shard_of(&user(1), CONCERT.shards);
    assert_eq!(queue.join(CONCERT, item(1, 1)).await, Err(JoinError::NoGeneration { shard }));
    let begun = queue.begin_generation(CONCERT, shard, 3).await.unwrap();
    assert_eq!((begun.generation, begun.head_seq, begun.tail_seq), (3, 1, 0));
    let joined = queue.join(CONCERT, item(1, 1)).await.unwrap();
    let same = queue.begin_generation(CONCERT, shard, 3).await.unwrap();
    assert_eq!((same.generation, same.tail_seq), (3, 1));
    assert_eq!(queue.begin_generation(CONCERT, shard, 2).await.unwrap(), same);
    // A later one: numbers begin again, what was there stays readable and trimmable under its own number.
    let next = queue.begin_generation(CONCERT, shard, 5).await.unwrap();
    assert_eq!((next.generation, next.head_seq, next.tail_seq), (5, 1, 0));
    assert!(next.tail_arrival_ms >= joined.arrival_ms);
    let left = queue.peek(CONCERT, shard, 3, 0, 10).await.unwrap();
    assert_eq!(left.iter().map(|entry| entry.entry).collect::<Vec<_>>(), [joined.entry]);
    assert_eq!(queue.peek(CONCERT, shard, 5, 0, 10).await.unwrap(), []);
    assert_eq!(queue.join(CONCERT, item(1, 1)).await.unwrap().entry, joined.entry, "the place outlives its generation");
    queue.trim(CONCERT, shard, 3, 1, true).await.unwrap();
    assert_eq!(queue.peek(CONCERT, shard, 3, 0, 10).await.unwrap(), []);
    let fresh = queue.join(CONCERT, item(1, 1)).await.unwrap();
    assert_eq!((fresh.entry.generation(), fresh.entry.sequence(), fresh.outcome), (5, 1, JoinOutcome::Fresh));
}

#[tokio::test]
async fn samples_books_and_once() {
    let redis = testing::redis().await.unwrap();
    let queue = queue_on(&redis).await;
    let shard = shard_of(&user(1), CONCERT.shards);
    let first = queue.join(CONCERT, item(1, 1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let in_shard = (2..).find(|n| shard_of(&user(*n), CONCERT.shards) == shard).unwrap();
    let second = queue.join(CONCERT, item(in_shard, 1)).await.unwrap();
    let samples = queue.samples(CONCERT, shard).await.unwrap();
    let expected = |joined: &Joined| Sample {
        arrival_ms: joined.arrival_ms,
        generation: 1,
        sequence: joined.entry.sequence() - 1,
    };
    assert_eq!(samples, [expected(&first), expected(&second)]);

    assert_eq!(queue.book(CONCERT).await.unwrap(), None);
    for (noted, is) in [(41, 41), (40, 41), (1 << 50, 1 << 50)] {
        queue.note_book(CONCERT, noted).await.unwrap();
        assert_eq!(queue.book(CONCERT).await.unwrap(), Some(is));
    }
    assert!(queue.once("nonce", Duration::from_millis(300)).await.unwrap());
    assert!(!queue.once("nonce", Duration::from_millis(300)).await.unwrap());
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(queue.once("nonce", Duration::from_millis(300)).await.unwrap());
}

#[tokio::test]
async fn a_server_that_forgets_is_refused_and_one_that_forbids_looking_is_noted() {
    for (setting, line) in
        [("appendfsync", "appendfsync everysec"), ("maxmemory-policy", "maxmemory-policy allkeys-lru")]
    {
        let redis = testing::redis_with(&[line]).await.unwrap();
        let refused = Queue::connect(&config_of(&redis)).await.unwrap_err();
        assert!(matches!(&refused, QueueError::Unfit { problem, .. } if problem.contains(setting)), "{refused}");
    }
    let redis = testing::redis_with(&["rename-command CONFIG \"\""]).await.unwrap();
    let queue = queue_on(&redis).await;
    let state = queue.state();
    assert!(state.ready && state.servers[0].note.as_deref().unwrap().contains("CONFIG is forbidden"), "{state:?}");
    assert_eq!(queue.join(CONCERT, item(1, 1)).await.unwrap().outcome, JoinOutcome::Fresh);
    let mut wrong = config_of(&redis);
    wrong.password = Some(Secret::new("wrong".to_owned()));
    assert!(matches!(Queue::connect(&wrong).await, Err(QueueError::Unavailable(_))));
}

#[tokio::test]
async fn too_many_at_once_are_refused() {
    let redis = testing::redis().await.unwrap();
    let mut config = config_of(&redis);
    config.inflight_max = 100;
    let queue = Queue::connect(&config).await.unwrap();
    begin_all(&queue, 1).await;
    let answers = futures::future::join_all((0..500).map(|n| queue.join(CONCERT, item(n, 1)))).await;
    let stored = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!(answers.iter().all(|answer| matches!(answer, Ok(_) | Err(JoinError::Overloaded))));
    assert_eq!(stored, 100);
    assert_eq!(everything(&queue, 1).await.len(), 100);
    assert_eq!(queue.state().joins_in_flight, 0);
    assert_eq!(queue.join(CONCERT, item(900, 1)).await.unwrap().outcome, JoinOutcome::Fresh);
}
