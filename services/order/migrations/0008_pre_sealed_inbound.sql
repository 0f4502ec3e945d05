-- What could not be used may hold a buyer's data, or anything: it is kept sealed with the data key. Why it was rejected,
-- and where it stood, are our own words.
ALTER TABLE inbound_rejected
  ALTER COLUMN headers DROP NOT NULL,
  ADD COLUMN record_sealed bytea CHECK (length(record_sealed) BETWEEN 30 AND 262144),  -- key, headers and value
  ADD COLUMN value_bytes integer NOT NULL DEFAULT 0 CHECK (value_bytes >= 0),
  ADD COLUMN value_digest bytea CHECK (length(value_digest) = 32);  -- under a key of this service's own
