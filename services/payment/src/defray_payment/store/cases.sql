-- name: open
INSERT INTO exception_case (case_id, order_id, payment_id, attempt_no, reason, cause, opened_at)
SELECT c.case_id, c.order_id, c.payment_id, c.attempt_no, c.reason, c.cause, $7
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[])
  AS c (case_id, order_id, payment_id, attempt_no, reason, cause)
ON CONFLICT (payment_id, reason, cause) DO NOTHING

-- name: list_open
SELECT case_id, order_id, payment_id, attempt_no, reason, cause, opened_at
FROM exception_case
WHERE state = 'OPEN' AND case_id > $1
ORDER BY case_id
LIMIT $2

-- name: resolve
UPDATE exception_case SET state = 'RESOLVED', resolved_at = $2, resolved_by = $3, resolution = $4
WHERE case_id = $1 AND state = 'OPEN'
RETURNING case_id
