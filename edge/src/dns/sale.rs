//! Answers that depend on the client: the sale's name, by the chosen region.

use crate::choice::{Client, Pick, RegionPolicy, pick, rank};
use crate::config::HttpsConfig;
use crate::snapshot::Snapshot;
use crate::wire::{AnswerWriter, Section, rtype};

/// True for the types whose content comes from the chosen region.
pub(super) fn is_dynamic_type(snapshot: &Snapshot, qtype: u16) -> bool {
    matches!(qtype, rtype::A | rtype::AAAA) || (qtype == rtype::HTTPS && snapshot.https.is_some())
}

/// The choice for a client.
pub(super) fn choose(snapshot: &Snapshot, client: Client) -> Pick {
    let ranking = rank(&snapshot.policy, &snapshot.geo, client);
    pick(&ranking, &snapshot.live, snapshot.step_ms)
}

/// Writes the chosen region's records; false when it has none of that type.
pub(super) fn write(snapshot: &Snapshot, writer: &mut AnswerWriter<'_>, owner: usize, qtype: u16, pick: &Pick) -> bool {
    let region = snapshot.policy.region(pick.region);
    let ttl_s = snapshot.rules.ttl_s(pick);
    match qtype {
        rtype::A => region.v4.iter().for_each(|a| writer.record(Section::Answer, owner, qtype, ttl_s, &a.octets())),
        rtype::AAAA => region.v6.iter().for_each(|a| writer.record(Section::Answer, owner, qtype, ttl_s, &a.octets())),
        _ => {
            if let Some(content) = snapshot.https.as_ref().and_then(|all| all.get(pick.region.at())) {
                writer.record(Section::Answer, owner, qtype, ttl_s, content);
            }
        }
    }
    match qtype {
        rtype::A => !region.v4.is_empty(),
        rtype::AAAA => !region.v6.is_empty(),
        _ => true,
    }
}

/// Content of a region's HTTPS record (RFC 9460 §2.2, §7): itself as the target, its addresses as hints; keys ascending.
pub fn https_content(https: &HttpsConfig, region: &RegionPolicy) -> Box<[u8]> {
    let mut content = vec![0, 1, 0];
    let mut param = |key: u16, value: &[u8]| {
        content.extend_from_slice(&key.to_be_bytes());
        content.extend_from_slice(&(value.len() as u16).to_be_bytes());
        content.extend_from_slice(value);
    };
    let alpn: Vec<u8> = https.alpn.iter().flat_map(|id| std::iter::once(id.len() as u8).chain(id.bytes())).collect();
    if !alpn.is_empty() {
        param(1, &alpn);
    }
    if let Some(port) = https.port {
        param(3, &port.to_be_bytes());
    }
    let v4: Vec<u8> = region.v4.iter().flat_map(|a| a.octets()).collect();
    if !v4.is_empty() {
        param(4, &v4);
    }
    let v6: Vec<u8> = region.v6.iter().flat_map(|a| a.octets()).collect();
    if !v6.is_empty() {
        param(6, &v6);
    }
    content.into_boxed_slice()
}
