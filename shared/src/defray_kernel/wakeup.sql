-- name: wake
SELECT pg_notify('outbox_' || current_schema(), '')

-- name: channel
SELECT 'outbox_' || current_schema()
