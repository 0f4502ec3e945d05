-- name: project
INSERT INTO order_payment AS p (payment_id, order_id, status, currency, amount_minor, channel, paid_minor, paid_at, last_seq)
SELECT n.payment_id, n.order_id, n.status, n.currency, n.amount_minor, n.channel, n.paid_minor, n.paid_at, n.last_seq
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[], $8::timestamptz[],
            $9::integer[])
  AS n (payment_id, order_id, status, currency, amount_minor, channel, paid_minor, paid_at, last_seq)
ORDER BY n.payment_id
ON CONFLICT (payment_id) DO UPDATE
SET status = excluded.status, paid_minor = excluded.paid_minor, paid_at = excluded.paid_at, last_seq = excluded.last_seq
WHERE p.last_seq < excluded.last_seq AND p.order_id = excluded.order_id

-- name: of_orders
SELECT payment_id, order_id, status, currency, amount_minor, channel, paid_minor, paid_at, last_seq
FROM order_payment
WHERE order_id = ANY ($1::uuid[])
ORDER BY payment_id
LIMIT $2
