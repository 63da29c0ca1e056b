//! Brings the schema up to date, one node at a time, and knows which database this is.
//!
//! Must never: change a schema that is newer than this program, or give an existing database another identity.

use super::{Db, DbError};
use region_api::RegionName;
use uuid::Uuid;

mod embedded {
    refinery::embed_migrations!("../migrations");
}

/// Nodes that start together migrate one after the other (an arbitrary number, known to no other program).
const MIGRATION_LOCK: i64 = 0x626f_786f_6666_0001;

/// Which database this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The region that it belongs to.
    pub region: RegionName,
    /// Random, renewed whenever the database was restored or promoted.
    pub identity: Uuid,
    /// PostgreSQL's system identifier when `identity` was made.
    pub system_identifier: String,
    /// PostgreSQL's system identifier now: another one means that the rows were carried over from elsewhere.
    pub system_identifier_now: String,
}

/// The newest schema version that this program contains.
pub fn newest_version() -> i64 {
    let versions = embedded::migrations::runner().get_migrations().iter().map(|m| i64::from(m.version())).max();
    versions.unwrap_or(0)
}

/// Changes whenever a migration does: for tests that keep a migrated database to copy from.
pub fn fingerprint() -> u64 {
    let sums =
        embedded::migrations::runner().get_migrations().iter().map(refinery::Migration::checksum).collect::<Vec<_>>();
    sums.iter().fold(sums.len() as u64, |all, sum| all.rotate_left(7) ^ sum)
}

impl Db {
    /// Brings the schema up to date under an advisory lock and, in a new database, writes down whose it is.
    pub async fn migrate(&self, region: &RegionName) -> Result<Identity, DbError> {
        // A connection of its own: a session lock must not go back into the pool with it.
        let mut connection = self.dedicated("region-node migrate").await?;
        connection.client.batch_execute("SET statement_timeout = 0").await?;
        connection.client.execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
        self.migrate_to(&mut connection.client, refinery::Target::Latest).await?;
        identify(&connection.client, region).await
        // Closing the connection frees the lock.
    }

    /// Only the first `version` migrations: for tests of the way up from an older schema.
    pub async fn migrate_to_version(&self, version: i32) -> Result<(), DbError> {
        let mut connection = self.dedicated("region-node migrate").await?;
        self.migrate_to(&mut connection.client, refinery::Target::Version(version)).await
    }

    async fn migrate_to(&self, client: &mut tokio_postgres::Client, target: refinery::Target) -> Result<(), DbError> {
        let program = newest_version();
        let known = client.query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[]).await?;
        if known.get::<_, bool>(0) {
            let row = client.query_one("SELECT max(version)::bigint FROM refinery_schema_history", &[]).await?;
            let database = row.get::<_, Option<i64>>(0).unwrap_or(0);
            if database > program {
                return Err(DbError::NewerSchema { database, program });
            }
        }
        let report = embedded::migrations::runner().set_target(target).run_async(client).await;
        let report = report.map_err(|error| DbError::Migration(error.to_string()))?;
        for migration in report.applied_migrations() {
            tracing::info!(%migration, "migrated the database");
        }
        Ok(())
    }
}

/// Reads whose database it is; writes it down in a new one.
async fn identify(client: &tokio_postgres::Client, region: &RegionName) -> Result<Identity, DbError> {
    client
        .execute(
            "INSERT INTO region (region, identity, system_identifier)
             SELECT $1, $2, system_identifier::text FROM pg_control_system() ON CONFLICT DO NOTHING",
            &[&region.as_str(), &Uuid::new_v4()],
        )
        .await?;
    let row = client
        .query_one(
            "SELECT region, identity, region.system_identifier, c.system_identifier::text
             FROM region, pg_control_system() c",
            &[],
        )
        .await?;
    let found: String = row.get(0);
    if found != region.as_str() {
        return Err(DbError::OtherRegion { found, expected: region.to_string() });
    }
    Ok(Identity {
        region: region.clone(),
        identity: row.get(1),
        system_identifier: row.get(2),
        system_identifier_now: row.get(3),
    })
}
