//! Several nodes in one process, over a wire in memory and real stores.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use quota_protocol::{
    Command, Counters, Epoch, Identity, Outcome, Register, Report, Tickets,
    message::{Demand, PoolReport},
};

use super::*;
use crate::{
    command::RequestId,
    node::mail::Knows,
    state::{Done, State},
    store::{Batch, DiskStore},
};

#[derive(Clone, Default)]
struct Wire {
    handles: Arc<Mutex<BTreeMap<u64, Handle>>>,
    cut: Arc<Mutex<BTreeSet<u64>>>,
}

impl Outbox for Wire {
    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let cut = self.cut.lock();
            if cut.contains(&message.from) || cut.contains(&message.to) {
                continue;
            }
            if let Some(handle) = self.handles.lock().get(&message.to) {
                handle.step(vec![message]);
            }
        }
    }

    fn addresses(&mut self, _: &[(u64, Address)]) {}
}

fn config(id: u64, voters: &[u64]) -> NodeConfig {
    let address = |id: &u64| {
        (*id, Address { address: format!("https://127.0.0.{id}:7400"), people: format!("https://127.0.0.{id}:9080") })
    };
    NodeConfig {
        raft: Settings::new(id),
        tick: Duration::from_millis(10),
        policy: Policy::default(),
        founding: Founding { members: voters.iter().map(address).collect(), regions: vec!["east".parse().unwrap()] },
    }
}

struct Cluster {
    wire: Wire,
    nodes: BTreeMap<u64, Node>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    fn start(voters: &[u64]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let wire = Wire::default();
        let mut nodes = BTreeMap::new();
        for id in voters {
            let mut store = DiskStore::open(&folder.path().join(id.to_string())).unwrap();
            assert!(store.load().unwrap().is_none());
            let stored = Stored::first(voters.to_vec(), crate::raft::Machine::snapshot(&State::default()));
            store.persist(&stored.as_batch()).unwrap();
            let node = start(config(*id, voters), Box::new(store), stored, Box::new(wire.clone())).unwrap();
            wire.handles.lock().insert(*id, node.handle.clone());
            nodes.insert(*id, node);
        }
        Self { wire, nodes, _folder: folder }
    }

    /// A leader that has something committed, among those that are not cut off.
    async fn leader(&self) -> Handle {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            for (id, node) in &self.nodes {
                let reachable = !self.wire.cut.lock().contains(id);
                let founded = node.handle.read(Consistency::Linearizable, |view| view.state().founded()).await;
                if reachable && founded == Ok(true) {
                    return node.handle.clone();
                }
            }
            assert!(Instant::now() < end, "no leader");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn concert(number: u128) -> Request {
    let definition = serde_json::json!({
        "title": "A night", "sale_opens_at": "2030-01-01T00:00:00Z",
        "tiers": [{"tier": "A", "price": {"amount": 100, "currency": "EUR"}, "total": 1000}],
    });
    let definition = Box::new(serde_json::from_value(definition).unwrap());
    let order = Order::PutConcert { concert: "demo".parse().unwrap(), definition };
    Request { id: RequestId(number), who: "ann".to_owned(), order }
}

fn identity() -> Identity {
    Identity { system: 1, timeline: 1, copy: 1 }
}

async fn register(leader: &Handle) -> Epoch {
    let view = leader.read(Consistency::Linearizable, |view| view.state().issuer().view(&east())).await.unwrap();
    let register = Register {
        region: east(),
        identity: identity(),
        incarnation: view.incarnation,
        epoch_as_read: view.epoch,
        database: None,
    };
    let (_, applied) = leader.propose(Work::Quota(vec![Command::Register(register)])).await.unwrap();
    match applied.done {
        Done::Quota(outcomes) => match &outcomes[..] {
            [Outcome::Registered(registered)] => registered.epoch,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn east() -> quota_protocol::RegionId {
    "east".parse().unwrap()
}

fn heartbeat(epoch: Epoch, rows: &[(u32, u32)], concerts_version: u64, wait_ms: u64) -> AskSync {
    let pool = "demo/A".parse().unwrap();
    let pools = rows.iter().map(|(granted, queued)| PoolReport {
        pool,
        counters: Counters { granted: Tickets::from_u32(*granted), ..Counters::ZERO },
        demand: Demand {
            queued: Tickets::from_u32(*queued),
            head_quantities: vec![Tickets::from_u32(2)],
            ..Demand::default()
        },
    });
    let report = Report { region: east(), incarnation: Default::default(), epoch, pools: pools.collect() };
    let rows = rows.iter().map(|(granted, _)| (pool, (Tickets::from_u32(*granted), Tickets::ZERO))).collect();
    AskSync {
        region: east(),
        report: Some(report),
        knows: Knows { incarnation: Default::default(), epoch: Some(epoch), identity: identity(), rows },
        concerts_version,
        wait_until: Some(Instant::now() + Duration::from_millis(wait_ms)),
        look: false,
    }
}

#[tokio::test]
async fn what_is_ordered_is_done_once_and_read_by_whoever_leads() {
    let cluster = Cluster::start(&[1, 2, 3]);
    let leader = cluster.leader().await;
    let (at, applied) = leader.request(concert(7)).await.unwrap();
    assert!(matches!(applied.done, Done::Request(_)), "{applied:?}");
    let (again, applied) = leader.request(concert(7)).await.unwrap();
    assert!(again > at && matches!(applied.done, Done::Repeated(_)), "{applied:?}");
    let known = leader.read(Consistency::Linearizable, |view| view.state().concerts().len()).await;
    assert_eq!(known, Ok(1));
    let follower = cluster.nodes.values().find(|node| !node.handle.status().leads).unwrap();
    let refused = follower.handle.request(concert(8)).await.unwrap_err();
    let Unavailable::NotLeader(Some(leads)) = refused else { panic!("{refused:?}") };
    assert_eq!(leads.id, leader.status().id);
    assert_eq!(leads.address.unwrap().address, format!("https://127.0.0.{}:7400", leads.id));
}

#[tokio::test]
async fn a_leader_that_is_cut_off_answers_nothing_that_may_be_old() {
    let cluster = Cluster::start(&[1, 2, 3]);
    let old = cluster.leader().await;
    cluster.wire.cut.lock().insert(old.status().id);
    let read = tokio::spawn({
        let old = old.clone();
        async move { old.read(Consistency::Linearizable, |_| ()).await }
    });
    let proposed = tokio::spawn({
        let old = old.clone();
        async move { old.request(concert(1)).await }
    });
    let new = cluster.leader().await;
    assert_ne!(new.status().id, old.status().id);
    new.request(concert(2)).await.unwrap();
    assert!(matches!(read.await.unwrap(), Err(Unavailable::NotLeader(_))));
    // Stale reads say what is here.
    assert_eq!(old.read(Consistency::Stale, |view| view.state().concerts().len()).await, Ok(0));
    cluster.wire.cut.lock().clear();
    let proposed = proposed.await.unwrap().unwrap_err();
    assert!(matches!(proposed, Unavailable::Displaced | Unavailable::Unknown), "{proposed:?}");
}

#[tokio::test]
async fn a_heartbeat_waits_for_news_and_no_longer() {
    let cluster = Cluster::start(&[1]);
    let leader = cluster.leader().await;
    let epoch = register(&leader).await;
    let since = Instant::now();
    let nothing = leader.sync(heartbeat(epoch, &[], 0, 200)).await.unwrap();
    assert!(since.elapsed() >= Duration::from_millis(150), "answered after {:?}", since.elapsed());
    assert_eq!((nothing.concerts_version, nothing.concerts), (0, None));
    // A concert is news, and then the grant to a region with a queue.
    let waiting = tokio::spawn({
        let leader = leader.clone();
        async move { leader.sync(heartbeat(epoch, &[], 0, 10_000)).await }
    });
    leader.request(concert(1)).await.unwrap();
    let news = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(news.concerts.unwrap().len(), 1);
    let since = Instant::now();
    let granted = leader.sync(heartbeat(epoch, &[(0, 50)], 1, 10_000)).await.unwrap().answer.unwrap();
    assert!(since.elapsed() < Duration::from_secs(5));
    let granted = granted.slices[0].granted;
    assert!(granted >= Tickets::from_u32(2), "{granted}");
    // What was told is not told again at once, even if the region says that it does not have it.
    let since = Instant::now();
    leader.sync(heartbeat(epoch, &[(0, 0)], 1, 300)).await.unwrap();
    assert!(since.elapsed() >= Duration::from_millis(250), "asked for ever");
    // A row that cannot be is refused.
    let refused = leader.sync(heartbeat(epoch, &[(5_000, 0)], 1, 0)).await.unwrap();
    assert!(refused.answer.is_err());
}

struct Broken(DiskStore, bool);

impl LogStore for Broken {
    fn load(&mut self) -> Result<Option<Stored>, StoreError> {
        self.0.load()
    }

    fn persist(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if self.1 && !batch.entries.is_empty() {
            return Err(StoreError::Disk(Box::new(std::io::Error::other("no space left on device"))));
        }
        self.0.persist(batch)
    }
}

#[tokio::test]
async fn a_store_that_fails_ends_the_node_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = DiskStore::open(&folder.path().join("log")).unwrap();
    let stored = Stored::first(vec![1], crate::raft::Machine::snapshot(&State::default()));
    store.persist(&stored.as_batch()).unwrap();
    let store = Box::new(Broken(store, true));
    let node = start(config(1, &[1]), store, stored, Box::new(Wire::default())).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), node.ended).await.unwrap().unwrap().unwrap_err();
    assert!(ended.to_string().contains("no space left") && ended.to_string().contains("make room"), "{ended}");
    assert_eq!(node.handle.request(concert(1)).await.unwrap_err(), Unavailable::Ending);
}

#[tokio::test]
async fn leadership_is_handed_over_and_a_node_stops_in_order() {
    let mut cluster = Cluster::start(&[1, 2, 3]);
    let old = cluster.leader().await;
    assert_eq!(old.transfer(Some(9)).await, Ok(None), "a stranger takes over nothing");
    let end = Instant::now() + Duration::from_secs(20);
    // A slow disk may stop a transfer at its time-out: then nothing happened, and it is asked for again.
    while cluster.leader().await.status().id == old.status().id {
        assert!(Instant::now() < end, "nobody took over");
        drop(old.transfer(None).await);
    }
    let node = cluster.nodes.remove(&old.status().id).unwrap();
    node.handle.stop().await;
    assert!(node.ended.await.unwrap().is_ok());
}
