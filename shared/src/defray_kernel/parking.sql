-- name: parked_among
SELECT part_key FROM parked_key WHERE consumer = $1 AND part_key = ANY($2::bytea[]) ORDER BY part_key FOR SHARE

-- name: park_keys
INSERT INTO parked_key (consumer, part_key, next_attempt_at, waiting, error_class, error)
SELECT $1, k.part_key, clock_timestamp() + interval '0.5 seconds', k.waiting, k.error_class, k.error
FROM unnest($2::bytea[], $3::boolean[], $4::text[], $5::text[]) AS k (part_key, waiting, error_class, error)
ORDER BY k.part_key
ON CONFLICT (consumer, part_key) DO UPDATE SET attempts = parked_key.attempts

-- name: park_events
INSERT INTO parked_event (consumer, part_key, topic, part, part_offset, recorded_at, key, payload, headers)
SELECT $1, e.part_key, e.topic, e.part, e.part_offset, to_timestamp(e.recorded_ms / 1000.0), e.key, e.payload, e.headers
FROM unnest($2::bytea[], $3::text[], $4::integer[], $5::bigint[], $6::bigint[], $7::bytea[], $8::bytea[], $9::bytea[]) WITH ORDINALITY
  AS e (part_key, topic, part, part_offset, recorded_ms, key, payload, headers, position)
ORDER BY e.position

-- name: events_of_consumer
SELECT count(*) FROM (SELECT FROM parked_event WHERE consumer = $1 LIMIT $2) AS few

-- name: fullest_key
SELECT coalesce(max(n), 0) FROM (
  SELECT (SELECT count(*) FROM (SELECT FROM parked_event AS e WHERE e.consumer = $1 AND e.part_key = k.part_key LIMIT $3) AS few) AS n
  FROM unnest($2::bytea[]) AS k (part_key)) AS counted

-- name: claim_due
SELECT part_key, attempts, waiting FROM parked_key
WHERE consumer = $1 AND next_attempt_at <= clock_timestamp()
ORDER BY next_attempt_at LIMIT 1
FOR UPDATE SKIP LOCKED

-- name: lock_key
SELECT part_key FROM parked_key WHERE consumer = $1 AND part_key = $2 FOR UPDATE

-- name: next_events
SELECT id, topic, part, part_offset, (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_ms, key, payload, headers
FROM parked_event WHERE consumer = $1 AND part_key = $2 AND id > $3 ORDER BY id LIMIT $4

-- name: delete_events
DELETE FROM parked_event WHERE id = ANY($1::bigint[])

-- name: free_key
DELETE FROM parked_key WHERE consumer = $1 AND part_key = $2
AND NOT EXISTS (SELECT FROM parked_event WHERE consumer = $1 AND part_key = $2)
RETURNING part_key

-- name: put_off
UPDATE parked_key SET attempts = $3, next_attempt_at = clock_timestamp() + make_interval(secs => $4),
  waiting = $5, error_class = $6, error = $7
WHERE consumer = $1 AND part_key = $2

-- name: due_now
UPDATE parked_key SET next_attempt_at = clock_timestamp(), attempts = 0 WHERE consumer = $1 AND part_key = $2 RETURNING part_key

-- name: list_keys
SELECT k.consumer, k.part_key, k.parked_at, k.attempts, k.next_attempt_at, k.waiting, k.error_class, k.error,
  (SELECT count(*) FROM (SELECT FROM parked_event AS e WHERE e.consumer = k.consumer AND e.part_key = k.part_key LIMIT 10001) AS few) AS events
FROM parked_key AS k WHERE $1::text IS NULL OR k.consumer = $1
ORDER BY k.parked_at, k.part_key LIMIT $2

-- name: list_events
SELECT id, topic, part, part_offset, recorded_at, key, payload, headers
FROM parked_event WHERE consumer = $1 AND part_key = $2 ORDER BY id LIMIT $3

-- name: count_keys
SELECT count(*) FROM parked_key WHERE consumer = $1
