-- name: keep_codes
INSERT INTO coupon_code (digest, grant_id)
SELECT c.digest, c.grant_id FROM unnest($1::bytea[], $2::uuid[]) AS c (digest, grant_id)
ON CONFLICT (grant_id) DO NOTHING

-- name: by_digests
SELECT digest, grant_id FROM coupon_code WHERE digest = ANY ($1::bytea[])

-- name: reserve
INSERT INTO coupon_use (order_id, grant_id, position, state, worth, base_minor, amount_minor)
SELECT u.order_id, u.grant_id, u.position, 'RESERVED', u.worth, u.base_minor, u.amount_minor
FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[])
  AS u (order_id, grant_id, position, worth, base_minor, amount_minor)

-- name: of_orders
SELECT u.order_id, u.grant_id, u.state, u.worth, u.base_minor, u.amount_minor, COALESCE(d.debt_minor, 0) AS debt_minor
FROM coupon_use u
LEFT JOIN grant_debt d ON d.grant_id = u.grant_id AND d.used_on = u.order_id
WHERE u.order_id = ANY ($1::uuid[])
ORDER BY u.order_id, u.position

-- name: of_grants
SELECT u.order_id, u.grant_id, u.state, u.worth, u.base_minor, u.amount_minor, COALESCE(d.debt_minor, 0) AS debt_minor
FROM coupon_use u
LEFT JOIN grant_debt d ON d.grant_id = u.grant_id AND d.used_on = u.order_id
WHERE u.grant_id = ANY ($1::uuid[])
ORDER BY u.grant_id, u.order_id

-- name: move
UPDATE coupon_use u SET state = m.state
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS m (order_id, grant_id, state)
WHERE u.order_id = m.order_id AND u.grant_id = m.grant_id

-- name: owe
INSERT INTO grant_debt AS d (grant_id, used_on, order_id, currency, debt_minor)
SELECT o.grant_id, o.used_on, o.order_id, o.currency, o.debt_minor
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[]) AS o (grant_id, used_on, order_id, currency, debt_minor)
ON CONFLICT (grant_id, used_on) DO UPDATE SET debt_minor = excluded.debt_minor

-- name: debts
SELECT order_id, sum(debt_minor)::bigint AS debt_minor
FROM grant_debt
WHERE order_id = ANY ($1::uuid[])
GROUP BY order_id

-- name: debts_of_grants
SELECT grant_id, sum(debt_minor)::bigint AS debt_minor
FROM grant_debt
WHERE grant_id = ANY ($1::uuid[])
GROUP BY grant_id
