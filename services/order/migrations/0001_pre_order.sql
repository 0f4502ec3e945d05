-- Orders, their lines, how they moved, what is known of their payments, and cases for people.

CREATE TABLE orders (
  order_id          uuid        PRIMARY KEY,
  merchant_id       uuid        NOT NULL,
  merchant_order_no text        NOT NULL CHECK (length(merchant_order_no) BETWEEN 1 AND 64),
  state             text        NOT NULL CHECK (state IN (
    'PLACED', 'CLOSING', 'PAID', 'FULFILLED', 'PARTIALLY_REFUNDED', 'REFUNDED', 'CANCELLED', 'EXPIRED')),
  currency          text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  amount_minor      bigint      NOT NULL CHECK (amount_minor BETWEEN 0 AND 1000000000000),
  content_hash      bytea       NOT NULL CHECK (length(content_hash) = 32),  -- tells a repeat from a conflict
  correlation_id    text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 128),
  placed_at         timestamptz NOT NULL,
  expires_at        timestamptz NOT NULL,
  closing_reason    text        CHECK (closing_reason IN ('merchant', 'customer', 'system', 'expired')),
  paid_at           timestamptz,
  payment_id        uuid,
  version           integer     NOT NULL CHECK (version >= 1),
  event_seq         integer     NOT NULL CHECK (event_seq BETWEEN 1 AND version),
  CHECK (expires_at > placed_at),
  CHECK ((paid_at IS NOT NULL) = (state IN ('PAID', 'FULFILLED', 'PARTIALLY_REFUNDED', 'REFUNDED'))),
  -- Only an order that costs nothing is paid without a payment, and no other order has one before it is paid.
  CHECK ((payment_id IS NOT NULL) = (paid_at IS NOT NULL AND amount_minor > 0)),
  CHECK (closing_reason IS NOT NULL OR state NOT IN ('CLOSING', 'CANCELLED', 'EXPIRED')),
  UNIQUE (merchant_id, merchant_order_no)
);
CREATE UNIQUE INDEX orders_payment_pays_once ON orders (payment_id) WHERE payment_id IS NOT NULL;
GRANT SELECT, INSERT, UPDATE (state, closing_reason, paid_at, payment_id, version, event_seq) ON orders TO __RUNTIME__;

-- Append-only by grant: what was sold does not change.
CREATE TABLE order_item (
  order_id          uuid     NOT NULL REFERENCES orders,
  line              smallint NOT NULL CHECK (line BETWEEN 1 AND 100),
  sku               text     NOT NULL CHECK (length(sku) BETWEEN 1 AND 64),
  title             text     NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
  quantity          integer  NOT NULL CHECK (quantity BETWEEN 1 AND 1000000),
  unit_amount_minor bigint   NOT NULL CHECK (unit_amount_minor BETWEEN 0 AND 1000000000000),
  discount_minor    bigint   NOT NULL CHECK (discount_minor BETWEEN 0 AND 1000000000000),
  amount_minor      bigint   NOT NULL CHECK (amount_minor BETWEEN 0 AND 1000000000000),
  PRIMARY KEY (order_id, line),
  CHECK (amount_minor = quantity * unit_amount_minor - discount_minor)
);
GRANT SELECT, INSERT ON order_item TO __RUNTIME__;

-- Append-only by grant: one row for each move, with what led to it.
CREATE TABLE order_transition (
  order_id       uuid        NOT NULL REFERENCES orders,
  version        integer     NOT NULL CHECK (version >= 1),
  from_state     text        CHECK (length(from_state) <= 32),  -- NULL for the first row
  to_state       text        NOT NULL CHECK (length(to_state) <= 32),
  report         text        CHECK (length(report) <= 32),
  at             timestamptz NOT NULL,
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 128),
  causation_id   text        CHECK (length(causation_id) <= 128),
  traceparent    text        CHECK (length(traceparent) <= 64),
  PRIMARY KEY (order_id, version),
  CHECK ((from_state IS NULL) = (version = 1)),
  CHECK ((from_state IS NULL) = (report IS NULL))
);
GRANT SELECT, INSERT ON order_transition TO __RUNTIME__;

-- What the payment service told last about each payment; last_seq only grows.
CREATE TABLE order_payment (
  payment_id   uuid    PRIMARY KEY,
  order_id     uuid    NOT NULL,
  status       text    NOT NULL CHECK (length(status) BETWEEN 1 AND 32),
  currency     text    NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  amount_minor bigint  NOT NULL CHECK (amount_minor BETWEEN 0 AND 1000000000000),
  channel      text    NOT NULL CHECK (length(channel) BETWEEN 1 AND 64),
  paid_minor   bigint  CHECK (paid_minor BETWEEN 0 AND 1000000000000),
  paid_at      timestamptz,
  last_seq     integer NOT NULL CHECK (last_seq >= 1)
);
CREATE INDEX order_payment_of_order ON order_payment (order_id);
GRANT SELECT, INSERT, UPDATE ON order_payment TO __RUNTIME__;

CREATE TABLE exception_case (
  case_id        uuid        PRIMARY KEY,
  order_id       uuid        NOT NULL REFERENCES orders,
  reason         text        NOT NULL CHECK (length(reason) BETWEEN 1 AND 64),
  subject        text        NOT NULL CHECK (length(subject) BETWEEN 1 AND 64),
  detail         text        NOT NULL CHECK (length(detail) <= 500),
  state          text        NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'RESOLVED')),
  opened_at      timestamptz NOT NULL,
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 128),
  causation_id   text        CHECK (length(causation_id) <= 128),
  resolved_at    timestamptz,
  resolved_by    text        CHECK (length(resolved_by) BETWEEN 1 AND 200),
  resolution     text        CHECK (length(resolution) BETWEEN 1 AND 500),
  UNIQUE (order_id, reason, subject),
  CHECK ((state = 'RESOLVED') = (resolved_at IS NOT NULL AND resolved_by IS NOT NULL AND resolution IS NOT NULL))
);
CREATE INDEX exception_case_open ON exception_case (case_id) WHERE state = 'OPEN';
GRANT SELECT, INSERT, UPDATE (state, resolved_at, resolved_by, resolution) ON exception_case TO __RUNTIME__;
