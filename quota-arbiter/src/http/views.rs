//! What can be read: concerts, quota, regions, the cluster, a backup. Linearizable, or with `?stale=true` whatever the
//! asked arbiter has.

use std::{collections::BTreeMap, sync::Arc};

use arbiter_api::{
    ClusterView, Concerts, Member, MemberRole, MoveMade, Place, QuotaView, RegionQuota, RegionStatus, RegionsView,
    TierQuota,
};
use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use quota_protocol::{
    ConcertId, PoolId, RegionId, Tickets,
    issuer::{Pool, RegionState},
    sold_out,
};
use region_api::{Code, ConcertName};
use serde::Deserialize;

use super::{App, Refusal, body::Segments};
use crate::{
    backup::Backup,
    command::Address,
    node::{Consistency, View},
};

/// How sure a read is to be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    #[serde(default)]
    stale: bool,
}

type Asked = Result<Query<How>, QueryRejection>;

fn consistency(how: Asked) -> Result<Consistency, Refusal> {
    let Query(How { stale }) = how.map_err(|error| Refusal::invalid("query", error.body_text()))?;
    Ok(if stale { Consistency::Stale } else { Consistency::Linearizable })
}

/// `GET /v1/concerts`
pub(super) async fn concerts(State(app): State<Arc<App>>, how: Asked) -> Result<Response, Refusal> {
    let read = app.node.read(consistency(how)?, |view| Concerts {
        meta: view.meta(),
        concerts_version: view.state().concerts_version(),
        concerts: view.state().concerts().values().cloned().collect(),
    });
    Ok(Json(read.await?).into_response())
}

/// `GET /v1/quota/{concert}`
pub(super) async fn quota(State(app): State<Arc<App>>, path: Segments, how: Asked) -> Result<Response, Refusal> {
    let concert: ConcertId = path.get(0, "concert")?;
    let quota = app.node.read(consistency(how)?, move |view| quota_of(view, &concert)).await?;
    let quota = quota.ok_or_else(|| Refusal::new(Code::NotFound, format!("there is no concert {concert}")))?;
    Ok(Json(quota).into_response())
}

fn quota_of(view: &View<'_>, concert: &ConcertId) -> Option<QuotaView> {
    let order = view.state().concerts().get(concert)?;
    let pools = view.state().issuer().pools();
    let tiers = order.definition.tiers.iter().filter_map(|tier| {
        let id = PoolId { concert: *concert, tier: tier.tier.as_str().parse().ok()? };
        pools.get(&id).map(|pool| tier_of(view, &id, pool))
    });
    let place = |region: Option<RegionId>| region.map_or(Place::Pool, Place::Region);
    let moves = view.leader().made().filter(|made| made.pool.concert == *concert).map(|made| MoveMade {
        at: view.instant(made.at_ms),
        tier: made.pool.tier,
        from: place(made.from),
        to: place(made.to),
        tickets: made.tickets,
        who: made.who.clone().unwrap_or_else(|| "policy".to_owned()),
    });
    Some(QuotaView {
        meta: view.meta(),
        concert: ConcertName::new(concert.as_str()).ok()?,
        tiers: tiers.collect(),
        moves: moves.collect(),
    })
}

fn tier_of(view: &View<'_>, id: &PoolId, pool: &Pool) -> TierQuota {
    let issuer = view.state().issuer();
    let earmarks = view.leader().earmarks(view.state(), id, pool);
    let mut quarantined = Tickets::ZERO;
    let mut regions = BTreeMap::new();
    for (region, known) in issuer.regions() {
        let slice = pool.slices.get(region).copied().unwrap_or_default();
        let report = view.leader().row(region, id);
        let row = report.map_or(slice.floor, |report| report.counters);
        let silent = view.silent(region) && known.identity.is_some();
        if silent && known.state != RegionState::WrittenOff {
            quarantined += slice.granted.minus_or_zero(slice.accepted).minus_or_zero(slice.floor.sold_net());
        }
        let quota = RegionQuota {
            granted: slice.granted,
            returned: slice.accepted,
            held: row.held(),
            sold: row.sold,
            refunded: row.refunded,
            available: row.available(),
            queue: report.map(|report| report.demand.queued).unwrap_or_default(),
            earmark: earmarks.get(region).copied().unwrap_or_default(),
            last_report: view.last_report(region),
            silent,
            state: known.state,
        };
        regions.insert(*region, quota);
    }
    TierQuota {
        tier: id.tier,
        total: pool.total,
        pool: pool.pool,
        frozen: pool.frozen,
        forgotten: pool.forgotten.as_ref().map(ToString::to_string),
        quarantined,
        sold_out: sold_out::stock(issuer, id) == Some(sold_out::Stock::SoldOut),
        regions,
    }
}

/// `GET /v1/regions`
pub(super) async fn regions(State(app): State<Arc<App>>, how: Asked) -> Result<Response, Refusal> {
    let read = app.node.read(consistency(how)?, |view| RegionsView { meta: view.meta(), regions: regions_of(view) });
    Ok(Json(read.await?).into_response())
}

fn regions_of(view: &View<'_>) -> Vec<RegionStatus> {
    let issuer = view.state().issuer();
    let status = |(region, known): (&RegionId, &quota_protocol::issuer::Region)| {
        let unsold = issuer.pools().iter().filter_map(|(id, pool)| {
            let slice = pool.slices.get(region)?;
            let unsold = slice.granted.minus_or_zero(slice.accepted).minus_or_zero(slice.floor.sold_net());
            (!unsold.is_zero() && known.state != RegionState::WrittenOff).then_some((*id, unsold))
        });
        RegionStatus {
            region: *region,
            state: known.state,
            epoch: known.epoch,
            identity: known.identity,
            last_report: view.last_report(region),
            silent: view.silent(region),
            awaited: issuer.recovering().is_some_and(|waiting| waiting.contains(region)),
            behind: view.leader().behind(issuer, region).map(|behind| behind.to_string()),
            unsold: unsold.collect(),
            fenced: known.fenced.clone(),
        }
    };
    issuer.regions().iter().map(status).collect()
}

/// `GET /v1/cluster`
pub(super) async fn cluster(State(app): State<Arc<App>>, how: Asked) -> Result<Response, Refusal> {
    let status = app.node.status();
    let read = app.node.read(consistency(how)?, move |view| {
        let (driver, state) = (view.driver(), view.state());
        let members = driver.members();
        let leader = Some(driver.leader()).filter(|leader| *leader != 0);
        let voters = members
            .voters
            .iter()
            .map(|id| (*id, if leader == Some(*id) { MemberRole::Leader } else { MemberRole::Follower }));
        let learners = members.learners.iter().map(|id| (*id, MemberRole::Learner));
        let found = |id: u64| {
            let known = state.members().get(&id).cloned();
            let leads = status.leader.as_ref().filter(|leads| leads.id == id).and_then(|leads| leads.address.clone());
            known.or(leads).unwrap_or(Address { address: String::new(), people: String::new() })
        };
        let member = |(id, role): (u64, MemberRole)| {
            let Address { address, people } = found(id);
            Member { id, address, people, role, matched: driver.matched(id), seen: state.seen().contains(&id) }
        };
        let issuer = state.issuer();
        let behind = issuer
            .regions()
            .keys()
            .filter_map(|region| view.leader().behind(issuer, region).map(|behind| (*region, behind.to_string())));
        ClusterView {
            meta: view.meta(),
            leader,
            incarnation: issuer.incarnation(),
            awaited: issuer.recovering().map(|waiting| waiting.iter().copied().collect()),
            forgotten: issuer.forgotten().map(ToString::to_string),
            behind: behind.collect(),
            members: voters.chain(learners).map(member).collect(),
        }
    });
    Ok(Json(read.await?).into_response())
}

/// `GET /v1/backup`
pub(super) async fn backup(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let backup = app.node.read(Consistency::Linearizable, |view| Backup::of(view.meta(), view.state())).await?;
    Ok(Json(backup).into_response())
}
