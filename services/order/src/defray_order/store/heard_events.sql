-- name: note
-- Each event once: one that is sent again, or tried again after it was parked, is known.
INSERT INTO order_heard (order_id, event_id, event_type, subject, status, currency, amount_minor, occurred_at, correlation_id,
                         causation_id)
SELECT h.order_id, h.event_id, h.event_type, h.subject, h.status, h.currency, h.amount_minor, h.occurred_at, h.correlation_id,
       h.causation_id
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::timestamptz[], $9::text[],
            $10::text[])
  AS h (order_id, event_id, event_type, subject, status, currency, amount_minor, occurred_at, correlation_id, causation_id)
ORDER BY h.order_id, h.event_id
ON CONFLICT (order_id, event_id) DO NOTHING

-- name: of_order
SELECT event_id, event_type, subject, status, currency, amount_minor, occurred_at, correlation_id, causation_id
FROM order_heard
WHERE order_id = $1
ORDER BY occurred_at, event_id
LIMIT $2
