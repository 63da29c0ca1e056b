//! Messages that cannot be, told apart before raft-rs sees them: it ends the process on some of them. Whoever sends
//! such a message holds an arbiter's certificate, so this guards against accidents, not against a traitor.

use raft::eraftpb::{Message, MessageType};

use super::{Driver, Machine};

impl<M: Machine> Driver<M> {
    /// A leader's heartbeat names only entries as committed that this node once said it has. If it does not have them,
    /// it has forgotten: what was relied on, and where the log ends.
    pub fn forgot(&self, message: &Message) -> Option<(u64, u64)> {
        let last = self.raw.raft.raft_log.last_index();
        let relies = message.get_msg_type() == MessageType::MsgHeartbeat
            && message.term >= self.raw.raft.term
            && message.commit > last;
        relies.then_some((message.commit, last))
    }

    /// Whether a message can come from an arbiter that works.
    pub fn plausible(&self, message: &Message) -> bool {
        let log = &self.raw.raft.raft_log;
        match message.get_msg_type() {
            // Between a node and itself, or passed on by raft-rs in a way that is not used here.
            MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
            | MessageType::MsgPropose => false,
            MessageType::MsgAppend => {
                let next = message.index.checked_add(1);
                let in_order = message.entries.iter().zip(next.into_iter().flat_map(|next| next..));
                let contiguous = next.is_some() && in_order.into_iter().all(|(entry, index)| entry.index == index);
                let committed = message.entries.iter().filter(|entry| entry.index <= log.committed);
                let agrees = committed.into_iter().all(|entry| {
                    entry.index < log.first_index() || log.term(entry.index).is_ok_and(|term| term == entry.term)
                });
                contiguous && agrees && message.entries.iter().all(|entry| entry.term <= message.term)
            }
            MessageType::MsgSnapshot => {
                let metadata = message.get_snapshot().get_metadata();
                metadata.index > 0 && metadata.term <= message.term && !metadata.get_conf_state().voters.is_empty()
            }
            MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse => message.index <= log.last_index(),
            _ => true,
        }
    }
}
