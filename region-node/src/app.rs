//! Everything that requests share: configuration, keys, connections, what is known of concerts.
//!
//! Made once by [`crate::run`]; handlers hold it in an `Arc` and change nothing in it but counters and caches.

use region_api::KeyRing;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::allocator::AllocatorState;
use crate::books::Books;
use crate::catalog::Catalog;
use crate::config::{Config, Role, Secret};
use crate::db::Db;
use crate::http::{Gate, Jwks, Peers, Polls};
use crate::limits;
use crate::payments::Payments;
use crate::queue::Queue;
use crate::status::Reader;
use crate::tickets::Tickets;

/// What requests share.
pub struct App {
    /// As configured.
    pub config: Config,
    /// Signs and checks ids and tokens.
    pub keys: Arc<KeyRing>,
    /// The region's database.
    pub db: Db,
    /// The region's queue.
    pub queue: Queue,
    /// Books and their witnesses.
    pub books: Arc<Books>,
    /// Concerts as this node sees them.
    pub catalog: Arc<Catalog>,
    /// Reads reservations' rows.
    pub rows: Reader,
    /// Payments.
    pub payments: Payments,
    /// Tickets.
    pub tickets: Tickets,
    /// The other regions.
    pub peers: Peers,
    /// The identity provider's keys, where one is configured.
    pub jwks: Option<Jwks>,
    /// How often reservations are polled.
    pub polls: Polls,
    /// The door that every request passes.
    pub gate: Gate,
    /// Places for event streams.
    pub streams: Arc<Semaphore>,
    /// Places for those who are refused and may have been given something before.
    pub refusing: Semaphore,
    /// Identity of the database.
    pub identity: uuid::Uuid,
    /// What this node's allocator is doing.
    pub allocator: Arc<AllocatorState>,
    /// Takes no new reservations, by an operator's wish.
    pub draining: AtomicBool,
    /// Joins refused for want of room since the start.
    pub refused_joins: AtomicU64,
    /// Operators' bearer token.
    pub operator_token: Secret,
    /// Bearer token of those who may look and change nothing.
    pub reader_token: Option<Secret>,
    /// The door's bearer token.
    pub door_token: Secret,
    /// `public.base_url` without a slash at its end.
    pub base: String,
    /// Fires when the node is to end.
    pub shutdown: CancellationToken,
}

impl App {
    /// Places for event streams.
    pub fn stream_places() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(limits::STREAMS_MAX))
    }

    /// What keeps this node from accepting reservations, for people; empty when it is ready.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if self.shutdown.is_cancelled() {
            missing.push("the node is stopping".to_owned());
        }
        if !self.config.has(Role::Intake) {
            missing.push("role intake: this node takes no reservations".to_owned());
        }
        if self.draining.load(std::sync::atomic::Ordering::Relaxed) {
            missing.push("draining by an operator's wish".to_owned());
        }
        let queue = self.queue.state();
        if !queue.ready {
            let down = queue.servers.iter().filter(|server| !server.up);
            let down: Vec<String> =
                down.map(|s| format!("{} ({})", s.address, s.note.as_deref().unwrap_or("away"))).collect();
            missing.push(format!("redis: {}", down.join(", ")));
        }
        match self.catalog.age_ms() {
            None => missing.push("postgres: not heard yet".to_owned()),
            Some(age_ms) if age_ms > limits::CATALOG_STALE.as_millis() as u64 => {
                missing.push(format!("postgres: not heard for {} s", age_ms / 1000));
            }
            Some(_) => {}
        }
        for (name, view) in self.catalog.views().iter() {
            if let Some(why) = &view.parts().snapshot.halted {
                missing.push(format!("books of concert {name} are halted: {why}"));
            }
        }
        if let Some(why) = self.books.standing.own().and_then(|own| own.halted_text) {
            missing.push(format!("the region is halted: {why}"));
        }
        missing
    }
}
