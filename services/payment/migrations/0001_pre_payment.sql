-- Payments of orders: what may be paid, by what, what channels claimed, and why each state was reached.

-- One row per order; every write to anything of the order holds its lock, so that outbox order is commit order for the key.
CREATE TABLE payable (
  order_id         uuid        PRIMARY KEY,
  merchant_id      uuid        NOT NULL,
  amount_minor     bigint      NOT NULL CHECK (amount_minor BETWEEN 0 AND 1000000000000),
  currency         text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  status           text        NOT NULL CHECK (status IN ('OPEN', 'CLOSING', 'CLOSED')),
  closing_reason   text        CHECK (closing_reason IN ('merchant', 'customer', 'system', 'expired')),
  claimed_by       uuid,       -- the payment whose money is kept
  order_expires_at timestamptz NOT NULL,
  order_seq        bigint      NOT NULL CHECK (order_seq >= 0),  -- newest order event applied; 0 = known from a token only
  correlation_id   text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 200),
  version          bigint      NOT NULL CHECK (version > 0),
  event_seq        bigint      NOT NULL CHECK (event_seq >= 0),
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  CHECK ((status = 'OPEN') = (closing_reason IS NULL))
);
GRANT SELECT, INSERT, UPDATE ON payable TO __RUNTIME__;

CREATE TABLE payment (
  payment_id     uuid        PRIMARY KEY,
  order_id       uuid        NOT NULL REFERENCES payable,
  merchant_id    uuid        NOT NULL,
  amount_minor   bigint      NOT NULL CHECK (amount_minor BETWEEN 1 AND 1000000000000),
  currency       text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  channel        text        NOT NULL CHECK (length(channel) BETWEEN 1 AND 32),
  product        text        NOT NULL CHECK (length(product) BETWEEN 1 AND 32),
  description    text        NOT NULL CHECK (length(description) BETWEEN 1 AND 127),
  status         text        NOT NULL CHECK (status IN ('CREATED', 'PENDING', 'AUTHORIZED', 'SUCCEEDED', 'FAILED', 'CLOSED',
                                                        'PAID_LATE', 'DUPLICATE')),
  attempt_no     text        NOT NULL CHECK (attempt_no ~ '^[0-9A-Z]{26}$'),
  expires_at     timestamptz NOT NULL,
  channel_txn_id text        CHECK (length(channel_txn_id) BETWEEN 1 AND 64),
  paid_minor     bigint      CHECK (paid_minor BETWEEN 1 AND 1000000000000),
  paid_at        timestamptz,
  failure_code   text        CHECK (length(failure_code) BETWEEN 1 AND 64),
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 200),
  version        bigint      NOT NULL CHECK (version > 0),
  event_seq      bigint      NOT NULL CHECK (event_seq >= 0),
  created_at     timestamptz NOT NULL,
  updated_at     timestamptz NOT NULL,
  CHECK ((status IN ('SUCCEEDED', 'PAID_LATE', 'DUPLICATE')) = (paid_minor IS NOT NULL)),
  CHECK ((paid_minor IS NULL) = (paid_at IS NULL) AND (paid_minor IS NULL) = (channel_txn_id IS NULL)),
  CHECK (paid_minor IS NULL OR paid_minor = amount_minor),
  CHECK ((status = 'FAILED') <= (failure_code IS NOT NULL))
);
CREATE INDEX payment_order ON payment (order_id);
-- One order is paid once; one live payment per way to pay; one transaction of a channel pays one payment.
CREATE UNIQUE INDEX payment_one_success ON payment (order_id) WHERE status = 'SUCCEEDED';
CREATE UNIQUE INDEX payment_one_live ON payment (order_id, channel, product) WHERE status IN ('CREATED', 'PENDING', 'AUTHORIZED');
CREATE UNIQUE INDEX payment_channel_txn ON payment (channel, channel_txn_id) WHERE channel_txn_id IS NOT NULL;
GRANT SELECT, INSERT, UPDATE ON payment TO __RUNTIME__;

CREATE TABLE attempt (
  attempt_no        text        PRIMARY KEY CHECK (attempt_no ~ '^[0-9A-Z]{26}$'),
  payment_id        uuid        NOT NULL REFERENCES payment,
  order_id          uuid        NOT NULL,
  channel           text        NOT NULL CHECK (length(channel) BETWEEN 1 AND 32),
  status            text        NOT NULL CHECK (status IN ('SENDING', 'UNKNOWN', 'OPEN', 'PAID', 'REFUSED', 'CLOSED')),
  closing           boolean     NOT NULL DEFAULT false,  -- to be closed at the channel before its time
  query_count       integer     NOT NULL DEFAULT 0 CHECK (query_count >= 0),
  next_query_at     timestamptz,                         -- NULL = nothing more to ask
  action_sealed     bytea       CHECK (length(action_sealed) <= 16384),
  action_expires_at timestamptz,
  created_at        timestamptz NOT NULL,
  updated_at        timestamptz NOT NULL,
  CHECK (status NOT IN ('SENDING', 'UNKNOWN', 'OPEN') OR next_query_at IS NOT NULL)
) WITH (fillfactor = 80);
CREATE INDEX attempt_payment ON attempt (payment_id);
CREATE INDEX attempt_due ON attempt (next_query_at) WHERE next_query_at IS NOT NULL;
-- An order waits for the outcome of one unclear attempt before another way to pay is tried.
CREATE UNIQUE INDEX attempt_one_unknown ON attempt (order_id) WHERE status = 'UNKNOWN';
GRANT SELECT, INSERT, UPDATE ON attempt TO __RUNTIME__;

-- Verified callbacks as they came; append-only by grant.
CREATE TABLE callback (
  channel     text        NOT NULL CHECK (length(channel) BETWEEN 1 AND 32),
  callback_id text        NOT NULL CHECK (length(callback_id) BETWEEN 1 AND 80),
  attempt_no  text        CHECK (length(attempt_no) BETWEEN 1 AND 64),  -- as claimed; not every claim is one of ours
  digest      bytea       NOT NULL CHECK (length(digest) = 32),         -- SHA-256 of what was claimed
  raw_sealed  bytea       NOT NULL CHECK (length(raw_sealed) <= 131072),
  received_at timestamptz NOT NULL,
  PRIMARY KEY (channel, callback_id)
);
GRANT SELECT, INSERT ON callback TO __RUNTIME__;

-- One row per report: what was claimed, each check with its result, and the verdict; append-only by grant.
CREATE TABLE evidence (
  evidence_id  uuid        PRIMARY KEY,
  channel      text        NOT NULL CHECK (length(channel) BETWEEN 1 AND 32),
  attempt_no   text        CHECK (length(attempt_no) BETWEEN 1 AND 64),
  payment_id   uuid,
  source       text        NOT NULL CHECK (source IN ('callback', 'query', 'create', 'close')),
  cause        text        NOT NULL CHECK (length(cause) BETWEEN 1 AND 200),
  report       text        NOT NULL CHECK (length(report) BETWEEN 1 AND 32),
  native_state text        NOT NULL CHECK (length(native_state) <= 64),
  claim        text        NOT NULL CHECK (length(claim) <= 4096),   -- JSON
  checks       text        NOT NULL CHECK (length(checks) <= 8192),  -- JSON
  verdict      text        NOT NULL CHECK (length(verdict) BETWEEN 1 AND 64),
  recorded_at  timestamptz NOT NULL
);
CREATE INDEX evidence_payment ON evidence (payment_id) WHERE payment_id IS NOT NULL;
GRANT SELECT, INSERT ON evidence TO __RUNTIME__;

-- Every move with its cause; append-only by grant. No foreign keys: rows are written under the lock of what they tell of,
-- and payments are never deleted.
CREATE TABLE payment_transition (
  payment_id     uuid        NOT NULL,
  version        bigint      NOT NULL,
  from_status    text        CHECK (length(from_status) BETWEEN 1 AND 32),
  to_status      text        NOT NULL CHECK (length(to_status) BETWEEN 1 AND 32),
  cause          text        NOT NULL CHECK (length(cause) BETWEEN 1 AND 200),
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 200),
  at             timestamptz NOT NULL,
  PRIMARY KEY (payment_id, version)
);
GRANT SELECT, INSERT ON payment_transition TO __RUNTIME__;

CREATE TABLE payable_transition (
  order_id       uuid        NOT NULL,
  version        bigint      NOT NULL,
  from_status    text        NOT NULL CHECK (length(from_status) BETWEEN 1 AND 32),
  to_status      text        NOT NULL CHECK (length(to_status) BETWEEN 1 AND 32),
  claimed_by     uuid,
  cause          text        NOT NULL CHECK (length(cause) BETWEEN 1 AND 200),
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 200),
  at             timestamptz NOT NULL,
  PRIMARY KEY (order_id, version)
);
GRANT SELECT, INSERT ON payable_transition TO __RUNTIME__;

-- What a person must look at; the same trouble from the same cause is one case.
CREATE TABLE exception_case (
  case_id     uuid        PRIMARY KEY,
  state       text        NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'RESOLVED')),
  order_id    uuid,
  payment_id  uuid,
  attempt_no  text        CHECK (length(attempt_no) BETWEEN 1 AND 64),
  reason      text        NOT NULL CHECK (length(reason) BETWEEN 1 AND 64),
  cause       text        NOT NULL CHECK (length(cause) BETWEEN 1 AND 200),  -- leads to the callback or evidence row
  opened_at   timestamptz NOT NULL,
  resolved_at timestamptz,
  resolved_by text        CHECK (length(resolved_by) BETWEEN 1 AND 200),
  resolution  text        CHECK (length(resolution) BETWEEN 1 AND 500),
  UNIQUE NULLS NOT DISTINCT (payment_id, reason, cause),
  CHECK ((state = 'RESOLVED') = (resolved_at IS NOT NULL AND resolved_by IS NOT NULL AND resolution IS NOT NULL))
);
CREATE INDEX exception_case_open ON exception_case (case_id) WHERE state = 'OPEN';
GRANT SELECT, INSERT, UPDATE (state, resolved_at, resolved_by, resolution) ON exception_case TO __RUNTIME__;
