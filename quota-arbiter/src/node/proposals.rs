//! What was proposed here and is waited for.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Unavailable, mail::Reply};
use crate::{
    command::Order,
    limits::PROPOSAL_WAIT_MAX_MS,
    raft::{Acknowledged, At, MembershipRefused, ProposalId},
    state::Applied,
};

/// Whom to tell what became of a proposal.
pub(super) enum Waiting {
    /// The leader's own: nobody.
    Background,
    Request {
        reply: Reply<(At, Applied)>,
        afterwards: Option<Order>,
    },
    Members(Reply<Result<(), MembershipRefused>>),
}

/// What is waited for.
#[derive(Default)]
pub(super) struct Proposals {
    waiting: BTreeMap<ProposalId, (Instant, Waiting)>,
}

impl Proposals {
    pub(super) fn wait(&mut self, id: ProposalId, waiting: Waiting) {
        self.waiting.insert(id, (Instant::now(), waiting));
    }

    /// How many entries of the leader's own are under way.
    pub(super) fn in_background(&self) -> usize {
        self.waiting.values().filter(|(_, waiting)| matches!(waiting, Waiting::Background)).count()
    }

    /// Tells what became of a proposal. Returns what the leader still has to do for an order that was carried out.
    pub(super) fn acknowledge(
        &mut self,
        acknowledged: &Acknowledged,
        applied: &mut BTreeMap<u64, Applied>,
    ) -> Option<(Order, Applied)> {
        let (id, outcome) = match acknowledged {
            Acknowledged::Committed { id, at } => (id, Ok(*at)),
            Acknowledged::Displaced(id) => (id, Err(Unavailable::Displaced)),
            Acknowledged::Unknown(id) => (id, Err(Unavailable::Unknown)),
        };
        let (_, waiting) = self.waiting.remove(id)?;
        match (waiting, outcome) {
            (Waiting::Background, _) => None,
            (Waiting::Members(reply), outcome) => {
                drop(reply.send(outcome.map(|_| Ok(()))));
                None
            }
            (Waiting::Request { reply, .. }, Err(unavailable)) => {
                drop(reply.send(Err(unavailable)));
                None
            }
            (Waiting::Request { reply, afterwards }, Ok(at)) => {
                let Some(applied) = applied.remove(&at.index) else {
                    drop(reply.send(Err(Unavailable::Unknown)));
                    return None;
                };
                drop(reply.send(Ok((at, applied.clone()))));
                afterwards.map(|order| (order, applied))
            }
        }
    }

    /// Gives up on what was not heard of for long: a node that lost its leadership may never hear.
    pub(super) fn give_up(&mut self, now: Instant) {
        let patience = Duration::from_millis(PROPOSAL_WAIT_MAX_MS);
        let old = self.waiting.extract_if(.., |_, (since, _)| now.duration_since(*since) > patience);
        for (_, (_, waiting)) in old {
            waiting.unknown();
        }
    }
}

impl Waiting {
    fn unknown(self) {
        match self {
            Self::Background => {}
            Self::Request { reply, .. } => drop(reply.send(Err(Unavailable::Unknown))),
            Self::Members(reply) => drop(reply.send(Err(Unavailable::Unknown))),
        }
    }
}
