-- name: insert
-- One for each order, line and kind: what was planned before stays as it is.
INSERT INTO fulfilment_grant (grant_id, order_id, merchant_id, line, kind, benefit_id, state, units, recalled, uses_max, reserved,
                              used, tries, due_at, planned_at, correlation_id, version, event_seq)
SELECT g.grant_id, g.order_id, g.merchant_id, g.line, g.kind, g.benefit_id, 'PENDING', g.units, 0, g.uses_max, 0, 0, 0,
       g.due_at, g.planned_at, g.correlation_id, 1, 0
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::smallint[], $5::text[], $6::uuid[], $7::bigint[], $8::integer[],
            $9::timestamptz[], $10::timestamptz[], $11::text[])
  AS g (grant_id, order_id, merchant_id, line, kind, benefit_id, units, uses_max, due_at, planned_at, correlation_id)
ORDER BY g.order_id, g.line, g.kind
ON CONFLICT (order_id, line, kind) DO NOTHING
RETURNING grant_id

-- name: get
SELECT g.grant_id, g.order_id, g.merchant_id, g.line, g.kind, g.benefit_id, g.state, g.units, g.recalled, g.reserved, g.used,
       g.tries, g.due_at, g.failure, g.planned_at, g.granted_at, g.valid_from AS from_at, g.valid_until AS until_at,
       g.correlation_id, g.version, g.event_seq,
       b.name, b.currency, b.value, b.cap_minor, b.minimum_minor, b.uses_max, b.valid_from, b.valid_until, b.valid_days
FROM fulfilment_grant g
JOIN benefit b ON b.benefit_id = g.benefit_id
WHERE g.grant_id = ANY ($1::uuid[])
ORDER BY g.grant_id

-- name: of_orders
SELECT grant_id FROM fulfilment_grant WHERE order_id = ANY ($1::uuid[]) ORDER BY order_id, line, kind LIMIT $2

-- name: touched_by
-- What these orders brought, and what they were placed with.
SELECT grant_id FROM fulfilment_grant WHERE order_id = ANY ($1::uuid[])
UNION
SELECT grant_id FROM coupon_use WHERE order_id = ANY ($1::uuid[])

-- name: lock
-- One lock order: the grant's id, behind orders and before templates.
SELECT grant_id FROM fulfilment_grant WHERE grant_id = ANY ($1::uuid[]) ORDER BY grant_id FOR NO KEY UPDATE

-- name: claim_due
-- The lease: should this worker die, another one tries after it.
UPDATE fulfilment_grant g
SET due_at = $1::timestamptz + make_interval(secs => $3)
FROM (
  SELECT grant_id FROM fulfilment_grant WHERE due_at <= $1::timestamptz ORDER BY due_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED) AS d
WHERE g.grant_id = d.grant_id
RETURNING g.grant_id, g.order_id

-- name: move
UPDATE fulfilment_grant g
SET state = m.state, recalled = m.recalled, reserved = m.reserved, used = m.used, tries = m.tries, due_at = m.due_at,
    failure = m.failure, granted_at = m.granted_at, valid_from = m.valid_from, valid_until = m.valid_until, version = m.version,
    event_seq = m.event_seq
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::integer[], $5::integer[], $6::integer[], $7::timestamptz[], $8::text[],
            $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::integer[], $13::integer[], $14::integer[])
  AS m (grant_id, state, recalled, reserved, used, tries, due_at, failure, granted_at, valid_from, valid_until, version,
        event_seq, version_before)
WHERE g.grant_id = m.grant_id AND g.version = m.version_before
RETURNING g.grant_id

-- name: log
INSERT INTO grant_step (grant_id, version, step, kind, state, units, amount_minor, used_on, at, correlation_id, causation_id,
                        traceparent, event_id, event_type)
SELECT s.grant_id, s.version, s.step, s.kind, s.state, s.units, s.amount_minor, s.used_on, s.at, s.correlation_id,
       s.causation_id, s.traceparent, s.event_id, s.event_type
FROM unnest($1::uuid[], $2::integer[], $3::smallint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::uuid[],
            $9::timestamptz[], $10::text[], $11::text[], $12::text[], $13::uuid[], $14::text[])
  AS s (grant_id, version, step, kind, state, units, amount_minor, used_on, at, correlation_id, causation_id, traceparent,
        event_id, event_type)

-- name: steps
-- Of what the order brought, and of the coupons it was placed with; what is owed stands with the order that owes it.
SELECT s.grant_id, s.kind, s.state, s.units, s.amount_minor, s.at, s.correlation_id, s.causation_id, s.event_id, s.event_type,
       g.line, g.kind AS benefit_kind, b.name, b.currency
FROM grant_step s
JOIN fulfilment_grant g ON g.grant_id = s.grant_id
JOIN benefit b ON b.benefit_id = g.benefit_id
WHERE s.grant_id IN (SELECT o.grant_id FROM fulfilment_grant o WHERE o.order_id = $1
                     UNION SELECT u.grant_id FROM coupon_use u WHERE u.order_id = $1)
  AND (g.order_id = $1 OR s.used_on = $1)
ORDER BY s.at, s.grant_id, s.version, s.step
LIMIT $2

-- name: complete
-- Every line brought something, and nothing of the order is pending or failed.
SELECT i.order_id
FROM order_item i
LEFT JOIN fulfilment_grant g ON g.order_id = i.order_id AND g.line = i.line
WHERE i.order_id = ANY ($1::uuid[])
GROUP BY i.order_id
HAVING bool_and(g.grant_id IS NOT NULL)
   AND NOT EXISTS (SELECT FROM fulfilment_grant o WHERE o.order_id = i.order_id AND o.state IN ('PENDING', 'FAILED'))
