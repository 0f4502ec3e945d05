-- name: of_merchant
SELECT order_id, merchant_id, merchant_order_no, state, currency, amount_minor, refunded_minor, placed_at, expires_at,
       paid_at, closing_reason, payment_id, correlation_id
FROM orders
WHERE merchant_id = $1 AND ($2::text IS NULL OR state = $2) AND ($3::timestamptz IS NULL OR placed_at >= $3)
  AND ($4::timestamptz IS NULL OR placed_at < $4) AND ($5::timestamptz IS NULL OR (placed_at, order_id) > ($5, $6::uuid))
ORDER BY placed_at, order_id
LIMIT $7

-- name: of_number
SELECT order_id, merchant_id, merchant_order_no, state, currency, amount_minor, refunded_minor, placed_at, expires_at,
       paid_at, closing_reason, payment_id, correlation_id
FROM orders
WHERE merchant_id = $1 AND ($2::text IS NULL OR state = $2) AND ($3::timestamptz IS NULL OR placed_at >= $3)
  AND ($4::timestamptz IS NULL OR placed_at < $4) AND ($5::timestamptz IS NULL OR (placed_at, order_id) > ($5, $6::uuid))
  AND merchant_order_no = $8
ORDER BY placed_at, order_id
LIMIT $7

-- name: of_buyer
-- The digests lead: one buyer's orders are few among a merchant's.
WITH found AS MATERIALIZED (SELECT order_id FROM buyer_digest WHERE digest = ANY ($8::bytea[])
                            GROUP BY order_id HAVING count(*) = cardinality($8::bytea[]))
SELECT o.order_id, o.merchant_id, o.merchant_order_no, o.state, o.currency, o.amount_minor, o.refunded_minor, o.placed_at,
       o.expires_at, o.paid_at, o.closing_reason, o.payment_id, o.correlation_id
FROM found f
JOIN orders o ON o.order_id = f.order_id
WHERE o.merchant_id = $1 AND ($2::text IS NULL OR o.state = $2) AND ($3::timestamptz IS NULL OR o.placed_at >= $3)
  AND ($4::timestamptz IS NULL OR o.placed_at < $4)
  AND ($5::timestamptz IS NULL OR (o.placed_at, o.order_id) > ($5, $6::uuid))
  AND ($9::text IS NULL OR o.merchant_order_no = $9)
ORDER BY o.placed_at, o.order_id
LIMIT $7

-- name: of_all
-- Newest first, along the ids, which are made in order of time.
SELECT order_id, merchant_id, merchant_order_no, state, currency, amount_minor, refunded_minor, placed_at, expires_at,
       paid_at, closing_reason, payment_id, correlation_id
FROM orders
WHERE ($1::uuid IS NULL OR merchant_id = $1) AND ($2::text IS NULL OR state = $2) AND order_id < $3
ORDER BY order_id DESC
LIMIT $4
