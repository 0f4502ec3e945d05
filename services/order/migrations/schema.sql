-- The sum of this service's migrations and the kernel's, written by `make contracts`; it is read, never applied.

CREATE TABLE audit_head (
  only_row boolean DEFAULT true NOT NULL,
  seq bigint NOT NULL,
  hash bytea NOT NULL,
  CONSTRAINT audit_head_hash_check CHECK ((length(hash) = 32)),
  CONSTRAINT audit_head_only_row_check CHECK (only_row),
  CONSTRAINT audit_head_seq_check CHECK ((seq >= 0)),
  CONSTRAINT audit_head_pkey PRIMARY KEY (only_row)
);
GRANT SELECT, UPDATE (seq, hash) ON audit_head TO defray_order;

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
GRANT INSERT, SELECT ON audit_log TO defray_order;

CREATE TABLE benefit (
  benefit_id uuid NOT NULL,
  merchant_id uuid NOT NULL,
  name text NOT NULL,
  kind text NOT NULL,
  units bigint NOT NULL,
  currency text,
  value text,
  cap_minor bigint,
  minimum_minor bigint,
  uses_max integer NOT NULL,
  valid_from timestamp with time zone,
  valid_until timestamp with time zone,
  valid_days integer,
  by_rule boolean NOT NULL,
  rule_minor bigint,
  rule_from timestamp with time zone,
  rule_until timestamp with time zone,
  stock_left integer,
  created_at timestamp with time zone NOT NULL,
  archived_at timestamp with time zone,
  CONSTRAINT benefit_cap_minor_check CHECK (((cap_minor >= 1) AND (cap_minor <= '1000000000000'::bigint))),
  CONSTRAINT benefit_check CHECK ((((kind = 'coupon'::text) = (value IS NOT NULL)) AND ((kind = 'coupon'::text) = (minimum_minor IS NOT NULL)))),
  CONSTRAINT benefit_check1 CHECK (((kind <> 'coupon'::text) OR (currency IS NOT NULL))),
  CONSTRAINT benefit_check2 CHECK (((kind = 'coupon'::text) OR (uses_max = 1))),
  CONSTRAINT benefit_check3 CHECK (((value IS DISTINCT FROM 'percent'::text) OR (units <= 10000))),
  CONSTRAINT benefit_check4 CHECK (((kind <> 'entitlement'::text) OR (units = 1))),
  CONSTRAINT benefit_check5 CHECK ((by_rule = (rule_minor IS NOT NULL))),
  CONSTRAINT benefit_check6 CHECK (((rule_minor IS NULL) OR (rule_minor = 0) OR (currency IS NOT NULL))),
  CONSTRAINT benefit_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
  CONSTRAINT benefit_kind_check CHECK ((kind = ANY (ARRAY['coupon'::text, 'points'::text, 'entitlement'::text]))),
  CONSTRAINT benefit_minimum_minor_check CHECK (((minimum_minor >= 0) AND (minimum_minor <= '1000000000000'::bigint))),
  CONSTRAINT benefit_name_check CHECK (((length(name) >= 1) AND (length(name) <= 100))),
  CONSTRAINT benefit_rule_minor_check CHECK (((rule_minor >= 0) AND (rule_minor <= '1000000000000'::bigint))),
  CONSTRAINT benefit_stock_left_check CHECK (((stock_left >= 0) AND (stock_left <= 1000000000))),
  CONSTRAINT benefit_units_check CHECK (((units >= 1) AND (units <= '1000000000000'::bigint))),
  CONSTRAINT benefit_uses_max_check CHECK (((uses_max >= 1) AND (uses_max <= 1000))),
  CONSTRAINT benefit_valid_days_check CHECK (((valid_days >= 1) AND (valid_days <= 3650))),
  CONSTRAINT benefit_value_check CHECK ((value = ANY (ARRAY['fixed'::text, 'percent'::text]))),
  CONSTRAINT benefit_pkey PRIMARY KEY (benefit_id)
);
CREATE INDEX benefit_of_merchant ON benefit USING btree (merchant_id, benefit_id);
CREATE INDEX benefit_rule ON benefit USING btree (merchant_id, benefit_id) WHERE (by_rule AND (archived_at IS NULL));
GRANT INSERT, SELECT, UPDATE (stock_left, archived_at) ON benefit TO defray_order;

CREATE TABLE buyer_digest (
  digest bytea NOT NULL,
  order_id uuid NOT NULL,
  kind text NOT NULL,
  CONSTRAINT buyer_digest_digest_check CHECK ((length(digest) = 32)),
  CONSTRAINT buyer_digest_kind_check CHECK ((kind = ANY (ARRAY['email'::text, 'phone'::text, 'customer_ref'::text]))),
  CONSTRAINT buyer_digest_order_id_fkey FOREIGN KEY (order_id) REFERENCES order_buyer(order_id),
  CONSTRAINT buyer_digest_pkey PRIMARY KEY (digest, order_id)
);
CREATE INDEX buyer_digest_order ON buyer_digest USING btree (order_id);
GRANT DELETE, INSERT, SELECT ON buyer_digest TO defray_order;

CREATE TABLE buyer_key (
  order_id uuid NOT NULL,
  key_sealed bytea NOT NULL,
  CONSTRAINT buyer_key_key_sealed_check CHECK (((length(key_sealed) >= 48) AND (length(key_sealed) <= 512))),
  CONSTRAINT buyer_key_order_id_fkey FOREIGN KEY (order_id) REFERENCES order_buyer(order_id),
  CONSTRAINT buyer_key_pkey PRIMARY KEY (order_id)
);
GRANT DELETE, INSERT, SELECT ON buyer_key TO defray_order;

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
GRANT INSERT, SELECT, UPDATE ON consumer_offset TO defray_order;

CREATE TABLE coupon_code (
  digest bytea NOT NULL,
  grant_id uuid NOT NULL,
  CONSTRAINT coupon_code_digest_check CHECK ((length(digest) = 32)),
  CONSTRAINT coupon_code_grant_id_fkey FOREIGN KEY (grant_id) REFERENCES fulfilment_grant(grant_id),
  CONSTRAINT coupon_code_pkey PRIMARY KEY (digest),
  CONSTRAINT coupon_code_grant_id_key UNIQUE (grant_id)
);
GRANT INSERT, SELECT ON coupon_code TO defray_order;

CREATE TABLE coupon_use (
  order_id uuid NOT NULL,
  grant_id uuid NOT NULL,
  position smallint NOT NULL,
  state text NOT NULL,
  worth bigint NOT NULL,
  base_minor bigint NOT NULL,
  amount_minor bigint NOT NULL,
  CONSTRAINT coupon_use_base_minor_check CHECK (((base_minor >= 1) AND (base_minor <= '1000000000000'::bigint))),
  CONSTRAINT coupon_use_check CHECK (((amount_minor >= 1) AND (amount_minor <= base_minor))),
  CONSTRAINT coupon_use_position_check CHECK ((("position" >= 1) AND ("position" <= 5))),
  CONSTRAINT coupon_use_state_check CHECK ((state = ANY (ARRAY['RESERVED'::text, 'USED'::text, 'RELEASED'::text]))),
  CONSTRAINT coupon_use_worth_check CHECK (((worth >= 1) AND (worth <= '1000000000000'::bigint))),
  CONSTRAINT coupon_use_grant_id_fkey FOREIGN KEY (grant_id) REFERENCES fulfilment_grant(grant_id),
  CONSTRAINT coupon_use_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders(order_id),
  CONSTRAINT coupon_use_pkey PRIMARY KEY (order_id, grant_id)
);
CREATE INDEX coupon_use_of_grant ON coupon_use USING btree (grant_id);
GRANT INSERT, SELECT, UPDATE (state) ON coupon_use TO defray_order;

CREATE TABLE daily_table (
  name text NOT NULL,
  keep_days integer NOT NULL,
  CONSTRAINT daily_table_keep_days_check CHECK ((keep_days >= 1)),
  CONSTRAINT daily_table_pkey PRIMARY KEY (name)
);
GRANT SELECT ON daily_table TO defray_order;

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
GRANT INSERT, SELECT ON event_log TO defray_order;

CREATE TABLE exception_case (
  case_id uuid NOT NULL,
  order_id uuid NOT NULL,
  reason text NOT NULL,
  subject text NOT NULL,
  detail text NOT NULL,
  state text DEFAULT 'OPEN'::text NOT NULL,
  opened_at timestamp with time zone NOT NULL,
  correlation_id text NOT NULL,
  causation_id text,
  resolved_at timestamp with time zone,
  resolved_by text,
  resolution text,
  CONSTRAINT exception_case_causation_id_check CHECK ((length(causation_id) <= 128)),
  CONSTRAINT exception_case_check CHECK (((state = 'RESOLVED'::text) = ((resolved_at IS NOT NULL) AND (resolved_by IS NOT NULL) AND (resolution IS NOT NULL)))),
  CONSTRAINT exception_case_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 128))),
  CONSTRAINT exception_case_detail_check CHECK ((length(detail) <= 500)),
  CONSTRAINT exception_case_reason_check CHECK (((length(reason) >= 1) AND (length(reason) <= 64))),
  CONSTRAINT exception_case_resolution_check CHECK (((length(resolution) >= 1) AND (length(resolution) <= 500))),
  CONSTRAINT exception_case_resolved_by_check CHECK (((length(resolved_by) >= 1) AND (length(resolved_by) <= 200))),
  CONSTRAINT exception_case_state_check CHECK ((state = ANY (ARRAY['OPEN'::text, 'RESOLVED'::text]))),
  CONSTRAINT exception_case_subject_check CHECK (((length(subject) >= 1) AND (length(subject) <= 64))),
  CONSTRAINT exception_case_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders(order_id),
  CONSTRAINT exception_case_pkey PRIMARY KEY (case_id),
  CONSTRAINT exception_case_order_id_reason_subject_key UNIQUE (order_id, reason, subject)
);
CREATE INDEX exception_case_open ON exception_case USING btree (case_id) WHERE (state = 'OPEN'::text);
GRANT INSERT, SELECT, UPDATE (state, resolved_at, resolved_by, resolution) ON exception_case TO defray_order;

CREATE TABLE fulfilment_grant (
  grant_id uuid NOT NULL,
  order_id uuid NOT NULL,
  merchant_id uuid NOT NULL,
  line smallint NOT NULL,
  kind text NOT NULL,
  benefit_id uuid NOT NULL,
  state text NOT NULL,
  units bigint NOT NULL,
  recalled bigint NOT NULL,
  uses_max integer NOT NULL,
  reserved integer NOT NULL,
  used integer NOT NULL,
  tries integer NOT NULL,
  due_at timestamp with time zone,
  failure text,
  planned_at timestamp with time zone NOT NULL,
  granted_at timestamp with time zone,
  valid_from timestamp with time zone,
  valid_until timestamp with time zone,
  correlation_id text NOT NULL,
  version integer NOT NULL,
  event_seq integer NOT NULL,
  CONSTRAINT fulfilment_grant_check CHECK (((recalled >= 0) AND (recalled <= units))),
  CONSTRAINT fulfilment_grant_check1 CHECK (((reserved + used) <= uses_max)),
  CONSTRAINT fulfilment_grant_check2 CHECK (((state <> 'USED'::text) OR (used = uses_max))),
  CONSTRAINT fulfilment_grant_check3 CHECK (((state = 'PENDING'::text) = (due_at IS NOT NULL))),
  CONSTRAINT fulfilment_grant_check4 CHECK (((state = 'FAILED'::text) = (failure IS NOT NULL))),
  CONSTRAINT fulfilment_grant_check5 CHECK (((granted_at IS NOT NULL) OR (state = ANY (ARRAY['PENDING'::text, 'REVOKED'::text, 'FAILED'::text])))),
  CONSTRAINT fulfilment_grant_check6 CHECK (((granted_at IS NOT NULL) OR ((reserved + used) = 0))),
  CONSTRAINT fulfilment_grant_check7 CHECK (((state <> 'REVOKED'::text) OR (recalled = units))),
  CONSTRAINT fulfilment_grant_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 128))),
  CONSTRAINT fulfilment_grant_event_seq_check CHECK ((event_seq >= 0)),
  CONSTRAINT fulfilment_grant_failure_check CHECK (((length(failure) >= 1) AND (length(failure) <= 64))),
  CONSTRAINT fulfilment_grant_kind_check CHECK ((kind = ANY (ARRAY['coupon'::text, 'points'::text, 'entitlement'::text]))),
  CONSTRAINT fulfilment_grant_line_check CHECK (((line >= 0) AND (line <= 100))),
  CONSTRAINT fulfilment_grant_reserved_check CHECK ((reserved >= 0)),
  CONSTRAINT fulfilment_grant_state_check CHECK ((state = ANY (ARRAY['PENDING'::text, 'GRANTED'::text, 'USED'::text, 'REVOKED'::text, 'FAILED'::text]))),
  CONSTRAINT fulfilment_grant_tries_check CHECK (((tries >= 0) AND (tries <= 100))),
  CONSTRAINT fulfilment_grant_units_check CHECK (((units >= 1) AND (units <= '1000000000000'::bigint))),
  CONSTRAINT fulfilment_grant_used_check CHECK ((used >= 0)),
  CONSTRAINT fulfilment_grant_uses_max_check CHECK (((uses_max >= 1) AND (uses_max <= 1000))),
  CONSTRAINT fulfilment_grant_version_check CHECK ((version >= 1)),
  CONSTRAINT fulfilment_grant_benefit_id_fkey FOREIGN KEY (benefit_id) REFERENCES benefit(benefit_id),
  CONSTRAINT fulfilment_grant_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders(order_id),
  CONSTRAINT fulfilment_grant_pkey PRIMARY KEY (grant_id),
  CONSTRAINT fulfilment_grant_order_id_line_kind_key UNIQUE (order_id, line, kind)
);
CREATE INDEX fulfilment_grant_due ON fulfilment_grant USING btree (due_at) WHERE (due_at IS NOT NULL);
GRANT INSERT, SELECT, UPDATE (state, recalled, reserved, used, tries, due_at, failure, granted_at, valid_from, valid_until, version, event_seq) ON fulfilment_grant TO defray_order;

CREATE TABLE grant_debt (
  grant_id uuid NOT NULL,
  used_on uuid NOT NULL,
  order_id uuid NOT NULL,
  currency text NOT NULL,
  debt_minor bigint NOT NULL,
  CONSTRAINT grant_debt_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
  CONSTRAINT grant_debt_debt_minor_check CHECK (((debt_minor >= 0) AND (debt_minor <= '1000000000000'::bigint))),
  CONSTRAINT grant_debt_grant_id_fkey FOREIGN KEY (grant_id) REFERENCES fulfilment_grant(grant_id),
  CONSTRAINT grant_debt_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders(order_id),
  CONSTRAINT grant_debt_used_on_fkey FOREIGN KEY (used_on) REFERENCES orders(order_id),
  CONSTRAINT grant_debt_pkey PRIMARY KEY (grant_id, used_on)
);
CREATE INDEX grant_debt_of_order ON grant_debt USING btree (order_id);
GRANT INSERT, SELECT, UPDATE (debt_minor) ON grant_debt TO defray_order;

CREATE TABLE grant_step (
  grant_id uuid NOT NULL,
  version integer NOT NULL,
  step smallint NOT NULL,
  kind text NOT NULL,
  state text NOT NULL,
  units bigint,
  amount_minor bigint,
  used_on uuid,
  at timestamp with time zone NOT NULL,
  correlation_id text NOT NULL,
  causation_id text,
  traceparent text,
  event_id uuid,
  event_type text,
  CONSTRAINT grant_step_causation_id_check CHECK ((length(causation_id) <= 128)),
  CONSTRAINT grant_step_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 128))),
  CONSTRAINT grant_step_event_type_check CHECK (((length(event_type) >= 1) AND (length(event_type) <= 64))),
  CONSTRAINT grant_step_kind_check CHECK ((kind = ANY (ARRAY['planned'::text, 'given'::text, 'gave_up'::text, 'reserved'::text, 'used'::text, 'released'::text, 'recalled'::text, 'owed'::text]))),
  CONSTRAINT grant_step_state_check CHECK ((length(state) <= 32)),
  CONSTRAINT grant_step_step_check CHECK (((step >= 1) AND (step <= 10))),
  CONSTRAINT grant_step_traceparent_check CHECK ((length(traceparent) <= 64)),
  CONSTRAINT grant_step_version_check CHECK ((version >= 1)),
  CONSTRAINT grant_step_grant_id_fkey FOREIGN KEY (grant_id) REFERENCES fulfilment_grant(grant_id),
  CONSTRAINT grant_step_pkey PRIMARY KEY (grant_id, version, step)
);
GRANT INSERT, SELECT ON grant_step TO defray_order;

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
GRANT DELETE, INSERT, SELECT, UPDATE ON idempotency_key TO defray_order;

CREATE TABLE inbound_rejected (
  rejected_id uuid NOT NULL,
  topic text NOT NULL,
  part integer NOT NULL,
  part_offset bigint NOT NULL,
  recorded_at timestamp with time zone NOT NULL,
  truncated boolean NOT NULL,
  reason text NOT NULL,
  field text NOT NULL,
  detail text NOT NULL,
  state text DEFAULT 'OPEN'::text NOT NULL,
  rejected_at timestamp with time zone NOT NULL,
  tries integer DEFAULT 1 NOT NULL,
  ended_at timestamp with time zone,
  ended_by text,
  record_sealed bytea,
  value_bytes integer DEFAULT 0 NOT NULL,
  value_digest bytea,
  CONSTRAINT inbound_rejected_check CHECK (((state = 'OPEN'::text) = (ended_at IS NULL))),
  CONSTRAINT inbound_rejected_check1 CHECK (((ended_at IS NULL) = (ended_by IS NULL))),
  CONSTRAINT inbound_rejected_check2 CHECK ((truncated OR (record_sealed IS NOT NULL))),
  CONSTRAINT inbound_rejected_detail_check CHECK ((length(detail) <= 300)),
  CONSTRAINT inbound_rejected_ended_by_check CHECK (((length(ended_by) >= 1) AND (length(ended_by) <= 200))),
  CONSTRAINT inbound_rejected_field_check CHECK (((length(field) >= 1) AND (length(field) <= 200))),
  CONSTRAINT inbound_rejected_part_check CHECK ((part >= 0)),
  CONSTRAINT inbound_rejected_part_offset_check CHECK ((part_offset >= 0)),
  CONSTRAINT inbound_rejected_reason_check CHECK (((length(reason) >= 1) AND (length(reason) <= 64))),
  CONSTRAINT inbound_rejected_record_sealed_check CHECK (((length(record_sealed) >= 30) AND (length(record_sealed) <= 262144))),
  CONSTRAINT inbound_rejected_state_check CHECK ((state = ANY (ARRAY['OPEN'::text, 'REDRIVEN'::text, 'DISMISSED'::text]))),
  CONSTRAINT inbound_rejected_topic_check CHECK (((length(topic) >= 1) AND (length(topic) <= 249))),
  CONSTRAINT inbound_rejected_tries_check CHECK ((tries >= 1)),
  CONSTRAINT inbound_rejected_value_bytes_check CHECK ((value_bytes >= 0)),
  CONSTRAINT inbound_rejected_value_digest_check CHECK ((length(value_digest) = 32)),
  CONSTRAINT inbound_rejected_pkey PRIMARY KEY (rejected_id)
);
CREATE INDEX inbound_rejected_open ON inbound_rejected USING btree (rejected_id) WHERE (state = 'OPEN'::text);
GRANT DELETE, INSERT, SELECT, UPDATE (reason, field, detail, state, tries, ended_at, ended_by) ON inbound_rejected TO defray_order;

CREATE TABLE inbound_seen (
  digest bytea NOT NULL,
  content_hash bytea NOT NULL,
  seen_at timestamp with time zone NOT NULL,
  CONSTRAINT inbound_seen_content_hash_check CHECK ((length(content_hash) = 32)),
  CONSTRAINT inbound_seen_digest_check CHECK ((length(digest) = 32)),
  CONSTRAINT inbound_seen_pkey PRIMARY KEY (digest)
);
CREATE INDEX inbound_seen_age ON inbound_seen USING btree (seen_at);
GRANT DELETE, INSERT, SELECT ON inbound_seen TO defray_order;

CREATE TABLE inbound_waiting (
  id bigint GENERATED ALWAYS AS IDENTITY NOT NULL,
  merchant_id uuid NOT NULL,
  topic text NOT NULL,
  part integer NOT NULL,
  part_offset bigint NOT NULL,
  recorded_at timestamp with time zone NOT NULL,
  key bytea NOT NULL,
  headers bytea NOT NULL,
  payload bytea NOT NULL,
  give_up_at timestamp with time zone NOT NULL,
  CONSTRAINT inbound_waiting_headers_check CHECK ((length(headers) <= 131072)),
  CONSTRAINT inbound_waiting_key_check CHECK (((length(key) >= 1) AND (length(key) <= 256))),
  CONSTRAINT inbound_waiting_part_check CHECK ((part >= 0)),
  CONSTRAINT inbound_waiting_part_offset_check CHECK ((part_offset >= 0)),
  CONSTRAINT inbound_waiting_payload_check CHECK ((length(payload) <= 65536)),
  CONSTRAINT inbound_waiting_topic_check CHECK (((length(topic) >= 1) AND (length(topic) <= 249))),
  CONSTRAINT inbound_waiting_pkey PRIMARY KEY (id)
);
CREATE INDEX inbound_waiting_key ON inbound_waiting USING btree (key, id);
GRANT DELETE, INSERT, SELECT, UPDATE (give_up_at) ON inbound_waiting TO defray_order;

CREATE TABLE inbox (
  consumer text NOT NULL,
  event_id uuid NOT NULL,
  CONSTRAINT inbox_consumer_check CHECK (((octet_length(consumer) >= 1) AND (octet_length(consumer) <= 100))),
  CONSTRAINT inbox_pkey PRIMARY KEY (consumer, event_id)
) PARTITION BY RANGE (event_id);
GRANT INSERT, SELECT ON inbox TO defray_order;

CREATE TABLE kernel_setting (
  name text NOT NULL,
  value text NOT NULL,
  CONSTRAINT kernel_setting_name_check CHECK (((octet_length(name) >= 1) AND (octet_length(name) <= 100))),
  CONSTRAINT kernel_setting_value_check CHECK ((octet_length(value) <= 1000)),
  CONSTRAINT kernel_setting_pkey PRIMARY KEY (name)
);
GRANT SELECT ON kernel_setting TO defray_order;

CREATE TABLE made_key (
  name text NOT NULL,
  key_sealed bytea NOT NULL,
  CONSTRAINT made_key_key_sealed_check CHECK (((length(key_sealed) >= 48) AND (length(key_sealed) <= 512))),
  CONSTRAINT made_key_name_check CHECK (((length(name) >= 1) AND (length(name) <= 64))),
  CONSTRAINT made_key_pkey PRIMARY KEY (name)
);
GRANT INSERT, SELECT ON made_key TO defray_order;

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
GRANT INSERT, SELECT, UPDATE ON merchant TO defray_order;

CREATE TABLE order_benefit (
  order_id uuid NOT NULL,
  line smallint NOT NULL,
  benefit_id uuid NOT NULL,
  CONSTRAINT order_benefit_line_check CHECK (((line >= 1) AND (line <= 100))),
  CONSTRAINT order_benefit_benefit_id_fkey FOREIGN KEY (benefit_id) REFERENCES benefit(benefit_id),
  CONSTRAINT order_benefit_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders(order_id),
  CONSTRAINT order_benefit_pkey PRIMARY KEY (order_id, line, benefit_id)
);
GRANT INSERT, SELECT ON order_benefit TO defray_order;

CREATE TABLE order_buyer (
  order_id uuid NOT NULL,
  enciphered bytea NOT NULL,
  erased_at timestamp with time zone,
  CONSTRAINT order_buyer_enciphered_check CHECK (((length(enciphered) >= 32) AND (length(enciphered) <= 4096))),
  CONSTRAINT order_buyer_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders(order_id),
  CONSTRAINT order_buyer_pkey PRIMARY KEY (order_id)
);
GRANT INSERT, SELECT, UPDATE (erased_at) ON order_buyer TO defray_order;

CREATE TABLE order_heard (
  order_id uuid NOT NULL,
  event_id uuid NOT NULL,
  event_type text NOT NULL,
  subject text NOT NULL,
  status text,
  currency text,
  amount_minor bigint,
  occurred_at timestamp with time zone NOT NULL,
  correlation_id text NOT NULL,
  causation_id text,
  CONSTRAINT order_heard_amount_minor_check CHECK (((amount_minor >= 0) AND (amount_minor <= '1000000000000'::bigint))),
  CONSTRAINT order_heard_causation_id_check CHECK ((length(causation_id) <= 128)),
  CONSTRAINT order_heard_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 128))),
  CONSTRAINT order_heard_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
  CONSTRAINT order_heard_event_type_check CHECK (((length(event_type) >= 1) AND (length(event_type) <= 64))),
  CONSTRAINT order_heard_status_check CHECK (((length(status) >= 1) AND (length(status) <= 32))),
  CONSTRAINT order_heard_subject_check CHECK (((length(subject) >= 1) AND (length(subject) <= 64))),
  CONSTRAINT order_heard_pkey PRIMARY KEY (order_id, event_id)
);
GRANT INSERT, SELECT ON order_heard TO defray_order;

CREATE TABLE order_item (
  order_id uuid NOT NULL,
  line smallint NOT NULL,
  sku text NOT NULL,
  title text NOT NULL,
  quantity integer NOT NULL,
  unit_amount_minor bigint NOT NULL,
  discount_minor bigint NOT NULL,
  amount_minor bigint NOT NULL,
  CONSTRAINT order_item_amount_minor_check CHECK (((amount_minor >= 0) AND (amount_minor <= '1000000000000'::bigint))),
  CONSTRAINT order_item_check CHECK ((amount_minor = ((quantity * unit_amount_minor) - discount_minor))),
  CONSTRAINT order_item_discount_minor_check CHECK (((discount_minor >= 0) AND (discount_minor <= '1000000000000'::bigint))),
  CONSTRAINT order_item_line_check CHECK (((line >= 1) AND (line <= 100))),
  CONSTRAINT order_item_quantity_check CHECK (((quantity >= 1) AND (quantity <= 1000000))),
  CONSTRAINT order_item_sku_check CHECK (((length(sku) >= 1) AND (length(sku) <= 64))),
  CONSTRAINT order_item_title_check CHECK (((length(title) >= 1) AND (length(title) <= 200))),
  CONSTRAINT order_item_unit_amount_minor_check CHECK (((unit_amount_minor >= 0) AND (unit_amount_minor <= '1000000000000'::bigint))),
  CONSTRAINT order_item_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders(order_id),
  CONSTRAINT order_item_pkey PRIMARY KEY (order_id, line)
);
GRANT INSERT, SELECT ON order_item TO defray_order;

CREATE TABLE order_payment (
  payment_id uuid NOT NULL,
  order_id uuid NOT NULL,
  status text NOT NULL,
  currency text NOT NULL,
  amount_minor bigint NOT NULL,
  channel text NOT NULL,
  paid_minor bigint,
  paid_at timestamp with time zone,
  last_seq integer NOT NULL,
  CONSTRAINT order_payment_amount_minor_check CHECK (((amount_minor >= 0) AND (amount_minor <= '1000000000000'::bigint))),
  CONSTRAINT order_payment_channel_check CHECK (((length(channel) >= 1) AND (length(channel) <= 64))),
  CONSTRAINT order_payment_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
  CONSTRAINT order_payment_last_seq_check CHECK ((last_seq >= 1)),
  CONSTRAINT order_payment_paid_minor_check CHECK (((paid_minor >= 0) AND (paid_minor <= '1000000000000'::bigint))),
  CONSTRAINT order_payment_status_check CHECK (((length(status) >= 1) AND (length(status) <= 32))),
  CONSTRAINT order_payment_pkey PRIMARY KEY (payment_id)
);
CREATE INDEX order_payment_of_order ON order_payment USING btree (order_id);
GRANT INSERT, SELECT, UPDATE ON order_payment TO defray_order;

CREATE TABLE order_refund (
  refund_id uuid NOT NULL,
  payment_id uuid NOT NULL,
  order_id uuid NOT NULL,
  status text NOT NULL,
  reason text NOT NULL,
  currency text NOT NULL,
  amount_minor bigint NOT NULL,
  requested_at timestamp with time zone NOT NULL,
  done_at timestamp with time zone,
  last_seq integer NOT NULL,
  CONSTRAINT order_refund_amount_minor_check CHECK (((amount_minor >= 0) AND (amount_minor <= '1000000000000'::bigint))),
  CONSTRAINT order_refund_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
  CONSTRAINT order_refund_last_seq_check CHECK ((last_seq >= 1)),
  CONSTRAINT order_refund_reason_check CHECK (((length(reason) >= 1) AND (length(reason) <= 32))),
  CONSTRAINT order_refund_status_check CHECK (((length(status) >= 1) AND (length(status) <= 32))),
  CONSTRAINT order_refund_pkey PRIMARY KEY (refund_id)
);
CREATE INDEX order_refund_of_order ON order_refund USING btree (order_id);
GRANT INSERT, SELECT, UPDATE ON order_refund TO defray_order;

CREATE TABLE order_transition (
  order_id uuid NOT NULL,
  version integer NOT NULL,
  from_state text,
  to_state text NOT NULL,
  report text,
  at timestamp with time zone NOT NULL,
  correlation_id text NOT NULL,
  causation_id text,
  traceparent text,
  note text,
  event_id uuid,
  event_type text,
  CONSTRAINT order_transition_causation_id_check CHECK ((length(causation_id) <= 128)),
  CONSTRAINT order_transition_check CHECK (((from_state IS NULL) = (version = 1))),
  CONSTRAINT order_transition_check1 CHECK (((from_state IS NULL) = (report IS NULL))),
  CONSTRAINT order_transition_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 128))),
  CONSTRAINT order_transition_event_type_check CHECK (((length(event_type) >= 1) AND (length(event_type) <= 64))),
  CONSTRAINT order_transition_from_state_check CHECK ((length(from_state) <= 32)),
  CONSTRAINT order_transition_note_check CHECK (((length(note) >= 1) AND (length(note) <= 200))),
  CONSTRAINT order_transition_report_check CHECK ((length(report) <= 32)),
  CONSTRAINT order_transition_to_state_check CHECK ((length(to_state) <= 32)),
  CONSTRAINT order_transition_traceparent_check CHECK ((length(traceparent) <= 64)),
  CONSTRAINT order_transition_version_check CHECK ((version >= 1)),
  CONSTRAINT order_transition_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders(order_id),
  CONSTRAINT order_transition_pkey PRIMARY KEY (order_id, version)
);
GRANT INSERT, SELECT ON order_transition TO defray_order;

CREATE TABLE orders (
  order_id uuid NOT NULL,
  merchant_id uuid NOT NULL,
  merchant_order_no text NOT NULL,
  state text NOT NULL,
  currency text NOT NULL,
  amount_minor bigint NOT NULL,
  content_hash bytea NOT NULL,
  correlation_id text NOT NULL,
  placed_at timestamp with time zone NOT NULL,
  expires_at timestamp with time zone NOT NULL,
  closing_reason text,
  paid_at timestamp with time zone,
  payment_id uuid,
  version integer NOT NULL,
  event_seq integer NOT NULL,
  refunded_minor bigint DEFAULT 0 NOT NULL,
  fulfilled_at timestamp with time zone,
  reopened boolean DEFAULT false NOT NULL,
  coupons_minor bigint DEFAULT 0 NOT NULL,
  CONSTRAINT orders_amount_minor_check CHECK (((amount_minor >= 0) AND (amount_minor <= '1000000000000'::bigint))),
  CONSTRAINT orders_check CHECK (((event_seq >= 1) AND (event_seq <= version))),
  CONSTRAINT orders_check1 CHECK ((expires_at > placed_at)),
  CONSTRAINT orders_check2 CHECK (((paid_at IS NOT NULL) = (state = ANY (ARRAY['PAID'::text, 'FULFILLED'::text, 'PARTIALLY_REFUNDED'::text, 'REFUNDED'::text])))),
  CONSTRAINT orders_check3 CHECK (((payment_id IS NOT NULL) = ((paid_at IS NOT NULL) AND (amount_minor > 0)))),
  CONSTRAINT orders_check4 CHECK (((closing_reason IS NOT NULL) OR (state <> ALL (ARRAY['CLOSING'::text, 'CANCELLED'::text, 'EXPIRED'::text])))),
  CONSTRAINT orders_closing_reason_check CHECK ((closing_reason = ANY (ARRAY['merchant'::text, 'customer'::text, 'system'::text, 'expired'::text]))),
  CONSTRAINT orders_content_hash_check CHECK ((length(content_hash) = 32)),
  CONSTRAINT orders_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 128))),
  CONSTRAINT orders_coupons_minor_check CHECK (((coupons_minor >= 0) AND (coupons_minor <= '1000000000000'::bigint))),
  CONSTRAINT orders_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
  CONSTRAINT orders_fulfilled_when_paid CHECK ((((fulfilled_at IS NULL) OR (paid_at IS NOT NULL)) AND ((state <> 'FULFILLED'::text) OR (fulfilled_at IS NOT NULL)) AND ((state <> 'PAID'::text) OR (fulfilled_at IS NULL)))),
  CONSTRAINT orders_merchant_order_no_check CHECK (((length(merchant_order_no) >= 1) AND (length(merchant_order_no) <= 64))),
  CONSTRAINT orders_refunded_within_total CHECK ((((refunded_minor >= 0) AND (refunded_minor <= amount_minor)) AND ((state = 'PARTIALLY_REFUNDED'::text) = ((refunded_minor > 0) AND (refunded_minor < amount_minor))) AND ((state = 'REFUNDED'::text) = ((refunded_minor > 0) AND (refunded_minor = amount_minor))))),
  CONSTRAINT orders_reopened_when_ended CHECK (((NOT reopened) OR ((paid_at IS NOT NULL) AND (closing_reason IS NOT NULL)))),
  CONSTRAINT orders_state_check CHECK ((state = ANY (ARRAY['PLACED'::text, 'CLOSING'::text, 'PAID'::text, 'FULFILLED'::text, 'PARTIALLY_REFUNDED'::text, 'REFUNDED'::text, 'CANCELLED'::text, 'EXPIRED'::text]))),
  CONSTRAINT orders_version_check CHECK ((version >= 1)),
  CONSTRAINT orders_pkey PRIMARY KEY (order_id),
  CONSTRAINT orders_merchant_id_merchant_order_no_key UNIQUE (merchant_id, merchant_order_no)
);
CREATE INDEX orders_due ON orders USING btree (expires_at) WHERE (state = 'PLACED'::text);
CREATE INDEX orders_merchant ON orders USING btree (merchant_id, placed_at, order_id);
CREATE UNIQUE INDEX orders_payment_pays_once ON orders USING btree (payment_id) WHERE (payment_id IS NOT NULL);
GRANT INSERT, SELECT, UPDATE (state, closing_reason, paid_at, payment_id, version, event_seq, refunded_minor, fulfilled_at, reopened) ON orders TO defray_order;

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
GRANT DELETE, INSERT, SELECT ON outbox TO defray_order;

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
GRANT DELETE, INSERT, SELECT ON parked_event TO defray_order;

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
GRANT DELETE, INSERT, SELECT, UPDATE ON parked_key TO defray_order;

CREATE TABLE refund_request (
  request_id uuid NOT NULL,
  order_id uuid NOT NULL,
  merchant_id uuid NOT NULL,
  payment_id uuid NOT NULL,
  origin text NOT NULL,
  currency text NOT NULL,
  amount_minor bigint NOT NULL,
  note text NOT NULL,
  state text NOT NULL,
  refund_id uuid,
  refund_seq integer DEFAULT 0 NOT NULL,
  grants_recalled integer NOT NULL,
  code text,
  requested_at timestamp with time zone NOT NULL,
  ended_at timestamp with time zone,
  correlation_id text NOT NULL,
  version integer NOT NULL,
  CONSTRAINT refund_request_amount_minor_check CHECK (((amount_minor >= 1) AND (amount_minor <= '1000000000000'::bigint))),
  CONSTRAINT refund_request_check CHECK (((state = ANY (ARRAY['SUCCEEDED'::text, 'FAILED'::text, 'REFUSED'::text])) = (ended_at IS NOT NULL))),
  CONSTRAINT refund_request_check1 CHECK (((state = ANY (ARRAY['FAILED'::text, 'REFUSED'::text])) = (code IS NOT NULL))),
  CONSTRAINT refund_request_check2 CHECK (((state = ANY (ARRAY['REQUESTED'::text, 'REFUSED'::text])) = (refund_id IS NULL))),
  CONSTRAINT refund_request_check3 CHECK (((origin <> 'payment'::text) OR (refund_id IS NOT NULL))),
  CONSTRAINT refund_request_code_check CHECK (((length(code) >= 1) AND (length(code) <= 64))),
  CONSTRAINT refund_request_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 128))),
  CONSTRAINT refund_request_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
  CONSTRAINT refund_request_grants_recalled_check CHECK ((grants_recalled >= 0)),
  CONSTRAINT refund_request_note_check CHECK (((length(note) >= 1) AND (length(note) <= 80))),
  CONSTRAINT refund_request_origin_check CHECK ((origin = ANY (ARRAY['order'::text, 'late_money'::text, 'payment'::text]))),
  CONSTRAINT refund_request_refund_seq_check CHECK ((refund_seq >= 0)),
  CONSTRAINT refund_request_state_check CHECK ((state = ANY (ARRAY['REQUESTED'::text, 'SENT'::text, 'SUCCEEDED'::text, 'FAILED'::text, 'REFUSED'::text]))),
  CONSTRAINT refund_request_version_check CHECK ((version >= 1)),
  CONSTRAINT refund_request_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders(order_id),
  CONSTRAINT refund_request_pkey PRIMARY KEY (request_id)
);
CREATE UNIQUE INDEX refund_request_of_late_money ON refund_request USING btree (payment_id) WHERE (origin = 'late_money'::text);
CREATE INDEX refund_request_of_order ON refund_request USING btree (order_id, request_id);
CREATE UNIQUE INDEX refund_request_of_refund ON refund_request USING btree (refund_id) WHERE (refund_id IS NOT NULL);
GRANT INSERT, SELECT, UPDATE (state, refund_id, refund_seq, code, ended_at, version) ON refund_request TO defray_order;

CREATE TABLE refund_request_line (
  request_id uuid NOT NULL,
  line smallint NOT NULL,
  amount_minor bigint NOT NULL,
  quantity integer,
  CONSTRAINT refund_request_line_amount_minor_check CHECK (((amount_minor >= 0) AND (amount_minor <= '1000000000000'::bigint))),
  CONSTRAINT refund_request_line_line_check CHECK (((line >= 1) AND (line <= 100))),
  CONSTRAINT refund_request_line_quantity_check CHECK (((quantity >= 1) AND (quantity <= 1000000))),
  CONSTRAINT refund_request_line_request_id_fkey FOREIGN KEY (request_id) REFERENCES refund_request(request_id),
  CONSTRAINT refund_request_line_pkey PRIMARY KEY (request_id, line)
);
GRANT INSERT, SELECT ON refund_request_line TO defray_order;

CREATE TABLE refund_request_step (
  request_id uuid NOT NULL,
  step integer NOT NULL,
  kind text NOT NULL,
  state text NOT NULL,
  amount_minor bigint,
  at timestamp with time zone NOT NULL,
  event_id uuid,
  correlation_id text NOT NULL,
  causation_id text,
  traceparent text,
  CONSTRAINT refund_request_step_amount_minor_check CHECK (((amount_minor >= 0) AND (amount_minor <= '1000000000000'::bigint))),
  CONSTRAINT refund_request_step_causation_id_check CHECK ((length(causation_id) <= 128)),
  CONSTRAINT refund_request_step_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 128))),
  CONSTRAINT refund_request_step_kind_check CHECK ((kind = ANY (ARRAY['asked'::text, 'grants_recalled'::text, 'money_asked'::text, 'taken'::text, 'abnormal'::text, 'succeeded'::text, 'failed'::text, 'refused'::text]))),
  CONSTRAINT refund_request_step_state_check CHECK ((length(state) <= 32)),
  CONSTRAINT refund_request_step_step_check CHECK ((step >= 1)),
  CONSTRAINT refund_request_step_traceparent_check CHECK ((length(traceparent) <= 64)),
  CONSTRAINT refund_request_step_request_id_fkey FOREIGN KEY (request_id) REFERENCES refund_request(request_id),
  CONSTRAINT refund_request_step_pkey PRIMARY KEY (request_id, step)
);
GRANT INSERT, SELECT ON refund_request_step TO defray_order;

CREATE TABLE schema_history (
  source text NOT NULL,
  version text NOT NULL,
  checksum text NOT NULL,
  applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
  CONSTRAINT schema_history_pkey PRIMARY KEY (source, version)
);
GRANT SELECT ON schema_history TO defray_order;

CREATE OR REPLACE FUNCTION day_bound(day date, by_uuid boolean)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE STRICT
AS $function$
  SELECT CASE WHEN by_uuid
    THEN (lpad(to_hex((extract(epoch FROM day::timestamp) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid::text
    ELSE to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00' END
$function$;
-- defray_order may call it.

CREATE OR REPLACE FUNCTION drop_daily_partitions(parent text, before date)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'orders', 'pg_temp'
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
-- defray_order may call it.

CREATE OR REPLACE FUNCTION ensure_daily_partitions(parent text, first_day date, days integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'orders', 'pg_temp'
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
-- defray_order may call it.
