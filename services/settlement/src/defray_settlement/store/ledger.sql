-- name: open_accounts
INSERT INTO account (account_id, owner, merchant_id, currency, opened_at)
SELECT a.account_id, a.owner, a.merchant_id, a.currency, $5
FROM unnest($1::text[], $2::text[], $3::uuid[], $4::text[]) AS a (account_id, owner, merchant_id, currency)
WHERE a.merchant_id IS NULL OR EXISTS (SELECT FROM merchant m WHERE m.merchant_id = a.merchant_id)
ORDER BY a.account_id
ON CONFLICT DO NOTHING

-- name: lock_accounts
SELECT account_id FROM account WHERE account_id = ANY ($1::text[])
ORDER BY account_id FOR NO KEY UPDATE

-- name: insert_entries
INSERT INTO entry (entry_id, source, kind, source_id, payment_id, merchant_id, order_id, currency, gross_minor, fee_minor,
                   explanation, legs, paid_at, effective_on, posted_at, correlation_id, causation_id)
SELECT e.entry_id, e.source, e.kind, e.source_id, e.payment_id, e.merchant_id, e.order_id, e.currency, e.gross_minor, e.fee_minor,
       e.explanation, e.legs, e.paid_at, (e.paid_at AT TIME ZONE 'UTC')::date, $16, e.correlation_id, e.causation_id
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::uuid[], $7::uuid[], $8::text[], $9::bigint[],
            $10::bigint[], $11::text[], $12::smallint[], $13::timestamptz[], $14::text[], $15::text[])
  AS e (entry_id, source, kind, source_id, payment_id, merchant_id, order_id, currency, gross_minor, fee_minor, explanation, legs,
        paid_at, correlation_id, causation_id)
ORDER BY e.source_id
ON CONFLICT (source, kind, source_id) DO NOTHING
RETURNING entry_id

-- name: posted_before
SELECT e.kind, e.source_id, e.merchant_id, e.order_id, e.currency, e.gross_minor
FROM entry e JOIN unnest($1::text[], $2::text[], $3::uuid[]) AS w (source, kind, source_id) USING (source, kind, source_id)

-- name: arrivals
-- Money of a wrong amount is told of by its refund alone, and comes first: the payment may have had the right one too.
-- Late money that its order was reopened for is kept since, but not for a refund that left suspense before that was known.
WITH wanted AS (SELECT * FROM unnest($2::uuid[], $3::uuid[]) AS r (payment_id, refund_id))
SELECT DISTINCT ON (c.refund_id) c.refund_id, c.kind
FROM (SELECT r.refund_id, e.kind, e.source
      FROM wanted r JOIN entry e ON e.source = 'refund' AND e.kind = ANY ($1::text[]) AND e.source_id = r.refund_id
      UNION ALL
      SELECT r.refund_id, e.kind, e.source
      FROM wanted r JOIN entry e ON e.source = 'payment' AND e.kind = ANY ($1::text[]) AND e.source_id = r.payment_id) c
ORDER BY c.refund_id, c.source DESC,
  (c.kind = 'reopened') <> EXISTS (SELECT FROM entry b
                                   WHERE b.source = 'refund' AND b.kind = 'returned' AND b.source_id = c.refund_id) DESC

-- name: move_accounts
UPDATE account SET balance_minor = account.balance_minor + d.delta_minor, sequence = account.sequence + 1
FROM unnest($1::text[], $2::bigint[]) AS d (account_id, delta_minor)
WHERE account.account_id = d.account_id
RETURNING account.account_id, account.balance_minor, account.sequence

-- name: insert_postings
INSERT INTO posting (entry_id, leg, legs, account_id, currency, amount_minor, account_sequence)
SELECT p.entry_id, p.leg, p.legs, p.account_id, p.currency, p.amount_minor, p.account_sequence
FROM unnest($1::uuid[], $2::smallint[], $3::smallint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])
  AS p (entry_id, leg, legs, account_id, currency, amount_minor, account_sequence)

-- name: balances_of
SELECT account_id, currency, balance_minor, sequence FROM account WHERE merchant_id = $1 ORDER BY account_id LIMIT $2

-- name: entries_of_payment
SELECT entry_id, source, kind, source_id, order_id, currency, gross_minor, fee_minor, explanation, paid_at, effective_on, posted_at, correlation_id
FROM entry
WHERE merchant_id = $2
  AND (payment_id = $1 OR (source = 'payment' AND source_id = $1 AND kind IN ('succeeded', 'paid_late', 'duplicate', 'reopened')))
ORDER BY posted_at, entry_id

-- name: legs_of
SELECT entry_id, leg, account_id, amount_minor FROM posting WHERE entry_id = ANY ($1::uuid[]) ORDER BY entry_id, leg

-- name: trial_balance
SELECT currency, count(*)::integer AS accounts, coalesce(sum(balance_minor) FILTER (WHERE balance_minor > 0), 0)::bigint AS debit_minor,
       coalesce(-sum(balance_minor) FILTER (WHERE balance_minor < 0), 0)::bigint AS credit_minor
FROM account GROUP BY currency ORDER BY currency

-- name: unexplained
SELECT a.account_id, a.balance_minor, coalesce(p.sum_minor, 0)::bigint AS postings_minor
FROM account a
LEFT JOIN (SELECT account_id, sum(amount_minor) AS sum_minor, max(account_sequence) AS last FROM posting GROUP BY account_id) p
  ON p.account_id = a.account_id
WHERE a.balance_minor <> coalesce(p.sum_minor, 0) OR a.sequence < coalesce(p.last, 0)
ORDER BY a.account_id LIMIT $1

-- name: unbalanced
SELECT e.entry_id
FROM entry e
LEFT JOIN (SELECT entry_id, currency, sum(amount_minor) AS sum_minor, count(*) AS legs FROM posting GROUP BY entry_id, currency) p
  ON p.entry_id = e.entry_id
WHERE p.entry_id IS NULL OR p.sum_minor <> 0 OR p.legs <> e.legs OR p.currency <> e.currency
ORDER BY e.entry_id LIMIT $1
