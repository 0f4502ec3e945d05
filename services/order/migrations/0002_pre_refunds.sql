-- Money that went back: how much of each order, and what is known of its payments' refunds.

ALTER TABLE orders ADD COLUMN refunded_minor bigint NOT NULL DEFAULT 0;
ALTER TABLE orders ADD CONSTRAINT orders_refunded_within_total CHECK (
  refunded_minor BETWEEN 0 AND amount_minor
  AND (state = 'PARTIALLY_REFUNDED') = (refunded_minor > 0 AND refunded_minor < amount_minor)
  AND (state = 'REFUNDED') = (refunded_minor > 0 AND refunded_minor = amount_minor));
GRANT UPDATE (refunded_minor) ON orders TO __RUNTIME__;

-- What the payment service told last about each refund; last_seq only grows.
CREATE TABLE order_refund (
  refund_id    uuid        PRIMARY KEY,
  payment_id   uuid        NOT NULL,
  order_id     uuid        NOT NULL,
  status       text        NOT NULL CHECK (length(status) BETWEEN 1 AND 32),
  reason       text        NOT NULL CHECK (length(reason) BETWEEN 1 AND 32),
  currency     text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  amount_minor bigint      NOT NULL CHECK (amount_minor BETWEEN 0 AND 1000000000000),
  requested_at timestamptz NOT NULL,
  done_at      timestamptz,
  last_seq     integer     NOT NULL CHECK (last_seq >= 1)
);
CREATE INDEX order_refund_of_order ON order_refund (order_id);
GRANT SELECT, INSERT, UPDATE ON order_refund TO __RUNTIME__;
