-- A sale under way, as version 1 writes it: one held, one sold, one expired, one waiting, one told no with a range.
INSERT INTO region VALUES (true, 'east', '00000000-0000-0000-0000-000000000011', '1');
INSERT INTO concert (concert, title, venue, sale_opens_at, hold_ms, max_per_order, max_per_person, shards)
    VALUES ('demo', 'A concert', 'A hall', now(), 600000, 4, 4, 1);
INSERT INTO tier VALUES (1, 0, 'A', 'A', 1000, 'EUR');
INSERT INTO book VALUES (1, 4);
INSERT INTO quota VALUES (1, 0, 100, 0, 9, 3, 4, 0, 0, '00000000-0000-0000-0000-000000000011');
INSERT INTO queue_generation VALUES (1, 0, 1, 4, 20);
INSERT INTO reservation
    (concert_id, entry, user_hash, request_id, arrival_ms, state, tier, quantity, amount, held_at, hold_expires_at, book)
VALUES
    (1, 1::bigint << 40 | 1, gen_random_uuid(), gen_random_uuid(), 1001, 'held', 0, 2, 2000, now(), now(), 2),
    (1, 1::bigint << 40 | 2, gen_random_uuid(), gen_random_uuid(), 1002, 'sold', 0, 4, 4000, now(), now(), 2),
    (1, 1::bigint << 40 | 3, gen_random_uuid(), gen_random_uuid(), 1003, 'expired', 0, 3, 3000, now(), now(), 2);
INSERT INTO waiting VALUES
    (1, 1::bigint << 40 | 4, 0, 4, 1004, gen_random_uuid(), gen_random_uuid(), NULL, 4, false, '{0}');
INSERT INTO rejected_range VALUES (1, 0, 1, 5, 20, 'sold_out', '{1}', 4);
INSERT INTO ledger (concert_id, book, kind, tier, entry, tickets) VALUES
    (1, 1, 'grant', 0, NULL, 100), (1, 2, 'hold', 0, 1::bigint << 40 | 1, 2), (1, 2, 'hold', 0, 1::bigint << 40 | 2, 4),
    (1, 2, 'hold', 0, 1::bigint << 40 | 3, 3), (1, 3, 'release', 0, 1::bigint << 40 | 3, 3),
    (1, NULL, 'sell', 0, 1::bigint << 40 | 2, 4);
INSERT INTO fold VALUES (6, 1, 4);
INSERT INTO outbox (concert_id, entry, user_hash, state)
    VALUES (1, 1::bigint << 40 | 3, gen_random_uuid(), 'expired');
INSERT INTO ticket (ticket_id, concert_id, entry, number, tier, holder_hash, status)
    SELECT gen_random_uuid(), 1, 1::bigint << 40 | 2, n, 0, gen_random_uuid(), 'valid' FROM generate_series(1, 4) n;
INSERT INTO operator_act (who, what) VALUES ('operator', '{"act": "put concert"}');
