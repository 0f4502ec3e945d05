-- Edge of every service: idempotency keys and the operators' audit log.

CREATE TABLE idempotency_key (
  scope        text        NOT NULL CHECK (length(scope) BETWEEN 1 AND 160),
  key          text        NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
  request_hash bytea       NOT NULL CHECK (length(request_hash) = 32),
  lease_until  timestamptz NOT NULL,
  status       smallint    CHECK (status BETWEEN 200 AND 599),  -- NULL while the work is not done
  body         bytea       CHECK (length(body) <= 262144),
  resource_id  uuid,
  created_at   timestamptz NOT NULL,
  PRIMARY KEY (scope, key),
  CHECK ((status IS NULL) = (body IS NULL))
);
CREATE INDEX idempotency_key_age ON idempotency_key (created_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_key TO __RUNTIME__;

-- Append-only by grant: the runtime role can neither change nor delete a row.
CREATE TABLE audit_log (
  seq     bigint      PRIMARY KEY CHECK (seq > 0),
  at      timestamptz NOT NULL,
  actor   text        NOT NULL CHECK (length(actor) BETWEEN 1 AND 200),
  action  text        NOT NULL CHECK (length(action) BETWEEN 1 AND 100),
  subject text        NOT NULL CHECK (length(subject) BETWEEN 1 AND 200),
  detail  text        NOT NULL CHECK (length(detail) <= 8192),  -- canonical JSON, hashed as it stands
  hash    bytea       NOT NULL CHECK (length(hash) = 32)
);
GRANT SELECT, INSERT ON audit_log TO __RUNTIME__;

-- The head is locked by every writer, so the sequence has no gap, and tells a verifier what the last row must be.
CREATE TABLE audit_head (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  seq      bigint  NOT NULL CHECK (seq >= 0),
  hash     bytea   NOT NULL CHECK (length(hash) = 32)
);
INSERT INTO audit_head (seq, hash) VALUES (0, decode(repeat('00', 32), 'hex'));
GRANT SELECT, UPDATE (seq, hash) ON audit_head TO __RUNTIME__;
