-- Cancelled payments are asked about again, a bounded number of times (`check_after` becomes infinity after the last):
-- a bank may deliver the money of a cancelled payment, and the webhook that says so may be lost for ever.
CREATE INDEX payment_cancelled ON payment (check_after) WHERE status = 'cancelled' AND check_after < 'infinity';
