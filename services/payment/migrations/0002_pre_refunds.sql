-- Money sent back: refunds with their reserved sums, the evidence of what channels said of them, and cases as work.

-- What of a payment's money is spoken for, and what has gone back; a refund that failed gives its part free again. Money
-- of a wrong amount never made the payment paid: its return is bounded by itself (refund_sent_back below).
ALTER TABLE payment ADD COLUMN refund_reserved_minor bigint NOT NULL DEFAULT 0;
ALTER TABLE payment ADD COLUMN refunded_minor bigint NOT NULL DEFAULT 0;
ALTER TABLE payment ADD CONSTRAINT payment_refunds_within_paid
  CHECK (0 <= refunded_minor AND refunded_minor <= refund_reserved_minor AND refund_reserved_minor <= coalesce(paid_minor, 0));
CREATE INDEX payment_merchant ON payment (merchant_id, created_at, payment_id);

-- When somebody last asked the channel: readers do not ask again within a few seconds.
ALTER TABLE attempt ADD COLUMN asked_at timestamptz;

CREATE TABLE refund (
  refund_id         uuid        PRIMARY KEY,
  payment_id        uuid        NOT NULL REFERENCES payment,
  order_id          uuid        NOT NULL,
  merchant_id       uuid        NOT NULL,
  channel           text        NOT NULL CHECK (length(channel) BETWEEN 1 AND 32),
  account_id        uuid,       -- where the money came in; it goes back from there
  attempt_no        text        NOT NULL CHECK (attempt_no ~ '^[0-9A-Z]{26}$'),
  channel_txn_id    text        NOT NULL CHECK (length(channel_txn_id) BETWEEN 1 AND 64),
  total_minor       bigint      NOT NULL CHECK (total_minor BETWEEN 1 AND 1000000000000),  -- what had come in
  amount_minor      bigint      NOT NULL CHECK (amount_minor BETWEEN 1 AND 1000000000000),
  currency          text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  reason            text        NOT NULL CHECK (reason IN ('merchant', 'late', 'duplicate', 'mismatch')),
  note              text        NOT NULL CHECK (length(note) BETWEEN 1 AND 80),
  refund_no         text        NOT NULL UNIQUE CHECK (refund_no ~ '^[0-9A-Z]{26}$'),
  status            text        NOT NULL CHECK (status IN ('REQUESTED', 'PROCESSING', 'SUCCEEDED', 'FAILED', 'ABNORMAL')),
  doubt             boolean     NOT NULL,  -- a call may have reached the channel: from now on no refusal is definite
  query_count       integer     NOT NULL DEFAULT 0 CHECK (query_count >= 0),
  next_query_at     timestamptz,           -- NULL = nothing more to ask
  channel_refund_id text        CHECK (length(channel_refund_id) BETWEEN 1 AND 64),
  done_at           timestamptz,
  failure_code      text        CHECK (length(failure_code) BETWEEN 1 AND 64),
  correlation_id    text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 200),
  version           bigint      NOT NULL CHECK (version > 0),
  event_seq         bigint      NOT NULL CHECK (event_seq > 0),
  created_at        timestamptz NOT NULL,
  updated_at        timestamptz NOT NULL,
  CHECK (amount_minor <= total_minor),
  CHECK ((status = 'SUCCEEDED') = (done_at IS NOT NULL)),
  CHECK ((status = 'FAILED') = (failure_code IS NOT NULL)),
  CHECK (status NOT IN ('SUCCEEDED', 'FAILED') OR next_query_at IS NULL)
) WITH (fillfactor = 80);
CREATE INDEX refund_payment ON refund (payment_id, refund_id);
CREATE INDEX refund_due ON refund (next_query_at) WHERE next_query_at IS NOT NULL;
-- What a rule sends back, it sends back once; after a failure a person decides.
CREATE UNIQUE INDEX refund_sent_back ON refund (payment_id, reason) WHERE reason <> 'merchant';
GRANT SELECT, INSERT, UPDATE ON refund TO __RUNTIME__;

CREATE TABLE refund_transition (
  refund_id      uuid        NOT NULL,
  version        bigint      NOT NULL,
  from_status    text        CHECK (length(from_status) BETWEEN 1 AND 32),
  to_status      text        NOT NULL CHECK (length(to_status) BETWEEN 1 AND 32),
  cause          text        NOT NULL CHECK (length(cause) BETWEEN 1 AND 200),
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 200),
  at             timestamptz NOT NULL,
  PRIMARY KEY (refund_id, version)
);
GRANT SELECT, INSERT ON refund_transition TO __RUNTIME__;

-- The twin of `evidence`, for reports about refunds; append-only by grant.
CREATE TABLE refund_evidence (
  evidence_id  uuid        PRIMARY KEY,
  channel      text        NOT NULL CHECK (length(channel) BETWEEN 1 AND 32),
  refund_no    text        CHECK (length(refund_no) BETWEEN 1 AND 64),
  refund_id    uuid,
  source       text        NOT NULL CHECK (source IN ('callback', 'query', 'create')),
  cause        text        NOT NULL CHECK (length(cause) BETWEEN 1 AND 200),
  report       text        NOT NULL CHECK (length(report) BETWEEN 1 AND 32),
  native_state text        NOT NULL CHECK (length(native_state) <= 64),
  claim        text        NOT NULL CHECK (length(claim) <= 4096),   -- JSON
  checks       text        NOT NULL CHECK (length(checks) <= 8192),  -- JSON
  verdict      text        NOT NULL CHECK (length(verdict) BETWEEN 1 AND 64),
  recorded_at  timestamptz NOT NULL
);
CREATE INDEX refund_evidence_refund ON refund_evidence (refund_id) WHERE refund_id IS NOT NULL;
GRANT SELECT, INSERT ON refund_evidence TO __RUNTIME__;

-- A case is worked on by one person at a time.
ALTER TABLE exception_case ADD COLUMN refund_id uuid;
ALTER TABLE exception_case ADD COLUMN owner text CHECK (length(owner) BETWEEN 1 AND 200);
ALTER TABLE exception_case ADD COLUMN claimed_at timestamptz;
ALTER TABLE exception_case DROP CONSTRAINT exception_case_state_check;
ALTER TABLE exception_case ADD CONSTRAINT exception_case_state_check CHECK (state IN ('OPEN', 'CLAIMED', 'RESOLVED'));
ALTER TABLE exception_case ADD CONSTRAINT exception_case_owned
  CHECK ((owner IS NULL) = (claimed_at IS NULL) AND (state <> 'CLAIMED' OR owner IS NOT NULL) AND (state <> 'OPEN' OR owner IS NULL));
DROP INDEX exception_case_open;
CREATE INDEX exception_case_unresolved ON exception_case (case_id) WHERE state <> 'RESOLVED';
GRANT UPDATE (owner, claimed_at) ON exception_case TO __RUNTIME__;

CREATE TABLE case_note (
  note_id    uuid        PRIMARY KEY,
  case_id    uuid        NOT NULL REFERENCES exception_case,
  author     text        NOT NULL CHECK (length(author) BETWEEN 1 AND 200),
  text       text        NOT NULL CHECK (length(text) BETWEEN 1 AND 2000),
  written_at timestamptz NOT NULL
);
CREATE INDEX case_note_case ON case_note (case_id, note_id);
GRANT SELECT, INSERT ON case_note TO __RUNTIME__;
