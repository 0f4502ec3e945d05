-- name: register
INSERT INTO merchant (merchant_id, name, status, mode, currencies, late_money, version, event_seq, registered_at, changed_at, announce_at)
SELECT m.merchant_id, m.name, 'ACTIVE', m.mode, string_to_array(m.currencies, ','), m.late_money, 1, 1, $6, $6, $7
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[]) AS m (merchant_id, name, mode, currencies, late_money)
ORDER BY m.name
ON CONFLICT DO NOTHING
RETURNING merchant_id

-- name: insert_fee_rules
INSERT INTO fee_rule (merchant_id, version, basis_points, effective_from)
SELECT r.merchant_id, r.version, r.basis_points, r.effective_from
FROM unnest($1::uuid[], $2::integer[], $3::integer[], $4::timestamptz[]) AS r (merchant_id, version, basis_points, effective_from)

-- name: named
SELECT m.merchant_id, m.name, m.status, m.mode, m.currencies, m.late_money, m.version, m.event_seq, m.registered_at, m.changed_at,
       r.basis_points
FROM merchant m JOIN fee_rule r ON r.merchant_id = m.merchant_id AND r.version = 1
WHERE m.name = ANY ($1::text[])

-- name: lock
SELECT merchant_id, name, status, mode, currencies, late_money, version, event_seq, registered_at, changed_at
FROM merchant WHERE merchant_id = ANY ($1::uuid[])
ORDER BY merchant_id FOR NO KEY UPDATE

-- name: lock_to_announce
SELECT merchant_id, name, status, mode, currencies, late_money, version, event_seq, registered_at, changed_at
FROM merchant WHERE announce_at <= $1
ORDER BY merchant_id LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED

-- name: page
SELECT merchant_id, name, status, mode, currencies, late_money, version, event_seq, registered_at, changed_at
FROM merchant WHERE merchant_id > $1 ORDER BY merchant_id LIMIT $2

-- name: get
SELECT merchant_id, name, status, mode, currencies, late_money, version, event_seq, registered_at, changed_at
FROM merchant WHERE merchant_id = $1

-- name: live_keys
SELECT key_id, merchant_id, slot, prefix, sha256, scopes, issued_at
FROM api_key WHERE merchant_id = ANY ($1::uuid[]) AND revoked_at IS NULL
ORDER BY merchant_id, slot

-- name: revoked_among
SELECT k.key_id FROM api_key k JOIN unnest($1::uuid[], $2::uuid[]) AS w (key_id, merchant_id) USING (key_id, merchant_id)
WHERE k.revoked_at IS NOT NULL

-- name: move
UPDATE merchant SET status = m.status, version = m.version, event_seq = m.event_seq, changed_at = m.changed_at, announce_at = $6
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::timestamptz[]) AS m (merchant_id, status, version, event_seq, changed_at)
WHERE merchant.merchant_id = m.merchant_id AND merchant.version = m.version - 1
RETURNING merchant.merchant_id

-- name: announced_again
UPDATE merchant SET version = version + 1, event_seq = event_seq + 1, announce_at = $2
WHERE merchant_id = ANY ($1::uuid[])

-- name: revoke_keys
UPDATE api_key SET revoked_at = $2 WHERE key_id = ANY ($1::uuid[]) AND revoked_at IS NULL

-- name: insert_keys
INSERT INTO api_key (key_id, merchant_id, slot, prefix, sha256, scopes, issued_at)
SELECT k.key_id, k.merchant_id, k.slot, k.prefix, k.sha256, string_to_array(k.scopes, ','), k.issued_at
FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::text[], $5::bytea[], $6::text[], $7::timestamptz[])
  AS k (key_id, merchant_id, slot, prefix, sha256, scopes, issued_at)

-- name: log_transitions
INSERT INTO merchant_transition (merchant_id, version, act, status, actor, at, correlation_id)
SELECT t.merchant_id, t.version, t.act, t.status, t.actor, t.at, t.correlation_id
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[])
  AS t (merchant_id, version, act, status, actor, at, correlation_id)

-- name: fee_rules_at
SELECT w.position, r.version, r.basis_points
FROM unnest($1::uuid[], $2::timestamptz[]) WITH ORDINALITY AS w (merchant_id, paid_at, position)
CROSS JOIN LATERAL (
  SELECT version, basis_points FROM fee_rule
  WHERE fee_rule.merchant_id = w.merchant_id AND effective_from <= w.paid_at
  ORDER BY effective_from DESC LIMIT 1
) r

-- name: fee_basis_points
SELECT DISTINCT ON (merchant_id) merchant_id, basis_points
FROM fee_rule WHERE merchant_id = ANY ($1::uuid[]) AND effective_from <= $2
ORDER BY merchant_id, effective_from DESC
