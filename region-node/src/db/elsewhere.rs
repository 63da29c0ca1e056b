//! What the arbiters say is left of each tier in all regions together. Written by the one who syncs, read by every node
//! with its stock: it decides what people are told, never what is sold.

use super::{Db, DbError, to_i64};
use arbiter_api::PoolStock;
use quota_protocol::PoolId;
use std::collections::BTreeMap;

/// Writes down what was heard just now. Pools that are not known here are left out.
pub async fn note(db: &Db, stock: &BTreeMap<PoolId, PoolStock>) -> Result<(), DbError> {
    let concerts: Vec<String> = stock.keys().map(|pool| pool.concert.to_string()).collect();
    let tiers: Vec<String> = stock.keys().map(|pool| pool.tier.to_string()).collect();
    let unsold: Vec<i64> = stock.values().map(|stock| to_i64(stock.unsold_at_most.get())).collect();
    let sold_out: Vec<bool> = stock.values().map(|stock| stock.sold_out).collect();
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "INSERT INTO elsewhere (concert_id, tier, unsold_at_most, sold_out, heard_at)
             SELECT c.concert_id, t.tier, s.unsold, s.sold_out, now()
             FROM unnest($1::text[], $2::text[], $3::bigint[], $4::boolean[]) s (concert, name, unsold, sold_out)
             JOIN concert c ON c.concert = s.concert JOIN tier t ON t.concert_id = c.concert_id AND t.name = s.name
             ON CONFLICT (concert_id, tier) DO UPDATE SET unsold_at_most = excluded.unsold_at_most,
                 sold_out = excluded.sold_out, heard_at = excluded.heard_at",
        )
        .await?;
    client.execute(&statement, &[&concerts, &tiers, &unsold, &sold_out]).await?;
    Ok(())
}
