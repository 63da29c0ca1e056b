//! The driver: `step`, `tick` and `propose` go in, `ready` says what to make durable, and `persisted` what follows from
//! its being durable. Between the two nothing else may be called: the owner persists (and, if its disk is slow, queues
//! what arrives meanwhile). So the order *persist, then send, then apply* is not a matter of care.

use std::collections::BTreeMap;

use prost::Message as _;
use raft::{
    Config, ProgressState, ReadOnlyOption, SnapshotStatus, StateRole,
    eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata},
    raw_node::{RawNode, Ready},
};
use thiserror::Error;

use super::{Machine, logger::logger, members::sorted, mirror::Mirror};
use crate::{
    limits::{
        LOG_SIZE_MAX_BYTES, LOG_TRAIL_ENTRIES, RAFT_INFLIGHT_MAX, RAFT_MESSAGE_SIZE_MAX_BYTES,
        RAFT_UNCOMMITTED_SIZE_MAX_BYTES,
    },
    store::{Batch, Stored},
};

/// How a node takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This node.
    pub id: u64,
    /// Ticks without a leader after which a node stands for election.
    pub election_ticks: usize,
    /// Ticks between two heartbeats of a leader.
    pub heartbeat_ticks: usize,
    /// The election timeout exactly, instead of one that raft-rs draws from its thread's generator: a simulation has to
    /// be repeatable.
    pub election_ticks_exact: Option<usize>,
    /// Bytes of log after which a snapshot is made.
    pub log_size_max_bytes: u64,
    /// Entries kept behind a snapshot.
    pub log_trail_entries: u64,
}

impl Settings {
    /// The usual settings for a node.
    pub fn new(id: u64) -> Self {
        Self {
            id,
            election_ticks: 10,
            heartbeat_ticks: 2,
            election_ticks_exact: None,
            log_size_max_bytes: LOG_SIZE_MAX_BYTES,
            log_trail_entries: LOG_TRAIL_ENTRIES,
        }
    }
}

/// The proposer's name for a proposal or a read: never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub u128);

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    /// Its term.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// What became of a proposal made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// It was committed, and is what was applied at its place.
    Committed {
        /// Which.
        id: ProposalId,
        /// Where.
        at: At,
    },
    /// Another entry was committed at its place: it will never be.
    Displaced(ProposalId),
    /// Its place was skipped by a snapshot: nobody here knows. Ask again.
    Unknown(ProposalId),
}

/// One committed entry, applied.
#[derive(Clone, Debug, PartialEq)]
pub enum Committed<A> {
    /// A command.
    Applied {
        /// Where.
        at: At,
        /// What it did.
        applied: A,
    },
    /// The members changed.
    Members {
        /// Where.
        at: At,
        /// Who they are now.
        members: ConfState,
    },
    /// A new state from the leader's snapshot.
    Installed {
        /// Up to where.
        at: At,
    },
}

/// What follows once a batch is durable.
#[derive(Debug)]
pub struct Output<A> {
    /// To be sent.
    pub messages: Vec<Message>,
    /// What was applied, in order.
    pub committed: Vec<Committed<A>>,
    /// What became of proposals made here.
    pub acknowledged: Vec<Acknowledged>,
    /// Reads that may be answered from the state as it is now.
    pub reads: Vec<ProposalId>,
}

/// What to make durable.
#[derive(Debug)]
pub struct Work {
    /// To be persisted as a whole.
    pub batch: Batch,
    /// A leader's appends, which may be sent before the batch is durable.
    pub messages: Vec<Message>,
}

/// Why a proposal was not taken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ProposeRefused {
    /// Another node leads.
    #[error("this node does not lead; {0} does (0: nobody known)")]
    NotLeader(u64),
    /// Too much is waiting for a majority, or the leadership is being handed over.
    #[error("too much is under way, or leadership is being handed over")]
    Busy,
}

/// Why the node has to stop.
#[derive(Debug, Error)]
pub enum Stopped {
    /// The log or a snapshot is not understood.
    #[error("{0}")]
    NotUnderstood(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// raft-rs reports an impossible state.
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
}

struct Pending {
    ready: Option<Ready>,
    batch: Batch,
    committed: Vec<Entry>,
    messages: Vec<Message>,
}

/// A node's part in raft, with its state machine.
pub struct Driver<M: Machine> {
    pub(super) raw: RawNode<Mirror>,
    machine: M,
    pub(super) settings: Settings,
    pub(super) applied: At,
    pending: Option<Pending>,
    /// Committed, but to be applied only once the commit itself is durable: see [`Driver::persisted`].
    deferred: Vec<Entry>,
    proposals: BTreeMap<u64, (u64, ProposalId)>,
    reads: Vec<(u64, ProposalId)>,
    /// Ticks since a follower was sent a snapshot and said nothing of it.
    snapshots: BTreeMap<u64, usize>,
}

impl<M: Machine> Driver<M> {
    /// A node that goes on from what is stored. `machine` is empty; it gets the stored snapshot.
    ///
    /// # Errors
    /// When the snapshot is not understood, or the stored state contradicts itself.
    pub fn new(settings: Settings, stored: Stored, mut machine: M) -> Result<Self, Stopped> {
        let metadata = stored.snapshot.get_metadata();
        let applied = At { term: metadata.term, index: metadata.index };
        if applied.index > 0 {
            machine.restore(&stored.snapshot.data).map_err(|error| Stopped::NotUnderstood(Box::new(error)))?;
        }
        assert!(
            applied.index <= stored.hard_state.commit,
            "applied {} of {} committed: the store lost a commit that a snapshot was made from",
            applied.index,
            stored.hard_state.commit
        );
        let (low, high) = match settings.election_ticks_exact {
            Some(exact) => (exact, exact + 1),
            None => (settings.election_ticks, 2 * settings.election_ticks),
        };
        let config = Config {
            id: settings.id,
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            min_election_tick: low,
            max_election_tick: high,
            applied: applied.index,
            max_size_per_msg: RAFT_MESSAGE_SIZE_MAX_BYTES,
            max_inflight_msgs: RAFT_INFLIGHT_MAX,
            max_uncommitted_size: RAFT_UNCOMMITTED_SIZE_MAX_BYTES,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            ..Config::default()
        };
        let raw = RawNode::new(&config, Mirror::new(stored), &logger())?;
        Ok(Self {
            raw,
            machine,
            settings,
            applied,
            pending: None,
            deferred: Vec::new(),
            proposals: BTreeMap::new(),
            reads: Vec::new(),
            snapshots: BTreeMap::new(),
        })
    }

    /// This node.
    pub fn id(&self) -> u64 {
        self.settings.id
    }

    /// The state, as of the last entry applied.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The last entry applied.
    pub fn applied(&self) -> At {
        self.applied
    }

    /// This node's term.
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// Whether this node leads. It may not know yet that another does.
    pub fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Who leads, as far as this node knows; 0 for nobody.
    pub fn leader(&self) -> u64 {
        self.raw.raft.leader_id
    }

    /// The members as of the last entry applied.
    pub fn members(&self) -> ConfState {
        sorted(self.raw.raft.prs().conf().to_conf_state())
    }

    /// How far a leader knows another node to have the log, if it leads and knows it.
    pub fn matched(&self, id: u64) -> Option<u64> {
        self.raw.raft.prs().get(id).filter(|_| self.leads()).map(|progress| progress.matched)
    }

    pub(super) fn idle(&self) {
        assert!(self.pending.is_none(), "nothing may be called between ready and persisted");
    }

    /// A message from another node. What does not fit (an unknown sender, an old term) is dropped, as if it was lost.
    pub fn step(&mut self, message: Message) {
        self.idle();
        // A proposal is answered where it was made; passing it on is up to the shell, which can tell a client about it.
        if message.get_msg_type() == MessageType::MsgPropose {
            return;
        }
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(target: "raft", %error, "dropped a message");
        }
    }

    /// Time passed: one tick.
    pub fn tick(&mut self) {
        self.idle();
        self.raw.tick();
        self.retry_snapshots();
    }

    /// raft-rs sends nothing more to a follower that it has sent a snapshot, until somebody tells it what became of it.
    /// A snapshot is a message like any other and may be lost: after an election timeout it is taken for that.
    fn retry_snapshots(&mut self) {
        if !self.leads() {
            self.snapshots.clear();
            return;
        }
        let under_way = self.raw.raft.prs().iter().filter(|(_, progress)| progress.state == ProgressState::Snapshot);
        let under_way = under_way.map(|(id, _)| *id).collect::<Vec<_>>();
        self.snapshots.retain(|id, _| under_way.contains(id));
        for id in under_way {
            let ticks = self.snapshots.entry(id).or_default();
            *ticks += 1;
            if *ticks > self.settings.election_ticks {
                self.snapshots.remove(&id);
                self.raw.report_snapshot(id, SnapshotStatus::Failure);
            }
        }
    }

    /// Proposes an entry; what becomes of it is told under its id.
    ///
    /// # Errors
    /// When this node does not lead or too much is under way; it was not proposed then.
    pub fn propose(&mut self, id: ProposalId, data: Vec<u8>) -> Result<At, ProposeRefused> {
        self.idle();
        if !self.leads() {
            return Err(ProposeRefused::NotLeader(self.leader()));
        }
        self.raw.propose(id.0.to_be_bytes().to_vec(), data).map_err(|_| ProposeRefused::Busy)?;
        Ok(self.note_proposal(id))
    }

    pub(super) fn note_proposal(&mut self, id: ProposalId) -> At {
        let at = At { term: self.raw.raft.term, index: self.raw.raft.raft_log.last_index() };
        self.proposals.insert(at.index, (at.term, id));
        at
    }

    /// Asks for a linearizable read: once [`Output::reads`] names it, the state may be read. It may be dropped without a
    /// word (no leader, a lost message): ask again under a new id after a while.
    pub fn read(&mut self, id: ProposalId) {
        self.idle();
        self.raw.read_index(id.0.to_be_bytes().to_vec());
    }

    /// A node could not be reached; a leader sends it less until it answers.
    pub fn unreachable(&mut self, id: u64) {
        self.idle();
        self.raw.report_unreachable(id);
    }

    /// What has to be made durable now, if anything. After persisting it, call [`Driver::persisted`].
    pub fn ready(&mut self) -> Option<Work> {
        self.idle();
        let compact = self.compaction();
        if !self.raw.has_ready() && self.deferred.is_empty() && compact.is_none() {
            return None;
        }
        let mut batch = Batch { hard_state: self.raw.store().hard_state.clone(), compact, ..Batch::default() };
        let mut pending = Pending { ready: None, batch: Batch::default(), committed: Vec::new(), messages: Vec::new() };
        let mut messages = Vec::new();
        batch.sync = !self.deferred.is_empty() || batch.compact.is_some();
        if self.raw.has_ready() {
            let mut ready = self.raw.ready();
            messages = ready.take_messages();
            pending.messages = ready.take_persisted_messages();
            pending.committed = ready.take_committed_entries();
            batch.entries = ready.take_entries();
            if let Some(hard_state) = ready.hs() {
                batch.hard_state = hard_state.clone();
            }
            if ready.snapshot().get_metadata().index > 0 {
                batch.install = Some(ready.snapshot().clone());
                // What was to be dropped here is dropped with the rest.
                batch.compact = None;
            }
            batch.sync |= ready.must_sync() || batch.install.is_some() || pending.committed.iter().any(changes_members);
            pending.ready = Some(ready);
        }
        pending.batch = batch.clone();
        self.pending = Some(pending);
        Some(Work { batch, messages })
    }

    /// The batch of the last [`Driver::ready`] is durable: applies what is committed, and says what to send.
    ///
    /// An entry that changes the members is applied only once it is durable *that it is committed*: a node that forgot
    /// it in a crash could count votes by members of long ago. Other entries are applied again after a crash.
    ///
    /// # Errors
    /// When the node has to stop.
    ///
    /// # Panics
    /// Without a batch under way, and on states that cannot be.
    pub fn persisted(&mut self) -> Result<Output<M::Applied>, Stopped> {
        let Some(Pending { ready, batch, committed, messages }) = self.pending.take() else {
            panic!("no batch is under way");
        };
        let mut output = Output { messages, committed: Vec::new(), acknowledged: Vec::new(), reads: Vec::new() };
        let Batch { entries, hard_state, install, compact, .. } = batch;
        if let Some(snapshot) = install {
            self.install(&snapshot, &mut output)?;
            self.raw.mut_store().install(snapshot);
        }
        let mirror = self.raw.mut_store();
        mirror.append(&entries);
        mirror.hard_state = hard_state;
        if let Some((snapshot, keep_from)) = compact {
            mirror.compact(snapshot, keep_from);
        }
        let deferred = std::mem::take(&mut self.deferred);
        self.apply(deferred, &mut output)?;
        self.apply(committed, &mut output)?;
        if let Some(mut ready) = ready {
            let reads = ready.take_read_states();
            let mut light = self.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.raw.mut_store().hard_state.commit = commit;
            }
            output.messages.append(&mut light.take_messages());
            let committed = light.take_committed_entries();
            if committed.iter().any(changes_members) {
                self.deferred = committed;
            } else {
                self.apply(committed, &mut output)?;
            }
            for read in reads {
                if let Ok(context) = <[u8; 16]>::try_from(read.request_ctx.as_slice()) {
                    self.reads.push((read.index, ProposalId(u128::from_be_bytes(context))));
                }
            }
        }
        self.raw.advance_apply_to(self.applied.index);
        let applied = self.applied.index;
        output.reads.extend(self.reads.extract_if(.., |read| read.0 <= applied).map(|read| read.1));
        Ok(output)
    }

    fn install(&mut self, snapshot: &Snapshot, output: &mut Output<M::Applied>) -> Result<(), Stopped> {
        let metadata = snapshot.get_metadata();
        self.machine.restore(&snapshot.data).map_err(|error| Stopped::NotUnderstood(Box::new(error)))?;
        self.applied = At { term: metadata.term, index: metadata.index };
        self.deferred.retain(|entry| entry.index > metadata.index);
        let later = self.proposals.split_off(&(metadata.index + 1));
        let skipped = std::mem::replace(&mut self.proposals, later);
        output.acknowledged.extend(skipped.into_values().map(|(_, id)| Acknowledged::Unknown(id)));
        output.committed.push(Committed::Installed { at: self.applied });
        Ok(())
    }

    fn apply(&mut self, entries: Vec<Entry>, output: &mut Output<M::Applied>) -> Result<(), Stopped> {
        for entry in entries {
            assert!(
                entry.index == self.applied.index + 1 && entry.index <= self.raw.raft.raft_log.committed,
                "entry {} after {}: applied and committed have come apart",
                entry.index,
                self.applied.index
            );
            let at = At { term: entry.term, index: entry.index };
            match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => {
                    let applied =
                        self.machine.apply(&entry.data).map_err(|error| Stopped::NotUnderstood(Box::new(error)))?;
                    output.committed.push(Committed::Applied { at, applied });
                }
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    let change = ConfChangeV2::decode(entry.data.as_slice())
                        .map_err(|error| Stopped::NotUnderstood(Box::new(error)))?;
                    let members = sorted(self.raw.apply_conf_change(&change)?);
                    // A change that another leader proposed may remove this one. raft-rs would go on leading without a
                    // place among its own members, and fail at the next acknowledgement.
                    if self.leads() && !members.voters.contains(&self.settings.id) {
                        let term = self.raw.raft.term;
                        self.raw.raft.become_follower(term, raft::INVALID_ID);
                    }
                    output.committed.push(Committed::Members { at, members });
                }
            }
            self.applied = at;
            self.acknowledge(at, &entry.context, output);
        }
        Ok(())
    }

    /// A proposal is known by its term, its index and its id; by none of them alone.
    fn acknowledge(&mut self, at: At, context: &[u8], output: &mut Output<M::Applied>) {
        let Some((term, id)) = self.proposals.remove(&at.index) else { return };
        let same = term == at.term && context == id.0.to_be_bytes();
        output.acknowledged.push(if same { Acknowledged::Committed { id, at } } else { Acknowledged::Displaced(id) });
    }

    /// A new snapshot, when the log has grown or a follower needs one.
    fn compaction(&self) -> Option<(Snapshot, u64)> {
        let mirror = self.raw.store();
        let wanted = mirror.snapshot_wanted.take();
        let at = self.applied;
        let due = wanted || mirror.size_bytes > self.settings.log_size_max_bytes;
        if !due || at.index <= mirror.snapshot.get_metadata().index {
            return None;
        }
        let metadata = SnapshotMetadata { conf_state: Some(self.members()), index: at.index, term: at.term };
        let snapshot = Snapshot { data: self.machine.snapshot(), metadata: Some(metadata) };
        let mut keep_from = at.index.saturating_sub(self.settings.log_trail_entries) + 1;
        // A trail that is itself too large would make the next snapshot due at once.
        if mirror.size_bytes > 2 * self.settings.log_size_max_bytes {
            keep_from = at.index + 1;
        }
        Some((snapshot, keep_from))
    }
}

fn changes_members(entry: &Entry) -> bool {
    entry.get_entry_type() != EntryType::EntryNormal
}
