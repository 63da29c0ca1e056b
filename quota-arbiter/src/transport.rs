//! Raft's messages on their way to other arbiters: for each of them one task and a bounded queue, so that one that
//! hangs holds up nobody else. Snapshots have a task of their own, or heartbeats would wait behind them. Messages may
//! be lost here and nothing is retried: raft does that.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use prost::Message as _;
use tokio::{runtime, sync::Notify, task::JoinHandle};

use crate::{
    command::Address,
    limits::{PEER_BATCH_MAX_BYTES, PEER_PAUSE, PEER_QUEUE_MAX, PEER_SNAPSHOT_TIMEOUT, PEER_TIMEOUT},
    node::{Handle, Outbox},
    raft::Message,
    tls::Certificates,
};

/// Names the sender's incarnation: arbiters from before a restore have no say after it.
pub const INCARNATION: &str = "x-boxoffice-incarnation";

/// Tells the node that somebody could not be reached; the node exists only after its transport.
type Told = Arc<std::sync::OnceLock<Handle>>;

/// The transport of one arbiter.
pub struct Transport {
    id: u64,
    certificates: Arc<Certificates>,
    runtime: runtime::Handle,
    told: Told,
    peers: BTreeMap<u64, Peer>,
}

struct Peer {
    address: String,
    messages: Arc<Queue>,
    snapshots: Arc<Queue>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[derive(Default)]
struct Queue {
    messages: Mutex<VecDeque<Message>>,
    filled: Notify,
}

impl Queue {
    fn push(&self, message: Message) {
        let mut messages = self.messages.lock();
        if messages.len() >= PEER_QUEUE_MAX {
            messages.pop_front();
            metrics::counter!("boxoffice_arbiter_raft_dropped_total").increment(1);
        }
        messages.push_back(message);
        drop(messages);
        self.filled.notify_one();
    }

    /// As many as fit into one request, at least one.
    async fn batch(&self) -> Vec<u8> {
        loop {
            let mut bytes = Vec::new();
            {
                let mut messages = self.messages.lock();
                while let Some(message) = messages.front() {
                    if !bytes.is_empty() && bytes.len() + message.encoded_len() > PEER_BATCH_MAX_BYTES {
                        break;
                    }
                    // Into memory, of what was encoded before: it cannot fail.
                    if message.encode_length_delimited(&mut bytes).is_err() {
                        tracing::error!("a raft message could not be encoded");
                    }
                    messages.pop_front();
                }
            }
            if !bytes.is_empty() {
                return bytes;
            }
            self.filled.notified().await;
        }
    }
}

impl Transport {
    /// A transport without peers yet.
    pub fn new(id: u64, certificates: Arc<Certificates>, runtime: runtime::Handle) -> (Self, Told) {
        let told = Told::default();
        (Self { id, certificates, runtime, told: told.clone(), peers: BTreeMap::new() }, told)
    }

    fn peer(&self, id: u64, address: &str) -> Peer {
        let (messages, snapshots) = (Arc::new(Queue::default()), Arc::new(Queue::default()));
        let spawn = |queue: &Arc<Queue>, timeout| {
            let url = format!("{address}/raft");
            let sending = send(id, url, queue.clone(), self.certificates.clone(), self.told.clone(), timeout);
            self.runtime.spawn(sending)
        };
        let tasks = [spawn(&messages, PEER_TIMEOUT), spawn(&snapshots, PEER_SNAPSHOT_TIMEOUT)];
        Peer { address: address.to_owned(), messages, snapshots, tasks }
    }
}

impl Outbox for Transport {
    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let Some(peer) = self.peers.get(&message.to) else { continue };
            let snapshot = message.get_msg_type() == raft::eraftpb::MessageType::MsgSnapshot;
            if snapshot { &peer.snapshots } else { &peer.messages }.push(message);
        }
    }

    fn addresses(&mut self, members: &[(u64, Address)]) {
        self.peers.retain(|id, peer| members.iter().any(|(known, to)| known == id && to.address == peer.address));
        for (id, to) in members {
            if *id != self.id && !self.peers.contains_key(id) {
                let peer = self.peer(*id, &to.address);
                self.peers.insert(*id, peer);
            }
        }
    }
}

async fn send(id: u64, url: String, queue: Arc<Queue>, certificates: Arc<Certificates>, told: Told, timeout: Duration) {
    let mut away = false;
    loop {
        let batch = queue.batch().await;
        let incarnation = told.get().map(|handle| handle.status().incarnation.get()).unwrap_or_default();
        let request =
            certificates.now().client.post(&url).timeout(timeout).header(INCARNATION, incarnation).body(batch);
        let problem = match request.send().await {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answered {}", response.status())),
            Err(error) => Some(format!("{:#}", anyhow::Error::from(error))),
        };
        match &problem {
            None if away => tracing::info!(peer = id, "an arbiter is back"),
            Some(problem) if !away => tracing::warn!(peer = id, url, problem, "an arbiter cannot be reached"),
            _ => {}
        }
        away = problem.is_some();
        if away {
            if let Some(node) = told.get() {
                node.unreachable(id);
            }
            tokio::time::sleep(PEER_PAUSE).await;
        }
    }
}
