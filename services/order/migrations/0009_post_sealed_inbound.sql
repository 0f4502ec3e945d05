-- Content that was kept in the clear cannot be sealed here: it goes, and its rows are for eyes only from now on.
UPDATE inbound_rejected SET truncated = true, value_bytes = coalesce(octet_length(payload), 0) WHERE record_sealed IS NULL;
ALTER TABLE inbound_rejected
  DROP COLUMN key, DROP COLUMN headers, DROP COLUMN payload,
  ADD CHECK (truncated OR record_sealed IS NOT NULL);
