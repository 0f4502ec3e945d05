-- name: project
INSERT INTO order_refund AS r (refund_id, payment_id, order_id, status, reason, currency, amount_minor, requested_at, done_at,
                               last_seq)
SELECT n.refund_id, n.payment_id, n.order_id, n.status, n.reason, n.currency, n.amount_minor, n.requested_at, n.done_at, n.last_seq
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::timestamptz[],
            $9::timestamptz[], $10::integer[])
  AS n (refund_id, payment_id, order_id, status, reason, currency, amount_minor, requested_at, done_at, last_seq)
ORDER BY n.refund_id
ON CONFLICT (refund_id) DO UPDATE
SET status = excluded.status, done_at = excluded.done_at, last_seq = excluded.last_seq
WHERE r.last_seq < excluded.last_seq AND r.order_id = excluded.order_id

-- name: of_orders
SELECT refund_id, payment_id, order_id, status, reason, currency, amount_minor, requested_at, done_at, last_seq
FROM order_refund
WHERE order_id = ANY ($1::uuid[])
ORDER BY refund_id
LIMIT $2
