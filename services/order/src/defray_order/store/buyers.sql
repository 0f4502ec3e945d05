-- name: made_key
SELECT key_sealed FROM made_key WHERE name = $1

-- name: make_key
INSERT INTO made_key (name, key_sealed) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING

-- name: keep
WITH kept AS (
  INSERT INTO order_buyer (order_id, enciphered)
  SELECT b.order_id, b.enciphered FROM unnest($1::uuid[], $2::bytea[]) AS b (order_id, enciphered)),
keys AS (
  INSERT INTO buyer_key (order_id, key_sealed)
  SELECT k.order_id, k.key_sealed FROM unnest($1::uuid[], $3::bytea[]) AS k (order_id, key_sealed))
INSERT INTO buyer_digest (digest, order_id, kind)
SELECT d.digest, d.order_id, d.kind FROM unnest($4::bytea[], $5::uuid[], $6::text[]) AS d (digest, order_id, kind)

-- name: of_orders
SELECT b.order_id, b.enciphered, b.erased_at, k.key_sealed
FROM order_buyer b
LEFT JOIN buyer_key k ON k.order_id = b.order_id
WHERE b.order_id = ANY ($1::uuid[])

-- name: found_by
-- Whoever is named, and one step on: what the merchant's own reference says is the same buyer. Those named stand last,
-- so that what is left over for another time is still found by the same name.
WITH named AS (SELECT order_id FROM buyer_digest WHERE digest = $1),
same AS (
  SELECT d.digest FROM buyer_digest d JOIN named n ON n.order_id = d.order_id WHERE d.kind = 'customer_ref'
  UNION SELECT $1::bytea)
SELECT d.order_id
FROM buyer_digest d
JOIN same s ON s.digest = d.digest
GROUP BY d.order_id
ORDER BY bool_or(d.digest = $1), d.order_id
LIMIT $2

-- name: lock
SELECT order_id FROM order_buyer WHERE order_id = ANY ($1::uuid[]) ORDER BY order_id FOR NO KEY UPDATE

-- name: erase
WITH unkeyed AS (DELETE FROM buyer_key WHERE order_id = ANY ($1::uuid[])),
forgotten AS (DELETE FROM buyer_digest WHERE order_id = ANY ($1::uuid[]))
UPDATE order_buyer SET erased_at = $2 WHERE order_id = ANY ($1::uuid[]) AND erased_at IS NULL
RETURNING order_id
