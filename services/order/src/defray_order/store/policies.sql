-- name: late_money
SELECT merchant_id, status, state FROM merchant WHERE merchant_id = ANY ($1::uuid[]) AND state IS NOT NULL
