-- Merchants' webhook endpoints; what is told to them, and how each delivery went.

CREATE TABLE endpoint (
  endpoint_id     uuid        PRIMARY KEY,
  merchant_id     uuid        NOT NULL,
  slot            smallint    NOT NULL CHECK (slot BETWEEN 1 AND 16),
  url             text        NOT NULL CHECK (length(url) BETWEEN 8 AND 2048),
  event_types     text[]      NOT NULL CHECK (cardinality(event_types) BETWEEN 1 AND 64),
  state           text        NOT NULL CHECK (state IN ('ENABLED', 'DISABLED')),
  disabled_reason text        CHECK (disabled_reason IN ('merchant', 'gone')),
  version         bigint      NOT NULL CHECK (version >= 1),
  created_at      timestamptz NOT NULL,
  CHECK ((state = 'DISABLED') = (disabled_reason IS NOT NULL))
);
-- Sixteen slots, so that a merchant cannot have a seventeenth; and no address told twice.
CREATE UNIQUE INDEX endpoint_slot ON endpoint (merchant_id, slot) WHERE state = 'ENABLED';
CREATE UNIQUE INDEX endpoint_address ON endpoint (merchant_id, url) WHERE state = 'ENABLED';
CREATE INDEX endpoint_of_merchant ON endpoint (merchant_id, endpoint_id);
GRANT SELECT, INSERT, UPDATE (state, disabled_reason, version) ON endpoint TO __RUNTIME__;

-- Append-only by grant: one row for each move, with what led to it.
CREATE TABLE endpoint_transition (
  endpoint_id    uuid        NOT NULL REFERENCES endpoint,
  version        bigint      NOT NULL CHECK (version >= 1),
  state          text        NOT NULL CHECK (length(state) <= 32),
  reason         text        CHECK (length(reason) <= 32),
  at             timestamptz NOT NULL,
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 128),
  causation_id   text        CHECK (length(causation_id) <= 128),
  PRIMARY KEY (endpoint_id, version)
);
GRANT SELECT, INSERT ON endpoint_transition TO __RUNTIME__;

-- Sealed; a second one lives beside the first while receivers change over.
CREATE TABLE endpoint_secret (
  endpoint_id uuid        NOT NULL REFERENCES endpoint,
  number      smallint    NOT NULL CHECK (number BETWEEN 1 AND 1000),
  sealed      bytea       NOT NULL CHECK (length(sealed) BETWEEN 32 AND 512),
  created_at  timestamptz NOT NULL,
  PRIMARY KEY (endpoint_id, number)
);
GRANT SELECT, INSERT ON endpoint_secret TO __RUNTIME__;

-- Append-only by grant: what is told is frozen when it is first told.
CREATE TABLE message (
  message_id     uuid        PRIMARY KEY,
  merchant_id    uuid        NOT NULL,
  endpoint_id    uuid        NOT NULL REFERENCES endpoint,
  event_id       uuid        NOT NULL,
  event_type     text        NOT NULL CHECK (length(event_type) BETWEEN 1 AND 100),
  subject        text        NOT NULL CHECK (length(subject) BETWEEN 1 AND 128),
  sequence       bigint      NOT NULL CHECK (sequence >= 1),
  payload        bytea       NOT NULL CHECK (length(payload) <= 786432),
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 128),
  created_at     timestamptz NOT NULL,
  UNIQUE (endpoint_id, event_id)
);
CREATE INDEX message_of_merchant ON message (merchant_id, message_id);
GRANT SELECT, INSERT ON message TO __RUNTIME__;

CREATE TABLE delivery (
  delivery_id  uuid        PRIMARY KEY,
  message_id   uuid        NOT NULL UNIQUE REFERENCES message,
  endpoint_id  uuid        NOT NULL,
  state        text        NOT NULL CHECK (state IN ('PENDING', 'DELIVERED', 'EXHAUSTED')),
  attempts     integer     NOT NULL CHECK (attempts >= 0),  -- tries begun
  next_at      timestamptz,                                 -- business time
  leased_until timestamptz,                                 -- real time
  last_status  smallint    CHECK (last_status BETWEEN 100 AND 999),
  version      bigint      NOT NULL CHECK (version >= 1),
  event_seq    bigint      NOT NULL CHECK (event_seq IN (0, 1)),
  CHECK ((state = 'PENDING') = (next_at IS NOT NULL)),
  CHECK ((state = 'PENDING') = (event_seq = 0)),
  CHECK (state = 'PENDING' OR leased_until IS NULL),
  CHECK (state = 'PENDING' OR attempts >= 1)
) WITH (fillfactor = 70);
CREATE INDEX delivery_due ON delivery (endpoint_id, next_at) WHERE state = 'PENDING';
GRANT SELECT, INSERT, UPDATE (state, attempts, next_at, leased_until, last_status, version, event_seq) ON delivery TO __RUNTIME__;

-- Append-only by grant: one row for each try that ended, and with it the log of the delivery's moves.
CREATE TABLE attempt (
  delivery_id uuid        NOT NULL REFERENCES delivery,
  attempt_no  integer     NOT NULL CHECK (attempt_no >= 1),
  at          timestamptz NOT NULL,  -- real time
  duration_ms integer     NOT NULL CHECK (duration_ms >= 0),
  status      smallint    CHECK (status BETWEEN 100 AND 999),
  error       text        CHECK (length(error) BETWEEN 1 AND 64),
  reply       bytea       NOT NULL CHECK (length(reply) <= 2048),
  state_after text        NOT NULL CHECK (state_after IN ('PENDING', 'DELIVERED', 'EXHAUSTED')),
  PRIMARY KEY (delivery_id, attempt_no),
  CHECK (status IS NOT NULL OR error IS NOT NULL)
);
GRANT SELECT, INSERT ON attempt TO __RUNTIME__;
