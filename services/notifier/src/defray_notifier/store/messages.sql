-- name: insert
WITH told AS (
  INSERT INTO message (message_id, merchant_id, endpoint_id, event_id, event_type, subject, sequence, payload, correlation_id, created_at)
  SELECT m.message_id, m.merchant_id, m.endpoint_id, m.event_id, m.event_type, m.subject, m.sequence, m.payload, m.correlation_id, $10
  FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::bigint[], $8::bytea[], $9::text[])
    AS m (message_id, merchant_id, endpoint_id, event_id, event_type, subject, sequence, payload, correlation_id)
  ORDER BY m.endpoint_id, m.event_id
  ON CONFLICT (endpoint_id, event_id) DO NOTHING
  RETURNING message_id, endpoint_id
)
INSERT INTO delivery (delivery_id, message_id, endpoint_id, state, attempts, next_at, version, event_seq)
SELECT d.delivery_id, told.message_id, told.endpoint_id, 'PENDING', 0, $10, 1, 0
FROM told JOIN unnest($1::uuid[], $11::uuid[]) AS d (message_id, delivery_id) USING (message_id)

-- name: page
SELECT m.message_id, m.endpoint_id, m.event_type, m.subject, m.sequence, m.correlation_id, m.created_at,
       d.delivery_id, d.state, d.attempts, d.next_at, d.last_status
FROM message m JOIN delivery d USING (message_id)
WHERE m.merchant_id = $1 AND m.message_id < $2
ORDER BY m.message_id DESC LIMIT $3

-- name: get
SELECT m.message_id, m.endpoint_id, m.event_type, m.subject, m.sequence, m.correlation_id, m.created_at, m.payload,
       d.delivery_id, d.state, d.attempts, d.next_at, d.last_status
FROM message m JOIN delivery d USING (message_id)
WHERE m.merchant_id = $1 AND m.message_id = $2

-- name: attempts_of
SELECT attempt_no, at, duration_ms, status, error, reply, state_after
FROM attempt WHERE delivery_id = $1 ORDER BY attempt_no LIMIT $2
