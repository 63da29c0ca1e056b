//! How a node reaches its queue's Redis, and the bounds of group commit. Only data.

use std::fmt;
use std::time::Duration;
use zeroize::Zeroizing;

/// A password. Never shown, wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a password.
    pub fn new(secret: String) -> Self {
        Self(Zeroizing::new(secret))
    }
    /// The password itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where the queue lives and how joins are gathered.
#[derive(Debug, Clone)]
pub struct QueueConfig {
    /// `redis://host:port`: the server, or some nodes of a Redis Cluster (the others are found).
    pub urls: Vec<String>,
    /// Redis user, where it is not the default one.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// The servers form a Redis Cluster.
    pub cluster: bool,
    /// Replicas that must confirm a batch before it is answered; not optional where there is a replica.
    pub wait_replicas: u32,
    /// Joins in a batch; a full batch does not wait for more.
    pub batch_items_max: usize,
    /// How long a batch may wait to fill while joins are many; a lone join never waits.
    pub batch_wait_max: Duration,
    /// Joins under way in this node; beyond it they are refused as overloaded.
    pub inflight_max: usize,
}

impl QueueConfig {
    /// The defaults for one server at `url`.
    pub fn single(url: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            username: None,
            password: None,
            cluster: false,
            wait_replicas: 0,
            batch_items_max: 2_000,
            batch_wait_max: Duration::from_millis(2),
            inflight_max: 50_000,
        }
    }
}
