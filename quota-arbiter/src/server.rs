//! An arbiter put together: store, node, transport, both ports; and taken apart in order. `run` ends when it is told
//! to, or when the node cannot go on.

use std::{sync::Arc, time::Instant};

use anyhow::{Context as _, bail};
use arbiter_api::ClusterView;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    http::{App, router},
    limits::{CERTIFICATES_LOOK_EVERY, PEER_TIMEOUT, TRANSFER_WAIT},
    metrics,
    node::{self, Handle},
    people::People,
    raft::Machine as _,
    serve::{Port, serve},
    state::State,
    store::{DiskStore, LogStore as _, Stored},
    tls::Certificates,
    transport::Transport,
};

/// Runs an arbiter until `shutdown` fires.
///
/// # Errors
/// What kept it from starting, or why it had to end: with what to do.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    metrics::recorder();
    let people = People::load(&config.operators)?;
    let certificates = Certificates::load(config.tls.clone(), config.id).context("configuration key `tls`")?;
    let listen = async |address, key: &str| {
        TcpListener::bind(address).await.with_context(|| format!("configuration key `{key}`: {address}"))
    };
    let machines = listen(config.machines, "machines").await?;
    let for_people = listen(config.people, "people").await?;
    let (store, stored) = open(&config, &certificates).await?;
    let history = store.history();
    let (transport, told) = Transport::new(config.id, certificates.clone(), tokio::runtime::Handle::current());
    let node::Node { handle, mut ended } = node::start(config.node(), Box::new(store), stored, Box::new(transport))?;
    // Nobody else sets it.
    drop(told.set(handle.clone()));
    let heartbeat_ms = config.node().policy.heartbeat_ms;
    let app = Arc::new(App { node: handle.clone(), history: Some(history), people, heartbeat_ms });
    let ports = [(machines, Port::Machines), (for_people, Port::People)].map(|(listener, port)| {
        let router = router(app.clone(), port);
        tokio::spawn(serve(listener, port, certificates.clone(), router, shutdown.clone()))
    });
    let watch = tokio::spawn(async move { certificates.watch(CERTIFICATES_LOOK_EVERY).await });
    let upkeep = tokio::spawn(metrics::upkeep());
    tracing::info!(node = config.id, machines = %config.machines, people = %config.people, "serving");
    let result = tokio::select! {
        ended = &mut ended => Some(ended),
        () = shutdown.cancelled() => None,
    };
    if result.is_none() {
        hand_over(&handle).await;
    }
    shutdown.cancel();
    for port in ports {
        port.await.context("a port's task")?;
    }
    watch.abort();
    upkeep.abort();
    let result = match result {
        Some(ended) => ended,
        None => {
            handle.stop().await;
            ended.await
        }
    };
    Ok(result.context("the node's thread is gone")??)
}

/// A leader that ends lets another take over first: that takes milliseconds, an election seconds.
async fn hand_over(handle: &Handle) {
    if !handle.status().leads || !matches!(handle.transfer(None).await, Ok(Some(_))) {
        return;
    }
    let end = Instant::now() + TRANSFER_WAIT;
    while handle.status().leads && Instant::now() < end {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    tracing::info!(leads = handle.status().leads, "handed over");
}

async fn open(config: &Config, certificates: &Certificates) -> anyhow::Result<(DiskStore, Stored)> {
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("configuration key `data_dir`: {}", config.data_dir.display()))?;
    let mut store = DiskStore::open(&config.log_file())?.keeping(config.history_size_max_bytes);
    let stored = match store.load()? {
        Some(stored) => stored,
        None if config.cluster.join => Stored::default(),
        None => {
            refuse_if_wiped(config, certificates).await?;
            let stored = Stored::first(config.voters(), State::default().snapshot());
            store.persist(&stored.as_batch())?;
            stored
        }
    };
    Ok((store, stored))
}

/// A first member with an empty folder may vote as if it had never voted. If the others have seen it with a log, that
/// log was wiped, and it must not come back under its id.
async fn refuse_if_wiped(config: &Config, certificates: &Certificates) -> anyhow::Result<()> {
    for member in config.cluster.members.iter().filter(|member| member.id != config.id) {
        let Ok(url) = member.address.join("/v1/cluster?stale=true") else { continue };
        let asked = certificates.now().client.get(url).timeout(PEER_TIMEOUT).send().await;
        // Nobody there: the others of a new cluster may not have been started yet.
        let Ok(response) = asked else { continue };
        let Ok(cluster) = response.json::<ClusterView>().await else { continue };
        let unknown = cluster.members.iter().all(|known| known.id != config.id);
        let seen = cluster.members.iter().any(|known| known.id == config.id && known.seen);
        if cluster.meta.index > 1 && (unknown || seen) {
            bail!(
                "the folder {} is empty, but arbiter {} knows this arbiter ({}) with a log, or as removed: its folder \
                 was wiped. Remove it from the cluster and add it again under an id that was never used, with \
                 cluster.join = true",
                config.data_dir.display(),
                member.id,
                config.id
            );
        }
    }
    Ok(())
}
