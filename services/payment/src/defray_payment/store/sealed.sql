-- Everything this service keeps sealed, kind by kind: `page` reads on in key order, bounded whatever it finds (NULL = sealed
-- with the current key, or nothing); `lock` takes what is still stale and waits for nobody; `write` puts the new form.
-- Bytes of an envelope: version, length of the key's id, the id.

-- name: callback_page
SELECT channel AS key_1, callback_id AS key_2,
       CASE WHEN substring(raw_sealed FROM 3 FOR get_byte(raw_sealed, 1)) <> $1::bytea THEN true END AS stale
FROM callback
WHERE (channel, callback_id) > ($2, $3)
ORDER BY channel, callback_id
LIMIT $4

-- name: callback_lock
SELECT c.channel AS key_1, c.callback_id AS key_2, c.raw_sealed AS sealed
FROM callback c
JOIN unnest($2::text[], $3::text[]) AS k (channel, callback_id) ON k.channel = c.channel AND k.callback_id = c.callback_id
WHERE substring(c.raw_sealed FROM 3 FOR get_byte(c.raw_sealed, 1)) <> $1::bytea
FOR NO KEY UPDATE OF c SKIP LOCKED

-- name: callback_write
UPDATE callback c SET raw_sealed = n.sealed
FROM unnest($1::text[], $2::text[], $3::bytea[]) AS n (channel, callback_id, sealed)
WHERE c.channel = n.channel AND c.callback_id = n.callback_id

-- name: action_page
SELECT attempt_no AS key_1, '' AS key_2,
       CASE WHEN substring(action_sealed FROM 3 FOR get_byte(action_sealed, 1)) <> $1::bytea THEN true END AS stale
FROM attempt
WHERE attempt_no > $2 AND $3::text IS NOT NULL
ORDER BY attempt_no
LIMIT $4

-- name: action_lock
SELECT attempt_no AS key_1, '' AS key_2, action_sealed AS sealed
FROM attempt
WHERE attempt_no = ANY($2::text[]) AND $3::text[] IS NOT NULL
  AND substring(action_sealed FROM 3 FOR get_byte(action_sealed, 1)) <> $1::bytea
FOR NO KEY UPDATE SKIP LOCKED

-- name: action_write
UPDATE attempt a SET action_sealed = n.sealed
FROM unnest($1::text[], $2::text[], $3::bytea[]) AS n (attempt_no, nothing, sealed)
WHERE a.attempt_no = n.attempt_no

-- name: payer_page
SELECT attempt_no AS key_1, '' AS key_2,
       CASE WHEN substring(payer_sealed FROM 3 FOR get_byte(payer_sealed, 1)) <> $1::bytea THEN true END AS stale
FROM attempt
WHERE attempt_no > $2 AND $3::text IS NOT NULL
ORDER BY attempt_no
LIMIT $4

-- name: payer_lock
SELECT attempt_no AS key_1, '' AS key_2, payer_sealed AS sealed
FROM attempt
WHERE attempt_no = ANY($2::text[]) AND $3::text[] IS NOT NULL
  AND substring(payer_sealed FROM 3 FOR get_byte(payer_sealed, 1)) <> $1::bytea
FOR NO KEY UPDATE SKIP LOCKED

-- name: payer_write
UPDATE attempt a SET payer_sealed = n.sealed
FROM unnest($1::text[], $2::text[], $3::bytea[]) AS n (attempt_no, nothing, sealed)
WHERE a.attempt_no = n.attempt_no

-- name: account_page
SELECT account_id::text AS key_1, '' AS key_2,
       CASE WHEN substring(secrets_sealed FROM 3 FOR get_byte(secrets_sealed, 1)) <> $1::bytea THEN true END AS stale
FROM channel_account
WHERE account_id::text > $2 AND $3::text IS NOT NULL
ORDER BY account_id::text
LIMIT $4

-- name: account_lock
SELECT account_id::text AS key_1, '' AS key_2, secrets_sealed AS sealed
FROM channel_account
WHERE account_id::text = ANY($2::text[]) AND $3::text[] IS NOT NULL
  AND substring(secrets_sealed FROM 3 FOR get_byte(secrets_sealed, 1)) <> $1::bytea
FOR NO KEY UPDATE SKIP LOCKED

-- name: account_write
-- The same keys in another seal: no new version, nothing to be read again.
UPDATE channel_account c SET secrets_sealed = n.sealed
FROM unnest($1::text[], $2::text[], $3::bytea[]) AS n (account_id, nothing, sealed)
WHERE c.account_id::text = n.account_id
