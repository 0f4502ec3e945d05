-- name: freeze
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY

-- name: head
SELECT seq, hash FROM audit_head

-- name: hashes
SELECT seq, hash FROM audit_log WHERE seq = ANY ($1::bigint[])
