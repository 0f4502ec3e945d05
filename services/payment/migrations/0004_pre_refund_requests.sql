-- Refunds that the order service asks for: each request is answered once, with a refund or with a refusal.

ALTER TABLE refund ADD COLUMN request_id uuid;
CREATE UNIQUE INDEX refund_of_request ON refund (request_id) WHERE request_id IS NOT NULL;

-- Append-only by grant: a refusal stands, another wish is another request.
CREATE TABLE refund_refusal (
  request_id     uuid        PRIMARY KEY,
  order_id       uuid        NOT NULL,
  payment_id     uuid        NOT NULL,  -- as it was named; there may be none
  amount_minor   bigint      NOT NULL CHECK (amount_minor BETWEEN 1 AND 1000000000000),
  code           text        NOT NULL CHECK (length(code) BETWEEN 1 AND 64),
  cause          text        NOT NULL CHECK (length(cause) BETWEEN 1 AND 200),
  correlation_id text        NOT NULL CHECK (length(correlation_id) BETWEEN 1 AND 200),
  refused_at     timestamptz NOT NULL
);
GRANT SELECT, INSERT ON refund_refusal TO __RUNTIME__;
