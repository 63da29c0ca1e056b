//! The authority and every certificate are replaced under running servers, while a crowd buys.

use crate::support::{Turn, books, cluster, concert, crowd, json, send, settled_sale, stocked, until};
use arbiter_api::Role;
use ops::cluster::certificates::Authority;
use ops::stage::{Sites, SitesSpec};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// How often each server has taken up other certificates.
fn taken_up(sites: &Sites) -> Vec<usize> {
    let count = |log: &Path, words: &str| std::fs::read_to_string(log).unwrap_or_default().matches(words).count();
    let arbiters = sites.arbiters.iter().map(|part| count(&part.log(), "certificates were read again"));
    let regions = sites.regions.iter().map(|site| count(&site.node.log(), "took up changed certificates"));
    arbiters.chain(regions).collect()
}

async fn all_took_up(sites: &Sites, before: &[usize]) {
    until("every server has taken up the new certificates", || async {
        taken_up(sites).iter().zip(before).all(|(now, before)| now > before)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_and_its_certificates_are_replaced_without_a_restart() {
    let spec = SitesSpec { regions: vec!["east", "west"], ..SitesSpec::default() };
    let Turn { sites, .. } = &cluster(spec).await;
    sites.define("sealed", concert(800)).await.unwrap();
    stocked(sites, "sealed").await;
    let buyers = send(sites, &crowd("sealed", 400, Duration::from_secs(15)));
    let before = sites.operator().unwrap();
    assert!(before.get::<serde_json::Value>("/v1/cluster").await.is_ok());

    let files = sites.operator_files().clone();
    let (ca_file, folder) = (files.ca_file.clone(), files.ca_file.parent().unwrap().to_owned());
    let old = std::fs::read_to_string(&ca_file).unwrap();
    let next = Authority::ensure(&folder.join("next")).unwrap();
    let new = std::fs::read_to_string(folder.join("next/ca.pem")).unwrap();
    // Both are believed, before anybody shows something of the next.
    let seen = taken_up(sites);
    std::fs::write(&ca_file, format!("{old}{new}")).unwrap();
    all_took_up(sites, &seen).await;
    let seen = taken_up(sites);
    let arbiters = sites.arbiters.iter().map(|part| part.member.id);
    let arbiters = arbiters.map(|id| (format!("arbiter-{id}"), Role::Arbiter(id)));
    let regions = sites.regions.iter().map(|site| site.region.to_string());
    let regions = regions.map(|name| (name.clone(), Role::Region(name.parse().unwrap())));
    let operator = ("operator".to_owned(), Role::Operator("test".to_owned()));
    let address = [IpAddr::from(ops::local::own_address())];
    for (name, role) in arbiters.chain(regions).chain([operator]) {
        let made = next.ensure_issued(&name, &role, &address).unwrap();
        std::fs::copy(&made.key_file, folder.join(format!("{name}-key.pem"))).unwrap();
        std::fs::copy(&made.certificate_file, folder.join(format!("{name}.pem"))).unwrap();
    }
    all_took_up(sites, &seen).await;
    let seen = taken_up(sites);
    std::fs::write(&ca_file, &new).unwrap();
    all_took_up(sites, &seen).await;

    let cluster = json(sites, &["arbiter", "status"]).await;
    let roles = cluster["arbiters"].as_array().unwrap().iter().map(|row| row["role"].as_str().unwrap());
    assert_eq!(roles.filter(|role| ["leader", "follower"].contains(role)).count(), 3, "{cluster}");
    // A connection from before ends with one more answer at most.
    let hasty = before.with_patience(Duration::ZERO);
    for _ in 0..2 * sites.arbiters.len() {
        drop(hasty.get::<serde_json::Value>("/v1/cluster").await);
    }
    assert!(hasty.get::<serde_json::Value>("/v1/cluster").await.is_err(), "the old authority is still believed");
    let done = buyers.await.unwrap();
    settled_sale(sites, &done).await;
    books(sites).await;
    let status = sites.status(0).await.unwrap().arbiter.unwrap();
    assert!(status.connected && status.registered, "{status:?}");
}
