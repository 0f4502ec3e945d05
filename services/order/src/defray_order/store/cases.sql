-- name: open
INSERT INTO exception_case (case_id, order_id, reason, subject, detail, opened_at, correlation_id, causation_id)
SELECT c.case_id, c.order_id, c.reason, c.subject, c.detail, c.opened_at, c.correlation_id, c.causation_id
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[], $8::text[])
  AS c (case_id, order_id, reason, subject, detail, opened_at, correlation_id, causation_id)
ORDER BY c.order_id, c.reason, c.subject
ON CONFLICT (order_id, reason, subject) DO NOTHING

-- name: list_open
SELECT case_id, order_id, reason, subject, detail, opened_at, correlation_id, causation_id
FROM exception_case
WHERE state = 'OPEN' AND case_id > $1
ORDER BY case_id
LIMIT $2

-- name: resolve
UPDATE exception_case
SET state = 'RESOLVED', resolved_at = $2, resolved_by = $3, resolution = $4
WHERE case_id = $1 AND state = 'OPEN'
RETURNING case_id
