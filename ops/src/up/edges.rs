//! Starting the edges of a local cluster, or finding them running and telling them of regions that were added.

use super::parts::{Found, Site, program_part, step};
use crate::cluster::edge_config::{DATABASE, EdgeConfig, EdgeRegion};
use crate::cluster::home::source_root;
use crate::cluster::layout::{EDGES, EdgeLayout, RegionLayout, ZONE};
use crate::cluster::{Edge, client, read_secret};
use crate::dns;
use crate::local::process::{self, Record};
use anyhow::{Context as _, Result, bail};
use hickory_proto::rr::RecordType;
use std::path::Path;

/// One edge, from nothing to an answer.
pub(super) async fn edge(site: &Site<'_>, layout: &EdgeLayout) -> Result<Edge> {
    let edge = Edge {
        edge: layout.edge.clone(),
        dns: layout.dns(),
        admin: format!("http://{}", layout.admin()),
        zone: ZONE.to_owned(),
        operator_token_file: site.secrets.edge_token.clone(),
        folder: site.home.part(&layout.edge),
    };
    step(layout.edge.clone(), layout.dns(), start(site, layout, &edge)).await?;
    Ok(edge)
}

async fn start(site: &Site<'_>, layout: &EdgeLayout, edge: &Edge) -> Result<((), Found)> {
    let folder = &edge.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let regions: Vec<EdgeRegion> = site.regions.iter().map(told_of).collect();
    let text = EdgeConfig {
        dns: layout.dns(),
        admin: layout.admin(),
        operator_token_file: &site.secrets.edge_token,
        reader_token_file: &site.secrets.reader_token,
        cookies_file: &site.secrets.edge_cookies,
        zone: ZONE,
        nameservers: &EDGES.map(Into::into),
        regions: &regions,
        check_every_ms: None,
    }
    .text()?;
    let config = folder.join("edge.toml");
    let changed = put(&config, text.as_bytes())? | put(&folder.join(DATABASE), &database()?)?;
    let running = Record::read(&process::record_file(folder, "edge")).is_some_and(|record| record.alive());
    if running && changed {
        let token = read_secret(&edge.operator_token_file)?;
        let reload = site.http.post(format!("{}/v1/reload", edge.admin)).bearer_auth(token);
        client::answer::<serde_json::Value>(reload).await.context("telling it of regions that were added")?;
    }
    let args = vec!["serve".into(), "--config".into(), config.into()];
    let listens = [layout.dns(), layout.admin()];
    let ready = format!("{}/readyz", edge.admin);
    let found = program_part(site, folder, "edge", &site.programs.edge, args, &listens, &ready).await?;
    // The admin port says that it runs; whether it serves is for a question to say.
    let answer = dns::addresses(layout.dns(), ZONE, RecordType::A, None).await?;
    if answer.addresses.is_empty() {
        bail!("{} has no address for {ZONE}; see {}", layout.edge, folder.join("log").display());
    }
    Ok(found)
}

fn told_of(region: &RegionLayout) -> EdgeRegion {
    EdgeRegion {
        name: region.region.to_string(),
        addresses: vec![region.address.into()],
        position: region.position,
        public: region.public(),
        admin: region.admin(),
    }
}

/// The country database that comes with the source.
fn database() -> Result<Vec<u8>> {
    let file = source_root().join("edge/data").join(DATABASE);
    std::fs::read(&file).with_context(|| format!("reading {}", file.display()))
}

/// Writes a file whole or not at all, since an edge may read it at this moment; says whether it changed.
fn put(file: &Path, content: &[u8]) -> Result<bool> {
    if std::fs::read(file).is_ok_and(|before| before == content) {
        return Ok(false);
    }
    let new = file.with_extension("new");
    std::fs::write(&new, content)
        .and_then(|()| std::fs::rename(&new, file))
        .with_context(|| format!("writing {}", file.display()))?;
    Ok(true)
}
