-- name: keep
-- In order of the natural key; of twins the first stays. What is returned is new.
INSERT INTO callback (channel, callback_id, attempt_no, digest, raw_sealed, received_at)
SELECT c.channel, c.callback_id, c.attempt_no, c.digest, c.raw_sealed, c.received_at
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::timestamptz[])
  AS c (channel, callback_id, attempt_no, digest, raw_sealed, received_at)
ORDER BY c.channel, c.callback_id
ON CONFLICT (channel, callback_id) DO NOTHING
RETURNING channel, callback_id

-- name: digests
SELECT k.channel, k.callback_id, k.digest
FROM callback k
JOIN unnest($1::text[], $2::text[]) AS c (channel, callback_id) ON k.channel = c.channel AND k.callback_id = c.callback_id

-- name: add_evidence
INSERT INTO evidence (evidence_id, channel, attempt_no, payment_id, source, cause, report, native_state, claim, checks,
                      verdict, recorded_at)
SELECT e.evidence_id, e.channel, e.attempt_no, e.payment_id, e.source, e.cause, e.report, e.native_state, e.claim, e.checks,
       e.verdict, $12
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::text[])
  AS e (evidence_id, channel, attempt_no, payment_id, source, cause, report, native_state, claim, checks, verdict)
