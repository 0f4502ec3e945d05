-- name: append
INSERT INTO outbox (lane, event_id, topic, part_key, event_type, aggregate_id, aggregate_seq, payload, headers, occurred_at)
SELECT r.lane, r.event_id, r.topic, r.part_key, r.event_type, r.aggregate_id, r.aggregate_seq, r.payload, r.headers, r.occurred_at
FROM unnest($1::smallint[], $2::uuid[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::bigint[], $8::bytea[], $9::bytea[],
            $10::timestamptz[]) WITH ORDINALITY
  AS r (lane, event_id, topic, part_key, event_type, aggregate_id, aggregate_seq, payload, headers, occurred_at, position)
ORDER BY r.position

-- name: stored_lanes
SELECT value FROM kernel_setting WHERE name = 'relay_lanes'
