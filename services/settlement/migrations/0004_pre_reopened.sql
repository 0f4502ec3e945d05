-- Late money that an order was reopened for: out of suspense into the merchant's account, once.

ALTER TABLE entry DROP CONSTRAINT entry_kind_check;
ALTER TABLE entry ADD CONSTRAINT entry_kind_check CHECK (
  CASE source
    WHEN 'payment' THEN kind IN ('succeeded', 'paid_late', 'duplicate', 'reopened')
    WHEN 'refund' THEN kind IN ('mismatched', 'refunded', 'returned')
  END);

-- One row per order collects what different topics tell of it, in whatever order; what all of it is needed for is posted
-- under the row's lock. A row without a payment is an order with late money of which nobody said that it was reopened.
CREATE TABLE order_fact (
  order_id                uuid   PRIMARY KEY,
  reopened_payment_id     uuid,
  reopened_merchant_id    uuid,
  reopened_minor          bigint CHECK (reopened_minor BETWEEN 1 AND 1000000000000),
  reopened_currency       text   CHECK (reopened_currency ~ '^[A-Z]{3}$'),
  reopened_correlation_id text   CHECK (length(reopened_correlation_id) BETWEEN 1 AND 128),
  reopened_causation_id   text   CHECK (length(reopened_causation_id) <= 128),
  CHECK (num_nulls(reopened_payment_id, reopened_merchant_id, reopened_minor, reopened_currency, reopened_correlation_id) IN (0, 5))
);
INSERT INTO order_fact (order_id) SELECT DISTINCT order_id FROM entry WHERE kind = 'paid_late';
GRANT SELECT, INSERT,
  UPDATE (reopened_payment_id, reopened_merchant_id, reopened_minor, reopened_currency, reopened_correlation_id, reopened_causation_id)
  ON order_fact TO __RUNTIME__;
