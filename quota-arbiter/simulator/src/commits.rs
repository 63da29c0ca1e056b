//! What the protocol costs on top of raft: three nodes with their logs on disk commit the same entries, once with the
//! arbiters' state and once with a state machine that does nothing. And what a leader's work with heartbeats costs.
//!
//! Each node is one thread with its driver and its store; they send each other messages through channels. Whoever leads
//! keeps a fixed number of proposals under way. Must never be slower for a reason that is not there in an arbiter: there
//! is no network here, and no TLS.

use std::{
    convert::Infallible,
    path::Path,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use quota_arbiter::{
    command::{LogEntry, Work},
    leader::Leader,
    raft::{Acknowledged, Driver, Machine, Message, ProposalId, Settings as Node},
    state::State,
    store::{DiskStore, LogStore, Stored},
};
use quota_protocol::{
    Command, Counters, Epoch, Identity, PoolId, RegionId, Register, Tickets,
    message::{Demand, PoolReport, Report},
    policy::Policy,
    wire::SyncRequest,
};

/// Members of the cluster.
const NODES: u64 = 3;
/// Proposals that the leader keeps under way.
const UNDER_WAY: u64 = 256;
const TICK: Duration = Duration::from_millis(100);
/// Rounds that a leader does in a second.
const ROUNDS_PER_S: u64 = 10;

/// A state machine that does nothing.
#[derive(Debug, Default)]
pub struct Nothing;

impl Machine for Nothing {
    type Applied = ();
    type Unknown = Infallible;
    type BadSnapshot = Infallible;

    fn apply(&mut self, _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }

    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }
}

/// What the threads of one cluster share.
struct Shared {
    stop: AtomicBool,
    proposed: AtomicU64,
    committed: AtomicU64,
}

/// Entries, of one grant each, that three nodes commit in a second, with their logs in `folder`, which must be empty.
///
/// # Errors
/// When a disk fails, or no node comes to lead.
pub fn commits_per_s<M: Machine + Default + Send>(folder: &Path, time: Duration) -> anyhow::Result<f64> {
    let shared = Shared { stop: AtomicBool::new(false), proposed: AtomicU64::new(0), committed: AtomicU64::new(0) };
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..NODES).map(|_| channel::<Message>()).unzip();
    std::thread::scope(|scope| {
        let mut nodes = Vec::new();
        for (id, inbox) in (1..=NODES).zip(receivers) {
            let (senders, shared) = (senders.clone(), &shared);
            let path = folder.join(format!("{id}.redb"));
            nodes.push(scope.spawn(move || {
                let ended = node::<M>(id, &path, &inbox, &senders, shared);
                shared.stop.store(true, Relaxed);
                ended
            }));
        }
        let began = Instant::now();
        while shared.committed.load(Relaxed) == 0 && !shared.stop.load(Relaxed) && began.elapsed() < 10 * time {
            std::thread::sleep(Duration::from_millis(10));
        }
        let (from, since) = (shared.committed.load(Relaxed), Instant::now());
        std::thread::sleep(time);
        let (to, took) = (shared.committed.load(Relaxed), since.elapsed());
        shared.stop.store(true, Relaxed);
        for node in nodes {
            node.join().map_err(|_| anyhow::anyhow!("a node panicked"))??;
        }
        ensure!(from > 0, "nothing was committed: no node came to lead");
        Ok((to - from) as f64 / took.as_secs_f64())
    })
}

fn node<M: Machine + Default>(
    id: u64,
    path: &Path,
    inbox: &Receiver<Message>,
    senders: &[Sender<Message>],
    shared: &Shared,
) -> anyhow::Result<()> {
    let mut store = DiskStore::open(path)?;
    let first = Stored::first((1..=NODES).collect(), M::default().snapshot());
    store.persist(&first.as_batch())?;
    let mut driver = Driver::new(Node::new(id), first, M::default())?;
    let send = |messages: Vec<Message>| {
        for message in messages {
            // A node that has ended already hears nothing: the run is over.
            let _ = senders[message.to as usize - 1].send(message);
        }
    };
    let (mut tick_at, mut under_way) = (Instant::now() + TICK, 0);
    while !shared.stop.load(Relaxed) {
        while let Ok(message) = inbox.try_recv() {
            driver.step(message);
        }
        if Instant::now() >= tick_at {
            tick_at += TICK;
            driver.tick();
        }
        while driver.leads() && under_way < UNDER_WAY {
            let number = shared.proposed.load(Relaxed);
            if driver.propose(ProposalId(u128::from(number)), entry(number)?).is_err() {
                break;
            }
            shared.proposed.store(number + 1, Relaxed);
            under_way += 1;
        }
        let Some(work) = driver.ready() else {
            if let Ok(message) = inbox.recv_timeout(Duration::from_millis(1)) {
                driver.step(message);
            }
            continue;
        };
        send(work.messages);
        store.persist(&work.batch)?;
        let output = driver.persisted()?;
        send(output.messages);
        for acknowledged in output.acknowledged {
            under_way -= 1;
            if matches!(acknowledged, Acknowledged::Committed { .. }) {
                shared.committed.fetch_add(1, Relaxed);
            }
        }
    }
    Ok(())
}

/// The first entry makes a pool and a region, every later one raises the region's grant.
fn entry(number: u64) -> anyhow::Result<Vec<u8>> {
    let (pool, region) = ("demo/A".parse()?, "east".parse()?);
    let commands = if number == 0 {
        vec![Command::CreatePool { pool, total: Tickets::from_u32(u32::MAX) }, register(region)]
    } else {
        vec![Command::GrantUpTo { region, epoch: Epoch::new(1), pool, granted: Tickets::new(number)? }]
    };
    Ok(LogEntry::new(1_900_000_000_000 + number, Work::Quota(commands)).encode()?)
}

fn register(region: RegionId) -> Command {
    let identity = Identity { system: 1, timeline: 1, copy: 1 };
    Command::Register(Register {
        region,
        identity,
        incarnation: Default::default(),
        epoch_as_read: Epoch::default(),
        database: None,
    })
}

/// Seconds of one processor that a second of heartbeats costs a leader: each region's report read from its JSON, heard
/// and answered in JSON, ten rounds with a plan, and their entries applied. Without the disk, the network and TLS. With
/// `busy`, every row changes between two heartbeats; else none does.
///
/// # Errors
/// When a message is refused.
pub fn heartbeat_cost(regions: usize, pools: usize, busy: bool, seconds: u64) -> anyhow::Result<f64> {
    let mut state = State::default();
    let pools = (0..pools).map(|n| format!("concert-{n}/A").parse()).collect::<Result<Vec<PoolId>, _>>()?;
    let regions = (0..regions).map(|n| format!("region-{n}").parse()).collect::<Result<Vec<RegionId>, _>>()?;
    let granted = Tickets::from_u32(1_000);
    let total = Tickets::new(granted.get() * regions.len() as u64)?;
    let mut commands = pools.iter().map(|pool| Command::CreatePool { pool: *pool, total }).collect::<Vec<_>>();
    for region in &regions {
        commands.push(register(*region));
        commands.extend(pools.iter().map(|pool| Command::GrantUpTo {
            region: *region,
            epoch: Epoch::new(1),
            pool: *pool,
            granted,
        }));
    }
    for commands in commands.chunks(500) {
        state.apply(&LogEntry::new(1, Work::Quota(commands.to_vec())).encode()?)?;
    }
    let mut leader = Leader::new(Policy::default());
    let mut cost = Duration::ZERO;
    // The first second fills the leader's memory and is not counted.
    for second in 0..=seconds {
        let bodies = regions.iter().map(|region| body(*region, &pools, if busy { second + 1 } else { 1 }));
        let bodies = bodies.collect::<anyhow::Result<Vec<_>>>()?;
        let began = Instant::now();
        for (round, bodies) in bodies.chunks(regions.len().div_ceil(ROUNDS_PER_S as usize)).enumerate() {
            let now_ms = second * 1_000 + round as u64 * 1_000 / ROUNDS_PER_S;
            for body in bodies {
                let request: SyncRequest = serde_json::from_slice(body)?;
                let report = request.report()?.context("every region is registered")?;
                let region = report.region;
                leader.hear(state.issuer(), now_ms, report)?;
                std::hint::black_box(serde_json::to_vec(&leader.answer(state.issuer(), &region))?);
            }
            for commands in leader.round(&state, now_ms).entries {
                state.apply(&LogEntry::new(now_ms, Work::Quota(commands)).encode()?)?;
            }
        }
        if second > 0 {
            cost += began.elapsed();
        }
    }
    Ok(cost.as_secs_f64() / seconds as f64)
}

fn body(region: RegionId, pools: &[PoolId], held: u64) -> anyhow::Result<Vec<u8>> {
    let counters = Counters { granted: Tickets::from_u32(1_000), held_in: Tickets::new(held)?, ..Counters::ZERO };
    let demand =
        Demand { queued: Tickets::from_u32(3), head_quantities: vec![Tickets::from_u32(2)], ..Demand::default() };
    let pools = pools.iter().map(|pool| PoolReport { pool: *pool, counters, demand: demand.clone() });
    let (incarnation, epoch) = (Default::default(), Epoch::new(1));
    let report = Report { region, incarnation, epoch, pools: pools.collect() };
    let identity = Identity { system: 1, timeline: 1, copy: 1 };
    Ok(serde_json::to_vec(&SyncRequest::new(region, identity, incarnation, Some(report)))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_work_that_is_done() {
        let folder = tempfile::tempdir().unwrap();
        assert!(commits_per_s::<State>(folder.path(), Duration::from_millis(300)).unwrap() > 0.0);
        assert!(heartbeat_cost(3, 2, true, 1).unwrap() > 0.0);
    }
}
