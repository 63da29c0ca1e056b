//! The requests that benches send: joins and polls by users whose sessions the bench signs itself.
//!
//! Everything a request needs is made from its number, so that a million users cost no memory. The baseline gets the
//! very same requests, session token included.

use super::drive::Work;
use anyhow::{Result, bail};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;
use region_api::{KeyRing, RegionName, Session, UserId};
use serde::Deserialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Signs the sessions of numbered users.
#[derive(Clone)]
pub struct Users {
    ring: KeyRing,
    region: RegionName,
    now_ms: u64,
    /// Users of different rounds must be different people.
    first: u64,
}

impl Users {
    /// Users from number `first` on, with sessions that begin now.
    pub fn new(ring: KeyRing, region: RegionName, first: u64) -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { ring, region, now_ms: since.as_millis() as u64, first }
    }

    /// The session of one of them.
    pub fn session(&self, number: u64) -> String {
        let mut guest = [0; 16];
        guest[..8].copy_from_slice(&(self.first + number).to_be_bytes());
        // Spread over the queue's shards is by hash; the number alone makes the user.
        Session::begin(UserId::Guest(guest), false, self.region.clone(), self.now_ms).sign(&self.ring)
    }
}

#[derive(Deserialize)]
struct Joined {
    reservation: String,
}

/// Joins of one concert, each by a user of its own.
pub struct Joins {
    users: Users,
    uri: String,
    host: String,
    /// Of every so many answers one reservation id is kept, if any.
    keep_every: Option<u64>,
    ids: Mutex<Vec<(u64, String)>>,
    accepted: AtomicU64,
}

impl Joins {
    /// Joins whose answers are looked at no closer than to see that they were taken.
    pub fn new(users: Users, concert: &str, host: String) -> Self {
        let uri = format!("/v1/concerts/{concert}/reservations");
        Self { users, uri, host, keep_every: None, ids: Mutex::default(), accepted: AtomicU64::new(0) }
    }
    /// Keeps the reservation id of one request in `every`, for polls.
    pub fn keeping(self, every: u64) -> Self {
        Self { keep_every: Some(every), ..self }
    }
    /// How many were answered `202`.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }
    /// The ids remembered, with their requests' numbers.
    pub fn take_ids(&self) -> Vec<(u64, String)> {
        std::mem::take(&mut *self.ids.lock())
    }
}

impl Work for Joins {
    fn request(&self, number: u64) -> Request<Full<Bytes>> {
        let request_id = uuid::Uuid::from_u128(u128::from(self.users.first + number));
        let body = format!(r#"{{"request_id":"{request_id}","quantity":1,"tiers":["A","B"],"any_quantity":false}}"#);
        let request = Request::post(&self.uri)
            .header(http::header::HOST, &self.host)
            .header(http::header::AUTHORIZATION, format!("Bearer {}", self.users.session(number)))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)));
        request.unwrap_or_else(|error| unreachable!("a request of visible characters: {error}"))
    }

    fn answered(&self, number: u64, status: StatusCode, body: &Bytes) -> Result<()> {
        if status != StatusCode::ACCEPTED {
            bail!("a join was answered {status}: {}", String::from_utf8_lossy(body));
        }
        self.accepted.fetch_add(1, Relaxed);
        if self.keep_every.is_some_and(|every| number.is_multiple_of(every)) {
            let joined: Joined = serde_json::from_slice(body)?;
            self.ids.lock().push((number, joined.reservation));
        }
        Ok(())
    }
}

/// Polls of reservations, round and round.
pub struct Polls {
    users: Users,
    host: String,
    ids: Vec<(u64, String)>,
}

impl Polls {
    /// Polls `ids` of the users who joined with them.
    pub fn new(users: Users, host: String, ids: Vec<(u64, String)>) -> Self {
        Self { users, host, ids }
    }
}

impl Work for Polls {
    fn request(&self, number: u64) -> Request<Full<Bytes>> {
        let (user, id) = &self.ids[number as usize % self.ids.len()];
        let request = Request::get(format!("/v1/reservations/{id}"))
            .header(http::header::HOST, &self.host)
            .header(http::header::AUTHORIZATION, format!("Bearer {}", self.users.session(*user)))
            .body(Full::default());
        request.unwrap_or_else(|error| unreachable!("a request of visible characters: {error}"))
    }

    fn answered(&self, _number: u64, status: StatusCode, body: &Bytes) -> Result<()> {
        if status != StatusCode::OK {
            bail!("a poll was answered {status}: {}", String::from_utf8_lossy(body));
        }
        Ok(())
    }
}
