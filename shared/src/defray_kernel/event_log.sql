-- name: daily_tables
SELECT name, keep_days FROM daily_table ORDER BY name

-- name: ensure_days
SELECT ensure_daily_partitions($1, (clock_timestamp() AT TIME ZONE 'UTC')::date - $2::integer, $3)

-- name: drop_days
SELECT drop_daily_partitions($1, (clock_timestamp() AT TIME ZONE 'UTC')::date - $2::integer)

-- name: strays
SELECT (SELECT count(*) FROM (SELECT FROM event_log_default LIMIT 1000) AS few)
     + (SELECT count(*) FROM (SELECT FROM inbox_default LIMIT 1000) AS few)

-- name: republish
WITH page AS (
  SELECT lane, id, event_id, topic, part_key, event_type, aggregate_id, aggregate_seq, payload, headers, occurred_at
  FROM event_log
  WHERE sent_at >= $1 AND sent_at < $2 AND id > $3
    AND ($4::text IS NULL OR topic = $4) AND ($5::uuid[] IS NULL OR event_id = ANY($5))
  ORDER BY id LIMIT $6
), again AS (
  INSERT INTO outbox (lane, id, event_id, topic, part_key, event_type, aggregate_id, aggregate_seq, payload, headers, occurred_at, republished)
  OVERRIDING SYSTEM VALUE
  SELECT lane, id, event_id, topic, part_key, event_type, aggregate_id, aggregate_seq, payload, headers, occurred_at, true FROM page
  ON CONFLICT DO NOTHING
)
SELECT count(*) AS events, max(id) AS last_id FROM page
