//! Regions that lose their servers and begin again on empty ones, and regions, nodes and arbiters that come later: what a
//! cluster test does to [`Sites`] beside cutting and killing.

use super::arbiter::ArbiterPart;
use super::node::Node;
use super::sites::{Sites, arbiter_name, ground};
use super::{free_address, program, start_postgres, start_redis};
use crate::cluster::arbiter_config::ArbiterConfig;
use crate::cluster::{Arbiter, PostgresAccess, RedisAccess};
use crate::local::{Postgres, Purpose, Redis, own_address};
use anyhow::{Context as _, Result, ensure};
use arbiter_api::Role;
use region_api::RegionName;
use std::net::IpAddr;
use std::process::Command;

/// What a region ran on before.
pub struct Lost {
    config: String,
    servers: (Postgres, PostgresAccess, Redis, RedisAccess),
}

impl Sites {
    /// Lets a region's node, which has ended, begin again on an empty database, an empty queue and without a state of
    /// its own. What it had lives on, out of its reach.
    pub async fn begin_again(&mut self, at: usize) -> Result<Lost> {
        let region = self.regions[at].region.clone();
        let names = [format!("{region}-postgres-again"), format!("{region}-redis-again")];
        let postgres = start_postgres(&self.home, &names[0], Purpose::Tests);
        let ((postgres, postgres_access), (redis, redis_access)) =
            tokio::try_join!(postgres, start_redis(&self.home, &names[1]))?;
        let node = &self.regions[at].node;
        let (file, addresses) = (node.config().to_owned(), (node.public, node.admin));
        let text = self.node_config(&region, "state-again", addresses, (&postgres_access, &redis_access))?;
        let config = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        let servers = self.on(at, (postgres, postgres_access, redis, redis_access));
        self.start_node_again(at)?;
        Ok(Lost { config, servers })
    }

    /// Puts a region, whose node has ended, back on what it ran on before. Returns what it ran on until now.
    pub fn bring_back(&mut self, at: usize, lost: Lost) -> Result<Lost> {
        let file = self.regions[at].node.config().to_owned();
        let config = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        std::fs::write(&file, lost.config).with_context(|| format!("writing {}", file.display()))?;
        let servers = self.on(at, lost.servers);
        self.start_node_again(at)?;
        Ok(Lost { config, servers })
    }

    fn on(
        &mut self,
        at: usize,
        (postgres, postgres_access, redis, redis_access): (Postgres, PostgresAccess, Redis, RedisAccess),
    ) -> (Postgres, PostgresAccess, Redis, RedisAccess) {
        let site = &mut self.regions[at];
        (
            std::mem::replace(&mut site.postgres, postgres),
            std::mem::replace(&mut site.postgres_access, postgres_access),
            std::mem::replace(&mut site.redis, redis),
            std::mem::replace(&mut site.redis_access, redis_access),
        )
    }

    /// Another region with servers of its own. The nodes of the others do not know it as a peer; the arbiters have to be
    /// told of it by an operator.
    pub async fn another_region(&mut self, name: &'static str) -> Result<()> {
        let ground = ground(&self.home, &RegionName::new(name)?).await?;
        self.peers.push((ground.region.clone(), ground.public));
        let site = self.start_region(ground)?;
        self.regions.push(site);
        Ok(())
    }

    /// Another node of a region, beside the one that it has.
    pub fn another_node(&self, at: usize) -> Result<Node> {
        let site = &self.regions[at];
        let (public, admin) = (free_address()?, free_address()?);
        let servers = (&site.postgres_access, &site.redis_access);
        let text = self.node_config(&site.region, "state-of-the-second", (public, admin), servers)?;
        let folder = self.home.part(&format!("{}/second", site.region));
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let file = folder.join("node.toml");
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        let node = Node::start(1, file, public, admin, &[])?;
        self.name_caller(node.pid(), &format!("{}-second", site.region));
        Ok(node)
    }

    /// Room for another arbiter, which waits to be added: it runs with `join`.
    pub async fn another_arbiter(&mut self) -> Result<Arbiter> {
        let id = self.arbiters.len() as u64 + 1;
        let (machines, people) = (free_address()?, free_address()?);
        let door = tokio::net::TcpListener::bind((own_address(), 0)).await.context("binding an arbiter's door")?;
        let name = arbiter_name(id);
        let data_dir = self.home.part(&name).join("data");
        std::fs::create_dir_all(&data_dir).with_context(|| format!("making {}", data_dir.display()))?;
        let address = format!("https://{}", door.local_addr()?);
        let member = Arbiter { id, address, people: format!("https://{people}"), data_dir };
        self.relay.open(id, door, machines);
        let mut members = self.members();
        members.push(member.clone());
        let tls = self.authority.ensure_issued(&name, &Role::Arbiter(id), &[IpAddr::from(own_address())])?;
        let config = ArbiterConfig {
            id,
            data_dir: &member.data_dir,
            machines,
            people,
            tls: &tls,
            operator_token_file: &self.secrets.operator_token,
            join: true,
            members: &members,
            regions: &[],
            heartbeat_ms: self.spec.heartbeat_ms,
        };
        let file = self.home.part(&name).join("arbiter.toml");
        std::fs::write(&file, config.text()?).with_context(|| format!("writing {}", file.display()))?;
        let part = ArbiterPart::start(member.clone(), file, self.spec.arbiter_env)?;
        self.name_caller(part.pid(), &name);
        self.arbiters.push(part);
        Ok(member)
    }

    /// Begins the arbiters again, all of which have ended, from a backup: the first of them on an empty folder, above the
    /// last incarnation that is known of.
    pub fn restore_arbiters(&mut self, backup: &std::path::Path, above: u64) -> Result<()> {
        let regions: Vec<&str> = self.regions.iter().map(|site| site.region.as_str()).collect();
        let first = &self.arbiters[0];
        std::fs::remove_dir_all(&first.member.data_dir).context("putting the first arbiter's folder away")?;
        let mut restore = Command::new(program("quota-arbiter")?);
        restore.arg("--config").arg(first.config()).args(["restore", "--from"]).arg(backup);
        let done = restore
            .args(["--regions", &regions.join(","), "--above", &above.to_string()])
            .output()
            .context("running quota-arbiter")?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        self.start_arbiter_again(1)
    }
}
