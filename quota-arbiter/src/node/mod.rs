//! One arbiter's inside: a thread that owns the raft driver, the store and the leader's memory, and the [`Handle`]
//! through which everybody else speaks with it. Nothing else touches the state, so nothing needs a lock.

mod mail;
mod owner;
mod polls;
mod proposals;
mod reads;
mod view;

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use parking_lot::RwLock;
use quota_protocol::policy::Policy;
use thiserror::Error;
use tokio::sync::oneshot;

pub use mail::{AskSync, Knows, Synced};
pub use view::{Status, View};

use crate::{
    command::{Address, Founding, Order, Request, Work},
    limits::MAIL_MAX,
    raft::{At, Membership, MembershipRefused, Message, Settings, Stopped},
    state::Applied,
    store::{LogStore, StoreError, Stored},
};
use mail::Mail;
use owner::Owner;

/// Takes messages to other arbiters. They may be lost; [`Handle::unreachable`] tells when one was for sure.
pub trait Outbox: Send {
    /// Sends, or drops: never waits.
    fn send(&mut self, messages: Vec<Message>);
    /// Where the members are found from now on.
    fn addresses(&mut self, members: &[(u64, Address)]);
}

/// How a node is run.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Raft's settings, this node's id among them.
    pub raft: Settings,
    /// Between two ticks.
    pub tick: Duration,
    /// The leader's knobs.
    pub policy: Policy,
    /// What the first leader makes known.
    pub founding: Founding,
}

/// Why a node ended. The process has to end then, with this text.
#[derive(Debug, Error)]
pub enum Ended {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The leader relies on log entries that this node does not have.
    #[error(
        "the leader (arbiter {from}) relies on this node having the log up to {relied}, and it ends at {last}: its \
         folder was wiped or replaced by an older copy. Remove arbiter {id} from the cluster, wipe its folder and add \
         it again under a new id"
    )]
    Forgot {
        /// The leader.
        from: u64,
        /// This node.
        id: u64,
        /// What the leader says is committed here.
        relied: u64,
        /// Where the log ends.
        last: u64,
    },
    /// The thread could not be started.
    #[error("the node's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why something was not done.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unavailable {
    /// Another node leads, or none is known to.
    #[error("this arbiter does not lead")]
    NotLeader(Option<Leads>),
    /// Too much is under way; nothing was done.
    #[error("too much is under way")]
    Busy,
    /// Another leader took over before it was committed: it was not done.
    #[error("another arbiter took over; nothing was done")]
    Displaced,
    /// Nobody knows whether it was done: ask again with the same request id.
    #[error("it is not known whether this was done; ask again with the same request_id")]
    Unknown,
    /// The node is ending.
    #[error("this arbiter is ending")]
    Ending,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leads {
    /// Its raft id.
    pub id: u64,
    /// Where it is found, if that is known.
    pub address: Option<Address>,
}

/// How sure a read has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Nothing newer is committed.
    Linearizable,
    /// From the leader, which may not know yet that it leads no more.
    Leader,
    /// Whatever is here.
    Stale,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    /// To speak with it.
    pub handle: Handle,
    /// Why it ended, once it did; `Ok` after [`Handle::stop`].
    pub ended: oneshot::Receiver<Result<(), Ended>>,
}

/// Speaks with a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    mail: mpsc::SyncSender<Mail>,
    status: Arc<RwLock<Arc<Status>>>,
}

/// Starts a node from what its store has.
///
/// # Errors
/// When what is stored cannot be gone on from.
pub fn start(
    config: NodeConfig,
    store: Box<dyn LogStore + Send>,
    stored: Stored,
    outbox: Box<dyn Outbox>,
) -> Result<Node, Ended> {
    let (mail, mailbox) = mpsc::sync_channel(MAIL_MAX);
    let (end, ended) = oneshot::channel();
    let owner = Owner::new(config, store, stored, outbox)?;
    let status = owner.status();
    std::thread::Builder::new().name("arbiter".to_owned()).spawn(move || {
        let result = owner.run(&mailbox);
        if end.send(result).is_err() {
            tracing::debug!("nobody waits for the node's end");
        }
    })?;
    Ok(Node { handle: Handle { mail, status }, ended })
}

impl Handle {
    /// What the node knows of itself and of the leader.
    pub fn status(&self) -> Arc<Status> {
        self.status.read().clone()
    }

    /// Messages from another arbiter; dropped when too much is under way, as if they were lost.
    pub fn step(&self, messages: Vec<Message>) {
        if self.mail.try_send(Mail::Raft(messages)).is_err() {
            metrics::counter!("boxoffice_arbiter_raft_dropped_total").increment(1);
        }
    }

    /// Another arbiter could not be reached.
    pub fn unreachable(&self, id: u64) {
        // Only a hint: without it the leader finds out by itself.
        drop(self.mail.try_send(Mail::Unreachable(id)));
    }

    /// Carries out an operator's request, once however often it is asked for.
    ///
    /// # Errors
    /// [`Unavailable`]
    pub async fn request(&self, request: Request) -> Result<(At, Applied), Unavailable> {
        self.propose(Work::Request(request)).await
    }

    /// Proposes an entry and waits until it is applied here.
    ///
    /// # Errors
    /// [`Unavailable`]
    pub async fn propose(&self, work: Work) -> Result<(At, Applied), Unavailable> {
        let work = Box::new(work);
        self.ask(|reply| Mail::Propose { work, reply }).await
    }

    /// A region's report, and what the region should hear; may wait for news.
    ///
    /// # Errors
    /// [`Unavailable`]
    pub async fn sync(&self, ask: AskSync) -> Result<Synced, Unavailable> {
        self.ask(|reply| Mail::Sync(Box::new((ask, reply)))).await
    }

    /// Reads the state.
    ///
    /// # Errors
    /// [`Unavailable`]
    pub async fn read<T: Send + 'static>(
        &self,
        consistency: Consistency,
        read: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.ask(|reply: oneshot::Sender<Result<T, Unavailable>>| Mail::Read {
            consistency,
            read: Box::new(move |view| {
                // Whoever asked may have gone.
                drop(reply.send(view.map(read)));
            }),
        })
        .await
    }

    /// Changes the members; answers when the change is committed.
    ///
    /// # Errors
    /// Inside, why it does not apply now.
    pub async fn change_members(&self, change: Membership) -> Result<Result<(), MembershipRefused>, Unavailable> {
        self.ask(|reply| Mail::Members { change, reply }).await
    }

    /// Hands leadership to another voter, or to the one with most of the log. Answers at once.
    ///
    /// # Errors
    /// [`Unavailable`]; `Ok(None)` when no such voter is there.
    pub async fn transfer(&self, to: Option<u64>) -> Result<Option<u64>, Unavailable> {
        self.ask(|reply| Mail::Transfer { to, reply }).await
    }

    /// Ends the node in order.
    pub async fn stop(&self) {
        drop(self.ask::<()>(|reply| Mail::Stop { reply }).await);
    }

    async fn ask<T>(
        &self,
        mail: impl FnOnce(oneshot::Sender<Result<T, Unavailable>>) -> Mail,
    ) -> Result<T, Unavailable> {
        let (reply, answer) = oneshot::channel();
        self.mail.try_send(mail(reply)).map_err(|refused| match refused {
            mpsc::TrySendError::Full(_) => Unavailable::Busy,
            mpsc::TrySendError::Disconnected(_) => Unavailable::Ending,
        })?;
        answer.await.unwrap_or(Err(Unavailable::Ending))
    }
}

/// What a leader does beside applying an order.
fn afterwards(work: &Work) -> Option<Order> {
    match work {
        Work::Request(Request { order: order @ (Order::Move { .. } | Order::Rebalance { .. }), .. }) => {
            Some(order.clone())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
