-- name: insert
INSERT INTO refund_request (request_id, order_id, merchant_id, payment_id, origin, currency, amount_minor, note, state,
                            refund_id, refund_seq, grants_recalled, requested_at, correlation_id, version)
SELECT r.request_id, r.order_id, r.merchant_id, r.payment_id, r.origin, r.currency, r.amount_minor, r.note, r.state,
       r.refund_id, r.refund_seq, r.grants_recalled, r.requested_at, r.correlation_id, r.version
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::text[],
            $10::uuid[], $11::integer[], $12::integer[], $13::timestamptz[], $14::text[], $15::integer[])
  AS r (request_id, order_id, merchant_id, payment_id, origin, currency, amount_minor, note, state, refund_id, refund_seq,
        grants_recalled, requested_at, correlation_id, version)

-- name: insert_lines
INSERT INTO refund_request_line (request_id, line, amount_minor, quantity)
SELECT l.request_id, l.line, l.amount_minor, l.quantity
FROM unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::integer[]) AS l (request_id, line, amount_minor, quantity)

-- name: live_of_orders
-- Read under the orders' locks: nothing of these orders' requests changes until the transaction ends.
SELECT request_id, order_id, merchant_id, payment_id, origin, currency, amount_minor, note, state, refund_id, refund_seq, grants_recalled,
       code, requested_at, ended_at, correlation_id, version
FROM refund_request
WHERE order_id = ANY ($1::uuid[]) AND state NOT IN ('FAILED', 'REFUSED')

-- name: known
-- The requests that events name, by their own id or by their refund's.
SELECT request_id, order_id, merchant_id, payment_id, origin, currency, amount_minor, note, state, refund_id, refund_seq, grants_recalled,
       code, requested_at, ended_at, correlation_id, version
FROM refund_request
WHERE request_id = ANY ($1::uuid[]) OR refund_id = ANY ($2::uuid[])

-- name: of_order
SELECT request_id, order_id, merchant_id, payment_id, origin, currency, amount_minor, note, state, refund_id, refund_seq, grants_recalled,
       code, requested_at, ended_at, correlation_id, version
FROM refund_request
WHERE order_id = $1 AND request_id > $2
ORDER BY request_id
LIMIT $3

-- name: lines
SELECT request_id, line, amount_minor, quantity
FROM refund_request_line
WHERE request_id = ANY ($1::uuid[])
ORDER BY request_id, line

-- name: counts
SELECT order_id, count(*) AS requests FROM refund_request WHERE order_id = ANY ($1::uuid[]) GROUP BY order_id

-- name: late_payments
SELECT payment_id FROM refund_request WHERE payment_id = ANY ($1::uuid[]) AND origin = 'late_money'

-- name: move
UPDATE refund_request r
SET state = m.state, refund_id = m.refund_id, refund_seq = m.refund_seq, code = m.code, ended_at = m.ended_at, version = m.version
FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::timestamptz[], $6::integer[], $7::integer[])
  AS m (request_id, state, refund_id, code, ended_at, version, refund_seq)
WHERE r.request_id = m.request_id AND r.version = m.version - 1
RETURNING r.request_id

-- name: log
INSERT INTO refund_request_step (request_id, step, kind, state, amount_minor, at, event_id, correlation_id, causation_id,
                                 traceparent)
SELECT s.request_id, s.step, s.kind, s.state, s.amount_minor, s.at, s.event_id, s.correlation_id, s.causation_id, s.traceparent
FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[], $7::uuid[], $8::text[],
            $9::text[], $10::text[])
  AS s (request_id, step, kind, state, amount_minor, at, event_id, correlation_id, causation_id, traceparent)

-- name: steps
SELECT request_id, step, kind, state, amount_minor, at, event_id, correlation_id, causation_id, traceparent
FROM refund_request_step
WHERE request_id = ANY ($1::uuid[])
ORDER BY request_id, step

-- name: steps_of_order
SELECT s.request_id, s.step, s.kind, s.state, s.amount_minor, s.at, s.event_id, s.correlation_id, s.causation_id, s.traceparent,
       r.currency
FROM refund_request r
JOIN refund_request_step s ON s.request_id = r.request_id
WHERE r.order_id = $1
ORDER BY r.request_id, s.step
LIMIT $2
