//! Linearizable reads. Raft may drop a question for the present index without a word, so each is asked again until it
//! is answered or its time is up.

use std::time::{Duration, Instant};

use super::{Unavailable, mail};
use crate::{
    limits::{READ_AGAIN_MS, READ_WAIT_MAX_MS},
    raft::ProposalId,
};

struct Pending {
    /// Every name under which it was asked: the answer to any of them will do.
    ids: Vec<ProposalId>,
    since: Instant,
    asked: Instant,
    read: mail::Read,
}

/// Reads that wait for their index.
#[derive(Default)]
pub(super) struct Reads {
    pending: Vec<Pending>,
}

impl Reads {
    pub(super) fn wait(&mut self, id: ProposalId, read: mail::Read) {
        let now = Instant::now();
        self.pending.push(Pending { ids: vec![id], since: now, asked: now, read });
    }

    /// The state is new enough for these.
    pub(super) fn answered(&mut self, ids: &[ProposalId]) -> Vec<mail::Read> {
        let done = self.pending.extract_if(.., |pending| pending.ids.iter().any(|id| ids.contains(id)));
        done.map(|pending| pending.read).collect()
    }

    /// Gives up on what has waited for too long, and says how many have to be asked again.
    pub(super) fn give_up(&mut self, now: Instant) -> usize {
        let patience = Duration::from_millis(READ_WAIT_MAX_MS);
        for pending in self.pending.extract_if(.., |pending| now.duration_since(pending.since) > patience) {
            (pending.read)(Err(Unavailable::NotLeader(None)));
        }
        self.late(now).count()
    }

    /// Names the late ones anew, in order.
    pub(super) fn ask_again(&mut self, now: Instant, ids: Vec<ProposalId>) {
        for (pending, id) in self.late(now).zip(ids) {
            pending.ids.push(id);
            pending.asked = now;
        }
    }

    fn late(&mut self, now: Instant) -> impl Iterator<Item = &mut Pending> {
        let patience = Duration::from_millis(READ_AGAIN_MS);
        self.pending.iter_mut().filter(move |pending| now.duration_since(pending.asked) > patience)
    }
}
