//! A snapshot is made and written on the node's own thread, between two turns. For the largest cluster that is planned for
//! (1,000 regions, 100 pools) that must stay well below the time after which followers look for another leader.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use quota_arbiter::{
    command::{LogEntry, Work},
    raft::{Machine as _, Settings},
    state::State,
    store::{Batch, DiskStore, LogStore as _, Stored},
};
use quota_protocol::{Command, Counters, Epoch, Identity, PoolId, RegionId, Register, Tickets, command::Heard};
use raft::eraftpb::{Snapshot, SnapshotMetadata};
use std::time::{Duration, Instant};

const REGIONS: usize = 1_000;
const POOLS: usize = 100;
/// The arbiters' default.
const TICK: Duration = Duration::from_millis(100);

fn apply(state: &mut State, commands: Vec<Command>) {
    for commands in commands.chunks(500) {
        let entry = LogEntry::new(1, Work::Quota(commands.to_vec())).encode().unwrap();
        state.apply(&entry).unwrap();
    }
}

/// Every region has some of every pool, and every column of every floor is of a realistic length.
fn largest() -> State {
    let mut state = State::default();
    let pools: Vec<PoolId> = (0..POOLS).map(|number| format!("concert-{number}/A").parse().unwrap()).collect();
    let regions: Vec<RegionId> = (0..REGIONS).map(|number| format!("region-{number}").parse().unwrap()).collect();
    let total = Tickets::from_u32(10_000_000);
    apply(&mut state, pools.iter().map(|pool| Command::CreatePool { pool: *pool, total }).collect());
    let register = |(number, region): (usize, &RegionId)| {
        let identity = Identity { system: 7_312_345_678_901_234_567, timeline: 1, copy: number as u128 };
        let (incarnation, epoch_as_read) = Default::default();
        Command::Register(Register { region: *region, identity, incarnation, epoch_as_read, database: None })
    };
    apply(&mut state, regions.iter().enumerate().map(register).collect());
    let (epoch, granted) = (Epoch::new(1), Tickets::from_u32(9_876));
    let column = Tickets::from_u32(4_321);
    let counters = Counters { granted, held_in: column, sold: Tickets::from_u32(3_210), ..Counters::ZERO };
    for pool in &pools {
        let grant = |region: &RegionId| Command::GrantUpTo { region: *region, epoch, pool: *pool, granted };
        apply(&mut state, regions.iter().map(grant).collect());
        let heard = regions.iter().map(|region| Heard { region: *region, epoch, pool: *pool, counters });
        apply(&mut state, vec![Command::RaiseFloors { heard: heard.collect() }]);
    }
    state
}

#[test]
fn the_largest_snapshot_holds_up_a_leader_for_less_than_an_election_takes() {
    let state = largest();
    let folder = tempfile::tempdir().unwrap();
    let mut store = DiskStore::open(&folder.path().join("raft.redb")).unwrap();
    let mut stored = Stored::first(vec![1, 2, 3], State::default().snapshot());
    store.persist(&stored.as_batch()).unwrap();
    let mut best = Duration::MAX;
    for index in 2..6 {
        let begun = Instant::now();
        let metadata = SnapshotMetadata { index, term: 1, ..stored.snapshot.metadata.clone().unwrap() };
        let snapshot = Snapshot { data: state.snapshot(), metadata: Some(metadata) };
        let made = begun.elapsed();
        let entries = vec![raft::eraftpb::Entry { index, term: 1, ..Default::default() }];
        stored.hard_state.commit = index;
        let hard_state = stored.hard_state.clone();
        let bytes = snapshot.data.len();
        let compact = Some((snapshot, index));
        store.persist(&Batch { entries, hard_state, compact, sync: true, ..Batch::default() }).unwrap();
        let took = begun.elapsed();
        println!("a snapshot of {bytes} bytes was made in {made:?} and on disk after {took:?}");
        best = best.min(took);
    }
    let election = TICK * Settings::new(1).election_ticks as u32;
    // The quickest of several: the others say how busy this machine is with other tests.
    assert!(best < election / 2, "{best:?}, and followers wait for {election:?}");
}
