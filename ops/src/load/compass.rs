//! `load --via dns`: buyers find their region by name, as real ones do, and it is held against the map where they land.
//!
//! One task per buyer calls [`Compass::find`]; one answer per network is kept for as long as it may be, like in the
//! resolver of a provider. Must not trust the edge for where somebody belongs: that is reckoned here, from the map.

use super::client::CallError;
use super::homes::{HOMES, Home};
use crate::cluster::Edge;
use crate::{dns, edge};
use hickory_proto::rr::RecordType;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The name servers, and the regions that they may name.
#[derive(Debug, Clone)]
pub struct ViaDns {
    /// The name servers.
    pub edges: Vec<Edge>,
    /// The regions, in the order of the crowd's.
    pub regions: Vec<Place>,
}

/// A region on the map.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// Its name.
    pub region: String,
    /// The address that leads to it.
    pub address: IpAddr,
    /// Latitude and longitude in degrees.
    pub position: [f64; 2],
}

/// How somebody was sent to a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// To the nearest one.
    Nearest,
    /// To another one, and the edge says that the nearest is not usable or gives users away.
    Elsewhere,
    /// To another one without a reason.
    Misplaced,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    until: Instant,
    region: usize,
    sent: Sent,
}

/// Finds regions by name for a crowd.
pub struct Compass {
    via: ViaDns,
    positions: Vec<[f64; 2]>,
    kept: Vec<tokio::sync::Mutex<Option<Kept>>>,
    found: Mutex<Found>,
}

/// What `load --via dns` reports of where people landed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Questions asked of name servers.
    pub questions: u64,
    /// Buyers who were sent to the nearest region.
    pub nearest: u64,
    /// Buyers who were sent to another one, for a reason that the edge gives.
    pub elsewhere: u64,
    /// Buyers who were sent to another one for no reason.
    pub misplaced: u64,
    /// Buyers who went on at another region than the one that they began at, as after a change of the answer.
    pub wandered: u64,
    /// Buyers of each country by region.
    pub countries: BTreeMap<&'static str, BTreeMap<String, u64>>,
}

impl Compass {
    /// For one crowd.
    pub fn new(via: ViaDns) -> Self {
        let positions = via.regions.iter().map(|place| place.position).collect();
        Self { via, positions, kept: HOMES.iter().map(|_| Default::default()).collect(), found: Mutex::default() }
    }

    /// Where people landed so far.
    pub fn found(&self) -> Found {
        self.found.lock().clone()
    }

    /// The region that a buyer with this draw is sent to: index into the crowd's regions.
    pub async fn find(&self, draw: u64) -> Result<usize, CallError> {
        let at = (draw % HOMES.len() as u64) as usize;
        let home = &HOMES[at];
        let mut kept = self.kept[at].lock().await;
        let now = Instant::now();
        let Kept { region, sent, .. } = match *kept {
            Some(kept) if kept.until > now => kept,
            _ => *kept.insert(self.ask(home, draw).await?),
        };
        drop(kept);
        let mut found = self.found.lock();
        match sent {
            Sent::Nearest => found.nearest += 1,
            Sent::Elsewhere => found.elsewhere += 1,
            Sent::Misplaced => found.misplaced += 1,
        }
        *found
            .countries
            .entry(home.country)
            .or_default()
            .entry(self.via.regions[region].region.clone())
            .or_default() += 1;
        Ok(region)
    }

    /// Checks that the address led to the region that it stands for.
    pub fn arrived(&self, region: usize, home: &str) -> Result<(), CallError> {
        let named = &self.via.regions[region];
        if named.region == home {
            return Ok(());
        }
        Err(CallError::Broken(format!("{} is {}'s address, and {home} answers there", named.address, named.region)))
    }

    /// Notes that a buyer went on elsewhere.
    pub fn wandered(&self) {
        self.found.lock().wandered += 1;
    }

    async fn ask(&self, home: &Home, draw: u64) -> Result<Kept, CallError> {
        let client = home.network();
        let first = (draw / HOMES.len() as u64) as usize;
        let mut failed = "there is no name server".to_owned();
        for number in 0..self.via.edges.len() {
            let edge = &self.via.edges[(first + number) % self.via.edges.len()];
            self.found.lock().questions += 1;
            match dns::addresses(edge.dns, &edge.zone, RecordType::A, Some(client)).await {
                Ok(answer) => return self.read(home, edge, &answer).await,
                Err(error) => failed = error.to_string(),
            }
        }
        Err(CallError::NoAnswer(failed))
    }

    async fn read(&self, home: &Home, edge: &Edge, answer: &dns::Answer) -> Result<Kept, CallError> {
        let named = |address: &IpAddr| self.via.regions.iter().position(|place| place.address == *address);
        let region = answer.addresses.iter().find_map(named).ok_or_else(|| {
            CallError::Broken(format!("{} names {:?}, which is no region's address", edge.edge, answer.addresses))
        })?;
        let nearest = home.nearest(&self.positions).unwrap_or(region);
        let sent = if region == nearest { Sent::Nearest } else { self.why(home, edge, region, nearest).await };
        Ok(Kept { until: Instant::now() + Duration::from_secs(answer.ttl_s.into()), region, sent })
    }

    /// Whether an edge has a reason to send somebody elsewhere than to the nearest region.
    async fn why(&self, home: &Home, edge: &Edge, region: usize, nearest: usize) -> Sent {
        let (address, prefix) = home.network();
        let Ok(said) = edge::where_is(edge, &format!("{address}/{prefix}")).await else { return Sent::Misplaced };
        let regions = &self.via.regions;
        let first = said.steps.first().filter(|step| step.region == regions[nearest].region);
        let away = first.is_some_and(|step| step.state != "up" || step.verdict.contains("hands over"));
        if away && said.region == regions[region].region { Sent::Elsewhere } else { Sent::Misplaced }
    }
}
