-- name: claim
WITH RECURSIVE busy AS (
  -- Endpoints with something pending, one index probe each: a backlog of one costs the others nothing.
  (SELECT endpoint_id FROM delivery WHERE state = 'PENDING' ORDER BY endpoint_id LIMIT 1)
  UNION ALL
  SELECT (SELECT d.endpoint_id FROM delivery d
          WHERE d.state = 'PENDING' AND d.endpoint_id > busy.endpoint_id ORDER BY d.endpoint_id LIMIT 1)
  FROM busy WHERE busy.endpoint_id IS NOT NULL
), due AS (
  SELECT d.delivery_id
  FROM busy
  LEFT JOIN unnest($4::uuid[], $5::integer[]) AS r (endpoint_id, room) ON r.endpoint_id = busy.endpoint_id
  CROSS JOIN LATERAL (
    SELECT delivery_id, next_at FROM delivery
    WHERE delivery.endpoint_id = busy.endpoint_id AND state = 'PENDING' AND next_at <= $1
      AND (leased_until IS NULL OR leased_until <= $2)
    ORDER BY next_at LIMIT coalesce(r.room, $6::integer) FOR NO KEY UPDATE SKIP LOCKED
  ) d
  ORDER BY d.next_at LIMIT $3
)
UPDATE delivery SET attempts = attempts + 1, version = version + 1, leased_until = $7
FROM due WHERE delivery.delivery_id = due.delivery_id
RETURNING delivery.delivery_id, delivery.message_id, delivery.endpoint_id, delivery.attempts, delivery.version

-- name: messages_to_send
SELECT message_id, merchant_id, event_id, event_type, correlation_id, payload FROM message WHERE message_id = ANY ($1::uuid[])

-- name: move
UPDATE delivery SET state = m.state, next_at = m.next_at, last_status = m.status, leased_until = NULL,
                    version = delivery.version + 1, event_seq = CASE WHEN m.state = 'PENDING' THEN 0 ELSE 1 END
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::timestamptz[], $5::smallint[]) AS m (delivery_id, version, state, next_at, status)
WHERE delivery.delivery_id = m.delivery_id AND delivery.version = m.version AND delivery.state = 'PENDING'
RETURNING delivery.delivery_id

-- name: insert_attempts
INSERT INTO attempt (delivery_id, attempt_no, at, duration_ms, status, error, reply, state_after)
SELECT a.delivery_id, a.attempt_no, a.at, a.duration_ms, a.status, a.error, a.reply, a.state_after
FROM unnest($1::uuid[], $2::integer[], $3::timestamptz[], $4::integer[], $5::smallint[], $6::text[], $7::bytea[], $8::text[])
  AS a (delivery_id, attempt_no, at, duration_ms, status, error, reply, state_after)
ON CONFLICT (delivery_id, attempt_no) DO NOTHING
