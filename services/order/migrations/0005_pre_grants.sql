-- What orders bring their buyers: templates, grants with every step, coupons in use, and what of them is owed.

-- A template never changes, by grant: but for its stock, and for being archived.
CREATE TABLE benefit (
  benefit_id     uuid        PRIMARY KEY,
  merchant_id    uuid        NOT NULL,
  name           text        NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
  kind           text        NOT NULL CHECK (kind IN ('coupon', 'points', 'entitlement')),
  units          bigint      NOT NULL CHECK (units BETWEEN 1 AND 1000000000000),
  currency       text        CHECK (currency ~ '^[A-Z]{3}$'),
  -- of coupons
  value          text        CHECK (value IN ('fixed', 'percent')),
  cap_minor      bigint      CHECK (cap_minor BETWEEN 1 AND 1000000000000),
  minimum_minor  bigint      CHECK (minimum_minor BETWEEN 0 AND 1000000000000),
  uses_max       integer     NOT NULL CHECK (uses_max BETWEEN 1 AND 1000),
  valid_from     timestamptz,
  valid_until    timestamptz,
  valid_days     integer     CHECK (valid_days BETWEEN 1 AND 3650),
  -- of those that a rule gives
  by_rule        boolean     NOT NULL,
  rule_minor     bigint      CHECK (rule_minor BETWEEN 0 AND 1000000000000),
  rule_from      timestamptz,
  rule_until     timestamptz,
  stock_left     integer     CHECK (stock_left BETWEEN 0 AND 1000000000),
  created_at     timestamptz NOT NULL,
  archived_at    timestamptz,
  CHECK ((kind = 'coupon') = (value IS NOT NULL) AND (kind = 'coupon') = (minimum_minor IS NOT NULL)),
  CHECK (kind <> 'coupon' OR currency IS NOT NULL),
  CHECK (kind = 'coupon' OR uses_max = 1),
  CHECK (value IS DISTINCT FROM 'percent' OR units <= 10000),
  CHECK (kind <> 'entitlement' OR units = 1),
  CHECK (by_rule = (rule_minor IS NOT NULL)),
  CHECK (rule_minor IS NULL OR rule_minor = 0 OR currency IS NOT NULL)
);
CREATE INDEX benefit_of_merchant ON benefit (merchant_id, benefit_id);
CREATE INDEX benefit_rule ON benefit (merchant_id, benefit_id) WHERE by_rule AND archived_at IS NULL;
GRANT SELECT, INSERT, UPDATE (stock_left, archived_at) ON benefit TO __RUNTIME__;

-- Append-only by grant: what an order's lines were sold with.
CREATE TABLE order_benefit (
  order_id   uuid     NOT NULL REFERENCES orders,
  line       smallint NOT NULL CHECK (line BETWEEN 1 AND 100),
  benefit_id uuid     NOT NULL REFERENCES benefit,
  PRIMARY KEY (order_id, line, benefit_id)
);
GRANT SELECT, INSERT ON order_benefit TO __RUNTIME__;

-- One row for each benefit of an order; line 0 is the order as a whole. `units` was granted, `recalled` of it went back.
CREATE TABLE fulfilment_grant (
  grant_id       uuid        PRIMARY KEY,
  order_id       uuid        NOT NULL REFERENCES orders,
  merchant_id    uuid        NOT NULL,
  line           smallint    NOT NULL CHECK (line BETWEEN 0 AND 100),
  kind           text        NOT NULL CHECK (kind IN ('coupon', 'points', 'entitlement')),
  benefit_id     uuid        NOT NULL REFERENCES benefit,
  state          text        NOT NULL CHECK (state IN ('PENDING', 'GRANTED', 'USED', 'REVOKED', 'FAILED')),
  units          bigint      NOT NULL CHECK (units BETWEEN 1 AND 1000000000000),
  recalled       bigint      NOT NULL,
  uses_max       integer     NOT NULL CHECK (uses_max BETWEEN 1 AND 1000),
  reserved       integer     NOT NULL CHECK (reserved >= 0),
  used           integer     NOT NULL CHECK (used >= 0),
  tries          integer     NOT NULL CHECK (tries BETWEEN 0 AND 100),
  due_at         timestamptz,          -- when it is tried (again)
  failure        text        CHECK (length(failure) BETWEEN 1 AND 64),
  planned_at     timestamptz NOT NULL,
  granted_at     timestamptz,
  valid_from     timestamptz,
  valid_until    timestamptz,
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 128),
  version        integer     NOT NULL CHECK (version >= 1),
  event_seq      integer     NOT NULL CHECK (event_seq >= 0),
  UNIQUE (order_id, line, kind),
  CHECK (recalled BETWEEN 0 AND units),
  CHECK (reserved + used <= uses_max),
  CHECK (state <> 'USED' OR used = uses_max),
  CHECK ((state = 'PENDING') = (due_at IS NOT NULL)),
  CHECK ((state = 'FAILED') = (failure IS NOT NULL)),
  CHECK (granted_at IS NOT NULL OR state IN ('PENDING', 'REVOKED', 'FAILED')),
  CHECK (granted_at IS NOT NULL OR reserved + used = 0),
  CHECK (state <> 'REVOKED' OR recalled = units)
);
CREATE INDEX fulfilment_grant_due ON fulfilment_grant (due_at) WHERE due_at IS NOT NULL;
GRANT SELECT, INSERT, UPDATE (state, recalled, reserved, used, tries, due_at, failure, granted_at, valid_from, valid_until,
                              version, event_seq) ON fulfilment_grant TO __RUNTIME__;

-- Append-only by grant: what was done with a grant, step by step.
CREATE TABLE grant_step (
  grant_id       uuid        NOT NULL REFERENCES fulfilment_grant,
  version        integer     NOT NULL CHECK (version >= 1),
  step           smallint    NOT NULL CHECK (step BETWEEN 1 AND 10),  -- a recall may be two at once
  kind           text        NOT NULL CHECK (kind IN (
    'planned', 'given', 'gave_up', 'reserved', 'used', 'released', 'recalled', 'owed')),
  state          text        NOT NULL CHECK (length(state) <= 32),  -- after this step
  units          bigint,
  amount_minor   bigint,
  used_on        uuid,                 -- the order that uses a coupon
  at             timestamptz NOT NULL,
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 128),
  causation_id   text        CHECK (length(causation_id) <= 128),
  traceparent    text        CHECK (length(traceparent) <= 64),
  event_id       uuid,                 -- of the event that told of it, where one did
  event_type     text        CHECK (length(event_type) BETWEEN 1 AND 64),
  PRIMARY KEY (grant_id, version, step)
);
GRANT SELECT, INSERT ON grant_step TO __RUNTIME__;

-- Append-only by grant: what a coupon is found by. The code itself is made from the grant's id with a key that stands
-- sealed in made_key, and is kept nowhere.
CREATE TABLE coupon_code (
  digest   bytea PRIMARY KEY CHECK (length(digest) = 32),
  grant_id uuid  NOT NULL UNIQUE REFERENCES fulfilment_grant
);
GRANT SELECT, INSERT ON coupon_code TO __RUNTIME__;

-- A coupon's use by an order: what it took off, of what, and its worth at that time.
CREATE TABLE coupon_use (
  order_id     uuid     NOT NULL REFERENCES orders,
  grant_id     uuid     NOT NULL REFERENCES fulfilment_grant,
  position     smallint NOT NULL CHECK (position BETWEEN 1 AND 5),
  state        text     NOT NULL CHECK (state IN ('RESERVED', 'USED', 'RELEASED')),
  worth        bigint   NOT NULL CHECK (worth BETWEEN 1 AND 1000000000000),
  base_minor   bigint   NOT NULL CHECK (base_minor BETWEEN 1 AND 1000000000000),
  amount_minor bigint   NOT NULL CHECK (amount_minor BETWEEN 1 AND base_minor),
  PRIMARY KEY (order_id, grant_id)
);
CREATE INDEX coupon_use_of_grant ON coupon_use (grant_id);
GRANT SELECT, INSERT, UPDATE (state) ON coupon_use TO __RUNTIME__;

-- What an order owes: coupons that it brought were used before the money for them went back.
CREATE TABLE grant_debt (
  grant_id   uuid   NOT NULL REFERENCES fulfilment_grant,
  used_on    uuid   NOT NULL REFERENCES orders,
  order_id   uuid   NOT NULL REFERENCES orders,
  currency   text   NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  debt_minor bigint NOT NULL CHECK (debt_minor BETWEEN 0 AND 1000000000000),
  PRIMARY KEY (grant_id, used_on)
);
CREATE INDEX grant_debt_of_order ON grant_debt (order_id);
GRANT SELECT, INSERT, UPDATE (debt_minor) ON grant_debt TO __RUNTIME__;

-- What coupons took off an order: its lines less this make its total.
ALTER TABLE orders ADD COLUMN coupons_minor bigint NOT NULL DEFAULT 0 CHECK (coupons_minor BETWEEN 0 AND 1000000000000);
