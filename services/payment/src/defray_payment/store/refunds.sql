-- name: insert
-- With the log of the first state, in one round trip.
WITH new AS (
  INSERT INTO refund (refund_id, payment_id, order_id, merchant_id, channel, account_id, attempt_no, channel_txn_id,
                      total_minor, amount_minor, currency, reason, note, refund_no, status, doubt, next_query_at,
                      correlation_id, version, event_seq, created_at, updated_at, request_id)
  SELECT n.refund_id, n.payment_id, n.order_id, n.merchant_id, n.channel, n.account_id, n.attempt_no, n.channel_txn_id,
         n.total_minor, n.amount_minor, n.currency, n.reason, n.note, n.refund_no, 'REQUESTED', n.doubt, n.next_query_at,
         n.correlation_id, 1, 1, $18, $18, n.request_id
  FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::uuid[], $7::text[], $8::text[], $9::bigint[],
              $10::bigint[], $11::text[], $12::text[], $13::text[], $14::text[], $15::boolean[], $16::timestamptz[],
              $17::text[], $20::uuid[])
    AS n (refund_id, payment_id, order_id, merchant_id, channel, account_id, attempt_no, channel_txn_id, total_minor,
          amount_minor, currency, reason, note, refund_no, doubt, next_query_at, correlation_id, request_id)
  RETURNING refund_id, correlation_id)
INSERT INTO refund_transition (refund_id, version, from_status, to_status, cause, correlation_id, at)
SELECT new.refund_id, 1, NULL, 'REQUESTED', c.cause, new.correlation_id, $18
FROM new JOIN unnest($1::uuid[], $19::text[]) AS c (refund_id, cause) ON c.refund_id = new.refund_id

-- name: reserve
-- What is spoken for and what has gone back; the payment's row is under its payable's lock, the caller compares the count.
WITH moved AS (
  UPDATE payment p
  SET refund_reserved_minor = r.reserved, refunded_minor = r.refunded, version = p.version + 1, updated_at = $5
  FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[]) AS r (payment_id, version, reserved, refunded)
  WHERE p.payment_id = r.payment_id AND p.version = r.version
  RETURNING 1)
SELECT count(*) FROM moved

-- name: counts
SELECT payment_id, count(*) AS refunds FROM refund WHERE payment_id = ANY($1::uuid[]) GROUP BY payment_id

-- name: sent_back
SELECT payment_id, reason FROM refund WHERE payment_id = ANY($1::uuid[]) AND reason <> 'merchant'

-- name: orders_of
SELECT refund_no, order_id FROM refund WHERE refund_no = ANY($1::text[])

-- name: by_numbers
-- Locked although the payable is: the timer's claim writes without it.
SELECT refund_id, payment_id, order_id, merchant_id, channel, account_id, attempt_no, channel_txn_id, total_minor,
       amount_minor, currency, reason, note, refund_no, status, doubt, query_count, next_query_at, channel_refund_id,
       done_at, failure_code, correlation_id, created_at, version, event_seq, request_id
FROM refund
WHERE refund_no = ANY($1::text[])
ORDER BY refund_id
FOR UPDATE

-- name: by_ids
SELECT refund_id, payment_id, order_id, merchant_id, channel, account_id, attempt_no, channel_txn_id, total_minor,
       amount_minor, currency, reason, note, refund_no, status, doubt, query_count, next_query_at, channel_refund_id,
       done_at, failure_code, correlation_id, created_at, version, event_seq, request_id
FROM refund
WHERE refund_id = ANY($1::uuid[])

-- name: of_payment
SELECT refund_id, payment_id, order_id, merchant_id, channel, account_id, attempt_no, channel_txn_id, total_minor,
       amount_minor, currency, reason, note, refund_no, status, doubt, query_count, next_query_at, channel_refund_id,
       done_at, failure_code, correlation_id, created_at, version, event_seq, request_id
FROM refund
WHERE payment_id = $1 AND refund_id > $2
ORDER BY refund_id
LIMIT $3

-- name: move
-- The compare-and-set and the log of what it did, in one round trip; the caller compares the count.
WITH wish AS (
  SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::boolean[], $5::timestamptz[], $6::text[],
                       $7::timestamptz[], $8::text[], $9::bigint[], $11::text[], $12::text[])
    AS m (refund_id, version, status, doubt, next_query_at, channel_refund_id, done_at, failure_code, event_seq, from_status,
          cause)),
moved AS (
  UPDATE refund r
  SET status = m.status, doubt = m.doubt, next_query_at = m.next_query_at, channel_refund_id = m.channel_refund_id,
      done_at = m.done_at, failure_code = m.failure_code, event_seq = m.event_seq, version = r.version + 1, updated_at = $10
  FROM wish m
  WHERE r.refund_id = m.refund_id AND r.version = m.version
  RETURNING r.refund_id, r.version, r.correlation_id),
logged AS (
  INSERT INTO refund_transition (refund_id, version, from_status, to_status, cause, correlation_id, at)
  SELECT n.refund_id, n.version, m.from_status, m.status, m.cause, n.correlation_id, $10
  FROM moved n JOIN wish m ON m.refund_id = n.refund_id
  WHERE m.from_status <> m.status)
SELECT count(*) FROM moved

-- name: claim_due
-- The new due time is a lease. A call follows, so from now on there is doubt; `again` is what was believed before.
WITH due AS (
  SELECT refund_id, doubt FROM refund
  WHERE next_query_at <= $1 ORDER BY next_query_at LIMIT $2 FOR UPDATE SKIP LOCKED)
UPDATE refund r SET next_query_at = $3, query_count = r.query_count + 1, doubt = true
FROM due
WHERE r.refund_id = due.refund_id
RETURNING r.refund_id, r.payment_id, r.order_id, r.merchant_id, r.channel, r.account_id, r.attempt_no, r.channel_txn_id,
          r.total_minor, r.amount_minor, r.currency, r.reason, r.note, r.refund_no, r.status, r.doubt, r.query_count,
          r.next_query_at, r.channel_refund_id, r.done_at, r.failure_code, r.correlation_id, r.created_at, r.version,
          r.event_seq, r.request_id, due.doubt AS again

-- name: postpone
-- What was claimed and not asked about after all: nothing was sent, so the doubt is as it was.
UPDATE refund r
SET next_query_at = p.until, query_count = greatest(r.query_count - 1, 0), doubt = p.doubt
FROM unnest($1::uuid[], $2::timestamptz[], $3::boolean[]) AS p (refund_id, until, doubt)
WHERE r.refund_id = p.refund_id AND r.next_query_at = $4

-- name: answered
-- Requests of the order service that have been answered: by a refund, or by a refusal.
SELECT request_id FROM refund WHERE request_id = ANY($1::uuid[])
UNION ALL
SELECT request_id FROM refund_refusal WHERE request_id = ANY($1::uuid[])

-- name: refuse
INSERT INTO refund_refusal (request_id, order_id, payment_id, amount_minor, code, cause, correlation_id, refused_at)
SELECT r.request_id, r.order_id, r.payment_id, r.amount_minor, r.code, r.cause, r.correlation_id, $8
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[])
  AS r (request_id, order_id, payment_id, amount_minor, code, cause, correlation_id)

-- name: add_evidence
INSERT INTO refund_evidence (evidence_id, channel, refund_no, refund_id, source, cause, report, native_state, claim, checks,
                             verdict, recorded_at)
SELECT e.evidence_id, e.channel, e.refund_no, e.refund_id, e.source, e.cause, e.report, e.native_state, e.claim, e.checks,
       e.verdict, $12
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::text[])
  AS e (evidence_id, channel, refund_no, refund_id, source, cause, report, native_state, claim, checks, verdict)
