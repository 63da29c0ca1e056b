//! A choice in words: every region in order, why it stands there, and what became of it.
//!
//! Must only retell what `rank` and `pick` decided, never decide anything itself.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Client, Handover, Pick, PickWhy, Policy, Ranked, Ranking, RegionLive, Why, pick, rank};
use crate::geo::GeoSet;

/// One region in the order.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Step {
    /// Name.
    pub region: String,
    /// Why it stands here.
    pub why: String,
    /// Distance times bias, in kilometres.
    pub effective_km: Option<u32>,
    /// Its health and drain.
    pub state: String,
    /// What became of it for this client.
    pub verdict: String,
}

/// Which regions a network would get, in order, and why.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Explanation {
    /// The network asked about.
    pub network: String,
    /// Country, continent, operator as the databases say.
    pub country: Option<String>,
    /// Continent.
    pub continent: Option<String>,
    /// Autonomous system number.
    pub asn: Option<u32>,
    /// The region answered.
    pub region: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Life of the answer in caches, in seconds.
    pub ttl_s: u32,
    /// The answer holds for all addresses that share so many bits.
    pub scope: u8,
    /// All regions, in order.
    pub steps: Vec<Step>,
}

/// Explains the choice for a client; `ttl_s` is how an answer's life follows from a pick.
pub fn explain(
    policy: &Policy,
    geo: &GeoSet,
    live: &[RegionLive],
    step_ms: u64,
    client: Client,
    ttl_s: impl Fn(&Pick) -> u32,
) -> Explanation {
    let ranking = rank(policy, geo, client);
    let pick = pick(&ranking, live, step_ms);
    let chosen = policy.region(pick.region);
    let located = ranking.located;
    let v4 = chosen.v4.iter().map(|a| IpAddr::V4(*a));
    let addresses = v4.chain(chosen.v6.iter().map(|a| IpAddr::V6(*a))).collect();
    let step = |(at, ranked): (usize, &Ranked)| Step {
        region: policy.region(ranked.region).name.clone(),
        why: why(policy, ranked),
        effective_km: ranked.effective_km.map(|km| km.round() as u32),
        state: state(&live[ranked.region.at()]),
        verdict: verdict(&ranking, &pick, at, &live[ranked.region.at()]),
    };
    Explanation {
        network: format!("{}/{}", client.address, client.prefix),
        country: located.country.map(|c| c.to_string()),
        continent: located.continent.map(|c| c.to_string()),
        asn: located.asn,
        region: chosen.name.clone(),
        addresses,
        ttl_s: ttl_s(&pick),
        scope: pick.scope,
        steps: ranking.entries.iter().enumerate().map(step).collect(),
    }
}

fn why(policy: &Policy, ranked: &Ranked) -> String {
    let spec = policy.region(ranked.region);
    let tie = if ranked.tied { format!(", by weight {} among equally near ones", spec.weight) } else { String::new() };
    match ranked.why {
        Why::Override(at) => format!("configured for network {}", policy.override_lists[at as usize].0),
        Why::Operator(asn) => format!("same operator, AS{asn}{tie}"),
        Why::Country(country) => format!("configured for country {country}"),
        Why::Continent(continent) => format!("configured for continent {continent}"),
        Why::Nearest if spec.bias == 1.0 => format!("by distance{tie}"),
        Why::Nearest => format!("by distance times {}{tie}", spec.bias),
        Why::NoPlace => format!("no place known{tie}"),
    }
}

fn state(live: &RegionLive) -> String {
    if live.drained { format!("{}, drained by the operator", live.state) } else { live.state.clone() }
}

fn verdict(ranking: &Ranking, pick: &Pick, at: usize, live: &RegionLive) -> String {
    let entry = &ranking.entries[at];
    let shares = match &live.handover {
        Handover::Shares(shares) if at == 0 => {
            let share = f64::from(shares.last().map_or(0, |(_, below)| *below)) / 655.36;
            format!("hands over {share:.0} % of its users")
        }
        _ => String::new(),
    };
    let chosen = entry.region == pick.region;
    match (chosen, pick.why) {
        (true, PickWhy::First) if shares.is_empty() => "chosen".to_owned(),
        (true, PickWhy::First) => format!("chosen; {shares}, not this network"),
        (true, PickWhy::HandedOver) => "chosen: takes this network over from the first".to_owned(),
        (true, PickWhy::AllDown) => "chosen: none is usable, so the first is named as if it were".to_owned(),
        (false, PickWhy::HandedOver) if at == 0 => format!("{shares}, this network among them"),
        (false, _) if !live.is_usable() => "passed over: not usable".to_owned(),
        (false, PickWhy::First) if at >= pick.looked_at => "not needed".to_owned(),
        (false, _) => "passed over".to_owned(),
    }
}
