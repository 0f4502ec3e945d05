-- The sum of this service's migrations and the kernel's, written by `make contracts`; it is read, never applied.

CREATE TABLE attempt (
  delivery_id uuid NOT NULL,
  attempt_no integer NOT NULL,
  at timestamp with time zone NOT NULL,
  duration_ms integer NOT NULL,
  status smallint,
  error text,
  reply bytea NOT NULL,
  state_after text NOT NULL,
  CONSTRAINT attempt_attempt_no_check CHECK ((attempt_no >= 1)),
  CONSTRAINT attempt_check CHECK (((status IS NOT NULL) OR (error IS NOT NULL))),
  CONSTRAINT attempt_duration_ms_check CHECK ((duration_ms >= 0)),
  CONSTRAINT attempt_error_check CHECK (((length(error) >= 1) AND (length(error) <= 64))),
  CONSTRAINT attempt_reply_check CHECK ((length(reply) <= 2048)),
  CONSTRAINT attempt_state_after_check CHECK ((state_after = ANY (ARRAY['PENDING'::text, 'DELIVERED'::text, 'EXHAUSTED'::text]))),
  CONSTRAINT attempt_status_check CHECK (((status >= 100) AND (status <= 999))),
  CONSTRAINT attempt_delivery_id_fkey FOREIGN KEY (delivery_id) REFERENCES delivery(delivery_id),
  CONSTRAINT attempt_pkey PRIMARY KEY (delivery_id, attempt_no)
);
GRANT INSERT, SELECT ON attempt TO defray_notifier;

CREATE TABLE audit_head (
  only_row boolean DEFAULT true NOT NULL,
  seq bigint NOT NULL,
  hash bytea NOT NULL,
  CONSTRAINT audit_head_hash_check CHECK ((length(hash) = 32)),
  CONSTRAINT audit_head_only_row_check CHECK (only_row),
  CONSTRAINT audit_head_seq_check CHECK ((seq >= 0)),
  CONSTRAINT audit_head_pkey PRIMARY KEY (only_row)
);
GRANT SELECT, UPDATE (seq, hash) ON audit_head TO defray_notifier;

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
GRANT INSERT, SELECT ON audit_log TO defray_notifier;

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
GRANT INSERT, SELECT, UPDATE ON consumer_offset TO defray_notifier;

CREATE TABLE daily_table (
  name text NOT NULL,
  keep_days integer NOT NULL,
  CONSTRAINT daily_table_keep_days_check CHECK ((keep_days >= 1)),
  CONSTRAINT daily_table_pkey PRIMARY KEY (name)
);
GRANT SELECT ON daily_table TO defray_notifier;

CREATE TABLE delivery (
  delivery_id uuid NOT NULL,
  message_id uuid NOT NULL,
  endpoint_id uuid NOT NULL,
  state text NOT NULL,
  attempts integer NOT NULL,
  next_at timestamp with time zone,
  leased_until timestamp with time zone,
  last_status smallint,
  version bigint NOT NULL,
  event_seq bigint NOT NULL,
  CONSTRAINT delivery_attempts_check CHECK ((attempts >= 0)),
  CONSTRAINT delivery_check CHECK (((state = 'PENDING'::text) = (next_at IS NOT NULL))),
  CONSTRAINT delivery_check1 CHECK (((state = 'PENDING'::text) = (event_seq = 0))),
  CONSTRAINT delivery_check2 CHECK (((state = 'PENDING'::text) OR (leased_until IS NULL))),
  CONSTRAINT delivery_check3 CHECK (((state = 'PENDING'::text) OR (attempts >= 1))),
  CONSTRAINT delivery_event_seq_check CHECK ((event_seq = ANY (ARRAY[(0)::bigint, (1)::bigint]))),
  CONSTRAINT delivery_last_status_check CHECK (((last_status >= 100) AND (last_status <= 999))),
  CONSTRAINT delivery_state_check CHECK ((state = ANY (ARRAY['PENDING'::text, 'DELIVERED'::text, 'EXHAUSTED'::text]))),
  CONSTRAINT delivery_version_check CHECK ((version >= 1)),
  CONSTRAINT delivery_message_id_fkey FOREIGN KEY (message_id) REFERENCES message(message_id),
  CONSTRAINT delivery_pkey PRIMARY KEY (delivery_id),
  CONSTRAINT delivery_message_id_key UNIQUE (message_id)
) WITH (fillfactor=70);
CREATE INDEX delivery_due ON delivery USING btree (endpoint_id, next_at) WHERE (state = 'PENDING'::text);
GRANT INSERT, SELECT, UPDATE (state, attempts, next_at, leased_until, last_status, version, event_seq) ON delivery TO defray_notifier;

CREATE TABLE endpoint (
  endpoint_id uuid NOT NULL,
  merchant_id uuid NOT NULL,
  slot smallint NOT NULL,
  url text NOT NULL,
  event_types text[] NOT NULL,
  state text NOT NULL,
  disabled_reason text,
  version bigint NOT NULL,
  created_at timestamp with time zone NOT NULL,
  CONSTRAINT endpoint_check CHECK (((state = 'DISABLED'::text) = (disabled_reason IS NOT NULL))),
  CONSTRAINT endpoint_disabled_reason_check CHECK ((disabled_reason = ANY (ARRAY['merchant'::text, 'gone'::text]))),
  CONSTRAINT endpoint_event_types_check CHECK (((cardinality(event_types) >= 1) AND (cardinality(event_types) <= 64))),
  CONSTRAINT endpoint_slot_check CHECK (((slot >= 1) AND (slot <= 16))),
  CONSTRAINT endpoint_state_check CHECK ((state = ANY (ARRAY['ENABLED'::text, 'DISABLED'::text]))),
  CONSTRAINT endpoint_url_check CHECK (((length(url) >= 8) AND (length(url) <= 2048))),
  CONSTRAINT endpoint_version_check CHECK ((version >= 1)),
  CONSTRAINT endpoint_pkey PRIMARY KEY (endpoint_id)
);
CREATE UNIQUE INDEX endpoint_address ON endpoint USING btree (merchant_id, url) WHERE (state = 'ENABLED'::text);
CREATE INDEX endpoint_of_merchant ON endpoint USING btree (merchant_id, endpoint_id);
CREATE UNIQUE INDEX endpoint_slot ON endpoint USING btree (merchant_id, slot) WHERE (state = 'ENABLED'::text);
GRANT INSERT, SELECT, UPDATE (state, disabled_reason, version) ON endpoint TO defray_notifier;

CREATE TABLE endpoint_secret (
  endpoint_id uuid NOT NULL,
  number smallint NOT NULL,
  sealed bytea NOT NULL,
  created_at timestamp with time zone NOT NULL,
  CONSTRAINT endpoint_secret_number_check CHECK (((number >= 1) AND (number <= 1000))),
  CONSTRAINT endpoint_secret_sealed_check CHECK (((length(sealed) >= 32) AND (length(sealed) <= 512))),
  CONSTRAINT endpoint_secret_endpoint_id_fkey FOREIGN KEY (endpoint_id) REFERENCES endpoint(endpoint_id),
  CONSTRAINT endpoint_secret_pkey PRIMARY KEY (endpoint_id, number)
);
GRANT INSERT, SELECT ON endpoint_secret TO defray_notifier;

CREATE TABLE endpoint_transition (
  endpoint_id uuid NOT NULL,
  version bigint NOT NULL,
  state text NOT NULL,
  reason text,
  at timestamp with time zone NOT NULL,
  correlation_id text NOT NULL,
  causation_id text,
  CONSTRAINT endpoint_transition_causation_id_check CHECK ((length(causation_id) <= 128)),
  CONSTRAINT endpoint_transition_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 128))),
  CONSTRAINT endpoint_transition_reason_check CHECK ((length(reason) <= 32)),
  CONSTRAINT endpoint_transition_state_check CHECK ((length(state) <= 32)),
  CONSTRAINT endpoint_transition_version_check CHECK ((version >= 1)),
  CONSTRAINT endpoint_transition_endpoint_id_fkey FOREIGN KEY (endpoint_id) REFERENCES endpoint(endpoint_id),
  CONSTRAINT endpoint_transition_pkey PRIMARY KEY (endpoint_id, version)
);
GRANT INSERT, SELECT ON endpoint_transition TO defray_notifier;

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
GRANT INSERT, SELECT ON event_log TO defray_notifier;

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
GRANT DELETE, INSERT, SELECT, UPDATE ON idempotency_key TO defray_notifier;

CREATE TABLE inbox (
  consumer text NOT NULL,
  event_id uuid NOT NULL,
  CONSTRAINT inbox_consumer_check CHECK (((octet_length(consumer) >= 1) AND (octet_length(consumer) <= 100))),
  CONSTRAINT inbox_pkey PRIMARY KEY (consumer, event_id)
) PARTITION BY RANGE (event_id);
GRANT INSERT, SELECT ON inbox TO defray_notifier;

CREATE TABLE kernel_setting (
  name text NOT NULL,
  value text NOT NULL,
  CONSTRAINT kernel_setting_name_check CHECK (((octet_length(name) >= 1) AND (octet_length(name) <= 100))),
  CONSTRAINT kernel_setting_value_check CHECK ((octet_length(value) <= 1000)),
  CONSTRAINT kernel_setting_pkey PRIMARY KEY (name)
);
GRANT SELECT ON kernel_setting TO defray_notifier;

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
GRANT INSERT, SELECT, UPDATE ON merchant TO defray_notifier;

CREATE TABLE message (
  message_id uuid NOT NULL,
  merchant_id uuid NOT NULL,
  endpoint_id uuid NOT NULL,
  event_id uuid NOT NULL,
  event_type text NOT NULL,
  subject text NOT NULL,
  sequence bigint NOT NULL,
  payload bytea NOT NULL,
  correlation_id text NOT NULL,
  created_at timestamp with time zone NOT NULL,
  CONSTRAINT message_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 128))),
  CONSTRAINT message_event_type_check CHECK (((length(event_type) >= 1) AND (length(event_type) <= 100))),
  CONSTRAINT message_payload_check CHECK ((length(payload) <= 786432)),
  CONSTRAINT message_sequence_check CHECK ((sequence >= 1)),
  CONSTRAINT message_subject_check CHECK (((length(subject) >= 1) AND (length(subject) <= 128))),
  CONSTRAINT message_endpoint_id_fkey FOREIGN KEY (endpoint_id) REFERENCES endpoint(endpoint_id),
  CONSTRAINT message_pkey PRIMARY KEY (message_id),
  CONSTRAINT message_endpoint_id_event_id_key UNIQUE (endpoint_id, event_id)
);
CREATE INDEX message_of_merchant ON message USING btree (merchant_id, message_id);
GRANT INSERT, SELECT ON message TO defray_notifier;

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
GRANT DELETE, INSERT, SELECT ON outbox TO defray_notifier;

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
GRANT DELETE, INSERT, SELECT ON parked_event TO defray_notifier;

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
GRANT DELETE, INSERT, SELECT, UPDATE ON parked_key TO defray_notifier;

CREATE TABLE schema_history (
  source text NOT NULL,
  version text NOT NULL,
  checksum text NOT NULL,
  applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
  CONSTRAINT schema_history_pkey PRIMARY KEY (source, version)
);
GRANT SELECT ON schema_history TO defray_notifier;

CREATE OR REPLACE FUNCTION day_bound(day date, by_uuid boolean)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE STRICT
AS $function$
  SELECT CASE WHEN by_uuid
    THEN (lpad(to_hex((extract(epoch FROM day::timestamp) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid::text
    ELSE to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00' END
$function$;
-- defray_notifier may call it.

CREATE OR REPLACE FUNCTION drop_daily_partitions(parent text, before date)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'notify', 'pg_temp'
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
-- defray_notifier may call it.

CREATE OR REPLACE FUNCTION ensure_daily_partitions(parent text, first_day date, days integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'notify', 'pg_temp'
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
-- defray_notifier may call it.
