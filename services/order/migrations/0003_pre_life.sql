-- The life of an order: when it was fulfilled, whether late money reopened it, what was asked and told, when its time is up.

ALTER TABLE orders ADD COLUMN fulfilled_at timestamptz;
ALTER TABLE orders ADD COLUMN reopened boolean NOT NULL DEFAULT false;
ALTER TABLE orders ADD CONSTRAINT orders_fulfilled_when_paid CHECK (
  (fulfilled_at IS NULL OR paid_at IS NOT NULL) AND (state <> 'FULFILLED' OR fulfilled_at IS NOT NULL)
  AND (state <> 'PAID' OR fulfilled_at IS NULL));
ALTER TABLE orders ADD CONSTRAINT orders_reopened_when_ended CHECK (
  NOT reopened OR (paid_at IS NOT NULL AND closing_reason IS NOT NULL));
GRANT UPDATE (fulfilled_at, reopened) ON orders TO __RUNTIME__;

-- The expiry timer reads its left end.
CREATE INDEX orders_due ON orders (expires_at) WHERE state = 'PLACED';

ALTER TABLE order_transition ADD COLUMN note text CHECK (length(note) BETWEEN 1 AND 200);  -- the asking side's own words
ALTER TABLE order_transition ADD COLUMN event_id uuid;                                       -- of the event that told of it
ALTER TABLE order_transition ADD COLUMN event_type text CHECK (length(event_type) BETWEEN 1 AND 64);

-- What was heard of an order, each event once, also one that changed nothing. Append-only by grant.
CREATE TABLE order_heard (
  order_id       uuid        NOT NULL,
  event_id       uuid        NOT NULL,
  event_type     text        NOT NULL CHECK (length(event_type) BETWEEN 1 AND 64),
  subject        text        NOT NULL CHECK (length(subject) BETWEEN 1 AND 64),
  status         text        CHECK (length(status) BETWEEN 1 AND 32),
  currency       text        CHECK (currency ~ '^[A-Z]{3}$'),
  amount_minor   bigint      CHECK (amount_minor BETWEEN 0 AND 1000000000000),
  occurred_at    timestamptz NOT NULL,
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 128),
  causation_id   text        CHECK (length(causation_id) <= 128),
  PRIMARY KEY (order_id, event_id)
);
GRANT SELECT, INSERT ON order_heard TO __RUNTIME__;
