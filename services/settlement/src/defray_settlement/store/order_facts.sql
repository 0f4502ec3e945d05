-- name: open
INSERT INTO order_fact (order_id)
SELECT o.order_id FROM unnest($1::uuid[]) AS o (order_id)
ORDER BY o.order_id
ON CONFLICT (order_id) DO NOTHING

-- name: lock
SELECT order_id, reopened_payment_id, reopened_merchant_id, reopened_minor, reopened_currency, reopened_correlation_id,
       reopened_causation_id
FROM order_fact WHERE order_id = ANY ($1::uuid[])
ORDER BY order_id FOR NO KEY UPDATE

-- name: note_reopened
UPDATE order_fact f
SET reopened_payment_id = n.payment_id, reopened_merchant_id = n.merchant_id, reopened_minor = n.minor,
    reopened_currency = n.currency, reopened_correlation_id = n.correlation_id, reopened_causation_id = n.causation_id
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[])
  AS n (order_id, payment_id, merchant_id, minor, currency, correlation_id, causation_id)
WHERE f.order_id = n.order_id AND f.reopened_payment_id IS NULL

-- name: late_money
-- Its channel is told by the account that holds it. What went back before was the payment's own money, not money of a wrong
-- amount that came beside it.
SELECT e.source_id AS payment_id, e.order_id, e.merchant_id, e.currency, e.gross_minor, e.paid_at,
       split_part(p.account_id, ':', 2) AS channel,
       (SELECT coalesce(sum(b.gross_minor), 0)::bigint FROM entry b
        WHERE b.payment_id = e.source_id AND b.kind = 'returned'
          AND NOT EXISTS (SELECT FROM entry m
                          WHERE m.source = 'refund' AND m.kind = 'mismatched' AND m.source_id = b.source_id)) AS returned_minor
FROM entry e
JOIN posting p ON p.entry_id = e.entry_id AND split_part(p.account_id, ':', 1) = 'suspense'
WHERE e.source = 'payment' AND e.kind = 'paid_late' AND e.source_id = ANY ($1::uuid[])
