-- Entries of refunds, beside those of payments.

ALTER TABLE entry DROP CONSTRAINT entry_source_check;
ALTER TABLE entry ADD CONSTRAINT entry_source_check CHECK (source IN ('payment', 'refund'));
ALTER TABLE entry DROP CONSTRAINT entry_kind_check;
ALTER TABLE entry ADD CONSTRAINT entry_kind_check CHECK (
  CASE source
    WHEN 'payment' THEN kind IN ('succeeded', 'paid_late', 'duplicate')
    WHEN 'refund' THEN kind IN ('mismatched', 'refunded', 'returned')
  END);

-- Whose money it is that a refund moves; an entry that is a payment's own has its id as its source.
ALTER TABLE entry ADD COLUMN payment_id uuid;
ALTER TABLE entry ADD CONSTRAINT entry_names_payment CHECK ((source = 'refund') = (payment_id IS NOT NULL));
CREATE INDEX entry_of_payment ON entry (payment_id) WHERE payment_id IS NOT NULL;
-- A refund goes back once, from one place.
CREATE UNIQUE INDEX entry_goes_back_once ON entry (source_id) WHERE kind IN ('refunded', 'returned');
