-- The merchant registry (with API keys and fee rules) and the double-entry ledger.

CREATE TABLE merchant (
  merchant_id   uuid        PRIMARY KEY,
  name          text        NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 200),  -- registering twice finds the first
  status        text        NOT NULL CHECK (status IN ('ACTIVE', 'DISABLED')),
  mode          text        NOT NULL CHECK (mode IN ('test', 'live')),
  currencies    text[]      NOT NULL CHECK (cardinality(currencies) BETWEEN 1 AND 32),
  late_money    text        NOT NULL CHECK (late_money IN ('return', 'reopen', 'case')),
  version       bigint      NOT NULL CHECK (version >= 1),
  event_seq     bigint      NOT NULL CHECK (event_seq >= 1),
  registered_at timestamptz NOT NULL,
  changed_at    timestamptz NOT NULL,
  announce_at   timestamptz NOT NULL  -- when the state is told again; real time
);
CREATE INDEX merchant_announce ON merchant (announce_at);
GRANT SELECT, INSERT, UPDATE (status, version, event_seq, changed_at, announce_at) ON merchant TO __RUNTIME__;

-- Append-only by grant: one row for each move, with who asked and what led to it.
CREATE TABLE merchant_transition (
  merchant_id    uuid        NOT NULL REFERENCES merchant,
  version        bigint      NOT NULL CHECK (version >= 1),
  act            text        NOT NULL CHECK (length(act) BETWEEN 1 AND 32),
  status         text        NOT NULL CHECK (length(status) BETWEEN 1 AND 32),
  actor          text        NOT NULL CHECK (length(actor) BETWEEN 1 AND 200),
  at             timestamptz NOT NULL,
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 128),
  PRIMARY KEY (merchant_id, version)
);
GRANT SELECT, INSERT ON merchant_transition TO __RUNTIME__;

-- A key is shown once and kept as its hash. Two slots, so that a third live key cannot exist.
CREATE TABLE api_key (
  key_id      uuid        PRIMARY KEY,
  merchant_id uuid        NOT NULL REFERENCES merchant,
  slot        smallint    NOT NULL CHECK (slot IN (1, 2)),
  prefix      text        NOT NULL CHECK (length(prefix) BETWEEN 8 AND 24),
  sha256      bytea       NOT NULL UNIQUE CHECK (length(sha256) = 32),
  scopes      text[]      NOT NULL CHECK (cardinality(scopes) BETWEEN 1 AND 32),
  issued_at   timestamptz NOT NULL,
  revoked_at  timestamptz
);
CREATE UNIQUE INDEX api_key_two_live ON api_key (merchant_id, slot) WHERE revoked_at IS NULL;
GRANT SELECT, INSERT, UPDATE (revoked_at) ON api_key TO __RUNTIME__;

-- Append-only by grant: a rule is replaced by a later version, never changed. The first version holds since ever.
CREATE TABLE fee_rule (
  merchant_id    uuid        NOT NULL REFERENCES merchant,
  version        integer     NOT NULL CHECK (version >= 1),
  basis_points   integer     NOT NULL CHECK (basis_points BETWEEN 0 AND 10000),
  effective_from timestamptz NOT NULL,
  PRIMARY KEY (merchant_id, version),
  UNIQUE (merchant_id, effective_from)
);
GRANT SELECT, INSERT ON fee_rule TO __RUNTIME__;

CREATE TABLE account (
  account_id    text        PRIMARY KEY CHECK (account_id ~ '^[a-z_]+(:[a-z0-9_]+){1,2}:[A-Z]{3}$' AND length(account_id) <= 120),
  owner         text        NOT NULL CHECK (owner IN ('channel', 'merchant', 'platform', 'suspense')),
  merchant_id   uuid        REFERENCES merchant,
  currency      text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  balance_minor bigint      NOT NULL DEFAULT 0,  -- debit positive
  sequence      bigint      NOT NULL DEFAULT 0 CHECK (sequence >= 0),
  opened_at     timestamptz NOT NULL,
  CHECK ((owner = 'merchant') = (merchant_id IS NOT NULL)),
  CHECK (split_part(account_id, ':', 1) = owner AND right(account_id, 3) = currency),
  CHECK (sequence > 0 OR balance_minor = 0),
  UNIQUE (account_id, currency)
) WITH (fillfactor = 50);
CREATE INDEX account_of_merchant ON account (merchant_id) WHERE merchant_id IS NOT NULL;
GRANT SELECT, INSERT, UPDATE (balance_minor, sequence) ON account TO __RUNTIME__;

-- Append-only by grant: a mistake is corrected by another entry.
CREATE TABLE entry (
  entry_id       uuid        PRIMARY KEY,
  source         text        NOT NULL CHECK (source IN ('payment')),
  kind           text        NOT NULL CHECK (kind IN ('succeeded', 'paid_late', 'duplicate')),
  source_id      uuid        NOT NULL,
  merchant_id    uuid        NOT NULL REFERENCES merchant,
  order_id       uuid        NOT NULL,
  currency       text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  gross_minor    bigint      NOT NULL CHECK (gross_minor BETWEEN 1 AND 1000000000000),
  fee_minor      bigint      NOT NULL CHECK (fee_minor BETWEEN 0 AND gross_minor),
  explanation    text        NOT NULL CHECK (length(explanation) <= 2000),  -- JSON: rule, inputs, rounding
  legs           smallint    NOT NULL CHECK (legs BETWEEN 2 AND 16),
  paid_at        timestamptz NOT NULL,
  effective_on   date        NOT NULL,
  posted_at      timestamptz NOT NULL,
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 128),
  causation_id   text        CHECK (length(causation_id) <= 128),
  UNIQUE (source, kind, source_id),
  UNIQUE (entry_id, legs)
);
GRANT SELECT, INSERT ON entry TO __RUNTIME__;

-- Append-only by grant. The entry says how many legs it has, so that none can be added later.
CREATE TABLE posting (
  entry_id         uuid     NOT NULL,
  leg              smallint NOT NULL CHECK (leg BETWEEN 1 AND legs),
  legs             smallint NOT NULL,
  account_id       text     NOT NULL,
  currency         text     NOT NULL,
  amount_minor     bigint   NOT NULL CHECK (amount_minor <> 0),  -- debit positive
  account_sequence bigint   NOT NULL CHECK (account_sequence >= 1),
  PRIMARY KEY (entry_id, leg),
  FOREIGN KEY (entry_id, legs) REFERENCES entry (entry_id, legs),
  FOREIGN KEY (account_id, currency) REFERENCES account (account_id, currency)
);
GRANT SELECT, INSERT ON posting TO __RUNTIME__;

CREATE FUNCTION entry_is_balanced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (SELECT count(*) FROM posting WHERE entry_id = NEW.entry_id) <> NEW.legs
     OR EXISTS (SELECT FROM posting WHERE entry_id = NEW.entry_id GROUP BY currency HAVING sum(amount_minor) <> 0) THEN
    RAISE EXCEPTION 'ledger entry % is not balanced', NEW.entry_id USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END
$$;
-- Once for each entry, at the commit: its legs are complete and add up to zero in each currency.
CREATE CONSTRAINT TRIGGER entry_balanced AFTER INSERT ON entry DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION entry_is_balanced();
