-- The sum of this service's migrations and the kernel's, written by `make contracts`; it is read, never applied.

CREATE TABLE attempt (
  attempt_no text NOT NULL,
  payment_id uuid NOT NULL,
  order_id uuid NOT NULL,
  channel text NOT NULL,
  status text NOT NULL,
  closing boolean DEFAULT false NOT NULL,
  query_count integer DEFAULT 0 NOT NULL,
  next_query_at timestamp with time zone,
  action_sealed bytea,
  action_expires_at timestamp with time zone,
  created_at timestamp with time zone NOT NULL,
  updated_at timestamp with time zone NOT NULL,
  asked_at timestamp with time zone,
  account_id uuid,
  payer_sealed bytea,
  CONSTRAINT attempt_action_sealed_check CHECK ((length(action_sealed) <= 16384)),
  CONSTRAINT attempt_attempt_no_check CHECK ((attempt_no ~ '^[0-9A-Z]{26}$'::text)),
  CONSTRAINT attempt_channel_check CHECK (((length(channel) >= 1) AND (length(channel) <= 32))),
  CONSTRAINT attempt_check CHECK (((status <> ALL (ARRAY['SENDING'::text, 'UNKNOWN'::text, 'OPEN'::text])) OR (next_query_at IS NOT NULL))),
  CONSTRAINT attempt_payer_sealed_check CHECK ((length(payer_sealed) <= 4096)),
  CONSTRAINT attempt_query_count_check CHECK ((query_count >= 0)),
  CONSTRAINT attempt_status_check CHECK ((status = ANY (ARRAY['SENDING'::text, 'UNKNOWN'::text, 'OPEN'::text, 'PAID'::text, 'REFUSED'::text, 'CLOSED'::text, 'RETURNED'::text]))),
  CONSTRAINT attempt_payment_id_fkey FOREIGN KEY (payment_id) REFERENCES payment(payment_id),
  CONSTRAINT attempt_pkey PRIMARY KEY (attempt_no)
) WITH (fillfactor=80);
CREATE INDEX attempt_due ON attempt USING btree (next_query_at) WHERE (next_query_at IS NOT NULL);
CREATE UNIQUE INDEX attempt_one_unknown ON attempt USING btree (order_id) WHERE (status = 'UNKNOWN'::text);
CREATE INDEX attempt_payment ON attempt USING btree (payment_id);
GRANT INSERT, SELECT, UPDATE ON attempt TO defray_payment;

CREATE TABLE audit_head (
  only_row boolean DEFAULT true NOT NULL,
  seq bigint NOT NULL,
  hash bytea NOT NULL,
  CONSTRAINT audit_head_hash_check CHECK ((length(hash) = 32)),
  CONSTRAINT audit_head_only_row_check CHECK (only_row),
  CONSTRAINT audit_head_seq_check CHECK ((seq >= 0)),
  CONSTRAINT audit_head_pkey PRIMARY KEY (only_row)
);
GRANT SELECT, UPDATE (seq, hash) ON audit_head TO defray_payment;

CREATE TABLE audit_log (
  seq bigint NOT NULL,
  at timestamp with time zone NOT NULL,
  actor text NOT NULL,
  action text NOT NULL,
  subject text NOT NULL,
  detail text NOT NULL,
  hash bytea NOT NULL,
  CONSTRAINT audit_log_action_check CHECK (((length(action) >= 1) AND (length(action) <= 100))),
  CONSTRAINT audit_log_actor_check CHECK (((length(actor) >= 1) AND (length(actor) <= 200))),
  CONSTRAINT audit_log_detail_check CHECK ((length(detail) <= 8192)),
  CONSTRAINT audit_log_hash_check CHECK ((length(hash) = 32)),
  CONSTRAINT audit_log_seq_check CHECK ((seq > 0)),
  CONSTRAINT audit_log_subject_check CHECK (((length(subject) >= 1) AND (length(subject) <= 200))),
  CONSTRAINT audit_log_pkey PRIMARY KEY (seq)
);
GRANT INSERT, SELECT ON audit_log TO defray_payment;

CREATE TABLE callback (
  channel text NOT NULL,
  callback_id text NOT NULL,
  attempt_no text,
  digest bytea NOT NULL,
  raw_sealed bytea NOT NULL,
  received_at timestamp with time zone NOT NULL,
  CONSTRAINT callback_attempt_no_check CHECK (((length(attempt_no) >= 1) AND (length(attempt_no) <= 64))),
  CONSTRAINT callback_callback_id_check CHECK (((length(callback_id) >= 1) AND (length(callback_id) <= 80))),
  CONSTRAINT callback_channel_check CHECK (((length(channel) >= 1) AND (length(channel) <= 32))),
  CONSTRAINT callback_digest_check CHECK ((length(digest) = 32)),
  CONSTRAINT callback_raw_sealed_check CHECK ((length(raw_sealed) <= 131072)),
  CONSTRAINT callback_pkey PRIMARY KEY (channel, callback_id)
);
GRANT INSERT, SELECT ON callback TO defray_payment;

CREATE TABLE case_note (
  note_id uuid NOT NULL,
  case_id uuid NOT NULL,
  author text NOT NULL,
  text text NOT NULL,
  written_at timestamp with time zone NOT NULL,
  CONSTRAINT case_note_author_check CHECK (((length(author) >= 1) AND (length(author) <= 200))),
  CONSTRAINT case_note_text_check CHECK (((length(text) >= 1) AND (length(text) <= 2000))),
  CONSTRAINT case_note_case_id_fkey FOREIGN KEY (case_id) REFERENCES exception_case(case_id),
  CONSTRAINT case_note_pkey PRIMARY KEY (note_id)
);
CREATE INDEX case_note_case ON case_note USING btree (case_id, note_id);
GRANT INSERT, SELECT ON case_note TO defray_payment;

CREATE TABLE channel_account (
  account_id uuid NOT NULL,
  channel text NOT NULL,
  merchant_id uuid,
  merchant_ref text NOT NULL,
  app_ref text NOT NULL,
  base_url text NOT NULL,
  status text NOT NULL,
  secrets_sealed bytea NOT NULL,
  seed_digest bytea,
  version bigint NOT NULL,
  created_at timestamp with time zone NOT NULL,
  updated_at timestamp with time zone NOT NULL,
  CONSTRAINT channel_account_app_ref_check CHECK (((length(app_ref) >= 1) AND (length(app_ref) <= 64))),
  CONSTRAINT channel_account_base_url_check CHECK (((length(base_url) >= 8) AND (length(base_url) <= 200))),
  CONSTRAINT channel_account_channel_check CHECK (((length(channel) >= 1) AND (length(channel) <= 32))),
  CONSTRAINT channel_account_merchant_ref_check CHECK (((length(merchant_ref) >= 1) AND (length(merchant_ref) <= 64))),
  CONSTRAINT channel_account_secrets_sealed_check CHECK ((length(secrets_sealed) <= 131072)),
  CONSTRAINT channel_account_seed_digest_check CHECK ((length(seed_digest) = 32)),
  CONSTRAINT channel_account_status_check CHECK ((status = ANY (ARRAY['ACTIVE'::text, 'RETIRED'::text]))),
  CONSTRAINT channel_account_version_check CHECK ((version > 0)),
  CONSTRAINT channel_account_pkey PRIMARY KEY (account_id),
  CONSTRAINT channel_account_channel_merchant_ref_app_ref_key UNIQUE (channel, merchant_ref, app_ref)
);
CREATE UNIQUE INDEX channel_account_one_active ON channel_account USING btree (channel, merchant_id) NULLS NOT DISTINCT WHERE (status = 'ACTIVE'::text);
GRANT INSERT, SELECT, UPDATE ON channel_account TO defray_payment;

CREATE TABLE consumer_offset (
  consumer text NOT NULL,
  topic text NOT NULL,
  part integer NOT NULL,
  next_offset bigint NOT NULL,
  epoch bigint DEFAULT 1 NOT NULL,
  owner text NOT NULL,
  cluster_id text NOT NULL,
  parts integer NOT NULL,
  updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
  CONSTRAINT consumer_offset_check CHECK ((parts > part)),
  CONSTRAINT consumer_offset_consumer_check CHECK (((octet_length(consumer) >= 1) AND (octet_length(consumer) <= 100))),
  CONSTRAINT consumer_offset_next_offset_check CHECK ((next_offset >= 0)),
  CONSTRAINT consumer_offset_part_check CHECK ((part >= 0)),
  CONSTRAINT consumer_offset_pkey PRIMARY KEY (consumer, topic, part)
) WITH (fillfactor=50);
GRANT INSERT, SELECT, UPDATE ON consumer_offset TO defray_payment;

CREATE TABLE daily_table (
  name text NOT NULL,
  keep_days integer NOT NULL,
  CONSTRAINT daily_table_keep_days_check CHECK ((keep_days >= 1)),
  CONSTRAINT daily_table_pkey PRIMARY KEY (name)
);
GRANT SELECT ON daily_table TO defray_payment;

CREATE TABLE event_log (
  lane smallint NOT NULL,
  id bigint NOT NULL,
  event_id uuid NOT NULL,
  topic text NOT NULL,
  part_key bytea NOT NULL,
  event_type text NOT NULL,
  aggregate_id text NOT NULL,
  aggregate_seq bigint NOT NULL,
  payload bytea NOT NULL,
  headers bytea NOT NULL,
  occurred_at timestamp with time zone NOT NULL,
  sent_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
) PARTITION BY RANGE (sent_at);
CREATE INDEX event_log_id ON ONLY event_log USING btree (id);
GRANT INSERT, SELECT ON event_log TO defray_payment;

CREATE TABLE evidence (
  evidence_id uuid NOT NULL,
  channel text NOT NULL,
  attempt_no text,
  payment_id uuid,
  source text NOT NULL,
  cause text NOT NULL,
  report text NOT NULL,
  native_state text NOT NULL,
  claim text NOT NULL,
  checks text NOT NULL,
  verdict text NOT NULL,
  recorded_at timestamp with time zone NOT NULL,
  CONSTRAINT evidence_attempt_no_check CHECK (((length(attempt_no) >= 1) AND (length(attempt_no) <= 64))),
  CONSTRAINT evidence_cause_check CHECK (((length(cause) >= 1) AND (length(cause) <= 200))),
  CONSTRAINT evidence_channel_check CHECK (((length(channel) >= 1) AND (length(channel) <= 32))),
  CONSTRAINT evidence_checks_check CHECK ((length(checks) <= 8192)),
  CONSTRAINT evidence_claim_check CHECK ((length(claim) <= 4096)),
  CONSTRAINT evidence_native_state_check CHECK ((length(native_state) <= 64)),
  CONSTRAINT evidence_report_check CHECK (((length(report) >= 1) AND (length(report) <= 32))),
  CONSTRAINT evidence_source_check CHECK ((source = ANY (ARRAY['callback'::text, 'query'::text, 'create'::text, 'close'::text]))),
  CONSTRAINT evidence_verdict_check CHECK (((length(verdict) >= 1) AND (length(verdict) <= 64))),
  CONSTRAINT evidence_pkey PRIMARY KEY (evidence_id)
);
CREATE INDEX evidence_payment ON evidence USING btree (payment_id) WHERE (payment_id IS NOT NULL);
GRANT INSERT, SELECT ON evidence TO defray_payment;

CREATE TABLE exception_case (
  case_id uuid NOT NULL,
  state text DEFAULT 'OPEN'::text NOT NULL,
  order_id uuid,
  payment_id uuid,
  attempt_no text,
  reason text NOT NULL,
  cause text NOT NULL,
  opened_at timestamp with time zone NOT NULL,
  resolved_at timestamp with time zone,
  resolved_by text,
  resolution text,
  refund_id uuid,
  owner text,
  claimed_at timestamp with time zone,
  CONSTRAINT exception_case_attempt_no_check CHECK (((length(attempt_no) >= 1) AND (length(attempt_no) <= 64))),
  CONSTRAINT exception_case_cause_check CHECK (((length(cause) >= 1) AND (length(cause) <= 200))),
  CONSTRAINT exception_case_check CHECK (((state = 'RESOLVED'::text) = ((resolved_at IS NOT NULL) AND (resolved_by IS NOT NULL) AND (resolution IS NOT NULL)))),
  CONSTRAINT exception_case_owned CHECK ((((owner IS NULL) = (claimed_at IS NULL)) AND ((state <> 'CLAIMED'::text) OR (owner IS NOT NULL)) AND ((state <> 'OPEN'::text) OR (owner IS NULL)))),
  CONSTRAINT exception_case_owner_check CHECK (((length(owner) >= 1) AND (length(owner) <= 200))),
  CONSTRAINT exception_case_reason_check CHECK (((length(reason) >= 1) AND (length(reason) <= 64))),
  CONSTRAINT exception_case_resolution_check CHECK (((length(resolution) >= 1) AND (length(resolution) <= 500))),
  CONSTRAINT exception_case_resolved_by_check CHECK (((length(resolved_by) >= 1) AND (length(resolved_by) <= 200))),
  CONSTRAINT exception_case_state_check CHECK ((state = ANY (ARRAY['OPEN'::text, 'CLAIMED'::text, 'RESOLVED'::text]))),
  CONSTRAINT exception_case_pkey PRIMARY KEY (case_id),
  CONSTRAINT exception_case_payment_id_reason_cause_key UNIQUE NULLS NOT DISTINCT (payment_id, reason, cause)
);
CREATE INDEX exception_case_unresolved ON exception_case USING btree (case_id) WHERE (state <> 'RESOLVED'::text);
GRANT INSERT, SELECT, UPDATE (state, resolved_at, resolved_by, resolution, owner, claimed_at) ON exception_case TO defray_payment;

CREATE TABLE idempotency_key (
  scope text NOT NULL,
  key text NOT NULL,
  request_hash bytea NOT NULL,
  lease_until timestamp with time zone NOT NULL,
  status smallint,
  body bytea,
  resource_id uuid,
  created_at timestamp with time zone NOT NULL,
  CONSTRAINT idempotency_key_body_check CHECK ((length(body) <= 262144)),
  CONSTRAINT idempotency_key_check CHECK (((status IS NULL) = (body IS NULL))),
  CONSTRAINT idempotency_key_key_check CHECK (((length(key) >= 1) AND (length(key) <= 255))),
  CONSTRAINT idempotency_key_request_hash_check CHECK ((length(request_hash) = 32)),
  CONSTRAINT idempotency_key_scope_check CHECK (((length(scope) >= 1) AND (length(scope) <= 160))),
  CONSTRAINT idempotency_key_status_check CHECK (((status >= 200) AND (status <= 599))),
  CONSTRAINT idempotency_key_pkey PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_key_age ON idempotency_key USING btree (created_at);
GRANT DELETE, INSERT, SELECT, UPDATE ON idempotency_key TO defray_payment;

CREATE TABLE inbox (
  consumer text NOT NULL,
  event_id uuid NOT NULL,
  CONSTRAINT inbox_consumer_check CHECK (((octet_length(consumer) >= 1) AND (octet_length(consumer) <= 100))),
  CONSTRAINT inbox_pkey PRIMARY KEY (consumer, event_id)
) PARTITION BY RANGE (event_id);
GRANT INSERT, SELECT ON inbox TO defray_payment;

CREATE TABLE kernel_setting (
  name text NOT NULL,
  value text NOT NULL,
  CONSTRAINT kernel_setting_name_check CHECK (((octet_length(name) >= 1) AND (octet_length(name) <= 100))),
  CONSTRAINT kernel_setting_value_check CHECK ((octet_length(value) <= 1000)),
  CONSTRAINT kernel_setting_pkey PRIMARY KEY (name)
);
GRANT SELECT ON kernel_setting TO defray_payment;

CREATE TABLE merchant (
  merchant_id uuid NOT NULL,
  sequence bigint NOT NULL,
  status text NOT NULL,
  state bytea,
  key_hashes bytea[] DEFAULT '{}'::bytea[] NOT NULL,
  changed_at timestamp with time zone NOT NULL,
  CONSTRAINT merchant_check CHECK (((state IS NOT NULL) OR (status = 'UNREADABLE'::text))),
  CONSTRAINT merchant_key_hashes_check CHECK ((cardinality(key_hashes) <= 64)),
  CONSTRAINT merchant_sequence_check CHECK ((sequence >= 0)),
  CONSTRAINT merchant_state_check CHECK ((length(state) <= 65536)),
  CONSTRAINT merchant_status_check CHECK ((status = ANY (ARRAY['ACTIVE'::text, 'DISABLED'::text, 'UNREADABLE'::text]))),
  CONSTRAINT merchant_pkey PRIMARY KEY (merchant_id)
);
GRANT INSERT, SELECT, UPDATE ON merchant TO defray_payment;

CREATE TABLE outbox (
  lane smallint NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY NOT NULL,
  event_id uuid NOT NULL,
  topic text NOT NULL,
  part_key bytea NOT NULL,
  event_type text NOT NULL,
  aggregate_id text NOT NULL,
  aggregate_seq bigint NOT NULL,
  payload bytea NOT NULL,
  headers bytea NOT NULL,
  occurred_at timestamp with time zone NOT NULL,
  republished boolean DEFAULT false NOT NULL,
  CONSTRAINT outbox_aggregate_id_check CHECK ((octet_length(aggregate_id) <= 600)),
  CONSTRAINT outbox_aggregate_seq_check CHECK ((aggregate_seq >= 0)),
  CONSTRAINT outbox_event_type_check CHECK ((octet_length(event_type) <= 200)),
  CONSTRAINT outbox_headers_check CHECK ((octet_length(headers) <= 131072)),
  CONSTRAINT outbox_lane_check CHECK (((lane >= 0) AND (lane <= 63))),
  CONSTRAINT outbox_part_key_check CHECK ((octet_length(part_key) <= 1024)),
  CONSTRAINT outbox_payload_check CHECK ((octet_length(payload) <= 786432)),
  CONSTRAINT outbox_topic_check CHECK (((octet_length(topic) >= 1) AND (octet_length(topic) <= 249))),
  CONSTRAINT outbox_pkey PRIMARY KEY (lane, id)
) WITH (autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=10000, autovacuum_vacuum_cost_delay=0, autovacuum_analyze_scale_factor=0, autovacuum_analyze_threshold=1000000);
GRANT DELETE, INSERT, SELECT ON outbox TO defray_payment;

CREATE TABLE parked_event (
  id bigint GENERATED ALWAYS AS IDENTITY NOT NULL,
  consumer text NOT NULL,
  part_key bytea NOT NULL,
  topic text NOT NULL,
  part integer NOT NULL,
  part_offset bigint NOT NULL,
  recorded_at timestamp with time zone NOT NULL,
  key bytea,
  payload bytea,
  headers bytea NOT NULL,
  CONSTRAINT parked_event_pkey PRIMARY KEY (id)
);
CREATE INDEX parked_event_key ON parked_event USING btree (consumer, part_key, id);
GRANT DELETE, INSERT, SELECT ON parked_event TO defray_payment;

CREATE TABLE parked_key (
  consumer text NOT NULL,
  part_key bytea NOT NULL,
  parked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
  attempts integer DEFAULT 0 NOT NULL,
  next_attempt_at timestamp with time zone NOT NULL,
  waiting boolean NOT NULL,
  error_class text NOT NULL,
  error text NOT NULL,
  CONSTRAINT parked_key_consumer_check CHECK (((octet_length(consumer) >= 1) AND (octet_length(consumer) <= 100))),
  CONSTRAINT parked_key_error_check CHECK ((octet_length(error) <= 4000)),
  CONSTRAINT parked_key_error_class_check CHECK ((octet_length(error_class) <= 200)),
  CONSTRAINT parked_key_part_key_check CHECK ((octet_length(part_key) <= 1024)),
  CONSTRAINT parked_key_pkey PRIMARY KEY (consumer, part_key)
);
CREATE INDEX parked_key_due ON parked_key USING btree (consumer, next_attempt_at);
GRANT DELETE, INSERT, SELECT, UPDATE ON parked_key TO defray_payment;

CREATE TABLE payable (
  order_id uuid NOT NULL,
  merchant_id uuid NOT NULL,
  amount_minor bigint NOT NULL,
  currency text NOT NULL,
  status text NOT NULL,
  closing_reason text,
  claimed_by uuid,
  order_expires_at timestamp with time zone NOT NULL,
  order_seq bigint NOT NULL,
  correlation_id text NOT NULL,
  version bigint NOT NULL,
  event_seq bigint NOT NULL,
  created_at timestamp with time zone NOT NULL,
  updated_at timestamp with time zone NOT NULL,
  CONSTRAINT payable_amount_minor_check CHECK (((amount_minor >= 0) AND (amount_minor <= '1000000000000'::bigint))),
  CONSTRAINT payable_check CHECK (((status = 'OPEN'::text) = (closing_reason IS NULL))),
  CONSTRAINT payable_closing_reason_check CHECK ((closing_reason = ANY (ARRAY['merchant'::text, 'customer'::text, 'system'::text, 'expired'::text]))),
  CONSTRAINT payable_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 200))),
  CONSTRAINT payable_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
  CONSTRAINT payable_event_seq_check CHECK ((event_seq >= 0)),
  CONSTRAINT payable_order_seq_check CHECK ((order_seq >= 0)),
  CONSTRAINT payable_status_check CHECK ((status = ANY (ARRAY['OPEN'::text, 'CLOSING'::text, 'CLOSED'::text]))),
  CONSTRAINT payable_version_check CHECK ((version > 0)),
  CONSTRAINT payable_pkey PRIMARY KEY (order_id)
);
GRANT INSERT, SELECT, UPDATE ON payable TO defray_payment;

CREATE TABLE payable_transition (
  order_id uuid NOT NULL,
  version bigint NOT NULL,
  from_status text NOT NULL,
  to_status text NOT NULL,
  claimed_by uuid,
  cause text NOT NULL,
  correlation_id text NOT NULL,
  at timestamp with time zone NOT NULL,
  CONSTRAINT payable_transition_cause_check CHECK (((length(cause) >= 1) AND (length(cause) <= 200))),
  CONSTRAINT payable_transition_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 200))),
  CONSTRAINT payable_transition_from_status_check CHECK (((length(from_status) >= 1) AND (length(from_status) <= 32))),
  CONSTRAINT payable_transition_to_status_check CHECK (((length(to_status) >= 1) AND (length(to_status) <= 32))),
  CONSTRAINT payable_transition_pkey PRIMARY KEY (order_id, version)
);
GRANT INSERT, SELECT ON payable_transition TO defray_payment;

CREATE TABLE payment (
  payment_id uuid NOT NULL,
  order_id uuid NOT NULL,
  merchant_id uuid NOT NULL,
  amount_minor bigint NOT NULL,
  currency text NOT NULL,
  channel text NOT NULL,
  product text NOT NULL,
  description text NOT NULL,
  status text NOT NULL,
  attempt_no text NOT NULL,
  expires_at timestamp with time zone NOT NULL,
  channel_txn_id text,
  paid_minor bigint,
  paid_at timestamp with time zone,
  failure_code text,
  correlation_id text NOT NULL,
  version bigint NOT NULL,
  event_seq bigint NOT NULL,
  created_at timestamp with time zone NOT NULL,
  updated_at timestamp with time zone NOT NULL,
  refund_reserved_minor bigint DEFAULT 0 NOT NULL,
  refunded_minor bigint DEFAULT 0 NOT NULL,
  CONSTRAINT payment_amount_minor_check CHECK (((amount_minor >= 1) AND (amount_minor <= '1000000000000'::bigint))),
  CONSTRAINT payment_attempt_no_check CHECK ((attempt_no ~ '^[0-9A-Z]{26}$'::text)),
  CONSTRAINT payment_channel_check CHECK (((length(channel) >= 1) AND (length(channel) <= 32))),
  CONSTRAINT payment_channel_txn_id_check CHECK (((length(channel_txn_id) >= 1) AND (length(channel_txn_id) <= 64))),
  CONSTRAINT payment_check CHECK (((status = ANY (ARRAY['SUCCEEDED'::text, 'PAID_LATE'::text, 'DUPLICATE'::text])) = (paid_minor IS NOT NULL))),
  CONSTRAINT payment_check1 CHECK ((((paid_minor IS NULL) = (paid_at IS NULL)) AND ((paid_minor IS NULL) = (channel_txn_id IS NULL)))),
  CONSTRAINT payment_check2 CHECK (((paid_minor IS NULL) OR (paid_minor = amount_minor))),
  CONSTRAINT payment_check3 CHECK (((status = 'FAILED'::text) <= (failure_code IS NOT NULL))),
  CONSTRAINT payment_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 200))),
  CONSTRAINT payment_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
  CONSTRAINT payment_description_check CHECK (((length(description) >= 1) AND (length(description) <= 127))),
  CONSTRAINT payment_event_seq_check CHECK ((event_seq >= 0)),
  CONSTRAINT payment_failure_code_check CHECK (((length(failure_code) >= 1) AND (length(failure_code) <= 64))),
  CONSTRAINT payment_paid_minor_check CHECK (((paid_minor >= 1) AND (paid_minor <= '1000000000000'::bigint))),
  CONSTRAINT payment_product_check CHECK (((length(product) >= 1) AND (length(product) <= 32))),
  CONSTRAINT payment_refunds_within_paid CHECK (((0 <= refunded_minor) AND (refunded_minor <= refund_reserved_minor) AND (refund_reserved_minor <= COALESCE(paid_minor, (0)::bigint)))),
  CONSTRAINT payment_status_check CHECK ((status = ANY (ARRAY['CREATED'::text, 'PENDING'::text, 'AUTHORIZED'::text, 'SUCCEEDED'::text, 'FAILED'::text, 'CLOSED'::text, 'PAID_LATE'::text, 'DUPLICATE'::text]))),
  CONSTRAINT payment_version_check CHECK ((version > 0)),
  CONSTRAINT payment_order_id_fkey FOREIGN KEY (order_id) REFERENCES payable(order_id),
  CONSTRAINT payment_pkey PRIMARY KEY (payment_id)
);
CREATE UNIQUE INDEX payment_channel_txn ON payment USING btree (channel, channel_txn_id) WHERE (channel_txn_id IS NOT NULL);
CREATE INDEX payment_merchant ON payment USING btree (merchant_id, created_at, payment_id);
CREATE UNIQUE INDEX payment_one_live ON payment USING btree (order_id, channel, product) WHERE (status = ANY (ARRAY['CREATED'::text, 'PENDING'::text, 'AUTHORIZED'::text]));
CREATE UNIQUE INDEX payment_one_success ON payment USING btree (order_id) WHERE (status = 'SUCCEEDED'::text);
CREATE INDEX payment_order ON payment USING btree (order_id);
GRANT INSERT, SELECT, UPDATE ON payment TO defray_payment;

CREATE TABLE payment_transition (
  payment_id uuid NOT NULL,
  version bigint NOT NULL,
  from_status text,
  to_status text NOT NULL,
  cause text NOT NULL,
  correlation_id text NOT NULL,
  at timestamp with time zone NOT NULL,
  CONSTRAINT payment_transition_cause_check CHECK (((length(cause) >= 1) AND (length(cause) <= 200))),
  CONSTRAINT payment_transition_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 200))),
  CONSTRAINT payment_transition_from_status_check CHECK (((length(from_status) >= 1) AND (length(from_status) <= 32))),
  CONSTRAINT payment_transition_to_status_check CHECK (((length(to_status) >= 1) AND (length(to_status) <= 32))),
  CONSTRAINT payment_transition_pkey PRIMARY KEY (payment_id, version)
);
GRANT INSERT, SELECT ON payment_transition TO defray_payment;

CREATE TABLE refund (
  refund_id uuid NOT NULL,
  payment_id uuid NOT NULL,
  order_id uuid NOT NULL,
  merchant_id uuid NOT NULL,
  channel text NOT NULL,
  account_id uuid,
  attempt_no text NOT NULL,
  channel_txn_id text NOT NULL,
  total_minor bigint NOT NULL,
  amount_minor bigint NOT NULL,
  currency text NOT NULL,
  reason text NOT NULL,
  note text NOT NULL,
  refund_no text NOT NULL,
  status text NOT NULL,
  doubt boolean NOT NULL,
  query_count integer DEFAULT 0 NOT NULL,
  next_query_at timestamp with time zone,
  channel_refund_id text,
  done_at timestamp with time zone,
  failure_code text,
  correlation_id text NOT NULL,
  version bigint NOT NULL,
  event_seq bigint NOT NULL,
  created_at timestamp with time zone NOT NULL,
  updated_at timestamp with time zone NOT NULL,
  request_id uuid,
  CONSTRAINT refund_amount_minor_check CHECK (((amount_minor >= 1) AND (amount_minor <= '1000000000000'::bigint))),
  CONSTRAINT refund_attempt_no_check CHECK ((attempt_no ~ '^[0-9A-Z]{26}$'::text)),
  CONSTRAINT refund_channel_check CHECK (((length(channel) >= 1) AND (length(channel) <= 32))),
  CONSTRAINT refund_channel_refund_id_check CHECK (((length(channel_refund_id) >= 1) AND (length(channel_refund_id) <= 64))),
  CONSTRAINT refund_channel_txn_id_check CHECK (((length(channel_txn_id) >= 1) AND (length(channel_txn_id) <= 64))),
  CONSTRAINT refund_check CHECK ((amount_minor <= total_minor)),
  CONSTRAINT refund_check1 CHECK (((status = 'SUCCEEDED'::text) = (done_at IS NOT NULL))),
  CONSTRAINT refund_check2 CHECK (((status = 'FAILED'::text) = (failure_code IS NOT NULL))),
  CONSTRAINT refund_check3 CHECK (((status <> ALL (ARRAY['SUCCEEDED'::text, 'FAILED'::text])) OR (next_query_at IS NULL))),
  CONSTRAINT refund_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 200))),
  CONSTRAINT refund_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
  CONSTRAINT refund_event_seq_check CHECK ((event_seq > 0)),
  CONSTRAINT refund_failure_code_check CHECK (((length(failure_code) >= 1) AND (length(failure_code) <= 64))),
  CONSTRAINT refund_note_check CHECK (((length(note) >= 1) AND (length(note) <= 80))),
  CONSTRAINT refund_query_count_check CHECK ((query_count >= 0)),
  CONSTRAINT refund_reason_check CHECK ((reason = ANY (ARRAY['merchant'::text, 'late'::text, 'duplicate'::text, 'mismatch'::text]))),
  CONSTRAINT refund_refund_no_check CHECK ((refund_no ~ '^[0-9A-Z]{26}$'::text)),
  CONSTRAINT refund_status_check CHECK ((status = ANY (ARRAY['REQUESTED'::text, 'PROCESSING'::text, 'SUCCEEDED'::text, 'FAILED'::text, 'ABNORMAL'::text]))),
  CONSTRAINT refund_total_minor_check CHECK (((total_minor >= 1) AND (total_minor <= '1000000000000'::bigint))),
  CONSTRAINT refund_version_check CHECK ((version > 0)),
  CONSTRAINT refund_payment_id_fkey FOREIGN KEY (payment_id) REFERENCES payment(payment_id),
  CONSTRAINT refund_pkey PRIMARY KEY (refund_id),
  CONSTRAINT refund_refund_no_key UNIQUE (refund_no)
) WITH (fillfactor=80);
CREATE INDEX refund_due ON refund USING btree (next_query_at) WHERE (next_query_at IS NOT NULL);
CREATE UNIQUE INDEX refund_of_request ON refund USING btree (request_id) WHERE (request_id IS NOT NULL);
CREATE INDEX refund_payment ON refund USING btree (payment_id, refund_id);
CREATE UNIQUE INDEX refund_sent_back ON refund USING btree (payment_id, reason) WHERE (reason <> 'merchant'::text);
GRANT INSERT, SELECT, UPDATE ON refund TO defray_payment;

CREATE TABLE refund_evidence (
  evidence_id uuid NOT NULL,
  channel text NOT NULL,
  refund_no text,
  refund_id uuid,
  source text NOT NULL,
  cause text NOT NULL,
  report text NOT NULL,
  native_state text NOT NULL,
  claim text NOT NULL,
  checks text NOT NULL,
  verdict text NOT NULL,
  recorded_at timestamp with time zone NOT NULL,
  CONSTRAINT refund_evidence_cause_check CHECK (((length(cause) >= 1) AND (length(cause) <= 200))),
  CONSTRAINT refund_evidence_channel_check CHECK (((length(channel) >= 1) AND (length(channel) <= 32))),
  CONSTRAINT refund_evidence_checks_check CHECK ((length(checks) <= 8192)),
  CONSTRAINT refund_evidence_claim_check CHECK ((length(claim) <= 4096)),
  CONSTRAINT refund_evidence_native_state_check CHECK ((length(native_state) <= 64)),
  CONSTRAINT refund_evidence_refund_no_check CHECK (((length(refund_no) >= 1) AND (length(refund_no) <= 64))),
  CONSTRAINT refund_evidence_report_check CHECK (((length(report) >= 1) AND (length(report) <= 32))),
  CONSTRAINT refund_evidence_source_check CHECK ((source = ANY (ARRAY['callback'::text, 'query'::text, 'create'::text]))),
  CONSTRAINT refund_evidence_verdict_check CHECK (((length(verdict) >= 1) AND (length(verdict) <= 64))),
  CONSTRAINT refund_evidence_pkey PRIMARY KEY (evidence_id)
);
CREATE INDEX refund_evidence_refund ON refund_evidence USING btree (refund_id) WHERE (refund_id IS NOT NULL);
GRANT INSERT, SELECT ON refund_evidence TO defray_payment;

CREATE TABLE refund_refusal (
  request_id uuid NOT NULL,
  order_id uuid NOT NULL,
  payment_id uuid NOT NULL,
  amount_minor bigint NOT NULL,
  code text NOT NULL,
  cause text NOT NULL,
  correlation_id text NOT NULL,
  refused_at timestamp with time zone NOT NULL,
  CONSTRAINT refund_refusal_amount_minor_check CHECK (((amount_minor >= 1) AND (amount_minor <= '1000000000000'::bigint))),
  CONSTRAINT refund_refusal_cause_check CHECK (((length(cause) >= 1) AND (length(cause) <= 200))),
  CONSTRAINT refund_refusal_code_check CHECK (((length(code) >= 1) AND (length(code) <= 64))),
  CONSTRAINT refund_refusal_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 200))),
  CONSTRAINT refund_refusal_pkey PRIMARY KEY (request_id)
);
GRANT INSERT, SELECT ON refund_refusal TO defray_payment;

CREATE TABLE refund_transition (
  refund_id uuid NOT NULL,
  version bigint NOT NULL,
  from_status text,
  to_status text NOT NULL,
  cause text NOT NULL,
  correlation_id text NOT NULL,
  at timestamp with time zone NOT NULL,
  CONSTRAINT refund_transition_cause_check CHECK (((length(cause) >= 1) AND (length(cause) <= 200))),
  CONSTRAINT refund_transition_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 200))),
  CONSTRAINT refund_transition_from_status_check CHECK (((length(from_status) >= 1) AND (length(from_status) <= 32))),
  CONSTRAINT refund_transition_to_status_check CHECK (((length(to_status) >= 1) AND (length(to_status) <= 32))),
  CONSTRAINT refund_transition_pkey PRIMARY KEY (refund_id, version)
);
GRANT INSERT, SELECT ON refund_transition TO defray_payment;

CREATE TABLE schema_history (
  source text NOT NULL,
  version text NOT NULL,
  checksum text NOT NULL,
  applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
  CONSTRAINT schema_history_pkey PRIMARY KEY (source, version)
);
GRANT SELECT ON schema_history TO defray_payment;

CREATE OR REPLACE FUNCTION day_bound(day date, by_uuid boolean)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE STRICT
AS $function$
  SELECT CASE WHEN by_uuid
    THEN (lpad(to_hex((extract(epoch FROM day::timestamp) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid::text
    ELSE to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00' END
$function$;
-- defray_payment may call it.

CREATE OR REPLACE FUNCTION drop_daily_partitions(parent text, before date)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'payments', 'pg_temp'
 SET lock_timeout TO '2s'
AS $function$
DECLARE
  keep integer;
  child record;
  dropped integer := 0;
BEGIN
  SELECT keep_days INTO keep FROM daily_table WHERE name = parent;
  IF keep IS NULL THEN
    RAISE EXCEPTION '% is not a daily table', parent;
  END IF;
  IF before > (clock_timestamp() AT TIME ZONE 'UTC')::date - keep THEN
    RAISE EXCEPTION 'partitions of % are kept for % days', parent, keep;
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('ensure_daily_partitions'), hashtext(current_schema()));
  FOR child IN
    SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = parent::regclass AND c.relname ~ '_[0-9]{8}$'
      AND to_date(right(c.relname, 8), 'YYYYMMDD') < before
  LOOP
    EXECUTE format('DROP TABLE %I', child.name);
    dropped := dropped + 1;
  END LOOP;
  RETURN dropped;
END
$function$;
-- defray_payment may call it.

CREATE OR REPLACE FUNCTION ensure_daily_partitions(parent text, first_day date, days integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'payments', 'pg_temp'
 SET lock_timeout TO '2s'
AS $function$
DECLARE
  by_uuid boolean;
  made integer := 0;
  day date;
BEGIN
  IF NOT EXISTS (SELECT FROM daily_table WHERE name = parent) THEN
    RAISE EXCEPTION '% is not a daily table', parent;
  END IF;
  IF days NOT BETWEEN 1 AND 100 THEN
    RAISE EXCEPTION 'between 1 and 100 days at once';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('ensure_daily_partitions'), hashtext(current_schema()));
  SELECT a.atttypid = 'uuid'::regtype INTO STRICT by_uuid
  FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
  WHERE p.partrelid = parent::regclass;
  FOR day IN SELECT first_day + n FROM generate_series(0, days - 1) AS n LOOP
    IF to_regclass(format('%I', parent || to_char(day, '_YYYYMMDD'))) IS NULL THEN
      EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
        parent || to_char(day, '_YYYYMMDD'), parent, day_bound(day, by_uuid), day_bound(day + 1, by_uuid));
      made := made + 1;
    END IF;
  END LOOP;
  RETURN made;
END
$function$;
-- defray_payment may call it.
