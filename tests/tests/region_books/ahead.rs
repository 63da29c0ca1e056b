//! Batches whose users were looked up before their turn, and batches that meet somebody else's rows.

use crate::world::{World, definition};
use region_node::db::allocate::{Batches, CursorMove, Decided, Ground, Hold, Place};
use region_node::db::book::{Known, NoFloor};
use region_node::db::finals::{self, Ended, Ending};
use tokio::sync::Notify;

/// Two tickets of the only tier for each of them.
fn hold_all(places: &[Place], ground: &Ground) -> Decided {
    let hold = |place| Hold { place, tier: 0, quantity: 2, amount: 2_000, hold_ms: 60_000 };
    let moved = ground.generations.iter().filter_map(|g| {
        let of_shard = places.iter().filter(|place| place.entry.shard() == g.shard);
        let to_seq = of_shard.map(|place| place.entry.sequence()).max()?;
        Some(CursorMove { shard: g.shard, generation: g.generation, from_seq: g.cursor_seq, to_seq, tail_seq: to_seq })
    });
    Decided { cursors: moved.collect(), holds: (0..places.len()).map(hold).collect(), ..Decided::default() }
}

#[tokio::test]
async fn somebody_who_cancels_meanwhile_costs_nobody_else_a_hold() {
    let world = World::new(&definition(&[100])).await;
    let mut places = Vec::new();
    for user in 0..6 {
        places.push(world.join(user, 2, &[0], false).await);
    }
    let batches = Batches::connect(&world.books.db).await.unwrap();
    let ground = batches.open(world.id(), Known::default(), &places, None, 0).await.unwrap();
    let ended = finals::end(&world.books.db, world.id(), &places[2], Ending::Cancel, &NoFloor).await.unwrap();
    assert_eq!(ended, Ended::WhileQueued);
    let whole =
        batches.commit(world.id(), &ground, &places, &hold_all(&places, &ground), &Notify::new()).await.unwrap();
    assert!(!whole, "a row was in the way");
    for (n, place) in places.iter().enumerate() {
        assert_eq!(world.state(place).await, if n == 2 { "cancelled" } else { "held" }, "number {n}");
    }
    assert_eq!(world.count("SELECT held_in FROM quota").await, 10);
    assert_eq!(world.count("SELECT count(*) FROM ledger WHERE kind = 'hold'").await, 5, "the first try left nothing");
    world.audit(&places).await;

    // The connection goes on after the refusal, and with nobody in the way everything is written at once.
    let more = [world.join(20, 2, &[0], false).await];
    let ground = batches.open(world.id(), Known::default(), &more, None, 0).await.unwrap();
    assert!(batches.commit(world.id(), &ground, &more, &hold_all(&more, &ground), &Notify::new()).await.unwrap());
    world.audit(&more).await;
    let times = "SELECT count(*) FROM reservation WHERE state = 'held' AND (held_at > now() OR
        held_at < now() - interval '30 s' OR hold_expires_at <> held_at + interval '60 s')";
    assert_eq!(world.count(times).await, 0, "times are the database's");
}

#[tokio::test]
async fn what_was_looked_up_ahead_does_not_outlive_the_book() {
    let world = World::new(&definition(&[100])).await;
    let place = world.join(1, 2, &[0], false).await;
    let batches = Batches::connect(&world.books.db).await.unwrap();
    let places = [place];
    let early = batches.look_ahead(world.id(), &places).await.unwrap();
    world.allocate(2).await.unwrap();
    assert_eq!(world.state(&places[0]).await, "held");
    for ahead in [early, batches.look_ahead(world.id(), &places).await.unwrap()] {
        let ground = batches.open(world.id(), Known::default(), &places, Some(&ahead), 0).await.unwrap();
        let found: Vec<_> = ground.owned.iter().map(|row| (row.entry, row.active)).collect();
        assert_eq!(found, [(places[0].entry, true)], "the hold that somebody else made is seen");
        batches.roll_back().await.unwrap();
    }
}

/// Several full batches one behind the other, all but the first looked up ahead, past the end of the stock.
#[tokio::test]
async fn a_deep_queue_is_served_in_order_of_arrival() {
    const PEOPLE: u64 = 4_500;
    const TICKETS: u64 = 3_300;
    let world = World::new(&definition(&[TICKETS])).await;
    let mut places = Vec::new();
    for first in (0..PEOPLE).step_by(500) {
        places
            .extend(futures::future::join_all((first..first + 500).map(|user| world.join(user, 1, &[0], false))).await);
    }
    for place in places.iter().step_by(450) {
        let ended = finals::end(&world.books.db, world.id(), place, Ending::Cancel, &NoFloor).await.unwrap();
        assert_eq!(ended, Ended::WhileQueued);
    }
    world.allocate(12).await.unwrap();
    assert_eq!(world.count("SELECT held_in FROM quota").await, TICKETS as i64);
    world.audit(&places).await;
    let overtaken = "SELECT count(*) FROM queue_generation g JOIN reservation r ON r.concert_id = g.concert_id
        AND r.entry >> 52 = g.shard WHERE r.state = 'held' AND (r.entry & ((1::bigint << 40) - 1)) > g.cursor_seq";
    assert_eq!(world.count(overtaken).await, 0);
    let latest = world.count("SELECT max(arrival_ms) FROM reservation WHERE state = 'held'").await;
    for place in places.iter().filter(|place| (place.arrival_ms as i64) < latest) {
        assert_ne!(world.state(place).await, "none", "{:?} came before somebody who was served", place.entry);
    }
}
