//! The driver on the real store, over a disk that loses its power at any write: what was acknowledged is there
//! afterwards, each proposal is applied once, and in order; through elections, snapshots and compactions.

mod disk;

use disk::{Backend, Dice, open};
use quota_arbiter::{
    raft::{Acknowledged, Driver, Machine, ProposalId, Settings},
    store::{DiskStore, LogStore, StoreError, Stored},
};

/// Every proposal that was applied, in order.
#[derive(Debug, Default)]
struct Journal(Vec<u64>);

#[derive(Debug, thiserror::Error)]
#[error("not a number")]
struct NotANumber;

impl Machine for Journal {
    type Applied = ();
    type Unknown = NotANumber;
    type BadSnapshot = NotANumber;

    fn apply(&mut self, entry: &[u8]) -> Result<(), NotANumber> {
        self.0.push(u64::from_be_bytes(entry.try_into().map_err(|_| NotANumber)?));
        Ok(())
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), NotANumber> {
        let (numbers, rest) = snapshot.as_chunks::<8>();
        self.0 = numbers.iter().map(|number| u64::from_be_bytes(*number)).collect();
        if rest.is_empty() { Ok(()) } else { Err(NotANumber) }
    }
}

struct Node {
    store: DiskStore,
    driver: Driver<Journal>,
    acknowledged: Vec<u64>,
}

impl Node {
    /// Starts on what is there, as an arbiter does.
    fn start(backend: &Backend) -> Result<Self, StoreError> {
        let mut store = open(backend)?;
        let stored = match store.load()? {
            Some(stored) => stored,
            None => {
                let first = Stored::first(vec![1], Vec::new());
                store.persist(&first.as_batch())?;
                first
            }
        };
        let settings = Settings { log_size_max_bytes: 2_000, log_trail_entries: 5, ..Settings::new(1) };
        match Driver::new(settings, stored, Journal::default()) {
            Ok(driver) => Ok(Self { store, driver, acknowledged: Vec::new() }),
            Err(error) => panic!("what was stored is not understood: {error}"),
        }
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        while let Some(work) = self.driver.ready() {
            self.store.persist(&work.batch)?;
            let output = self.driver.persisted().unwrap_or_else(|error| panic!("{error}"));
            for known in output.acknowledged {
                match known {
                    Acknowledged::Committed { id, .. } => self.acknowledged.push(id.0 as u64),
                    other => panic!("alone, nobody displaces anything: {other:?}"),
                }
            }
        }
        Ok(())
    }

    fn lead(&mut self) -> Result<(), StoreError> {
        while !self.driver.leads() {
            self.driver.tick();
            self.settle()?;
        }
        self.settle()
    }

    fn propose(&mut self, from: u64, many: u64) -> Result<(), StoreError> {
        for number in from..from + many {
            let proposed = self.driver.propose(ProposalId(u128::from(number)), number.to_be_bytes().to_vec());
            assert!(proposed.is_ok(), "alone, a leader takes every proposal: {proposed:?}");
        }
        self.settle()
    }
}

/// Leads and proposes until the power goes. What was acknowledged, and how many were proposed.
fn live(backend: &Backend, from: u64, dice: &mut Dice) -> (Vec<u64>, u64) {
    let Ok(mut node) = Node::start(backend) else { return (Vec::new(), from) };
    let mut next = from;
    if node.lead().is_ok() {
        for _ in 0..200 {
            let many = dice.below(8) + 1;
            next += many;
            if node.propose(next - many, many).is_err() {
                break;
            }
        }
    }
    backend.0.lock().power_fails_in = Some(0);
    (node.acknowledged, next)
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_at_any_moment() {
    let (mut kept, mut compacted) = (0, 0);
    for seed in 0..150 {
        let mut dice = Dice(seed);
        let backend = Backend::default();
        // An empty store is there before a node writes to it: a file gets its name only then.
        drop(open(&backend).unwrap());
        let mut applied = Vec::new();
        // Several lives on one disk, each ended by a cut.
        for life in 0..4 {
            backend.0.lock().power_fails_in = Some(dice.below(if life == 0 { 60 } else { 900 }));
            let from = applied.len() as u64;
            let (acknowledged, next) = live(&backend, from, &mut dice);
            backend.0.lock().cut(&mut dice);
            let mut node = Node::start(&backend).unwrap_or_else(|error| panic!("seed {seed}, life {life}: {error}"));
            node.lead().unwrap();
            applied.clone_from(&node.driver.machine().0);
            let all = (0..applied.len() as u64).collect::<Vec<_>>();
            assert_eq!(applied, all, "seed {seed}, life {life}: out of order, twice, or with a hole");
            assert!(applied.len() as u64 <= next, "seed {seed}, life {life}: more than was ever proposed");
            let last = acknowledged.last().map_or(from, |last| last + 1);
            assert!(
                applied.len() as u64 >= last,
                "seed {seed}, life {life}: {last} were acknowledged, {} are there",
                applied.len()
            );
            kept += acknowledged.len();
            drop(node);
            compacted += u64::from(open(&backend).unwrap().load().unwrap().unwrap().before.0 > 1);
        }
    }
    assert!(kept > 5_000 && compacted > 100, "only {kept} were acknowledged, {compacted} logs compacted");
}
