-- name: insert
INSERT INTO attempt (attempt_no, payment_id, order_id, channel, status, next_query_at, created_at, updated_at, account_id,
                     payer_sealed)
SELECT n.attempt_no, n.payment_id, n.order_id, n.channel, n.status, n.next_query_at, $7, $7, n.account_id, n.payer_sealed
FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::timestamptz[], $8::uuid[], $9::bytea[])
  AS n (attempt_no, payment_id, order_id, channel, status, next_query_at, account_id, payer_sealed)

-- name: orders_of
SELECT attempt_no, order_id FROM attempt WHERE attempt_no = ANY($1::text[])

-- name: save
UPDATE attempt a
SET status = s.status, closing = s.closing, next_query_at = s.next_query_at, action_sealed = s.action_sealed,
    action_expires_at = s.action_expires_at, updated_at = $7
FROM unnest($1::text[], $2::text[], $3::boolean[], $4::timestamptz[], $5::bytea[], $6::timestamptz[])
  AS s (attempt_no, status, closing, next_query_at, action_sealed, action_expires_at)
WHERE a.attempt_no = s.attempt_no

-- name: settle
UPDATE attempt a SET status = s.status, next_query_at = NULL, updated_at = $3
FROM unnest($1::text[], $2::text[]) AS s (attempt_no, status)
WHERE a.attempt_no = s.attempt_no

-- name: postpone
UPDATE attempt a SET next_query_at = p.until, query_count = greatest(a.query_count - 1, 0)
FROM unnest($1::text[], $2::timestamptz[]) AS p (attempt_no, until)
WHERE a.attempt_no = p.attempt_no AND a.next_query_at = $3

-- name: claim_due
-- The new due time is a lease: should this worker die, the attempt is due again when it ends.
WITH due AS (
  SELECT attempt_no FROM attempt
  WHERE next_query_at <= $1 ORDER BY next_query_at LIMIT $2 FOR UPDATE SKIP LOCKED)
UPDATE attempt a SET next_query_at = $3, query_count = a.query_count + 1, asked_at = $1
FROM due JOIN attempt d USING (attempt_no) JOIN payment p ON p.payment_id = d.payment_id
WHERE a.attempt_no = due.attempt_no
RETURNING p.payment_id, p.order_id, p.merchant_id, p.amount_minor, p.currency, p.channel, p.product, p.description, p.status,
          p.attempt_no AS payment_attempt_no, p.created_at, p.expires_at, p.channel_txn_id, p.paid_at, p.failure_code,
          p.correlation_id, p.version, p.event_seq, p.refund_reserved_minor, p.refunded_minor,
          a.attempt_no, a.status AS attempt_status, a.closing, a.query_count, a.next_query_at, a.action_sealed,
          a.action_expires_at, a.account_id, a.payer_sealed, NULL::uuid AS txn_owner

-- name: claim_one
-- A reader's: as `claim_due` for one attempt, unless somebody has asked a moment ago or has it now.
UPDATE attempt SET next_query_at = $4, query_count = query_count + 1, asked_at = $2
WHERE attempt_no = $1 AND (next_query_at <= $2 OR status = 'UNKNOWN') AND next_query_at IS NOT NULL
  AND coalesce(asked_at <= $3, true)
RETURNING attempt_no
