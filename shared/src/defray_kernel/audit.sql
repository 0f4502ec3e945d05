-- name: lock_head
SELECT seq, hash FROM audit_head FOR UPDATE

-- name: insert
INSERT INTO audit_log (seq, at, actor, action, subject, detail, hash) VALUES ($1, $2, $3, $4, $5, $6, $7)

-- name: move_head
UPDATE audit_head SET seq = $1, hash = $2

-- name: head
SELECT seq, hash FROM audit_head

-- name: page
SELECT seq, at, actor, action, subject, detail, hash FROM audit_log WHERE seq > $1 ORDER BY seq LIMIT $2

-- name: recent
SELECT seq, at, actor, action, subject, detail FROM audit_log WHERE seq < $1 ORDER BY seq DESC LIMIT $2
