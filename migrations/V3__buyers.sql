-- The reservation's id as its buyer has it. Ids are signed and not stored, and what they say of wishes is gone once a
-- reservation is decided; so whoever begins to pay leaves the text here for the ticket, where it must be the same again.
ALTER TABLE reservation ADD COLUMN id_text text;

-- Nodes read who bought since they last looked, for the limit per person.
CREATE INDEX ticket_issued ON ticket (issued_at);

-- How many wait beside the queue, and since when, is read every second: in order, without sorting.
CREATE INDEX waiting_arrival ON waiting (concert_id, arrival_ms) WHERE tier = tiers[1];
