-- name: lanes_with_rows
SELECT lane FROM generate_series(0, $1::integer - 1) AS lane WHERE EXISTS (SELECT FROM outbox AS o WHERE o.lane = lane.lane)

-- name: lock_lane
SELECT pg_try_advisory_xact_lock(hashtext('outbox ' || current_schema()), $1)

-- name: unsent
SELECT id, topic, part_key, payload, headers
FROM (
  SELECT *, sum(octet_length(payload)) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) - octet_length(payload) AS bytes_before
  FROM (
    SELECT id, topic, part_key, payload, headers FROM outbox WHERE lane = $1 ORDER BY id LIMIT $2
  ) AS head
) AS page
WHERE bytes_before < $3
ORDER BY id

-- name: unsent_but_blocked
SELECT id, topic, part_key, payload, headers
FROM (
  SELECT *, sum(octet_length(payload)) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) - octet_length(payload) AS bytes_before
  FROM (
    SELECT id, topic, part_key, payload, headers
    FROM outbox AS o
    WHERE lane = $1 AND NOT EXISTS (
      SELECT FROM unnest($4::text[], $5::bytea[]) AS blocked (topic, part_key)
      WHERE blocked.topic = o.topic AND (blocked.part_key IS NULL OR blocked.part_key = o.part_key))
    ORDER BY id LIMIT $2
  ) AS head
) AS page
WHERE bytes_before < $3
ORDER BY id

-- name: move_to_log
WITH sent AS (
  DELETE FROM outbox WHERE lane = $1 AND id = ANY($2::bigint[])
  RETURNING lane, id, event_id, topic, part_key, event_type, aggregate_id, aggregate_seq, payload, headers, occurred_at, republished
)
INSERT INTO event_log (lane, id, event_id, topic, part_key, event_type, aggregate_id, aggregate_seq, payload, headers, occurred_at)
SELECT lane, id, event_id, topic, part_key, event_type, aggregate_id, aggregate_seq, payload, headers, occurred_at
FROM sent WHERE NOT republished

-- name: backlog
SELECT count(*) AS unsent, greatest(0, extract(epoch FROM clock_timestamp() - min(occurred_at)))::double precision AS oldest_s
FROM (SELECT occurred_at FROM outbox LIMIT 100000) AS few
