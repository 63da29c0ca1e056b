-- What version 4 adds: the same sale in a region under arbiters, registered and once halted as another database.
UPDATE region SET mode = 'arbiters', incarnation = 1, registered_incarnation = 1, epoch = 3,
    registered_as = '7:1:00000000000000000000000000000011', halted = '"a reason"', halted_text = 'a reason',
    halted_as = '7:1:00000000000000000000000000000010', last_contact_at = now();
UPDATE book SET epoch = 3, registered_as = '7:1:00000000000000000000000000000011',
    halted_as = '7:1:00000000000000000000000000000010';
UPDATE quota SET epoch = 3;
INSERT INTO elsewhere (concert_id, tier, unsold_at_most, sold_out) VALUES (1, 0, 4000, false);
