//! What the arbiters' log and snapshots weigh on a disk: the real driver with the real store under its usual settings,
//! fed with the commands of a busy sale. For `bench` and for whoever has to size a disk; the commands are made up, their
//! form is not.

use std::{path::Path, time::Instant};

use anyhow::{Context as _, ensure};
use quota_arbiter::{
    command::{LogEntry, Work},
    raft::{Driver, Machine, ProposalId, Settings as Node},
    state::State,
    store::{DiskStore, LogStore, Stored},
};
use quota_protocol::{Command, Counters, Epoch, Identity, Issuer, PoolId, RegionId, Register, Tickets, command::Heard};

const REGIONS: usize = 3;
const POOLS: usize = 10;
/// Entries proposed before the disk is asked to keep them.
const ENTRIES_PER_BATCH: usize = 64;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogSizes {
    /// Quota commands applied.
    pub commands: u64,
    /// The log entries that carried them.
    pub entries: u64,
    /// Bytes of these entries, all together, whether or not they were dropped again.
    pub log_bytes: u64,
    /// Bytes of the last snapshot.
    pub snapshot_bytes: u64,
    /// Snapshots that were made.
    pub snapshots: u64,
    /// The largest that the file was.
    pub file_max_bytes: u64,
    /// How long it took, with every batch on the disk before the next.
    pub took_s: f64,
}

/// Applies so many commands on one node with its log in `folder`, which must be empty, and measures; then reads the log
/// back, as a node does that starts.
///
/// # Errors
/// When the disk fails, or what is read back is not what was written.
pub fn log_sizes(folder: &Path, commands: u64) -> anyhow::Result<LogSizes> {
    let path = folder.join("log.redb");
    ensure!(!path.exists(), "{} is there already: give an empty folder", path.display());
    let began = Instant::now();
    let mut store = DiskStore::open(&path)?;
    let first = Stored::first(vec![1], State::default().snapshot());
    store.persist(&first.as_batch())?;
    let mut driver = Driver::new(Node::new(1), first, State::default())?;
    let mut sizes = LogSizes {
        commands: 0,
        entries: 0,
        log_bytes: 0,
        snapshot_bytes: 0,
        snapshots: 0,
        file_max_bytes: 0,
        took_s: 0.0,
    };
    while !driver.leads() {
        driver.tick();
        keep(&mut driver, &mut store, &mut sizes)?;
    }
    let mut round = 0;
    while sizes.commands < commands {
        for _ in 0..ENTRIES_PER_BATCH {
            let made = if round == 0 { beginning()? } else { sale(driver.machine().issuer(), round)? };
            sizes.commands += made.len() as u64;
            sizes.entries += 1;
            let entry = LogEntry::new(1_900_000_000_000 + round, Work::Quota(made)).encode()?;
            driver.propose(ProposalId(u128::from(round)), entry).context("one node alone takes every proposal")?;
            round += 1;
            if round == 1 {
                break;
            }
        }
        keep(&mut driver, &mut store, &mut sizes)?;
        sizes.file_max_bytes = sizes.file_max_bytes.max(std::fs::metadata(&path)?.len());
    }
    sizes.took_s = began.elapsed().as_secs_f64();
    drop(store);
    let stored = DiskStore::open(&path)?.load()?.context("the log is empty")?;
    let mut again = Driver::new(Node::new(1), stored, State::default())?;
    while again.applied().index < driver.applied().index {
        again.tick();
        while again.ready().is_some() {
            again.persisted()?;
        }
    }
    ensure!(again.machine() == driver.machine(), "a node that starts again has another state");
    Ok(sizes)
}

fn keep(driver: &mut Driver<State>, store: &mut DiskStore, sizes: &mut LogSizes) -> anyhow::Result<()> {
    while let Some(work) = driver.ready() {
        sizes.log_bytes +=
            work.batch.entries.iter().map(|entry| entry.data.len() + entry.context.len()).sum::<usize>() as u64;
        if let Some((snapshot, _)) = &work.batch.compact {
            sizes.snapshots += 1;
            sizes.snapshot_bytes = snapshot.data.len() as u64;
        }
        store.persist(&work.batch)?;
        driver.persisted()?;
    }
    Ok(())
}

fn pool(number: usize) -> anyhow::Result<PoolId> {
    Ok(format!("concert-{number}/A").parse()?)
}

fn region(number: usize) -> anyhow::Result<RegionId> {
    Ok(["east", "west", "south"][number].parse()?)
}

/// Pools and registered regions.
fn beginning() -> anyhow::Result<Vec<Command>> {
    let mut commands = Vec::new();
    for number in 0..POOLS {
        commands.push(Command::CreatePool { pool: pool(number)?, total: Tickets::from_u32(1_000_000_000) });
    }
    for number in 0..REGIONS {
        let identity = Identity { system: 7_312_345_678_901_234_567, timeline: 1, copy: number as u128 };
        let (incarnation, epoch_as_read) = Default::default();
        let region = region(number)?;
        commands.push(Command::Register(Register { region, identity, incarnation, epoch_as_read, database: None }));
    }
    Ok(commands)
}

/// What a leader asks for in one tick of a busy pool: the floors of all regions, a grant, and now and then a return.
fn sale(issuer: &Issuer, round: u64) -> anyhow::Result<Vec<Command>> {
    let pool = pool(round as usize % POOLS)?;
    let epoch = Epoch::new(1);
    let mut heard = Vec::new();
    for number in 0..REGIONS {
        let region = region(number)?;
        let slice = issuer.slice(&region, &pool);
        // Half of it is sold, and some holds lapsed.
        let sold = Tickets::new((slice.granted - slice.accepted).get() / 2)?;
        let released = Tickets::new(sold.get() / 3)?;
        let held_in = sold + released;
        let counters = Counters {
            granted: slice.granted,
            returned: slice.accepted,
            held_in,
            released,
            sold,
            refunded: Tickets::ZERO,
        };
        heard.push(Heard { region, epoch, pool, counters });
    }
    let to = region((round / POOLS as u64) as usize % REGIONS)?;
    let slice = issuer.slice(&to, &pool);
    let granted = slice.granted + Tickets::from_u32(20);
    let mut commands = vec![Command::RaiseFloors { heard }, Command::GrantUpTo { region: to, epoch, pool, granted }];
    if round.is_multiple_of(3) && slice.granted > slice.accepted + Tickets::from_u32(40) {
        let returned = slice.accepted + Tickets::from_u32(5);
        commands.push(Command::AcceptReturn { region: to, epoch, pool, returned });
    }
    Ok(commands)
}
