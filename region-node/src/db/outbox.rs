//! The outbox: final states that Redis has yet to be told. Told first, deleted after; telling twice is harmless.

use super::{Db, DbError};
use crate::queue::{Settle, SettleOutcome};
use region_api::{Entry, UserHash};

/// Something to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Its number.
    pub outbox_id: i64,
    /// Which concert.
    pub concert_id: i32,
    /// What to tell.
    pub settle: Settle,
}

/// The oldest messages, at most `most`. Several tasks may read the same: telling is idempotent.
pub async fn read(db: &Db, most: i64) -> Result<Vec<Message>, DbError> {
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "SELECT outbox_id, concert_id, entry, user_hash, state::text FROM outbox ORDER BY outbox_id LIMIT $1",
        )
        .await?;
    let rows = client.query(&statement, &[&most]).await?;
    let read = |row: &tokio_postgres::Row| {
        let entry = Entry::from_i64(row.get(2)).ok_or_else(|| DbError::Corrupt("a negative entry".into()))?;
        let outcome = match row.get::<_, &str>(4) {
            "expired" => SettleOutcome::Lapsed,
            "voided" => SettleOutcome::Voided,
            _ => SettleOutcome::Done,
        };
        let settle = Settle { user: UserHash::from_uuid(row.get(3)), entry, outcome };
        Ok(Message { outbox_id: row.get(0), concert_id: row.get(1), settle })
    };
    rows.iter().map(read).collect()
}

/// Deletes what was told.
pub async fn forget(db: &Db, told: &[i64]) -> Result<(), DbError> {
    let client = db.client().await?;
    let statement = client.prepare_cached("DELETE FROM outbox WHERE outbox_id = ANY ($1)").await?;
    client.execute(&statement, &[&told]).await?;
    Ok(())
}
