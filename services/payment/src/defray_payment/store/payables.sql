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
UPDATE payable p
SET status = s.status, closing_reason = s.closing_reason, claimed_by = s.claimed_by, order_seq = s.order_seq,
    order_expires_at = s.order_expires_at, event_seq = s.event_seq, version = p.version + 1, updated_at = $9
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::uuid[], $6::bigint[], $7::timestamptz[], $8::bigint[])
  AS s (order_id, version, status, closing_reason, claimed_by, order_seq, order_expires_at, event_seq)
WHERE p.order_id = s.order_id AND p.version = s.version
RETURNING p.order_id

-- name: log
INSERT INTO payable_transition (order_id, version, from_status, to_status, claimed_by, cause, correlation_id, at)
SELECT t.order_id, t.version, t.from_status, t.to_status, t.claimed_by, t.cause, t.correlation_id, $8
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::text[])
  AS t (order_id, version, from_status, to_status, claimed_by, cause, correlation_id)

-- name: late_money
SELECT merchant_id, state FROM merchant WHERE merchant_id = ANY($1::uuid[])

-- name: read
SELECT order_id, merchant_id, amount_minor, currency, status, closing_reason, claimed_by, order_expires_at, order_seq,
       correlation_id, version, event_seq
FROM payable
WHERE order_id = $1
