-- name: read_all
SELECT account_id, channel, merchant_id, merchant_ref, app_ref, base_url, status, secrets_sealed, seed_digest, version
FROM channel_account ORDER BY account_id LIMIT $1

-- name: stamps
SELECT account_id, version FROM channel_account ORDER BY account_id LIMIT $1

-- name: insert
INSERT INTO channel_account (account_id, channel, merchant_id, merchant_ref, app_ref, base_url, status, secrets_sealed,
                             seed_digest, version, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, $10, $10)
ON CONFLICT DO NOTHING
RETURNING account_id

-- name: change
UPDATE channel_account
SET base_url = $3, status = $4, secrets_sealed = $5, seed_digest = $6, version = version + 1, updated_at = $7
WHERE account_id = $1 AND version = $2
RETURNING version
