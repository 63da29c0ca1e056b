-- A region under arbiters: its registration, why it halted, when it last had contact, and what is left elsewhere.
-- Expand only: a database of an older version goes on as a standalone region and has nothing in these columns.
--
-- The identity of a database is written `system:timeline:copy`: PostgreSQL's system identifier, its timeline (which a
-- promotion raises), and `region.identity` (which restores renew). A registration names one identity, and only the
-- database that has it now may spend.
--
-- Whoever waits for the lock of a book reads that row anew when it comes by, but every other row as it was before. So
-- what must hold at the moment of spending stands in the row of the book itself: `registered_as`, `epoch` and
-- `halted_as` there are the region's, copied by whoever changes them, under the lock. Lock order: region, book,
-- reservation, quota.

-- Never from pg_control's checkpoint: after a promotion that still names the old timeline for a while.
CREATE FUNCTION database_identity() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT c.system_identifier || ':' || ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint
           || ':' || replace(r.identity::text, '-', '')
    FROM region r, pg_control_system() c
$$;

ALTER TABLE region
    ADD COLUMN mode text NOT NULL DEFAULT 'standalone' CHECK (mode IN ('standalone', 'arbiters')),
    ADD COLUMN incarnation bigint NOT NULL DEFAULT 0,      -- of the arbiters, the newest that was heard of
    ADD COLUMN registered_incarnation bigint,              -- of the arbiters that registered it
    ADD COLUMN epoch bigint,
    ADD COLUMN registered_as text,
    ADD COLUMN halted jsonb,                               -- why it may never spend again …
    ADD COLUMN halted_text text,                           -- … in words that tell an operator what to do …
    ADD COLUMN halted_as text,                             -- … and the one database that it concerns
    ADD COLUMN last_contact_at timestamptz,
    ADD CONSTRAINT registration_is_whole CHECK (num_nulls(registered_incarnation, epoch, registered_as) IN (0, 3)),
    ADD CONSTRAINT halt_is_whole CHECK (num_nulls(halted, halted_text, halted_as) IN (0, 3));

ALTER TABLE book
    ADD COLUMN epoch bigint,
    ADD COLUMN registered_as text,
    ADD COLUMN halted_as text;

-- Of `sold` and `held_in`, what the row was seeded with after a write-off: sales of a database that is gone.
ALTER TABLE quota
    ADD COLUMN seeded bigint NOT NULL DEFAULT 0 CHECK (seeded >= 0 AND seeded <= sold);

-- What the arbiters said last of all regions together. Never decides what may be sold, only what people are told.
CREATE TABLE elsewhere (
    concert_id     integer NOT NULL,
    tier           smallint NOT NULL,
    unsold_at_most bigint NOT NULL CHECK (unsold_at_most >= 0),
    sold_out       boolean NOT NULL,
    heard_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (concert_id, tier),
    FOREIGN KEY (concert_id, tier) REFERENCES tier
) WITH (fillfactor = 20);
