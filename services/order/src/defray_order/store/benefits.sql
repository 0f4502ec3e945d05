-- name: insert
INSERT INTO benefit (benefit_id, merchant_id, name, kind, units, currency, value, cap_minor, minimum_minor, uses_max, valid_from,
                     valid_until, valid_days, by_rule, rule_minor, rule_from, rule_until, stock_left, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)

-- name: get
SELECT benefit_id, merchant_id, name, kind, units, currency, value, cap_minor, minimum_minor, uses_max, valid_from, valid_until,
       valid_days, by_rule, rule_minor, rule_from, rule_until, stock_left, created_at, archived_at
FROM benefit
WHERE benefit_id = ANY ($1::uuid[])

-- name: page
SELECT benefit_id, merchant_id, name, kind, units, currency, value, cap_minor, minimum_minor, uses_max, valid_from, valid_until,
       valid_days, by_rule, rule_minor, rule_from, rule_until, stock_left, created_at, archived_at
FROM benefit
WHERE merchant_id = $1 AND benefit_id > $2
ORDER BY benefit_id
LIMIT $3

-- name: rules
SELECT benefit_id, merchant_id, name, kind, units, currency, value, cap_minor, minimum_minor, uses_max, valid_from, valid_until,
       valid_days, by_rule, rule_minor, rule_from, rule_until, stock_left, created_at, archived_at
FROM benefit
WHERE merchant_id = ANY ($1::uuid[]) AND by_rule AND archived_at IS NULL
ORDER BY benefit_id

-- name: lock_rules
-- Held to the end of the transaction: two definitions of one merchant do not count the same.
SELECT pg_advisory_xact_lock(hashtext('benefit rules'), hashtext($1::uuid::text))

-- name: count_rules
SELECT count(*) FROM benefit WHERE merchant_id = $1 AND by_rule AND archived_at IS NULL

-- name: archive
UPDATE benefit SET archived_at = COALESCE(archived_at, $3)
WHERE benefit_id = $1 AND merchant_id = $2
RETURNING benefit_id

-- name: lock_stock
-- One lock order: the template's id. Only those that have a stock are waited for.
SELECT benefit_id, stock_left
FROM benefit
WHERE benefit_id = ANY ($1::uuid[]) AND stock_left IS NOT NULL
ORDER BY benefit_id
FOR NO KEY UPDATE

-- name: take_from_stock
UPDATE benefit b SET stock_left = b.stock_left - t.taken
FROM unnest($1::uuid[], $2::integer[]) AS t (benefit_id, taken)
WHERE b.benefit_id = t.benefit_id

-- name: attach
INSERT INTO order_benefit (order_id, line, benefit_id)
SELECT a.order_id, a.line, a.benefit_id
FROM unnest($1::uuid[], $2::smallint[], $3::uuid[]) AS a (order_id, line, benefit_id)

-- name: attached
SELECT order_id, line, benefit_id FROM order_benefit WHERE order_id = ANY ($1::uuid[]) ORDER BY order_id, line, benefit_id
