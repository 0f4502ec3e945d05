-- What this service knows of merchants: fed by settlement.merchant.state.v1, guarded by sequence.
CREATE TABLE merchant (
  merchant_id uuid        PRIMARY KEY,
  sequence    bigint      NOT NULL CHECK (sequence >= 0),
  status      text        NOT NULL CHECK (status IN ('ACTIVE', 'DISABLED', 'UNREADABLE')),
  state       bytea       CHECK (length(state) <= 65536),  -- the announced JSON; NULL when it was never readable
  key_hashes  bytea[]     NOT NULL DEFAULT '{}' CHECK (cardinality(key_hashes) <= 64),
  changed_at  timestamptz NOT NULL,
  CHECK (state IS NOT NULL OR status = 'UNREADABLE')
);
GRANT SELECT, INSERT, UPDATE ON merchant TO __RUNTIME__;
