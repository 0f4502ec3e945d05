-- name: insert
INSERT INTO payment (payment_id, order_id, merchant_id, amount_minor, currency, channel, product, description, status,
                     attempt_no, expires_at, correlation_id, version, event_seq, created_at, updated_at)
SELECT n.payment_id, n.order_id, n.merchant_id, n.amount_minor, n.currency, n.channel, n.product, n.description, n.status,
       n.attempt_no, n.expires_at, n.correlation_id, n.version, n.event_seq, $15, $15
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::timestamptz[], $12::text[], $13::bigint[], $14::bigint[])
  AS n (payment_id, order_id, merchant_id, amount_minor, currency, channel, product, description, status, attempt_no,
        expires_at, correlation_id, version, event_seq)

-- name: of_attempts
-- Read under the payables' locks: nothing of these orders changes until the transaction ends.
SELECT p.payment_id, p.order_id, p.merchant_id, p.amount_minor, p.currency, p.channel, p.product, p.description, p.status,
       p.attempt_no AS payment_attempt_no, p.created_at, p.expires_at, p.channel_txn_id, p.paid_at, p.failure_code,
       p.correlation_id, p.version, p.event_seq, p.refund_reserved_minor, p.refunded_minor,
       a.attempt_no, a.status AS attempt_status, a.closing, a.query_count, a.next_query_at, a.action_sealed,
       a.action_expires_at, a.account_id, a.payer_sealed,
       -- Row by row on purpose: as a join it was planned to read every paid payment once for each report.
       (SELECT o.payment_id FROM payment o WHERE o.channel = c.channel AND o.channel_txn_id = c.txn_id) AS txn_owner
FROM unnest($1::text[], $2::text[], $3::text[]) AS c (attempt_no, channel, txn_id)
JOIN attempt a ON a.attempt_no = c.attempt_no
JOIN payment p ON p.payment_id = a.payment_id

-- name: live_of_orders
SELECT p.payment_id, p.order_id, p.merchant_id, p.amount_minor, p.currency, p.channel, p.product, p.description, p.status,
       p.attempt_no AS payment_attempt_no, p.created_at, p.expires_at, p.channel_txn_id, p.paid_at, p.failure_code,
       p.correlation_id, p.version, p.event_seq, p.refund_reserved_minor, p.refunded_minor,
       a.attempt_no, a.status AS attempt_status, a.closing, a.query_count, a.next_query_at, a.action_sealed,
       a.action_expires_at, a.account_id, a.payer_sealed, NULL::uuid AS txn_owner
FROM payment p
JOIN attempt a ON a.attempt_no = p.attempt_no
WHERE p.order_id = ANY($1::uuid[]) AND p.status IN ('CREATED', 'PENDING', 'AUTHORIZED')
ORDER BY p.payment_id

-- name: by_ids
SELECT p.payment_id, p.order_id, p.merchant_id, p.amount_minor, p.currency, p.channel, p.product, p.description, p.status,
       p.attempt_no AS payment_attempt_no, p.created_at, p.expires_at, p.channel_txn_id, p.paid_at, p.failure_code,
       p.correlation_id, p.version, p.event_seq, p.refund_reserved_minor, p.refunded_minor,
       a.attempt_no, a.status AS attempt_status, a.closing, a.query_count, a.next_query_at, a.action_sealed,
       a.action_expires_at, a.account_id, a.payer_sealed, NULL::uuid AS txn_owner
FROM payment p
JOIN attempt a ON a.attempt_no = p.attempt_no
WHERE p.payment_id = ANY($1::uuid[])

-- name: of_order
SELECT p.payment_id, p.order_id, p.merchant_id, p.amount_minor, p.currency, p.channel, p.product, p.description, p.status,
       p.attempt_no AS payment_attempt_no, p.created_at, p.expires_at, p.channel_txn_id, p.paid_at, p.failure_code,
       p.correlation_id, p.version, p.event_seq, p.refund_reserved_minor, p.refunded_minor,
       a.attempt_no, a.status AS attempt_status, a.closing, a.query_count, a.next_query_at, a.action_sealed,
       a.action_expires_at, a.account_id, a.payer_sealed, NULL::uuid AS txn_owner
FROM payment p
JOIN attempt a ON a.attempt_no = p.attempt_no
WHERE p.order_id = $1
ORDER BY p.payment_id
LIMIT $2

-- name: log_first
INSERT INTO payment_transition (payment_id, version, from_status, to_status, cause, correlation_id, at)
SELECT t.payment_id, t.version, NULL, t.to_status, $4, t.correlation_id, $5
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $6::text[]) AS t (payment_id, version, to_status, correlation_id)

-- name: move
-- The compare-and-set and the log of what it did, in one round trip; the caller compares the count.
WITH wish AS (
  SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[], $7::text[],
                       $8::bigint[], $10::text[], $11::text[])
    AS m (payment_id, version, status, channel_txn_id, paid_minor, paid_at, failure_code, event_seq, from_status, cause)),
moved AS (
  UPDATE payment p
  SET status = m.status, channel_txn_id = m.channel_txn_id, paid_minor = m.paid_minor, paid_at = m.paid_at,
      failure_code = m.failure_code, event_seq = m.event_seq, version = p.version + 1, updated_at = $9
  FROM wish m
  WHERE p.payment_id = m.payment_id AND p.version = m.version
  RETURNING p.payment_id, p.version, p.correlation_id),
logged AS (
  INSERT INTO payment_transition (payment_id, version, from_status, to_status, cause, correlation_id, at)
  SELECT n.payment_id, n.version, m.from_status, m.status, m.cause, n.correlation_id, $9
  FROM moved n JOIN wish m ON m.payment_id = n.payment_id)
SELECT count(*) FROM moved

-- name: page
SELECT p.payment_id, p.order_id, p.merchant_id, p.amount_minor, p.currency, p.channel, p.product, p.description, p.status,
       p.attempt_no AS payment_attempt_no, p.created_at, p.expires_at, p.channel_txn_id, p.paid_at, p.failure_code,
       p.correlation_id, p.version, p.event_seq, p.refund_reserved_minor, p.refunded_minor,
       a.attempt_no, a.status AS attempt_status, a.closing, a.query_count, a.next_query_at, a.action_sealed,
       a.action_expires_at, a.account_id, a.payer_sealed, NULL::uuid AS txn_owner
FROM payment p
JOIN attempt a ON a.attempt_no = p.attempt_no
WHERE p.merchant_id = $1 AND ($2::uuid IS NULL OR p.order_id = $2)
  AND ($3::text IS NULL OR p.status = $3) AND ($4::timestamptz IS NULL OR p.created_at >= $4)
  AND ($5::timestamptz IS NULL OR p.created_at < $5)
  AND ($6::timestamptz IS NULL OR (p.created_at, p.payment_id) > ($6, $7::uuid))
ORDER BY p.created_at, p.payment_id
LIMIT $8
