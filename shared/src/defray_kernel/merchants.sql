-- name: project
INSERT INTO merchant (merchant_id, sequence, status, state, key_hashes, changed_at)
SELECT m.merchant_id, m.sequence, m.status, m.state,
       ARRAY(SELECT decode(h, 'hex') FROM unnest(string_to_array(m.key_hashes, ',')) AS h), m.changed_at
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bytea[], $5::text[], $6::timestamptz[])
  AS m (merchant_id, sequence, status, state, key_hashes, changed_at)
ORDER BY m.merchant_id
ON CONFLICT (merchant_id) DO UPDATE
SET sequence = excluded.sequence, status = excluded.status, state = excluded.state,
    key_hashes = excluded.key_hashes, changed_at = excluded.changed_at
WHERE merchant.sequence < excluded.sequence OR (merchant.sequence = excluded.sequence AND merchant.status = 'UNREADABLE')

-- name: disable
INSERT INTO merchant (merchant_id, sequence, status, changed_at) VALUES ($1, 0, 'UNREADABLE', $2)
ON CONFLICT (merchant_id) DO UPDATE SET status = 'UNREADABLE', changed_at = excluded.changed_at

-- name: all
SELECT merchant_id, sequence, status, state FROM merchant ORDER BY merchant_id LIMIT $1

-- name: stored_offsets
SELECT part, next_offset FROM consumer_offset WHERE consumer = $1 AND topic = $2
