//! Changes of members: one at a time, a new node listens first, and nobody is removed by itself.

use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use thiserror::Error;

use super::{At, Driver, Machine, ProposalId, ProposeRefused};

/// Why a change of members was not taken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum MembershipRefused {
    /// See there.
    #[error(transparent)]
    Propose(#[from] ProposeRefused),
    /// One change at a time.
    #[error("another change of members is under way")]
    AnotherUnderWay,
    /// Only a learner becomes a voter, only a stranger a learner, and only a member is removed.
    #[error("node {0} is not in the state that this change starts from")]
    WrongState(u64),
    /// A learner is promoted once it has caught up.
    #[error("node {0} has not caught up yet")]
    Behind(u64),
    /// A leader hands over first.
    #[error("the leader does not remove itself; transfer leadership first")]
    Leader,
    /// A cluster keeps a voter.
    #[error("the last voter stays")]
    LastVoter,
}

/// One change of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// A new node, which only listens.
    AddLearner(u64),
    /// A learner gets a vote.
    Promote(u64),
    /// A node leaves for good: its id is not used again.
    Remove(u64),
}

impl<M: Machine> Driver<M> {
    /// Proposes a change of members: one at a time, a learner first, and no joint state to leave.
    ///
    /// # Errors
    /// When it does not apply now; it was not proposed then.
    pub fn change_members(&mut self, id: ProposalId, change: Membership) -> Result<At, MembershipRefused> {
        self.idle();
        if !self.leads() {
            return Err(ProposeRefused::NotLeader(self.leader()).into());
        }
        // raft-rs would put an empty entry in the place of a second change, without a word.
        if self.raw.raft.has_pending_conf() {
            return Err(MembershipRefused::AnotherUnderWay);
        }
        let members = self.members();
        let (kind, node) = match change {
            Membership::AddLearner(node) => {
                if members.voters.contains(&node) || members.learners.contains(&node) {
                    return Err(MembershipRefused::WrongState(node));
                }
                (ConfChangeType::AddLearnerNode, node)
            }
            Membership::Promote(node) => {
                if !members.learners.contains(&node) {
                    return Err(MembershipRefused::WrongState(node));
                }
                let matched = self.matched(node).unwrap_or(0);
                if matched + self.settings.log_trail_entries < self.applied.index || matched == 0 {
                    return Err(MembershipRefused::Behind(node));
                }
                (ConfChangeType::AddNode, node)
            }
            Membership::Remove(node) => {
                if !members.voters.contains(&node) && !members.learners.contains(&node) {
                    return Err(MembershipRefused::WrongState(node));
                }
                if node == self.settings.id {
                    return Err(MembershipRefused::Leader);
                }
                if members.voters == [node] {
                    return Err(MembershipRefused::LastVoter);
                }
                (ConfChangeType::RemoveNode, node)
            }
        };
        let single = ConfChangeSingle { change_type: kind as i32, node_id: node };
        let change = ConfChangeV2 { changes: vec![single], ..ConfChangeV2::default() };
        let context = id.0.to_be_bytes().to_vec();
        self.raw.propose_conf_change(context, change).map_err(|_| ProposeRefused::Busy)?;
        Ok(self.note_proposal(id))
    }

    /// Hands leadership to another voter; if that does not work out within an election timeout, nothing happened.
    pub fn transfer(&mut self, to: u64) {
        self.idle();
        self.raw.transfer_leader(to);
    }
}

/// raft-rs keeps members in hash sets, whose order depends on their history: in a snapshot and to the outside it must not.
pub(super) fn sorted(mut members: ConfState) -> ConfState {
    members.voters.sort_unstable();
    members.learners.sort_unstable();
    members
}
