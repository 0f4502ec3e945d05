-- name: ensure
-- In order of id, as every other writer locks them.
INSERT INTO payable (order_id, merchant_id, amount_minor, currency, status, order_expires_at, order_seq, correlation_id,
                     version, event_seq, created_at, updated_at)
SELECT t.order_id, t.merchant_id, t.amount_minor, t.currency, 'OPEN', t.expires_at, 0, t.correlation_id, 1, 0, $7, $7
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::timestamptz[], $6::text[])
  AS t (order_id, merchant_id, amount_minor, currency, expires_at, correlation_id)
ORDER BY t.order_id
ON CONFLICT (order_id) DO NOTHING

-- name: lock
SELECT order_id, merchant_id, amount_minor, currency, status, closing_reason, claimed_by, order_expires_at, order_seq,
       correlation_id, version, event_seq
FROM payable
WHERE order_id = ANY($1::uuid[])
ORDER BY order_id
FOR UPDATE

-- name: save
-- The compare-and-set, and the log of those whose state or claim changed, in one round trip; the caller compares the count.
WITH wish AS (
  SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::uuid[], $6::bigint[], $7::timestamptz[],
                       $8::bigint[], $10::text[], $11::text[])
    AS s (order_id, version, status, closing_reason, claimed_by, order_seq, order_expires_at, event_seq, from_status, cause)),
saved AS (
  UPDATE payable p
  SET status = s.status, closing_reason = s.closing_reason, claimed_by = s.claimed_by, order_seq = s.order_seq,
      order_expires_at = s.order_expires_at, event_seq = s.event_seq, version = p.version + 1, updated_at = $9
  FROM wish s
  WHERE p.order_id = s.order_id AND p.version = s.version
  RETURNING p.order_id, p.version, p.correlation_id),
logged AS (
  INSERT INTO payable_transition (order_id, version, from_status, to_status, claimed_by, cause, correlation_id, at)
  SELECT n.order_id, n.version, s.from_status, s.status, s.claimed_by, s.cause, n.correlation_id, $9
  FROM saved n JOIN wish s ON s.order_id = n.order_id
  WHERE s.from_status IS NOT NULL)
SELECT count(*) FROM saved

-- name: claim
-- The hot path's form of `save`: only the claim moves.
WITH wish AS (
  SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[]) AS s (order_id, version, claimed_by, cause)),
claimed AS (
  UPDATE payable p
  SET claimed_by = s.claimed_by, version = p.version + 1, updated_at = $5
  FROM wish s
  WHERE p.order_id = s.order_id AND p.version = s.version AND p.claimed_by IS NULL
  RETURNING p.order_id, p.version, p.status, p.claimed_by, p.correlation_id, s.cause),
logged AS (
  INSERT INTO payable_transition (order_id, version, from_status, to_status, claimed_by, cause, correlation_id, at)
  SELECT order_id, version, status, status, claimed_by, cause, correlation_id, $5 FROM claimed)
SELECT count(*) FROM claimed

-- name: late_money
SELECT merchant_id, state FROM merchant WHERE merchant_id = ANY($1::uuid[])

-- name: read
SELECT order_id, merchant_id, amount_minor, currency, status, closing_reason, claimed_by, order_expires_at, order_seq,
       correlation_id, version, event_seq
FROM payable
WHERE order_id = $1
