//! What the database remembers of somebody: what they were given before for the same request or still have (asked when
//! nobody new is taken any more), and how many tickets they have.
//!
//! Only reads.

use super::{Db, DbError, to_u64};
use region_api::id::Tiers;
use region_api::{ConcertName, Entry, IdentityHash, RegionName, ReservationId, TierNo, UserHash};
use uuid::Uuid;

/// A reservation as the database remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    entry: Entry,
    arrival_ms: u64,
    user: UserHash,
    quantity: u8,
    tiers: Tiers,
    identity: Option<IdentityHash>,
    id_text: Option<String>,
}

impl Earlier {
    /// Its id as its buyer has it, where that was seen.
    pub fn id_text(&self) -> Option<&str> {
        self.id_text.as_deref()
    }

    /// A signed id's contents for it. Of tiers it names the one that was given.
    pub fn id(&self, region: RegionName, concert: ConcertName) -> ReservationId {
        ReservationId {
            region,
            concert,
            entry: self.entry,
            arrival_ms: self.arrival_ms,
            user: self.user,
            quantity: self.quantity,
            tiers: self.tiers.clone(),
            any_quantity: false,
            identity: self.identity,
        }
    }
}

const EARLIER: &str = "
SELECT entry, arrival_ms, quantity, identity_hash, ARRAY[coalesce(tier, 0::smallint)] AS tiers, id_text
FROM reservation
WHERE concert_id = $1 AND user_hash = $2 AND state <> 'alias'
    AND (request_id = $3 OR state IN ('held', 'expiring'))
ORDER BY (request_id = $3) IS TRUE DESC LIMIT 1";

/// What this user was given for the same request, else what they have on hold. (Who still waits was told
/// no by the same rule that asks here.)
pub async fn earlier(db: &Db, concert_id: i32, user: UserHash, request_id: Uuid) -> Result<Option<Earlier>, DbError> {
    let client = db.client().await?;
    let statement = client.prepare_cached(EARLIER).await?;
    let row = client.query_opt(&statement, &[&concert_id, &user.to_uuid(), &request_id]).await?;
    let Some(row) = row else { return Ok(None) };
    let tiers: Vec<i16> = row.get(4);
    Ok(Some(Earlier {
        entry: Entry::from_i64(row.get(0)).ok_or_else(|| DbError::Corrupt("a negative entry".into()))?,
        arrival_ms: to_u64(row.get(1)),
        user,
        quantity: u8::try_from(row.get::<_, i16>(2)).map_err(|_| DbError::Corrupt("a quantity beyond 255".into()))?,
        tiers: tiers.into_iter().filter_map(|tier| TierNo::try_from(tier).ok()).collect(),
        identity: row.get::<_, Option<Uuid>>(3).map(IdentityHash::from_uuid),
        id_text: row.get(5),
    }))
}

/// Tickets that this user holds or has bought.
pub async fn owned(db: &Db, concert_id: i32, user: UserHash) -> Result<u64, DbError> {
    let client = db.client().await?;
    let select = "SELECT coalesce(sum(quantity), 0) FROM reservation
                  WHERE concert_id = $1 AND user_hash = $2 AND state IN ('held', 'expiring', 'sold')";
    let statement = client.prepare_cached(select).await?;
    Ok(to_u64(client.query_one(&statement, &[&concert_id, &user.to_uuid()]).await?.get(0)))
}

/// Per tier number: the quota's epoch, and which database it was registered by.
pub async fn registrations(db: &Db, concert_id: i32) -> Result<Vec<(TierNo, i64, Uuid)>, DbError> {
    let client = db.client().await?;
    let select = "SELECT tier, epoch, registered_as FROM quota WHERE concert_id = $1 ORDER BY tier";
    let statement = client.prepare_cached(select).await?;
    let rows = client.query(&statement, &[&concert_id]).await?;
    let tier = |row: &tokio_postgres::Row| TierNo::try_from(row.get::<_, i16>(0)).unwrap_or(TierNo::MAX);
    Ok(rows.iter().map(|row| (tier(row), row.get(1), row.get(2))).collect())
}
