-- name: wait_without_limit
SELECT set_config('lock_timeout', '0', true), set_config('statement_timeout', '0', true)

-- name: take_over
UPDATE consumer_offset SET epoch = epoch + 1, owner = $4, updated_at = clock_timestamp()
WHERE consumer = $1 AND topic = $2 AND part = $3 AND cluster_id = $5 AND parts = $6
RETURNING next_offset, epoch

-- name: begin_reading
INSERT INTO consumer_offset (consumer, topic, part, next_offset, owner, cluster_id, parts)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (consumer, topic, part) DO NOTHING

-- name: stored
SELECT cluster_id, parts, next_offset FROM consumer_offset WHERE consumer = $1 AND topic = $2 AND part = $3

-- name: advance
UPDATE consumer_offset AS o SET next_offset = moved.after, updated_at = clock_timestamp()
FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[]) AS moved (topic, part, before, epoch, after)
WHERE o.consumer = $1 AND o.topic = moved.topic AND o.part = moved.part AND o.next_offset = moved.before AND o.epoch = moved.epoch
RETURNING o.topic, o.part

-- name: first_deliveries
INSERT INTO inbox (consumer, event_id) SELECT $1, id FROM unnest($2::uuid[]) AS id
ON CONFLICT DO NOTHING
RETURNING event_id
