-- Accounts at channels, their keys sealed; which account an attempt was made at, and what it was told of the payer.

CREATE TABLE channel_account (
  account_id     uuid        PRIMARY KEY,
  channel        text        NOT NULL CHECK (length(channel) BETWEEN 1 AND 32),
  merchant_id    uuid,       -- whose it is; NULL = the platform's, used for every merchant that has none
  merchant_ref   text        NOT NULL CHECK (length(merchant_ref) BETWEEN 1 AND 64),  -- as the channel names us
  app_ref        text        NOT NULL CHECK (length(app_ref) BETWEEN 1 AND 64),
  base_url       text        NOT NULL CHECK (length(base_url) BETWEEN 8 AND 200),
  status         text        NOT NULL CHECK (status IN ('ACTIVE', 'RETIRED')),
  secrets_sealed bytea       NOT NULL CHECK (length(secrets_sealed) <= 131072),
  seed_digest    bytea       CHECK (length(seed_digest) = 32),  -- of the settings it was made from; they are taken once
  version        bigint      NOT NULL CHECK (version > 0),
  created_at     timestamptz NOT NULL,
  updated_at     timestamptz NOT NULL,
  UNIQUE (channel, merchant_ref, app_ref)
);
-- New payments of a merchant go to one account of a channel; retired ones end what they began.
CREATE UNIQUE INDEX channel_account_one_active ON channel_account (channel, merchant_id) NULLS NOT DISTINCT WHERE status = 'ACTIVE';
GRANT SELECT, INSERT, UPDATE ON channel_account TO __RUNTIME__;

-- NULL = made before accounts had rows: at the channel's first account.
ALTER TABLE attempt ADD COLUMN account_id uuid;
-- RETURNED: over, and the channel has sent back whatever was paid.
ALTER TABLE attempt DROP CONSTRAINT attempt_status_check, ADD CONSTRAINT attempt_status_check CHECK (
  status IN ('SENDING', 'UNKNOWN', 'OPEN', 'PAID', 'REFUSED', 'CLOSED', 'RETURNED'));
-- Sent again with the attempt; an auth code is good for one payment, the rest identifies a person.
ALTER TABLE attempt ADD COLUMN payer_sealed bytea CHECK (length(payer_sealed) <= 4096);
