-- What this service keeps sealed with its data key: a page reads on in key order, bounded whatever it finds; a lock takes
-- what is still stale and waits for nobody. Bytes of an envelope: version, length of the key's id, the id.

-- name: buyer_keys_page
SELECT order_id, substring(key_sealed FROM 3 FOR get_byte(key_sealed, 1)) <> $1::bytea AS stale
FROM buyer_key
WHERE order_id > $2
ORDER BY order_id
LIMIT $3

-- name: lock_buyer_keys
SELECT order_id, key_sealed
FROM buyer_key
WHERE order_id = ANY ($2::uuid[]) AND substring(key_sealed FROM 3 FOR get_byte(key_sealed, 1)) <> $1::bytea
ORDER BY order_id
FOR UPDATE SKIP LOCKED

-- name: write_buyer_keys
UPDATE buyer_key b SET key_sealed = n.key_sealed
FROM unnest($1::uuid[], $2::bytea[]) AS n (order_id, key_sealed)
WHERE b.order_id = n.order_id

-- name: lock_made_keys
SELECT name, key_sealed
FROM made_key
WHERE substring(key_sealed FROM 3 FOR get_byte(key_sealed, 1)) <> $1::bytea
ORDER BY name
FOR UPDATE SKIP LOCKED

-- name: write_made_keys
UPDATE made_key m SET key_sealed = n.key_sealed
FROM unnest($1::text[], $2::bytea[]) AS n (name, key_sealed)
WHERE m.name = n.name

-- name: rejected_page
SELECT rejected_id, substring(record_sealed FROM 3 FOR get_byte(record_sealed, 1)) <> $1::bytea AS stale
FROM inbound_rejected
WHERE rejected_id > $2 AND record_sealed IS NOT NULL
ORDER BY rejected_id
LIMIT $3

-- name: lock_rejected
SELECT rejected_id, record_sealed
FROM inbound_rejected
WHERE rejected_id = ANY ($2::uuid[]) AND substring(record_sealed FROM 3 FOR get_byte(record_sealed, 1)) <> $1::bytea
ORDER BY rejected_id
FOR UPDATE SKIP LOCKED

-- name: write_rejected
UPDATE inbound_rejected r SET record_sealed = n.record_sealed
FROM unnest($1::uuid[], $2::bytea[]) AS n (rejected_id, record_sealed)
WHERE r.rejected_id = n.rejected_id
