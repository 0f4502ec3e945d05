-- name: open
INSERT INTO exception_case (case_id, order_id, payment_id, attempt_no, reason, cause, opened_at, refund_id)
SELECT c.case_id, c.order_id, c.payment_id, c.attempt_no, c.reason, c.cause, $7, c.refund_id
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $8::uuid[])
  AS c (case_id, order_id, payment_id, attempt_no, reason, cause, refund_id)
ON CONFLICT (payment_id, reason, cause) DO NOTHING

-- name: page
SELECT case_id, order_id, payment_id, refund_id, attempt_no, reason, cause, state, owner, opened_at, claimed_at, resolved_at,
       resolved_by, resolution
FROM exception_case
WHERE case_id > $1 AND (CASE WHEN $3::text IS NULL THEN state <> 'RESOLVED' ELSE state = $3 END)
  AND ($4::text IS NULL OR reason = $4) AND ($5::text IS NULL OR owner = $5)
  AND ($6::uuid IS NULL OR order_id = $6) AND ($7::uuid IS NULL OR payment_id = $7)
ORDER BY case_id
LIMIT $2

-- name: find
SELECT case_id, order_id, payment_id, refund_id, attempt_no, reason, cause, state, owner, opened_at, claimed_at, resolved_at,
       resolved_by, resolution
FROM exception_case
WHERE case_id = $1

-- name: lock
SELECT case_id, order_id, payment_id, refund_id, attempt_no, reason, cause, state, owner, opened_at, claimed_at, resolved_at,
       resolved_by, resolution
FROM exception_case
WHERE case_id = $1
FOR NO KEY UPDATE

-- name: notes
SELECT author, text, written_at FROM case_note WHERE case_id = $1 ORDER BY note_id DESC LIMIT $2

-- name: claim
UPDATE exception_case SET state = 'CLAIMED', owner = $2, claimed_at = $3 WHERE case_id = $1

-- name: add_note
INSERT INTO case_note (note_id, case_id, author, text, written_at) VALUES ($1, $2, $3, $4, $5)

-- name: resolve
UPDATE exception_case SET state = 'RESOLVED', resolved_at = $2, resolved_by = $3, resolution = $4 WHERE case_id = $1
