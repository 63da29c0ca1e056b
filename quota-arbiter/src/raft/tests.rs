//! The driver by itself: three nodes on one thread, with every message delivered. Faults are the simulator's business.

use std::collections::BTreeMap;

use raft::eraftpb::{Entry, HardState};

use super::*;
use crate::store::{Batch, Stored};

/// Counts, and stops at an entry it does not know.
#[derive(Default)]
struct Counter(Vec<u8>);

#[derive(Debug, thiserror::Error)]
#[error("unknown")]
struct Unknown;

impl Machine for Counter {
    type Applied = usize;
    type Unknown = Unknown;
    type BadSnapshot = Unknown;

    fn apply(&mut self, entry: &[u8]) -> Result<usize, Unknown> {
        if entry == b"unknown" {
            return Err(Unknown);
        }
        self.0.extend_from_slice(entry);
        Ok(self.0.len())
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.clone()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Unknown> {
        self.0 = snapshot.to_vec();
        Ok(())
    }
}

struct Cluster {
    nodes: BTreeMap<u64, (Driver<Counter>, Stored)>,
    acknowledged: Vec<Acknowledged>,
    reads: Vec<ProposalId>,
    cut: Option<u64>,
}

fn settings(id: u64) -> Settings {
    Settings {
        election_ticks_exact: Some(10 + 3 * id as usize),
        log_size_max_bytes: 2_000,
        log_trail_entries: 5,
        ..Settings::new(id)
    }
}

impl Cluster {
    fn new(ids: &[u64]) -> Self {
        let stored = Stored::first(ids.to_vec(), Vec::new());
        let start =
            |id: &u64| (*id, (Driver::new(settings(*id), stored.clone(), Counter::default()).unwrap(), stored.clone()));
        let nodes = ids.iter().map(start).collect();
        Self { nodes, acknowledged: Vec::new(), reads: Vec::new(), cut: None }
    }

    /// Runs until nothing is left to do.
    fn settle(&mut self) {
        loop {
            let mut messages = Vec::new();
            for (driver, stored) in self.nodes.values_mut() {
                while let Some(work) = driver.ready() {
                    messages.extend(work.messages);
                    stored.apply(&work.batch);
                    let output = driver.persisted().unwrap();
                    messages.extend(output.messages);
                    self.acknowledged.extend(output.acknowledged);
                    self.reads.extend(output.reads);
                }
            }
            if messages.is_empty() {
                return;
            }
            for message in messages {
                if Some(message.to) == self.cut || Some(message.from) == self.cut {
                    continue;
                }
                if let Some((driver, _)) = self.nodes.get_mut(&message.to) {
                    driver.step(message);
                }
            }
        }
    }

    fn tick(&mut self, times: usize) {
        for _ in 0..times {
            for (driver, _) in self.nodes.values_mut() {
                driver.tick();
            }
            self.settle();
        }
    }

    fn leader(&mut self) -> &mut Driver<Counter> {
        let cut = self.cut;
        let mut leaders = self.nodes.iter_mut().filter(|(id, node)| node.0.leads() && Some(**id) != cut);
        &mut leaders.next().unwrap().1.0
    }

    fn restart(&mut self, id: u64) {
        let stored = self.nodes[&id].1.clone();
        let driver = Driver::new(settings(id), stored.clone(), Counter::default()).unwrap();
        self.nodes.insert(id, (driver, stored));
    }
}

#[test]
fn a_proposal_is_committed_everywhere_and_acknowledged_once() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.tick(30);
    cluster.leader().propose(ProposalId(7), b"a".to_vec()).unwrap();
    cluster.settle();
    cluster.tick(5);
    assert_eq!(cluster.committed(), [ProposalId(7)]);
    assert_eq!(cluster.acknowledged.len(), 1);
    for (driver, _) in cluster.nodes.values() {
        assert_eq!(driver.machine().0, b"a");
    }
    let follower = cluster.nodes.values_mut().find(|node| !node.0.leads()).unwrap();
    let refused = follower.0.propose(ProposalId(8), b"b".to_vec());
    assert!(matches!(refused, Err(ProposeRefused::NotLeader(leader)) if leader > 0));
}

#[test]
fn a_proposal_of_a_leader_that_was_cut_off_is_displaced_and_said_to_be() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.tick(30);
    let old = cluster.leader().id();
    cluster.cut = Some(old);
    cluster.leader_of(old).propose(ProposalId(1), b"lost".to_vec()).unwrap();
    cluster.tick(40);
    cluster.leader().propose(ProposalId(2), b"kept".to_vec()).unwrap();
    cluster.settle();
    cluster.cut = None;
    cluster.tick(20);
    assert_eq!(cluster.committed(), [ProposalId(2)]);
    assert!(cluster.acknowledged.contains(&Acknowledged::Displaced(ProposalId(1))), "{:?}", cluster.acknowledged);
    for (driver, _) in cluster.nodes.values() {
        assert_eq!(driver.machine().0, b"kept");
    }
}

#[test]
fn a_restarted_node_goes_on_from_its_store() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.tick(30);
    for number in 0..200_u8 {
        cluster.leader().propose(ProposalId(u128::from(number)), vec![number]).unwrap();
        cluster.settle();
    }
    cluster.tick(3);
    let all = (0..200).collect::<Vec<u8>>();
    for id in [1, 2, 3] {
        let stored = &cluster.nodes[&id].1;
        assert!(stored.entries.len() < 100, "compacted to {} entries", stored.entries.len());
        cluster.restart(id);
    }
    cluster.tick(40);
    for (driver, _) in cluster.nodes.values() {
        assert_eq!(driver.machine().0, all);
    }
}

#[test]
fn a_new_member_learns_by_snapshot_and_is_promoted() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.tick(30);
    for number in 0..100_u8 {
        cluster.leader().propose(ProposalId(u128::from(number)), vec![number]).unwrap();
        cluster.settle();
    }
    assert_eq!(
        cluster.leader().change_members(ProposalId(900), Membership::Promote(4)),
        Err(MembershipRefused::WrongState(4))
    );
    cluster.leader().change_members(ProposalId(901), Membership::AddLearner(4)).unwrap();
    assert_eq!(
        cluster.leader().change_members(ProposalId(902), Membership::Remove(2)),
        Err(MembershipRefused::AnotherUnderWay)
    );
    cluster.settle();
    assert_eq!(
        cluster.leader().change_members(ProposalId(903), Membership::Promote(4)),
        Err(MembershipRefused::Behind(4))
    );
    let empty = Stored::default();
    cluster.nodes.insert(4, (Driver::new(settings(4), empty.clone(), Counter::default()).unwrap(), empty));
    cluster.tick(20);
    assert_eq!(cluster.nodes[&4].0.machine().0, (0..100).collect::<Vec<u8>>());
    cluster.leader().change_members(ProposalId(904), Membership::Promote(4)).unwrap();
    cluster.settle();
    cluster.tick(5);
    assert_eq!(cluster.nodes[&4].0.members().voters.len(), 4);
    assert!(cluster.committed().contains(&ProposalId(904)));
    cluster.restart(4);
    cluster.tick(10);
    assert_eq!(cluster.nodes[&4].0.members().voters.len(), 4, "a member is not forgotten in a restart");
    let gone = if cluster.leader().id() == 1 { 2 } else { 1 };
    cluster.leader().change_members(ProposalId(905), Membership::Remove(gone)).unwrap();
    cluster.tick(5);
    assert!(!cluster.leader().members().voters.contains(&gone));
}

#[test]
fn a_read_is_answered_once_a_majority_confirmed_the_leader() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.tick(30);
    cluster.leader().propose(ProposalId(1), b"x".to_vec()).unwrap();
    cluster.leader().read(ProposalId(50));
    cluster.settle();
    assert_eq!(cluster.reads, [ProposalId(50)]);
    // A leader that was cut off does not answer.
    let old = cluster.leader().id();
    cluster.cut = Some(old);
    cluster.leader_of(old).read(ProposalId(51));
    cluster.tick(5);
    assert_eq!(cluster.reads, [ProposalId(50)]);
}

#[test]
fn leadership_is_handed_over() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.tick(30);
    let to = if cluster.leader().id() == 3 { 1 } else { 3 };
    cluster.leader().transfer(to);
    cluster.settle();
    assert_eq!(cluster.leader().id(), to);
}

#[test]
fn an_unknown_entry_stops_the_node() {
    let mut stored = Stored::first(vec![1], Vec::new());
    let entry = Entry { term: 1, index: 2, data: b"unknown".to_vec(), ..Entry::default() };
    let hard_state = HardState { term: 1, vote: 1, commit: 2 };
    stored.apply(&Batch { entries: vec![entry], hard_state, ..Batch::default() });
    let mut driver = Driver::new(settings(1), stored, Counter::default()).unwrap();
    driver.ready().unwrap();
    assert!(matches!(driver.persisted(), Err(Stopped::NotUnderstood(_))));
}

#[test]
#[should_panic(expected = "nothing may be called between ready and persisted")]
fn nothing_is_done_while_a_batch_is_under_way() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    for _ in 0..30 {
        let (driver, _) = cluster.nodes.get_mut(&1).unwrap();
        driver.tick();
        if driver.ready().is_some() {
            driver.tick();
        }
    }
}

impl Cluster {
    fn committed(&self) -> Vec<ProposalId> {
        let known = self.acknowledged.iter();
        known
            .filter_map(|known| if let Acknowledged::Committed { id, .. } = known { Some(*id) } else { None })
            .collect()
    }

    fn leader_of(&mut self, id: u64) -> &mut Driver<Counter> {
        &mut self.nodes.get_mut(&id).unwrap().0
    }
}
