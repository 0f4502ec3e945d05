-- Requests of strangers (order.inbound.v1): which were used, which wait for their merchant, which could not be used.

-- A request is told by its publisher's name and its id, both any text; the digest is of both, the hash of what it asks.
CREATE TABLE inbound_seen (
  digest       bytea       PRIMARY KEY CHECK (length(digest) = 32),
  content_hash bytea       NOT NULL CHECK (length(content_hash) = 32),
  seen_at      timestamptz NOT NULL
);
CREATE INDEX inbound_seen_age ON inbound_seen (seen_at);
GRANT SELECT, INSERT, DELETE ON inbound_seen TO __RUNTIME__;

-- Readable requests of a merchant that is not known yet, and whatever came after them under the same key.
CREATE TABLE inbound_waiting (
  id          bigint      GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
  merchant_id uuid        NOT NULL,
  topic       text        NOT NULL CHECK (length(topic) BETWEEN 1 AND 249),
  part        integer     NOT NULL CHECK (part >= 0),
  part_offset bigint      NOT NULL CHECK (part_offset >= 0),
  recorded_at timestamptz NOT NULL,  -- the record's own time stamp
  key         bytea       NOT NULL CHECK (length(key) BETWEEN 1 AND 256),
  headers     bytea       NOT NULL CHECK (length(headers) <= 131072),
  payload     bytea       NOT NULL CHECK (length(payload) <= 65536),
  give_up_at  timestamptz NOT NULL   -- real time
);
CREATE INDEX inbound_waiting_key ON inbound_waiting (key, id);
-- UPDATE only so that rows can be locked.
GRANT SELECT, INSERT, DELETE, UPDATE (give_up_at) ON inbound_waiting TO __RUNTIME__;

CREATE TABLE inbound_rejected (
  rejected_id uuid        PRIMARY KEY,
  topic       text        NOT NULL CHECK (length(topic) BETWEEN 1 AND 249),
  part        integer     NOT NULL CHECK (part >= 0),
  part_offset bigint      NOT NULL CHECK (part_offset >= 0),
  recorded_at timestamptz NOT NULL,
  key         bytea       CHECK (length(key) <= 1024),
  headers     bytea       NOT NULL CHECK (length(headers) <= 131072),
  payload     bytea       CHECK (length(payload) <= 65536),
  truncated   boolean     NOT NULL,  -- key, headers or payload were longer: for eyes only
  reason      text        NOT NULL CHECK (length(reason) BETWEEN 1 AND 64),
  field       text        NOT NULL CHECK (length(field) BETWEEN 1 AND 200),
  detail      text        NOT NULL CHECK (length(detail) <= 300),
  state       text        NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'REDRIVEN', 'DISMISSED')),
  rejected_at timestamptz NOT NULL,
  tries       integer     NOT NULL DEFAULT 1 CHECK (tries >= 1),
  ended_at    timestamptz,
  ended_by    text        CHECK (length(ended_by) BETWEEN 1 AND 200),
  CHECK ((state = 'OPEN') = (ended_at IS NULL)),
  CHECK ((ended_at IS NULL) = (ended_by IS NULL))
);
CREATE INDEX inbound_rejected_open ON inbound_rejected (rejected_id) WHERE state = 'OPEN';
GRANT SELECT, INSERT, DELETE, UPDATE (reason, field, detail, state, tries, ended_at, ended_by) ON inbound_rejected TO __RUNTIME__;
