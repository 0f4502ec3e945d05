-- name: claim
-- One lock order: (scope, key). A twin's open transaction is waited for here.
INSERT INTO idempotency_key (scope, key, request_hash, lease_until, created_at)
SELECT c.scope, c.key, c.request_hash, c.lease_until, $5
FROM unnest($1::text[], $2::text[], $3::bytea[], $4::timestamptz[]) AS c (scope, key, request_hash, lease_until)
ORDER BY c.scope, c.key
ON CONFLICT (scope, key) DO NOTHING
RETURNING scope, key

-- name: lock_existing
SELECT k.scope, k.key, k.request_hash, k.lease_until, k.status, k.body, k.resource_id
FROM idempotency_key k
JOIN unnest($1::text[], $2::text[]) AS c (scope, key) ON k.scope = c.scope AND k.key = c.key
ORDER BY k.scope, k.key
FOR UPDATE OF k

-- name: take_over
UPDATE idempotency_key k SET lease_until = c.lease_until
FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS c (scope, key, lease_until)
WHERE k.scope = c.scope AND k.key = c.key AND k.status IS NULL

-- name: finish
UPDATE idempotency_key k SET status = a.status, body = a.body, resource_id = coalesce(a.resource_id, k.resource_id)
FROM unnest($1::text[], $2::text[], $3::smallint[], $4::bytea[], $5::uuid[]) AS a (scope, key, status, body, resource_id)
WHERE k.scope = a.scope AND k.key = a.key AND k.status IS NULL
RETURNING k.scope, k.key

-- name: remember_resource
UPDATE idempotency_key k SET resource_id = r.resource_id
FROM unnest($1::text[], $2::text[], $3::uuid[]) AS r (scope, key, resource_id)
WHERE k.scope = r.scope AND k.key = r.key AND k.status IS NULL

-- name: purge
DELETE FROM idempotency_key
WHERE (scope, key) IN (
  SELECT scope, key FROM idempotency_key WHERE created_at < $1 ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING key
