-- name: merchants
SELECT merchant_id, status, state FROM merchant WHERE merchant_id = ANY ($1::uuid[])

-- name: waiting_among
-- The rows found stay until the transaction ends: a timer that would take them waits, and is waited for.
SELECT key FROM inbound_waiting WHERE key = ANY ($1::bytea[]) ORDER BY id FOR SHARE

-- name: count_waiting
SELECT count(*) FROM (SELECT FROM inbound_waiting LIMIT $1) AS few

-- name: wait
INSERT INTO inbound_waiting (merchant_id, topic, part, part_offset, recorded_at, key, headers, payload, give_up_at)
SELECT w.merchant_id, w.topic, w.part, w.part_offset, timestamptz 'epoch' + w.recorded_ms * interval '1 millisecond',
       w.key, w.headers, w.payload, $9
FROM unnest($1::uuid[], $2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bytea[], $8::bytea[])
  WITH ORDINALITY AS w (merchant_id, topic, part, part_offset, recorded_ms, key, headers, payload, position)
ORDER BY w.position

-- name: due
-- Not SKIP LOCKED: of one key an older row must never be passed over for a younger one.
SELECT w.id, w.topic, w.part, w.part_offset, (extract(epoch FROM w.recorded_at) * 1000)::bigint AS recorded_ms,
       w.key, w.headers, w.payload
FROM inbound_waiting w
WHERE w.give_up_at <= $1 OR EXISTS (SELECT FROM merchant m WHERE m.merchant_id = w.merchant_id)
ORDER BY w.id
LIMIT $2
FOR UPDATE OF w

-- name: stop_waiting
DELETE FROM inbound_waiting WHERE id = ANY ($1::bigint[])

-- name: first_seen
INSERT INTO inbound_seen (digest, content_hash, seen_at)
SELECT s.digest, s.content_hash, $3
FROM unnest($1::bytea[], $2::bytea[]) AS s (digest, content_hash)
ORDER BY s.digest
ON CONFLICT (digest) DO NOTHING
RETURNING digest

-- name: seen
SELECT digest, content_hash FROM inbound_seen WHERE digest = ANY ($1::bytea[])

-- name: forget
DELETE FROM inbound_seen WHERE digest = ANY ($1::bytea[])

-- name: purge_seen
DELETE FROM inbound_seen WHERE ctid = ANY (ARRAY(SELECT ctid FROM inbound_seen WHERE seen_at < $1 LIMIT $2)) RETURNING 1

-- name: reject
INSERT INTO inbound_rejected (rejected_id, topic, part, part_offset, recorded_at, record_sealed, value_bytes, value_digest,
                              truncated, reason, field, detail, rejected_at)
SELECT r.rejected_id, r.topic, r.part, r.part_offset, timestamptz 'epoch' + r.recorded_ms * interval '1 millisecond',
       r.record_sealed, r.value_bytes, r.value_digest, r.truncated, r.reason, r.field, r.detail, $13
FROM unnest($1::uuid[], $2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::bytea[], $7::integer[], $8::bytea[],
            $9::boolean[], $10::text[], $11::text[], $12::text[])
  AS r (rejected_id, topic, part, part_offset, recorded_ms, record_sealed, value_bytes, value_digest, truncated, reason, field,
        detail)

-- name: list_rejected
SELECT rejected_id, topic, part, part_offset, (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_ms, value_bytes,
       value_digest, truncated, reason, field, detail, state, rejected_at, tries, ended_at, ended_by
FROM inbound_rejected
WHERE rejected_id > $1 AND ($2::text IS NULL OR state = $2) AND ($3::text IS NULL OR reason = $3)
ORDER BY rejected_id
LIMIT $4

-- name: rejected
SELECT rejected_id, topic, part, part_offset, (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_ms, record_sealed,
       value_bytes, value_digest, truncated, reason, field, detail, state, rejected_at, tries, ended_at, ended_by
FROM inbound_rejected
WHERE rejected_id = $1

-- name: lock_open
SELECT rejected_id, topic, part, part_offset, (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_ms, record_sealed,
       value_bytes, value_digest, truncated, reason, field, detail, state, rejected_at, tries, ended_at, ended_by
FROM inbound_rejected
WHERE rejected_id = $1 AND state = 'OPEN'
FOR NO KEY UPDATE

-- name: refused_again
UPDATE inbound_rejected SET reason = $2, field = $3, detail = $4, tries = tries + 1 WHERE rejected_id = $1

-- name: end_rejected
UPDATE inbound_rejected SET state = $2, ended_at = $3, ended_by = $4 WHERE rejected_id = $1

-- name: purge_rejected
DELETE FROM inbound_rejected
WHERE rejected_id = ANY (ARRAY(SELECT rejected_id FROM inbound_rejected WHERE rejected_id < $1 ORDER BY rejected_id LIMIT $2))
RETURNING 1
