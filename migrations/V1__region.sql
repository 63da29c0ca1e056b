-- A region's database: its slice of every concert, what it decided, and the books that prove it.
--
-- Three rules hold everywhere:
--   * `book` is the lock of a concert. Every transaction that moves a counter of `quota` first takes
--     `UPDATE book SET book = book + 1`, and its ledger rows carry that number. Lock order: book, reservation, quota.
--   * The CHECKs of `quota` make an oversell impossible even for a wrong program; its columns only ever grow.
--   * `ledger` is append-only. Whatever moves a ticket writes a row here in the same transaction.
--
-- The tables that the allocator fills (reservation, ledger, waiting) have no foreign keys: each would cost a look-up and
-- a row lock per reservation, and concerts and tiers are never deleted. `quota`, whose rows are few, keeps its own.
--
-- `entry` is a reservation's number within its concert and region: shard << 52 | generation << 40 | sequence.

CREATE TYPE reservation_state AS ENUM
    ('held', 'expiring', 'sold', 'rejected', 'expired', 'cancelled', 'voided', 'refunded', 'alias');

CREATE TYPE ledger_kind AS ENUM ('grant', 'return', 'hold', 'release', 'sell', 'refund');

-- Which database this is: one row, written at the first start.
CREATE TABLE region (
    only_row          boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    region            text NOT NULL,
    identity          uuid NOT NULL,          -- renewed on every restore or promotion that we perform
    system_identifier text NOT NULL,          -- PostgreSQL's own, as read when `identity` was made
    created_at        timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE concert (
    concert_id       integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    concert          text NOT NULL UNIQUE CHECK (concert ~ '^[a-z0-9][a-z0-9-]{0,31}$'),
    title            text NOT NULL,
    venue            text NOT NULL,
    starts_at        timestamptz,
    sale_opens_at    timestamptz NOT NULL,
    sale_closes_at   timestamptz,
    closed_at        timestamptz,             -- when everybody who waited was answered
    cancelled_at     timestamptz,
    hold_ms          bigint NOT NULL CHECK (hold_ms BETWEEN 1000 AND 86400000),
    max_per_order    smallint NOT NULL CHECK (max_per_order BETWEEN 1 AND 100),
    max_per_person   smallint NOT NULL CHECK (max_per_person BETWEEN 1 AND 1000),
    max_per_identity smallint CHECK (max_per_identity BETWEEN 1 AND 1000),  -- NULL: no identity is asked for
    guests           boolean NOT NULL DEFAULT true,
    challenge        boolean NOT NULL DEFAULT false,
    waitlist_factor  double precision CHECK (waitlist_factor >= 1),         -- NULL: everybody is kept
    shards           smallint NOT NULL CHECK (shards BETWEEN 1 AND 1024),   -- logical queue shards, fixed for ever
    version          bigint NOT NULL DEFAULT 1,
    created_at       timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE tier (
    concert_id     integer NOT NULL REFERENCES concert,
    tier           smallint NOT NULL CHECK (tier BETWEEN 0 AND 63),         -- position in the definition; never reused
    name           text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,15}$'),
    title          text NOT NULL,
    price_amount   bigint NOT NULL CHECK (price_amount >= 0),
    price_currency text NOT NULL CHECK (price_currency ~ '^[A-Z]{3}$'),
    PRIMARY KEY (concert_id, tier),
    UNIQUE (concert_id, name)
);

CREATE TABLE book (
    concert_id integer PRIMARY KEY REFERENCES concert,
    book       bigint NOT NULL DEFAULT 0 CHECK (book >= 0),
    halted     text                            -- why nothing may be held, if so
) WITH (fillfactor = 20);                      -- updated by every batch: keep its versions on one page

-- The holder's row of the quota protocol, one per tier.
CREATE TABLE quota (
    concert_id    integer NOT NULL,
    tier          smallint NOT NULL,
    granted       bigint NOT NULL DEFAULT 0 CHECK (granted >= 0),
    returned      bigint NOT NULL DEFAULT 0 CHECK (returned >= 0),
    held_in       bigint NOT NULL DEFAULT 0 CHECK (held_in >= 0),
    released      bigint NOT NULL DEFAULT 0 CHECK (released >= 0),
    sold          bigint NOT NULL DEFAULT 0 CHECK (sold >= 0),
    refunded      bigint NOT NULL DEFAULT 0 CHECK (refunded >= 0),
    epoch         bigint NOT NULL DEFAULT 0,
    registered_as uuid NOT NULL,
    PRIMARY KEY (concert_id, tier),
    FOREIGN KEY (concert_id, tier) REFERENCES tier,
    -- available = granted - returned - held - sold + refunded, with held = held_in - released - sold
    CONSTRAINT available_not_negative CHECK (granted - returned - held_in + released + refunded >= 0),
    CONSTRAINT held_not_negative CHECK (held_in - released - sold >= 0),
    CONSTRAINT refunded_at_most_sold CHECK (refunded <= sold)
) WITH (fillfactor = 20);

CREATE FUNCTION quota_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.granted < OLD.granted OR NEW.returned < OLD.returned OR NEW.held_in < OLD.held_in
        OR NEW.released < OLD.released OR NEW.sold < OLD.sold OR NEW.refunded < OLD.refunded
        OR NEW.epoch < OLD.epoch
    THEN
        RAISE EXCEPTION 'quota of concert % tier %: a column would go down', OLD.concert_id, OLD.tier
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER quota_only_grows BEFORE UPDATE ON quota FOR EACH ROW EXECUTE FUNCTION quota_only_grows();

-- How far each shard's queue has been decided. A generation that Redis lost keeps its row for ever.
CREATE TABLE queue_generation (
    concert_id   integer NOT NULL REFERENCES concert,
    shard        smallint NOT NULL,
    generation   smallint NOT NULL CHECK (generation BETWEEN 1 AND 4095),
    cursor_seq   bigint NOT NULL DEFAULT 0,    -- the last sequence number decided
    tail_seq     bigint NOT NULL DEFAULT 0,    -- the highest sequence number known to have been given out
    lost_at      timestamptz,                  -- set when a newer generation replaced it
    survived_seq bigint,                       -- of a lost one: the last sequence number still in Redis then
    PRIMARY KEY (concert_id, shard, generation),
    CHECK (cursor_seq BETWEEN 0 AND tail_seq),
    CHECK ((lost_at IS NULL) = (survived_seq IS NULL))
) WITH (fillfactor = 20);
-- One living generation per shard.
CREATE UNIQUE INDEX queue_generation_current ON queue_generation (concert_id, shard) WHERE lost_at IS NULL;

CREATE FUNCTION cursor_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.cursor_seq < OLD.cursor_seq OR NEW.tail_seq < OLD.tail_seq THEN
        RAISE EXCEPTION 'queue of concert % shard % generation %: it would go back', OLD.concert_id, OLD.shard,
            OLD.generation USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER cursor_only_grows BEFORE UPDATE ON queue_generation
    FOR EACH ROW EXECUTE FUNCTION cursor_only_grows();

-- One row per decided reservation. A reservation is `queued` as long as it has no row here (see `waiting`,
-- `rejected_range`); whoever inserts the row first decides what it becomes.
CREATE TABLE reservation (
    concert_id      integer NOT NULL,
    entry           bigint NOT NULL CHECK (entry >= 0),
    user_hash       uuid NOT NULL,
    request_id      uuid,                      -- NULL only where a signed id was all that was left
    identity_hash   uuid,
    arrival_ms      bigint NOT NULL,
    state           reservation_state NOT NULL,
    reason          text CHECK (reason IN ('sold_out', 'limit', 'sale_closed', 'too_many_polls', 'late_payment')),
    tier            smallint,
    quantity        smallint NOT NULL CHECK (quantity >= 1),
    amount          bigint,                    -- minor units of the tier's currency, fixed when held
    held_at         timestamptz,
    hold_expires_at timestamptz,
    extended        boolean NOT NULL DEFAULT false,   -- had its one extension
    revived         boolean NOT NULL DEFAULT false,   -- held and sold again after a late payment
    intent          text,                      -- payment intent, set once
    alias_of        bigint,                    -- of state alias: the reservation that this entry really is
    book            bigint,                    -- book number that held it
    changed_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (concert_id, entry),
    CHECK (state NOT IN ('held', 'expiring', 'sold', 'refunded', 'expired')
           OR (tier IS NOT NULL AND amount IS NOT NULL AND held_at IS NOT NULL AND hold_expires_at IS NOT NULL
               AND book IS NOT NULL)),
    CHECK ((state = 'alias') = (alias_of IS NOT NULL))
);
CREATE UNIQUE INDEX reservation_request ON reservation (concert_id, user_hash, request_id) WHERE state <> 'alias';
-- (What somebody has bought is found through the index above: one index less to fill for every hold.)
CREATE UNIQUE INDEX reservation_active ON reservation (concert_id, user_hash) WHERE state IN ('held', 'expiring');
CREATE INDEX reservation_identity ON reservation (concert_id, identity_hash)
    WHERE identity_hash IS NOT NULL AND state IN ('held', 'expiring', 'sold');
CREATE INDEX reservation_due ON reservation (hold_expires_at) WHERE state IN ('held', 'expiring');
CREATE UNIQUE INDEX reservation_intent ON reservation (intent) WHERE intent IS NOT NULL;
-- Who left the queue before being decided: nodes read the newest of these instead of asking for every poll.
CREATE INDEX reservation_left ON reservation (concert_id, changed_at)
    WHERE state IN ('cancelled', 'voided') AND book IS NULL;

-- Passed over by the allocator because what they want is not there now: one row per tier that they name.
CREATE TABLE waiting (
    concert_id    integer NOT NULL,
    entry         bigint NOT NULL,
    tier          smallint NOT NULL,
    need          smallint NOT NULL CHECK (need >= 1),   -- fewest tickets that it would take
    arrival_ms    bigint NOT NULL,
    user_hash     uuid NOT NULL,
    request_id    uuid,
    identity_hash uuid,
    quantity      smallint NOT NULL,
    any_quantity  boolean NOT NULL,
    tiers         smallint[] NOT NULL,         -- all of them, in order of preference
    PRIMARY KEY (concert_id, entry, tier)
);
-- By need before arrival: with two tickets free, nobody who needs four is looked at.
CREATE INDEX waiting_order ON waiting (concert_id, tier, need, arrival_ms, entry);

-- "Everybody from here to there is told no", one row per shard instead of a row per person. Applies to entries that
-- have neither a reservation nor a waiting row. With `unsold`, only to those whom `unsold[tier]` tickets cannot serve
-- in any tier that they name (their signed id says what they asked for).
CREATE TABLE rejected_range (
    concert_id integer NOT NULL REFERENCES concert,
    shard      smallint NOT NULL,
    generation smallint NOT NULL,
    from_seq   bigint NOT NULL,
    to_seq     bigint NOT NULL,
    reason     text NOT NULL CHECK (reason IN ('sold_out', 'sale_closed')),
    unsold     smallint[],                     -- per tier, capped at 32767; NULL: unconditional
    book       bigint NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (concert_id, shard, generation, book, from_seq),
    CHECK (to_seq >= from_seq)
);

CREATE TABLE ledger (
    ledger_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    concert_id integer NOT NULL,
    book       bigint,                         -- NULL for a sale: it is folded into `quota` later, see `fold`
    kind       ledger_kind NOT NULL,
    tier       smallint NOT NULL,
    entry      bigint,                         -- NULL for grant and return
    tickets    integer NOT NULL CHECK (tickets > 0),
    at         timestamptz NOT NULL DEFAULT now(),
    CHECK ((kind = 'sell') = (book IS NULL)),
    CHECK ((kind IN ('grant', 'return')) = (entry IS NULL))
);
CREATE INDEX ledger_entry ON ledger (concert_id, entry) WHERE kind <> 'hold';

CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION append_only();

-- Sales whose tickets are not yet in `quota.sold`: payments never wait for the book's lock.
CREATE TABLE unfolded (
    ledger_id  bigint PRIMARY KEY REFERENCES ledger,
    concert_id integer NOT NULL,
    tier       smallint NOT NULL,
    tickets    integer NOT NULL CHECK (tickets > 0)
);
CREATE INDEX unfolded_concert ON unfolded (concert_id, ledger_id);

-- Which book number folded a sale in.
CREATE TABLE fold (
    ledger_id  bigint PRIMARY KEY REFERENCES ledger,
    concert_id integer NOT NULL,
    book       bigint NOT NULL
);

-- Reservations that reached a final state and whose dedupe entry in Redis has yet to be told.
CREATE TABLE outbox (
    outbox_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    concert_id integer NOT NULL,
    entry      bigint NOT NULL,
    user_hash  uuid NOT NULL,
    state      reservation_state NOT NULL,
    at         timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE payment (
    intent        text PRIMARY KEY,
    provider      text NOT NULL,
    concert_id    integer NOT NULL,
    entry         bigint NOT NULL,
    amount        bigint NOT NULL,
    currency      text NOT NULL,
    status        text NOT NULL CHECK (status IN ('open', 'succeeded', 'cancelled', 'refunded')),
    client_secret text NOT NULL,
    checkout_url  text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    changed_at    timestamptz NOT NULL DEFAULT now(),
    check_after   timestamptz NOT NULL DEFAULT now(),  -- while open: when the provider is asked next
    FOREIGN KEY (concert_id, entry) REFERENCES reservation
);
CREATE INDEX payment_reservation ON payment (concert_id, entry);
CREATE INDEX payment_open ON payment (check_after) WHERE status = 'open';

-- Whoever ends a hold that somebody may be paying for makes the provider be asked (and the intent cancelled) at once.
CREATE FUNCTION payment_check_now() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE payment SET check_after = now()
        WHERE concert_id = NEW.concert_id AND entry = NEW.entry AND status = 'open';
    RETURN NULL;
END $$;
CREATE TRIGGER payment_check_now AFTER UPDATE OF state ON reservation
    FOR EACH ROW WHEN (NEW.intent IS NOT NULL AND NEW.state NOT IN ('held', 'expiring'))
    EXECUTE FUNCTION payment_check_now();

CREATE TABLE webhook_event (
    event_id     text PRIMARY KEY,
    kind         text NOT NULL,
    payload      jsonb NOT NULL,               -- what matters of it: never a buyer's name or card
    received_at  timestamptz NOT NULL DEFAULT now(),
    processed_at timestamptz,
    attempts     integer NOT NULL DEFAULT 0,
    try_after    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_event_open ON webhook_event (try_after) WHERE processed_at IS NULL;

-- Money that goes back: asked of the provider until it says so, with refund_id as the idempotency key.
CREATE TABLE refund (
    refund_id       uuid PRIMARY KEY,
    intent          text NOT NULL UNIQUE,      -- in full, once
    concert_id      integer NOT NULL,
    entry           bigint NOT NULL,
    amount          bigint NOT NULL CHECK (amount > 0),
    reason          text NOT NULL,
    provider_refund text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    done_at         timestamptz,
    attempts        integer NOT NULL DEFAULT 0,
    try_after       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX refund_open ON refund (try_after) WHERE done_at IS NULL;

CREATE TABLE ticket (
    ticket_id   uuid PRIMARY KEY,
    concert_id  integer NOT NULL,
    entry       bigint NOT NULL,
    number      smallint NOT NULL CHECK (number >= 1), -- 1..quantity within its reservation
    tier        smallint NOT NULL,
    holder_hash uuid NOT NULL,
    status      text NOT NULL CHECK (status IN ('valid', 'void', 'used')),
    issued_at   timestamptz NOT NULL DEFAULT now(),
    used_at     timestamptz,
    UNIQUE (concert_id, entry, number),
    FOREIGN KEY (concert_id, entry) REFERENCES reservation,
    CHECK (status <> 'used' OR used_at IS NOT NULL)
);

-- What operators did: who, what, when.
CREATE TABLE operator_act (
    act_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT now(),
    who    text NOT NULL,
    what   jsonb NOT NULL
);
