//! What the people in `waiting` want, for the report to the arbiters. Only reads.

use super::{Db, DbError, to_u64};
use region_api::TierNo;

/// Those with the same tiers in the same order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Tiers in order of preference.
    pub tiers: Vec<TierNo>,
    /// Tickets that they ask for together.
    pub tickets: u64,
    /// The fewest that one of them would take.
    pub least: u64,
    /// When the first of them came, by the queue's clock.
    pub first_ms: u64,
    /// The fewest that each of the first ones would take, by arrival, at most as many as asked for.
    pub head: Vec<u64>,
}

/// What people in `waiting` want, with at most `head` of each kind one by one.
pub async fn waiting(db: &Db, concert_id: i32, head: u32) -> Result<Vec<Wanted>, DbError> {
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "WITH w AS (SELECT tiers, need, quantity, arrival_ms, row_number() OVER (PARTITION BY tiers ORDER BY arrival_ms, entry) n
                        FROM waiting WHERE concert_id = $1 AND tier = tiers[1])
             SELECT tiers, sum(quantity), min(need)::bigint, min(arrival_ms),
                    coalesce(array_agg(need::bigint ORDER BY n) FILTER (WHERE n <= $2), '{}')
             FROM w GROUP BY tiers",
        )
        .await?;
    let rows = client.query(&statement, &[&concert_id, &i64::from(head)]).await?;
    let wanted = |row: &tokio_postgres::Row| Wanted {
        tiers: row.get::<_, Vec<i16>>(0).into_iter().filter_map(|tier| TierNo::try_from(tier).ok()).collect(),
        tickets: to_u64(row.get(1)),
        least: to_u64(row.get(2)),
        first_ms: to_u64(row.get(3)),
        head: row.get::<_, Vec<i64>>(4).into_iter().map(to_u64).collect(),
    };
    Ok(rows.iter().map(wanted).collect())
}
