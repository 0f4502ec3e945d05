-- name: lock_merchants
SELECT pg_advisory_xact_lock(hashtextextended('endpoints:' || m.merchant_id, 0))
FROM (SELECT merchant_id::text FROM unnest($1::uuid[]) AS w (merchant_id) ORDER BY merchant_id) m

-- name: enabled_of
SELECT endpoint_id, merchant_id, slot, url, event_types, state, disabled_reason, version, created_at
FROM endpoint WHERE merchant_id = ANY ($1::uuid[]) AND state = 'ENABLED'
ORDER BY merchant_id, slot

-- name: insert
INSERT INTO endpoint (endpoint_id, merchant_id, slot, url, event_types, state, version, created_at)
SELECT e.endpoint_id, e.merchant_id, e.slot, e.url, string_to_array(e.event_types, ','), 'ENABLED', 1, e.created_at
FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::text[], $5::text[], $6::timestamptz[])
  AS e (endpoint_id, merchant_id, slot, url, event_types, created_at)

-- name: insert_secrets
INSERT INTO endpoint_secret (endpoint_id, number, sealed, created_at)
SELECT s.endpoint_id, 1, s.sealed, $3 FROM unnest($1::uuid[], $2::bytea[]) AS s (endpoint_id, sealed)

-- name: log_transitions
INSERT INTO endpoint_transition (endpoint_id, version, state, reason, at, correlation_id, causation_id)
SELECT t.endpoint_id, t.version, t.state, t.reason, $5, t.correlation_id, t.causation_id
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $6::text[], $7::text[])
  AS t (endpoint_id, version, state, reason, correlation_id, causation_id)

-- name: disable
UPDATE endpoint SET state = 'DISABLED', disabled_reason = $2, version = version + 1
WHERE endpoint_id = ANY (
  SELECT endpoint_id FROM endpoint WHERE endpoint_id = ANY ($1::uuid[]) AND state = 'ENABLED' ORDER BY endpoint_id FOR NO KEY UPDATE
)
RETURNING endpoint_id, version

-- name: page
SELECT endpoint_id, merchant_id, slot, url, event_types, state, disabled_reason, version, created_at
FROM endpoint WHERE merchant_id = $1 AND endpoint_id > $2 ORDER BY endpoint_id LIMIT $3

-- name: get
SELECT endpoint_id, merchant_id, slot, url, event_types, state, disabled_reason, version, created_at
FROM endpoint WHERE merchant_id = $1 AND endpoint_id = $2

-- name: to_send
SELECT e.endpoint_id, e.url, e.state,
       ARRAY(SELECT s.sealed FROM endpoint_secret s WHERE s.endpoint_id = e.endpoint_id ORDER BY s.number DESC LIMIT 2) AS sealed
FROM endpoint e WHERE e.endpoint_id = ANY ($1::uuid[])
