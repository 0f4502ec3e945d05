-- name: insert
-- One lock order: the merchant's number. A twin's open transaction is waited for here.
INSERT INTO orders (order_id, merchant_id, merchant_order_no, state, currency, amount_minor, coupons_minor, content_hash,
                    correlation_id, placed_at, expires_at, closing_reason, paid_at, version, event_seq)
SELECT o.order_id, o.merchant_id, o.merchant_order_no, o.state, o.currency, o.amount_minor, o.coupons_minor, o.content_hash,
       o.correlation_id, o.placed_at, o.expires_at, o.closing_reason, o.paid_at, o.version, o.event_seq
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bytea[], $9::text[],
            $10::timestamptz[], $11::timestamptz[], $12::text[], $13::timestamptz[], $14::integer[], $15::integer[])
  AS o (order_id, merchant_id, merchant_order_no, state, currency, amount_minor, coupons_minor, content_hash, correlation_id,
        placed_at, expires_at, closing_reason, paid_at, version, event_seq)
ORDER BY o.merchant_id, o.merchant_order_no
ON CONFLICT (merchant_id, merchant_order_no) DO NOTHING
RETURNING order_id

-- name: insert_items
INSERT INTO order_item (order_id, line, sku, title, quantity, unit_amount_minor, discount_minor, amount_minor)
SELECT i.order_id, i.line, i.sku, i.title, i.quantity, i.unit_amount_minor, i.discount_minor, i.amount_minor
FROM unnest($1::uuid[], $2::smallint[], $3::text[], $4::text[], $5::integer[], $6::bigint[], $7::bigint[], $8::bigint[])
  AS i (order_id, line, sku, title, quantity, unit_amount_minor, discount_minor, amount_minor)

-- name: by_numbers
SELECT o.order_id, o.merchant_id, o.merchant_order_no, o.content_hash
FROM orders o
JOIN unnest($1::uuid[], $2::text[]) AS n (merchant_id, merchant_order_no)
  ON o.merchant_id = n.merchant_id AND o.merchant_order_no = n.merchant_order_no

-- name: get
SELECT order_id, merchant_id, merchant_order_no, state, currency, amount_minor, coupons_minor, correlation_id, placed_at, expires_at,
       closing_reason, paid_at, payment_id, refunded_minor, fulfilled_at, reopened, version, event_seq
FROM orders
WHERE order_id = ANY ($1::uuid[])

-- name: lock
-- One lock order: the order's id. Rows of other tables that point here are not kept waiting.
SELECT order_id FROM orders WHERE order_id = ANY ($1::uuid[]) ORDER BY order_id FOR NO KEY UPDATE

-- name: items
SELECT order_id, sku, title, quantity, unit_amount_minor, discount_minor
FROM order_item
WHERE order_id = ANY ($1::uuid[])
ORDER BY order_id, line

-- name: move
UPDATE orders o
SET state = m.state, closing_reason = m.closing_reason, paid_at = m.paid_at, payment_id = m.payment_id,
    refunded_minor = m.refunded_minor, fulfilled_at = m.fulfilled_at, reopened = m.reopened, version = m.version,
    event_seq = m.event_seq
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::uuid[], $6::bigint[], $7::timestamptz[], $8::boolean[],
            $9::integer[], $10::integer[])
  AS m (order_id, state, closing_reason, paid_at, payment_id, refunded_minor, fulfilled_at, reopened, version, event_seq)
WHERE o.order_id = m.order_id AND o.version = m.version - 1
RETURNING o.order_id

-- name: log_transitions
INSERT INTO order_transition (order_id, version, from_state, to_state, report, at, correlation_id, causation_id, traceparent,
                              note, event_id, event_type)
SELECT t.order_id, t.version, t.from_state, t.to_state, t.report, t.at, t.correlation_id, t.causation_id, t.traceparent,
       t.note, t.event_id, t.event_type
FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::uuid[], $12::text[])
  AS t (order_id, version, from_state, to_state, report, at, correlation_id, causation_id, traceparent,
        note, event_id, event_type)

-- name: transitions
SELECT version, from_state, to_state, report, at, correlation_id, causation_id, traceparent, note, event_id, event_type
FROM order_transition
WHERE order_id = $1
ORDER BY version
LIMIT $2

-- name: lock_due
-- Who else looks at the same time takes others: nothing here waits for a lock.
SELECT order_id FROM orders
WHERE state = 'PLACED' AND expires_at <= $1
ORDER BY expires_at
LIMIT $2
FOR NO KEY UPDATE SKIP LOCKED
