-- Wishes that money goes back, with every step that was taken for them.

CREATE TABLE refund_request (
  request_id     uuid        PRIMARY KEY,
  order_id       uuid        NOT NULL REFERENCES orders,
  merchant_id    uuid        NOT NULL,
  payment_id     uuid        NOT NULL,
  origin         text        NOT NULL CHECK (origin IN ('order', 'late_money', 'payment')),
  currency       text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  amount_minor   bigint      NOT NULL CHECK (amount_minor BETWEEN 1 AND 1000000000000),
  note           text        NOT NULL CHECK (length(note) BETWEEN 1 AND 80),
  state          text        NOT NULL CHECK (state IN ('REQUESTED', 'SENT', 'SUCCEEDED', 'FAILED', 'REFUSED')),
  refund_id      uuid,       -- the payment service's refund, as soon as it has told of it
  refund_seq     integer     NOT NULL DEFAULT 0 CHECK (refund_seq >= 0),  -- of its event heard last; only grows
  grants_recalled integer    NOT NULL CHECK (grants_recalled >= 0),  -- how many grants its recall touched
  code           text        CHECK (length(code) BETWEEN 1 AND 64),
  requested_at   timestamptz NOT NULL,
  ended_at       timestamptz,
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 128),
  version        integer     NOT NULL CHECK (version >= 1),
  CHECK ((state IN ('SUCCEEDED', 'FAILED', 'REFUSED')) = (ended_at IS NOT NULL)),
  CHECK ((state IN ('FAILED', 'REFUSED')) = (code IS NOT NULL)),
  CHECK ((state IN ('REQUESTED', 'REFUSED')) = (refund_id IS NULL)),
  CHECK (origin <> 'payment' OR refund_id IS NOT NULL)
);
CREATE INDEX refund_request_of_order ON refund_request (order_id, request_id);
CREATE UNIQUE INDEX refund_request_of_refund ON refund_request (refund_id) WHERE refund_id IS NOT NULL;
-- Money that came too late is asked back once; after a failure a person decides.
CREATE UNIQUE INDEX refund_request_of_late_money ON refund_request (payment_id) WHERE origin = 'late_money';
GRANT SELECT, INSERT, UPDATE (state, refund_id, refund_seq, code, ended_at, version) ON refund_request TO __RUNTIME__;

-- Append-only by grant: how the amount falls on the order's lines; `quantity` where units were named.
CREATE TABLE refund_request_line (
  request_id   uuid     NOT NULL REFERENCES refund_request,
  line         smallint NOT NULL CHECK (line BETWEEN 1 AND 100),
  amount_minor bigint   NOT NULL CHECK (amount_minor BETWEEN 0 AND 1000000000000),
  quantity     integer  CHECK (quantity BETWEEN 1 AND 1000000),
  PRIMARY KEY (request_id, line)
);
GRANT SELECT, INSERT ON refund_request_line TO __RUNTIME__;

-- Append-only by grant: what was done for a request, in this order: grants are recalled before money is asked for.
CREATE TABLE refund_request_step (
  request_id     uuid        NOT NULL REFERENCES refund_request,
  step           integer     NOT NULL CHECK (step >= 1),
  kind           text        NOT NULL CHECK (kind IN (
    'asked', 'grants_recalled', 'money_asked', 'taken', 'abnormal', 'succeeded', 'failed', 'refused')),
  state          text        NOT NULL CHECK (length(state) <= 32),  -- after this step
  amount_minor   bigint      CHECK (amount_minor BETWEEN 0 AND 1000000000000),
  at             timestamptz NOT NULL,
  event_id       uuid,       -- what was told with this step
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 128),
  causation_id   text        CHECK (length(causation_id) <= 128),
  traceparent    text        CHECK (length(traceparent) <= 64),
  PRIMARY KEY (request_id, step)
);
GRANT SELECT, INSERT ON refund_request_step TO __RUNTIME__;
