//! `ops arbiter …`: who the arbiters are, and changes of that.

use crate::ask::Consent;
use crate::cli::{Context, Failure};
use crate::cluster::arbiters::Arbiters;
use crate::cluster::{Arbiter, Cluster};
use crate::output;
use crate::region::RECOVER;
use crate::verify;
use anyhow::{Context as _, Result};
use arbiter_api::{Acted, AddMember, ClusterView, LogPage, MemberRole, Transfer};
use clap::Subcommand;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `ops arbiter`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What each arbiter says of itself and of the others
    Status,
    /// Let an empty arbiter that waits (`join = true` in its configuration) learn the log, then vote
    Add {
        /// A raft id that was never used
        id: u64,
        /// Its base URL for machines, such as https://127.0.24.1:7400
        address: String,
        /// Its base URL for people, such as https://127.0.24.1:9080
        people: String,
    },
    /// Let an arbiter vote no more; its id is never used again
    Remove {
        /// Its raft id
        id: u64,
        #[command(flatten)]
        consent: Consent,
    },
    /// Let another arbiter lead
    Transfer {
        /// Its raft id [default: whoever has most of the log]
        #[arg(long)]
        to: Option<u64>,
    },
    /// What operators ordered, by whom and when
    Audit {
        /// Only so many, the latest ones
        #[arg(long, default_value_t = 50)]
        last: usize,
    },
    /// Write down everything that the arbiters know
    Backup {
        /// The file; must not be there yet
        #[arg(long)]
        out: PathBuf,
    },
}

/// One arbiter as `status` lists it.
#[derive(Debug, Clone, Serialize)]
pub struct ArbiterStatus {
    /// Its raft id.
    pub id: u64,
    /// Base URL for machines.
    pub address: String,
    /// Base URL for people.
    pub people: String,
    /// `leader`, `follower`, `learner`, or `unreachable`.
    pub role: String,
    /// Its term; none when it does not answer.
    pub term: Option<u64>,
    /// The last entry that it has applied.
    pub index: Option<u64>,
    /// How far the leader knows it to have the log.
    pub matched: Option<u64>,
    /// Why it did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// When its answer was true, by its clock.
    pub as_of: Option<region_api::Timestamp>,
}

#[derive(Serialize)]
struct Acquired {
    file: PathBuf,
    bytes: usize,
}

/// Runs one of them.
pub async fn run(context: &Context, args: Args) -> Result<()> {
    let cluster = Cluster::read(&context.home)?;
    let arbiters = Arbiters::of(&cluster)?;
    match args.command {
        Command::Status => status(context, &arbiters, &cluster.arbiters).await,
        Command::Add { id, address, people } => {
            let body = AddMember { id, address, people };
            let acted: Acted = arbiters.post("/v1/cluster/members", &body).await?;
            output::acted(context, &acted)
        }
        Command::Remove { id, consent } => {
            let view: ClusterView = arbiters.get("/v1/cluster").await?;
            consent.ask(&what_removal_does(&view, id)?, &id.to_string())?;
            let acted: Acted = arbiters.delete(&format!("/v1/cluster/members/{id}")).await?;
            output::acted(context, &acted)
        }
        Command::Transfer { to } => {
            let acted: Acted = arbiters.post("/v1/cluster/transfer", &Transfer { to }).await?;
            output::acted(context, &acted)
        }
        Command::Audit { last } => audit(context, &arbiters, last).await,
        Command::Backup { out } => backup(context, &arbiters, out).await,
    }
}

fn what_removal_does(view: &ClusterView, id: u64) -> Result<String> {
    let voters: Vec<u64> =
        view.members.iter().filter(|m| m.role != MemberRole::Learner).map(|member| member.id).collect();
    if !view.members.iter().any(|member| member.id == id) {
        return Err(Failure::Usage(format!("there is no arbiter {id}; voters are {voters:?}")).into());
    }
    let left = voters.iter().filter(|voter| **voter != id).count();
    let may_fail = left.saturating_sub(1) / 2;
    Ok(format!(
        "Arbiter {id} leaves for ever; {left} voters remain, of which {may_fail} may fail without stopping grants. Regions \
         go on selling what they have in any case."
    ))
}

/// Every arbiter, asked itself, with what the leader knows of each.
pub async fn statuses(arbiters: &Arbiters, members: &[Arbiter]) -> Vec<ArbiterStatus> {
    let asked = members.iter().map(|member| arbiters.get_from(&member.address, "/v1/cluster?stale=true"));
    let views: Vec<Result<ClusterView>> = futures::future::join_all(asked).await;
    let led = views.iter().flatten().filter(|view| view.leader == Some(view.meta.node)).max_by_key(|v| v.meta.term);
    let of_leader = |id: u64| led.and_then(|view| view.members.iter().find(|member| member.id == id));
    members.iter().zip(&views).map(|(member, view)| row(member, view, of_leader(member.id))).collect()
}

fn row(member: &Arbiter, view: &Result<ClusterView>, known: Option<&arbiter_api::Member>) -> ArbiterStatus {
    let meta = view.as_ref().ok().map(|view| view.meta);
    let role = match view {
        Err(_) => "unreachable",
        Ok(view) if view.leader == Some(member.id) => "leader",
        Ok(view) => match view.members.iter().find(|known| known.id == member.id).map(|known| known.role) {
            Some(MemberRole::Learner) => "learner",
            Some(_) => "follower",
            None => "no member",
        },
    };
    ArbiterStatus {
        id: member.id,
        address: member.address.clone(),
        people: member.people.clone(),
        role: role.to_owned(),
        term: meta.map(|meta| meta.term),
        index: meta.map(|meta| meta.index),
        matched: known.and_then(|known| known.matched),
        problem: view.as_ref().err().map(|error| format!("{error:#}")),
        as_of: meta.map(|meta| meta.as_of),
    }
}

/// The listing.
pub fn table(statuses: &[ArbiterStatus]) -> comfy_table::Table {
    let mut table =
        output::table(&["arbiter", "machines", "people", "role", "term", "index", "has of the log", "answer's age"]);
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    for status in statuses {
        table.add_row([
            status.id.to_string(),
            status.address.clone(),
            status.people.clone(),
            status.problem.as_ref().map_or_else(|| status.role.clone(), |why| format!("unreachable: {why}")),
            number(status.term),
            number(status.index),
            number(status.matched),
            status.as_of.map_or("-".to_owned(), output::age),
        ]);
    }
    table
}

async fn status(context: &Context, arbiters: &Arbiters, members: &[Arbiter]) -> Result<()> {
    // Members that were added later are known to the leader only; without one, those of the start are asked.
    let hasty = arbiters.clone().with_patience(std::time::Duration::ZERO);
    let view = hasty.get::<ClusterView>("/v1/cluster").await.ok();
    let mut members = members.to_vec();
    if let Some(view) = &view {
        for known in view
            .members
            .iter()
            .filter(|known| !members.iter().any(|member| member.id == known.id))
            .cloned()
            .collect::<Vec<_>>()
        {
            let arbiter_api::Member { id, address, people, .. } = known;
            members.push(Arbiter { id, address, people, data_dir: PathBuf::new() });
        }
    }
    let statuses = statuses(arbiters, &members).await;
    if context.json {
        output::json(&serde_json::json!({ "arbiters": statuses, "cluster": view }))?;
    } else {
        output::line(table(&statuses));
        match &view {
            Some(view) => tell(view),
            None => output::line("no leader: nothing is granted. Regions go on selling what they have"),
        }
    }
    if view.is_none() {
        return Err(Failure::Unreachable("no arbiter leads; `cargo ops up` starts those that do not run".into()).into());
    }
    Ok(())
}

fn tell(view: &ClusterView) {
    output::line(format_args!("incarnation {}; {}", view.incarnation, output::meta(&view.meta)));
    if let Some(awaited) = view.awaited.as_ref().filter(|awaited| !awaited.is_empty()) {
        let names: Vec<String> = awaited.iter().map(ToString::to_string).collect();
        output::line(format_args!(
            "restored from a backup: nothing is granted until these register: {}",
            names.join(", ")
        ));
    }
    for told in view.forgotten.iter().cloned().chain(view.behind.iter().map(|(region, why)| format!("{region}: {why}")))
    {
        output::line(format_args!("! {told}. {RECOVER}"));
    }
}

/// One order as `audit` lists it.
#[derive(Serialize)]
struct Ordered {
    index: u64,
    at: region_api::Timestamp,
    who: String,
    order: serde_json::Value,
}

/// A log that was never cut begins with this entry: the one before it is the state that every first member starts with.
const FIRST_ENTRY: u64 = verify::log::BEGINNING + 1;

/// Orders from the log of whoever leads, oldest first; those that were refused are in it too.
async fn audit(context: &Context, arbiters: &Arbiters, last: usize) -> Result<()> {
    let (mut after, mut orders, mut first) = (0, std::collections::VecDeque::new(), None);
    let meta = loop {
        let page: LogPage = arbiters.get(&format!("/v1/log?after={after}")).await?;
        first.get_or_insert(page.first_index);
        for item in page.entries {
            let Some(who) = item.who else { continue };
            let order = item.work.pointer("/request/order").cloned().unwrap_or_default();
            orders.push_back(Ordered { index: item.index, at: item.proposed_at, who, order });
            if orders.len() > last {
                orders.pop_front();
            }
        }
        match page.next_after {
            Some(next) if next > after => after = next,
            _ => break page.meta,
        }
    };
    if context.json {
        return output::json(&serde_json::json!({ "orders": orders, "first_index": first, "meta": meta }));
    }
    output::line(output::meta(&meta));
    if let Some(first) = first.filter(|first| *first > FIRST_ENTRY) {
        output::line(format_args!("what was ordered before entry {first} is not known here any more"));
    }
    let mut table = output::table(&["entry", "when", "who", "what"]);
    for Ordered { index, at, who, order } in &orders {
        table.add_row([index.to_string(), at.to_string(), who.clone(), order.to_string()]);
    }
    output::line(table);
    Ok(())
}

async fn backup(context: &Context, arbiters: &Arbiters, out: PathBuf) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(&out);
    let mut file = opened.with_context(|| format!("creating {}", out.display()))?;
    let written = async {
        let bytes = arbiters.download("/v1/backup").await?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).with_context(|| format!("writing {}", out.display()))?;
        Ok(bytes.len())
    };
    match written.await {
        Ok(bytes) if context.json => output::json(&Acquired { file: out, bytes }),
        Ok(bytes) => {
            output::line(format_args!("✓ {} ({bytes} bytes)", out.display()));
            Ok(())
        }
        Err(error) => {
            let _ = std::fs::remove_file(&out);
            Err(error)
        }
    }
}
