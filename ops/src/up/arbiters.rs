//! Starting the arbiters of a local cluster, or finding them running; and what regions need to reach them.

use super::parts::{self, Found, Site, step};
use crate::cluster::Arbiter;
use crate::cluster::arbiter_config::ArbiterConfig;
use crate::cluster::arbiters::Arbiters;
use crate::cluster::certificates::{Authority, TlsFiles};
use crate::cluster::home::Home;
use crate::cluster::layout::{ArbiterLayout, RegionLayout};
use crate::cluster::node_config::ArbiterAccess;
use anyhow::{Context as _, Result};
use arbiter_api::{Acted, RegionsView, Role};
use region_api::RegionName;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// Who the operator of a local cluster is to the arbiters, and in their audit.
const OPERATOR: &str = "local";

/// The arbiters of a cluster before they run: who they are, and who is who to them.
pub(super) struct Bench {
    pub members: Vec<Arbiter>,
    /// The operator's certificate.
    pub operator: TlsFiles,
    authority: Authority,
}

impl Bench {
    /// Certificates are made here, all others when they are asked for.
    pub(super) fn prepare(home: &Home) -> Result<Self> {
        let authority = Authority::ensure(&home.secrets().join("tls"))?;
        let operator = authority.ensure_issued("operator", &Role::Operator(OPERATOR.to_owned()), &[])?;
        let member = |layout: &ArbiterLayout| Arbiter {
            id: layout.id,
            address: format!("https://{}", layout.machines()),
            people: format!("https://{}", layout.people()),
            data_dir: home.part(&layout.name()).join("data"),
        };
        let members = ArbiterLayout::all().iter().map(member).collect();
        Ok(Self { members, operator, authority })
    }

    /// How a region reaches them.
    pub(super) fn access(&self, region: &RegionName) -> Result<ArbiterAccess> {
        let role = Role::Region(region.as_str().parse()?);
        let urls = self.members.iter().map(|member| member.address.clone()).collect();
        Ok(ArbiterAccess { urls, tls: self.authority.ensure_issued(region.as_str(), &role, &[])?, autonomy_ms: None })
    }
}

/// All of them, from nothing to a leader that knows every region.
pub(super) async fn start(site: &Site<'_>, bench: &Bench) -> Result<()> {
    // None is ready before most of them run: first all are started, then each is waited for.
    let mut running = Vec::new();
    for (layout, member) in ArbiterLayout::all().into_iter().zip(&bench.members) {
        let launched = launch(site, bench, &layout, member).with_context(|| format!("starting {}", layout.name()))?;
        running.push((layout, launched));
    }
    let http = bench.operator.client()?.timeout(Duration::from_secs(5)).build()?;
    for (layout, launched) in running {
        let ready = format!("https://{}/readyz", layout.people());
        let found = Found(launched.found);
        let waiting = async { parts::until_ready(&http, &launched, &ready).await.map(|()| ((), found)) };
        step(format!("arbiter {}", layout.id), layout.machines(), waiting).await?;
    }
    know_regions(&Arbiters::new(&bench.operator, &bench.members)?, site.regions).await
}

fn launch(site: &Site<'_>, bench: &Bench, layout: &ArbiterLayout, member: &Arbiter) -> Result<parts::Launched> {
    let folder = site.home.part(&layout.name());
    std::fs::create_dir_all(&member.data_dir).with_context(|| format!("making {}", member.data_dir.display()))?;
    let address = [IpAddr::from(layout.address)];
    let tls = bench.authority.ensure_issued(&layout.name(), &Role::Arbiter(layout.id), &address)?;
    let regions: Vec<RegionName> = site.regions.iter().map(|layout| layout.region.clone()).collect();
    let text = ArbiterConfig {
        id: layout.id,
        data_dir: &member.data_dir,
        machines: layout.machines(),
        people: layout.people(),
        tls: &tls,
        operator_token_file: &site.secrets.operator_token,
        join: false,
        members: &bench.members,
        regions: &regions,
        heartbeat_ms: None,
    }
    .text()?;
    let config = folder.join("arbiter.toml");
    std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    let program = site.programs.arbiter()?;
    let args = vec!["--config".into(), config.into()];
    parts::launch_part(&folder, "arbiter", program, args, &[layout.machines(), layout.people()])
}

/// Regions that were added after the arbiters' first start.
async fn know_regions(arbiters: &Arbiters, regions: &[RegionLayout]) -> Result<()> {
    let known: RegionsView = arbiters.get("/v1/regions").await?;
    for layout in regions {
        if !known.regions.iter().any(|known| known.region.as_str() == layout.region.as_str()) {
            let _: Acted = arbiters.put(&format!("/v1/regions/{}", layout.region), &serde_json::json!({})).await?;
        }
    }
    Ok(())
}

/// Whether the regions in this folder were started under arbiters; `None` when there are none yet.
pub(super) fn under_arbiters(home: &Home, region: &RegionLayout) -> Option<bool> {
    let config = home.part(region.region.as_str()).join("node").join("node.toml");
    let text = std::fs::read_to_string(Path::new(&config)).ok()?;
    Some(text.parse::<toml::Table>().ok()?.contains_key("arbiter"))
}
