-- The sum of this service's migrations and the kernel's, written by `make contracts`; it is read, never applied.

CREATE TABLE account (
  account_id text NOT NULL,
  owner text NOT NULL,
  merchant_id uuid,
  currency text NOT NULL,
  balance_minor bigint DEFAULT 0 NOT NULL,
  sequence bigint DEFAULT 0 NOT NULL,
  opened_at timestamp with time zone NOT NULL,
  CONSTRAINT account_account_id_check CHECK (((account_id ~ '^[a-z_]+(:[a-z0-9_]+){1,2}:[A-Z]{3}$'::text) AND (length(account_id) <= 120))),
  CONSTRAINT account_check CHECK (((owner = 'merchant'::text) = (merchant_id IS NOT NULL))),
  CONSTRAINT account_check1 CHECK (((split_part(account_id, ':'::text, 1) = owner) AND ("right"(account_id, 3) = currency))),
  CONSTRAINT account_check2 CHECK (((sequence > 0) OR (balance_minor = 0))),
  CONSTRAINT account_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
  CONSTRAINT account_owner_check CHECK ((owner = ANY (ARRAY['channel'::text, 'merchant'::text, 'platform'::text, 'suspense'::text]))),
  CONSTRAINT account_sequence_check CHECK ((sequence >= 0)),
  CONSTRAINT account_merchant_id_fkey FOREIGN KEY (merchant_id) REFERENCES merchant(merchant_id),
  CONSTRAINT account_pkey PRIMARY KEY (account_id),
  CONSTRAINT account_account_id_currency_key UNIQUE (account_id, currency)
) WITH (fillfactor=50);
CREATE INDEX account_of_merchant ON account USING btree (merchant_id) WHERE (merchant_id IS NOT NULL);
GRANT INSERT, SELECT, UPDATE (balance_minor, sequence) ON account TO defray_settlement;

CREATE TABLE api_key (
  key_id uuid NOT NULL,
  merchant_id uuid NOT NULL,
  slot smallint NOT NULL,
  prefix text NOT NULL,
  sha256 bytea NOT NULL,
  scopes text[] NOT NULL,
  issued_at timestamp with time zone NOT NULL,
  revoked_at timestamp with time zone,
  CONSTRAINT api_key_prefix_check CHECK (((length(prefix) >= 8) AND (length(prefix) <= 24))),
  CONSTRAINT api_key_scopes_check CHECK (((cardinality(scopes) >= 1) AND (cardinality(scopes) <= 32))),
  CONSTRAINT api_key_sha256_check CHECK ((length(sha256) = 32)),
  CONSTRAINT api_key_slot_check CHECK ((slot = ANY (ARRAY[1, 2]))),
  CONSTRAINT api_key_merchant_id_fkey FOREIGN KEY (merchant_id) REFERENCES merchant(merchant_id),
  CONSTRAINT api_key_pkey PRIMARY KEY (key_id),
  CONSTRAINT api_key_sha256_key UNIQUE (sha256)
);
CREATE UNIQUE INDEX api_key_two_live ON api_key USING btree (merchant_id, slot) WHERE (revoked_at IS NULL);
GRANT INSERT, SELECT, UPDATE (revoked_at) ON api_key TO defray_settlement;

CREATE TABLE audit_head (
  only_row boolean DEFAULT true NOT NULL,
  seq bigint NOT NULL,
  hash bytea NOT NULL,
  CONSTRAINT audit_head_hash_check CHECK ((length(hash) = 32)),
  CONSTRAINT audit_head_only_row_check CHECK (only_row),
  CONSTRAINT audit_head_seq_check CHECK ((seq >= 0)),
  CONSTRAINT audit_head_pkey PRIMARY KEY (only_row)
);
GRANT SELECT, UPDATE (seq, hash) ON audit_head TO defray_settlement;

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
GRANT INSERT, SELECT ON audit_log TO defray_settlement;

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
GRANT INSERT, SELECT, UPDATE ON consumer_offset TO defray_settlement;

CREATE TABLE daily_table (
  name text NOT NULL,
  keep_days integer NOT NULL,
  CONSTRAINT daily_table_keep_days_check CHECK ((keep_days >= 1)),
  CONSTRAINT daily_table_pkey PRIMARY KEY (name)
);
GRANT SELECT ON daily_table TO defray_settlement;

CREATE TABLE entry (
  entry_id uuid NOT NULL,
  source text NOT NULL,
  kind text NOT NULL,
  source_id uuid NOT NULL,
  merchant_id uuid NOT NULL,
  order_id uuid NOT NULL,
  currency text NOT NULL,
  gross_minor bigint NOT NULL,
  fee_minor bigint NOT NULL,
  explanation text NOT NULL,
  legs smallint NOT NULL,
  paid_at timestamp with time zone NOT NULL,
  effective_on date NOT NULL,
  posted_at timestamp with time zone NOT NULL,
  correlation_id text NOT NULL,
  causation_id text,
  payment_id uuid,
  CONSTRAINT entry_causation_id_check CHECK ((length(causation_id) <= 128)),
  CONSTRAINT entry_check CHECK (((fee_minor >= 0) AND (fee_minor <= gross_minor))),
  CONSTRAINT entry_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 128))),
  CONSTRAINT entry_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
  CONSTRAINT entry_explanation_check CHECK ((length(explanation) <= 2000)),
  CONSTRAINT entry_gross_minor_check CHECK (((gross_minor >= 1) AND (gross_minor <= '1000000000000'::bigint))),
  CONSTRAINT entry_kind_check CHECK (
CASE source
    WHEN 'payment'::text THEN (kind = ANY (ARRAY['succeeded'::text, 'paid_late'::text, 'duplicate'::text, 'reopened'::text]))
    WHEN 'refund'::text THEN (kind = ANY (ARRAY['mismatched'::text, 'refunded'::text, 'returned'::text]))
    ELSE NULL::boolean
END),
  CONSTRAINT entry_legs_check CHECK (((legs >= 2) AND (legs <= 16))),
  CONSTRAINT entry_names_payment CHECK (((source = 'refund'::text) = (payment_id IS NOT NULL))),
  CONSTRAINT entry_source_check CHECK ((source = ANY (ARRAY['payment'::text, 'refund'::text]))),
  CONSTRAINT entry_merchant_id_fkey FOREIGN KEY (merchant_id) REFERENCES merchant(merchant_id),
  CONSTRAINT entry_pkey PRIMARY KEY (entry_id),
  CONSTRAINT entry_balanced TRIGGER DEFERRABLE INITIALLY DEFERRED,
  CONSTRAINT entry_entry_id_legs_key UNIQUE (entry_id, legs),
  CONSTRAINT entry_source_kind_source_id_key UNIQUE (source, kind, source_id)
);
CREATE UNIQUE INDEX entry_goes_back_once ON entry USING btree (source_id) WHERE (kind = ANY (ARRAY['refunded'::text, 'returned'::text]));
CREATE INDEX entry_of_payment ON entry USING btree (payment_id) WHERE (payment_id IS NOT NULL);
CREATE CONSTRAINT TRIGGER entry_balanced AFTER INSERT ON entry DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION entry_is_balanced();
GRANT INSERT, SELECT ON entry TO defray_settlement;

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
GRANT INSERT, SELECT ON event_log TO defray_settlement;

CREATE TABLE fee_rule (
  merchant_id uuid NOT NULL,
  version integer NOT NULL,
  basis_points integer NOT NULL,
  effective_from timestamp with time zone NOT NULL,
  CONSTRAINT fee_rule_basis_points_check CHECK (((basis_points >= 0) AND (basis_points <= 10000))),
  CONSTRAINT fee_rule_version_check CHECK ((version >= 1)),
  CONSTRAINT fee_rule_merchant_id_fkey FOREIGN KEY (merchant_id) REFERENCES merchant(merchant_id),
  CONSTRAINT fee_rule_pkey PRIMARY KEY (merchant_id, version),
  CONSTRAINT fee_rule_merchant_id_effective_from_key UNIQUE (merchant_id, effective_from)
);
GRANT INSERT, SELECT ON fee_rule TO defray_settlement;

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
GRANT DELETE, INSERT, SELECT, UPDATE ON idempotency_key TO defray_settlement;

CREATE TABLE inbox (
  consumer text NOT NULL,
  event_id uuid NOT NULL,
  CONSTRAINT inbox_consumer_check CHECK (((octet_length(consumer) >= 1) AND (octet_length(consumer) <= 100))),
  CONSTRAINT inbox_pkey PRIMARY KEY (consumer, event_id)
) PARTITION BY RANGE (event_id);
GRANT INSERT, SELECT ON inbox TO defray_settlement;

CREATE TABLE kernel_setting (
  name text NOT NULL,
  value text NOT NULL,
  CONSTRAINT kernel_setting_name_check CHECK (((octet_length(name) >= 1) AND (octet_length(name) <= 100))),
  CONSTRAINT kernel_setting_value_check CHECK ((octet_length(value) <= 1000)),
  CONSTRAINT kernel_setting_pkey PRIMARY KEY (name)
);
GRANT SELECT ON kernel_setting TO defray_settlement;

CREATE TABLE merchant (
  merchant_id uuid NOT NULL,
  name text NOT NULL,
  status text NOT NULL,
  mode text NOT NULL,
  currencies text[] NOT NULL,
  late_money text NOT NULL,
  version bigint NOT NULL,
  event_seq bigint NOT NULL,
  registered_at timestamp with time zone NOT NULL,
  changed_at timestamp with time zone NOT NULL,
  announce_at timestamp with time zone NOT NULL,
  CONSTRAINT merchant_currencies_check CHECK (((cardinality(currencies) >= 1) AND (cardinality(currencies) <= 32))),
  CONSTRAINT merchant_event_seq_check CHECK ((event_seq >= 1)),
  CONSTRAINT merchant_late_money_check CHECK ((late_money = ANY (ARRAY['return'::text, 'reopen'::text, 'case'::text]))),
  CONSTRAINT merchant_mode_check CHECK ((mode = ANY (ARRAY['test'::text, 'live'::text]))),
  CONSTRAINT merchant_name_check CHECK (((length(name) >= 1) AND (length(name) <= 200))),
  CONSTRAINT merchant_status_check CHECK ((status = ANY (ARRAY['ACTIVE'::text, 'SUSPENDED'::text, 'DISABLED'::text]))),
  CONSTRAINT merchant_version_check CHECK ((version >= 1)),
  CONSTRAINT merchant_pkey PRIMARY KEY (merchant_id),
  CONSTRAINT merchant_name_key UNIQUE (name)
);
CREATE INDEX merchant_announce ON merchant USING btree (announce_at);
GRANT INSERT, SELECT, UPDATE (status, version, event_seq, changed_at, announce_at) ON merchant TO defray_settlement;

CREATE TABLE merchant_transition (
  merchant_id uuid NOT NULL,
  version bigint NOT NULL,
  act text NOT NULL,
  status text NOT NULL,
  actor text NOT NULL,
  at timestamp with time zone NOT NULL,
  correlation_id text NOT NULL,
  CONSTRAINT merchant_transition_act_check CHECK (((length(act) >= 1) AND (length(act) <= 32))),
  CONSTRAINT merchant_transition_actor_check CHECK (((length(actor) >= 1) AND (length(actor) <= 200))),
  CONSTRAINT merchant_transition_correlation_id_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 128))),
  CONSTRAINT merchant_transition_status_check CHECK (((length(status) >= 1) AND (length(status) <= 32))),
  CONSTRAINT merchant_transition_version_check CHECK ((version >= 1)),
  CONSTRAINT merchant_transition_merchant_id_fkey FOREIGN KEY (merchant_id) REFERENCES merchant(merchant_id),
  CONSTRAINT merchant_transition_pkey PRIMARY KEY (merchant_id, version)
);
GRANT INSERT, SELECT ON merchant_transition TO defray_settlement;

CREATE TABLE order_fact (
  order_id uuid NOT NULL,
  reopened_payment_id uuid,
  reopened_merchant_id uuid,
  reopened_minor bigint,
  reopened_currency text,
  reopened_correlation_id text,
  reopened_causation_id text,
  CONSTRAINT order_fact_check CHECK ((num_nulls(reopened_payment_id, reopened_merchant_id, reopened_minor, reopened_currency, reopened_correlation_id) = ANY (ARRAY[0, 5]))),
  CONSTRAINT order_fact_reopened_causation_id_check CHECK ((length(reopened_causation_id) <= 128)),
  CONSTRAINT order_fact_reopened_correlation_id_check CHECK (((length(reopened_correlation_id) >= 1) AND (length(reopened_correlation_id) <= 128))),
  CONSTRAINT order_fact_reopened_currency_check CHECK ((reopened_currency ~ '^[A-Z]{3}$'::text)),
  CONSTRAINT order_fact_reopened_minor_check CHECK (((reopened_minor >= 1) AND (reopened_minor <= '1000000000000'::bigint))),
  CONSTRAINT order_fact_pkey PRIMARY KEY (order_id)
);
GRANT INSERT, SELECT, UPDATE (reopened_payment_id, reopened_merchant_id, reopened_minor, reopened_currency, reopened_correlation_id, reopened_causation_id) ON order_fact TO defray_settlement;

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
GRANT DELETE, INSERT, SELECT ON outbox TO defray_settlement;

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
GRANT DELETE, INSERT, SELECT ON parked_event TO defray_settlement;

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
GRANT DELETE, INSERT, SELECT, UPDATE ON parked_key TO defray_settlement;

CREATE TABLE posting (
  entry_id uuid NOT NULL,
  leg smallint NOT NULL,
  legs smallint NOT NULL,
  account_id text NOT NULL,
  currency text NOT NULL,
  amount_minor bigint NOT NULL,
  account_sequence bigint NOT NULL,
  CONSTRAINT posting_account_sequence_check CHECK ((account_sequence >= 1)),
  CONSTRAINT posting_amount_minor_check CHECK ((amount_minor <> 0)),
  CONSTRAINT posting_check CHECK (((leg >= 1) AND (leg <= legs))),
  CONSTRAINT posting_account_id_currency_fkey FOREIGN KEY (account_id, currency) REFERENCES account(account_id, currency),
  CONSTRAINT posting_entry_id_legs_fkey FOREIGN KEY (entry_id, legs) REFERENCES entry(entry_id, legs),
  CONSTRAINT posting_pkey PRIMARY KEY (entry_id, leg)
);
GRANT INSERT, SELECT ON posting TO defray_settlement;

CREATE TABLE schema_history (
  source text NOT NULL,
  version text NOT NULL,
  checksum text NOT NULL,
  applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
  CONSTRAINT schema_history_pkey PRIMARY KEY (source, version)
);
GRANT SELECT ON schema_history TO defray_settlement;

CREATE OR REPLACE FUNCTION day_bound(day date, by_uuid boolean)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE STRICT
AS $function$
  SELECT CASE WHEN by_uuid
    THEN (lpad(to_hex((extract(epoch FROM day::timestamp) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid::text
    ELSE to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00' END
$function$;
-- defray_settlement may call it.

CREATE OR REPLACE FUNCTION drop_daily_partitions(parent text, before date)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'settlement', 'pg_temp'
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
-- defray_settlement may call it.

CREATE OR REPLACE FUNCTION ensure_daily_partitions(parent text, first_day date, days integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'settlement', 'pg_temp'
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
-- defray_settlement may call it.

CREATE OR REPLACE FUNCTION entry_is_balanced()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
  IF (SELECT count(*) FROM posting WHERE entry_id = NEW.entry_id) <> NEW.legs
     OR EXISTS (SELECT FROM posting WHERE entry_id = NEW.entry_id GROUP BY currency HAVING sum(amount_minor) <> 0) THEN
    RAISE EXCEPTION 'ledger entry % is not balanced', NEW.entry_id USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END
$function$;
-- defray_settlement may call it.
