//! The SQL of the allocator's transaction, and its plans.
//!
//! Prepared once on the allocator's own connection. Must never depend on what a table held when it was prepared.

use crate::db::{DbError, book, snapshot};
use tokio_postgres::{Client, Statement};

/// All of them, prepared.
pub(super) struct Statements {
    pub(super) lock: Statement,
    pub(super) concert: Statement,
    pub(super) stock: Statement,
    pub(super) generations: Statement,
    pub(super) ranges: Statement,
    pub(super) owned: Statement,
    pub(super) identities: Statement,
    pub(super) waiting: Statement,
    pub(super) cursors: Statement,
    pub(super) booked: Statement,
    pub(super) counted: Statement,
    pub(super) held: Statement,
    pub(super) holds: Statement,
    pub(super) missing: Statement,
    pub(super) others: Statement,
    pub(super) waits: Statement,
    pub(super) done_waiting: Statement,
    pub(super) settled: Statement,
}

const CONCERT: &str = "
SELECT version, closed_at IS NOT NULL OR cancelled_at IS NOT NULL OR coalesce(sale_closes_at <= now(), false),
       (extract(epoch FROM now() - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint
FROM concert WHERE concert_id = $1";

// These plans are made once, perhaps on empty tables: OFFSET 0 keeps the look-up of each user inside, where only an index
// on the user serves it. (Flattened, it reads the whole concert and joins: 3,700 decisions a second, not 15,600.)
// `state <> 'alias'` and no more, so that the index on requests serves it.
const OWNED: &str = "
SELECT r.user_hash, r.entry, r.state IN ('held', 'expiring'), CASE WHEN r.state = 'sold' THEN r.quantity ELSE 0 END,
       r.request_id
FROM unnest($2::uuid[]) u (user_hash)
CROSS JOIN LATERAL (
    SELECT * FROM reservation r WHERE r.concert_id = $1 AND r.user_hash = u.user_hash AND r.state <> 'alias' OFFSET 0
) r";

const IDENTITIES: &str = "
SELECT i.identity_hash, least(sum(r.quantity), 32767)::smallint
FROM unnest($2::uuid[]) i (identity_hash)
CROSS JOIN LATERAL (
    SELECT r.quantity FROM reservation r
    WHERE r.concert_id = $1 AND r.identity_hash = i.identity_hash AND r.state IN ('held', 'expiring', 'sold') OFFSET 0
) r
GROUP BY 1";

// For each tier with stock and each need that the stock could meet, the first ones by arrival; one look where nobody waits.
const WAITING: &str = "
SELECT DISTINCT ON (w.arrival_ms, w.entry)
       w.entry, w.arrival_ms, w.user_hash, w.request_id, w.identity_hash, w.quantity, w.any_quantity, w.tiers
FROM quota q
CROSS JOIN LATERAL generate_series(1, least(q.granted - q.returned - q.held_in + q.released + q.refunded, 100)) n
CROSS JOIN LATERAL (
    SELECT * FROM waiting w WHERE w.concert_id = $1 AND w.tier = q.tier AND w.need = n
    ORDER BY w.arrival_ms, w.entry LIMIT $2
) w
WHERE q.concert_id = $1 AND EXISTS (SELECT FROM waiting anybody WHERE anybody.concert_id = $1)
ORDER BY w.arrival_ms, w.entry LIMIT $2";

const CURSORS: &str = "
UPDATE queue_generation g SET cursor_seq = c.to_seq, tail_seq = greatest(g.tail_seq, c.tail_seq, c.to_seq)
FROM unnest($2::smallint[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[])
    c (shard, generation, from_seq, to_seq, tail_seq)
WHERE g.concert_id = $1 AND g.shard = c.shard AND g.generation = c.generation AND g.cursor_seq = c.from_seq";

// In the order of `write::ledger_of`.
const BOOKED: &str = "COPY ledger (concert_id, book, kind, tier, entry, tickets) FROM STDIN BINARY";

const COUNTED: &str = "
UPDATE quota q SET held_in = q.held_in + s.tickets
FROM unnest($2::smallint[], $3::bigint[]) s (tier, tickets)
WHERE q.concert_id = $1 AND q.tier = s.tier";

// In the order of `write::rows_of`.
const HELD: &str = "
COPY reservation (concert_id, entry, user_hash, request_id, identity_hash, arrival_ms, state, tier, quantity, amount,
    held_at, hold_expires_at, book) FROM STDIN BINARY";

// Where COPY met a row that was there already: the same for whoever has none in the way.
const HOLDS: &str = "
WITH held AS (
    INSERT INTO reservation (concert_id, entry, user_hash, request_id, identity_hash, arrival_ms, state, tier, quantity,
        amount, held_at, hold_expires_at, book)
    SELECT $1, h.entry, h.user_hash, h.request_id, h.identity_hash, h.arrival_ms, 'held', h.tier, h.quantity,
        h.amount, now(), now() + h.hold_ms * interval '1 ms', $2
    FROM unnest($3::bigint[], $4::uuid[], $5::uuid[], $6::uuid[], $7::bigint[], $8::smallint[], $9::smallint[],
        $10::bigint[], $11::bigint[])
        h (entry, user_hash, request_id, identity_hash, arrival_ms, tier, quantity, amount, hold_ms)
    ON CONFLICT DO NOTHING
    RETURNING entry, tier, quantity
), booked AS (
    INSERT INTO ledger (concert_id, book, kind, tier, entry, tickets)
    SELECT $1, $2, 'hold', tier, entry, quantity FROM held
), counted AS (
    UPDATE quota q SET held_in = q.held_in + s.tickets
    FROM (SELECT tier, sum(quantity) AS tickets FROM held GROUP BY tier) s
    WHERE q.concert_id = $1 AND q.tier = s.tier
)
SELECT count(*) FROM held";

// Of places that should have got a row: those that have none, with the row that stands in their way.
const MISSING: &str = "
SELECT p.n, o.entry
FROM unnest($2::bigint[], $3::uuid[], $4::uuid[]) WITH ORDINALITY p (entry, user_hash, request_id, n)
LEFT JOIN LATERAL (
    SELECT r.entry FROM reservation r
    WHERE r.concert_id = $1 AND r.user_hash = p.user_hash AND r.state <> 'alias'
        AND (r.state IN ('held', 'expiring') OR r.request_id = p.request_id)
    ORDER BY r.entry LIMIT 1
) o ON true
WHERE NOT EXISTS (SELECT FROM reservation r WHERE r.concert_id = $1 AND r.entry = p.entry)";

const OTHERS: &str = "
WITH told AS (
    INSERT INTO reservation
        (concert_id, entry, user_hash, request_id, identity_hash, arrival_ms, state, reason, quantity, alias_of)
    SELECT $1, o.entry, o.user_hash, o.request_id, o.identity_hash, o.arrival_ms, o.state::reservation_state, o.reason,
        o.quantity, o.alias_of
    FROM unnest($2::bigint[], $3::uuid[], $4::uuid[], $5::uuid[], $6::bigint[], $7::text[], $8::text[],
        $9::smallint[], $10::bigint[])
        o (entry, user_hash, request_id, identity_hash, arrival_ms, state, reason, quantity, alias_of)
    ON CONFLICT DO NOTHING
    RETURNING entry, user_hash, state
)
INSERT INTO outbox (concert_id, entry, user_hash, state) SELECT $1, entry, user_hash, state FROM told";

const WAITS: &str = "
INSERT INTO waiting (concert_id, entry, tier, need, arrival_ms, user_hash, request_id, identity_hash, quantity,
    any_quantity, tiers)
SELECT $1, w.entry, t.tier, w.need, w.arrival_ms, w.user_hash, w.request_id, w.identity_hash, w.quantity,
    w.any_quantity, w.tiers::smallint[]
FROM unnest($2::bigint[], $3::smallint[], $4::bigint[], $5::uuid[], $6::uuid[], $7::uuid[], $8::smallint[],
    $9::boolean[], $10::text[])
    w (entry, need, arrival_ms, user_hash, request_id, identity_hash, quantity, any_quantity, tiers)
CROSS JOIN LATERAL unnest(w.tiers::smallint[]) t (tier)
ON CONFLICT DO NOTHING";

const DONE_WAITING: &str = "DELETE FROM waiting WHERE concert_id = $1 AND entry = ANY ($2::bigint[])";

const SETTLED: &str = "
INSERT INTO outbox (concert_id, entry, user_hash, state)
SELECT $1, s.entry, s.user_hash, 'rejected' FROM unnest($2::bigint[], $3::uuid[]) s (entry, user_hash)";

// Batches are large and tables may be fresh: never a plan that scans a whole table because of old statistics.
const PLANS: &str = "
SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET plan_cache_mode = force_generic_plan";

/// Of the connection that looks ahead.
pub(super) struct AheadStatements {
    pub(super) book: Statement,
    pub(super) owned: Statement,
}

impl AheadStatements {
    /// Prepares them there.
    pub(super) async fn prepare(client: &Client) -> Result<Self, DbError> {
        client.batch_execute(PLANS).await?;
        let book = client.prepare("SELECT book FROM book WHERE concert_id = $1").await?;
        Ok(Self { book, owned: client.prepare(OWNED).await? })
    }
}

impl Statements {
    /// Prepares everything on the allocator's connection.
    pub(super) async fn prepare(client: &Client) -> Result<Self, DbError> {
        client.batch_execute(PLANS).await?;
        Ok(Self {
            lock: client.prepare(book::LOCK).await?,
            concert: client.prepare(CONCERT).await?,
            stock: client.prepare(snapshot::STOCK).await?,
            generations: client.prepare(snapshot::GENERATIONS).await?,
            ranges: client.prepare(snapshot::RANGES).await?,
            owned: client.prepare(OWNED).await?,
            identities: client.prepare(IDENTITIES).await?,
            waiting: client.prepare(WAITING).await?,
            cursors: client.prepare(CURSORS).await?,
            booked: client.prepare(BOOKED).await?,
            counted: client.prepare(COUNTED).await?,
            held: client.prepare(HELD).await?,
            holds: client.prepare(HOLDS).await?,
            missing: client.prepare(MISSING).await?,
            others: client.prepare(OTHERS).await?,
            waits: client.prepare(WAITS).await?,
            done_waiting: client.prepare(DONE_WAITING).await?,
            settled: client.prepare(SETTLED).await?,
        })
    }
}
