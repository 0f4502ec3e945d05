-- Outbox, event log, inbox and parking of one service. Append-only tables are append-only by grant.

-- A SECURITY DEFINER function keeps the search path it is made under: temporary objects come last, so nobody shadows a table.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE TABLE kernel_setting (
  name  text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 100),
  value text NOT NULL CHECK (octet_length(value) <= 1000)
);
-- Another number of lanes would put a key's next event into another lane than its last: writers and relays check it at start.
INSERT INTO kernel_setting (name, value) VALUES ('relay_lanes', '4');

CREATE TABLE outbox (
  lane          smallint    NOT NULL CHECK (lane BETWEEN 0 AND 63),
  id            bigint      GENERATED ALWAYS AS IDENTITY (CACHE 1), -- ids in blocks per session would break commit order per key
  event_id      uuid        NOT NULL,
  topic         text        NOT NULL CHECK (octet_length(topic) BETWEEN 1 AND 249),
  part_key      bytea       NOT NULL CHECK (octet_length(part_key) <= 1024),
  event_type    text        NOT NULL CHECK (octet_length(event_type) <= 200),
  aggregate_id  text        NOT NULL CHECK (octet_length(aggregate_id) <= 600),
  aggregate_seq bigint      NOT NULL CHECK (aggregate_seq >= 0),
  payload       bytea       NOT NULL CHECK (octet_length(payload) <= 786432),
  headers       bytea       NOT NULL CHECK (octet_length(headers) <= 131072),
  occurred_at   timestamptz NOT NULL,
  republished   boolean     NOT NULL DEFAULT false,
  PRIMARY KEY (lane, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000);

CREATE TABLE event_log (
  lane          smallint    NOT NULL,
  id            bigint      NOT NULL,
  event_id      uuid        NOT NULL,
  topic         text        NOT NULL,
  part_key      bytea       NOT NULL,
  event_type    text        NOT NULL,
  aggregate_id  text        NOT NULL,
  aggregate_seq bigint      NOT NULL,
  payload       bytea       NOT NULL,
  headers       bytea       NOT NULL,
  occurred_at   timestamptz NOT NULL,
  sent_at       timestamptz NOT NULL DEFAULT clock_timestamp()
) PARTITION BY RANGE (sent_at);
CREATE TABLE event_log_default PARTITION OF event_log DEFAULT;
CREATE INDEX event_log_id ON event_log (id); -- republishing pages by it; each new row goes to its right end

CREATE TABLE consumer_offset (
  consumer    text        NOT NULL CHECK (octet_length(consumer) BETWEEN 1 AND 100),
  topic       text        NOT NULL,
  part        integer     NOT NULL CHECK (part >= 0),
  next_offset bigint      NOT NULL CHECK (next_offset >= 0),
  epoch       bigint      NOT NULL DEFAULT 1,
  owner       text        NOT NULL,
  cluster_id  text        NOT NULL,
  parts       integer     NOT NULL CHECK (parts > part), -- how many partitions the topic had when reading began
  updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (consumer, topic, part)
) WITH (fillfactor = 50);

CREATE TABLE inbox (
  consumer text NOT NULL CHECK (octet_length(consumer) BETWEEN 1 AND 100),
  event_id uuid NOT NULL,
  PRIMARY KEY (consumer, event_id)
) PARTITION BY RANGE (event_id);
CREATE TABLE inbox_default PARTITION OF inbox DEFAULT;

CREATE TABLE parked_key (
  consumer        text        NOT NULL CHECK (octet_length(consumer) BETWEEN 1 AND 100),
  part_key        bytea       NOT NULL CHECK (octet_length(part_key) <= 1024),
  parked_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  attempts        integer     NOT NULL DEFAULT 0,
  next_attempt_at timestamptz NOT NULL,
  waiting         boolean     NOT NULL, -- for the world to be ready (RetryLater), not for a person
  error_class     text        NOT NULL CHECK (octet_length(error_class) <= 200),
  error           text        NOT NULL CHECK (octet_length(error) <= 4000),
  PRIMARY KEY (consumer, part_key)
);
CREATE INDEX parked_key_due ON parked_key (consumer, next_attempt_at);

CREATE TABLE parked_event (
  id          bigint      GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
  consumer    text        NOT NULL,
  part_key    bytea       NOT NULL,
  topic       text        NOT NULL,
  part        integer     NOT NULL,
  part_offset bigint      NOT NULL,
  recorded_at timestamptz NOT NULL, -- the record's own time stamp
  key         bytea,
  payload     bytea,
  headers     bytea       NOT NULL
);
CREATE INDEX parked_event_key ON parked_event (consumer, part_key, id);

-- Which tables have one partition per UTC day, and for how many days they are kept at least. Services add their own.
CREATE TABLE daily_table (
  name      text PRIMARY KEY,
  keep_days integer NOT NULL CHECK (keep_days >= 1)
);
INSERT INTO daily_table (name, keep_days) VALUES ('event_log', 30), ('inbox', 10);

-- The first moment (or the first UUIDv7) of a UTC day, as a partition bound.
CREATE FUNCTION day_bound(day date, by_uuid boolean) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
  SELECT CASE WHEN by_uuid
    THEN (lpad(to_hex((extract(epoch FROM day::timestamp) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid::text
    ELSE to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00' END
$$;

CREATE FUNCTION ensure_daily_partitions(parent text, first_day date, days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '2s' AS $$
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
$$;

CREATE FUNCTION drop_daily_partitions(parent text, before date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '2s' AS $$
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
$$;

REVOKE ALL ON FUNCTION ensure_daily_partitions(text, date, integer), drop_daily_partitions(text, date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ensure_daily_partitions(text, date, integer), drop_daily_partitions(text, date) TO __RUNTIME__;
GRANT SELECT ON kernel_setting, daily_table, event_log_default, inbox_default TO __RUNTIME__;
GRANT SELECT, INSERT, DELETE ON outbox, parked_event TO __RUNTIME__;
GRANT SELECT, INSERT ON event_log, inbox TO __RUNTIME__;
GRANT SELECT, INSERT, UPDATE ON consumer_offset TO __RUNTIME__;
GRANT SELECT, INSERT, UPDATE, DELETE ON parked_key TO __RUNTIME__;

SELECT ensure_daily_partitions('event_log', (clock_timestamp() AT TIME ZONE 'UTC')::date - 1, 9);
SELECT ensure_daily_partitions('inbox', (clock_timestamp() AT TIME ZONE 'UTC')::date - 10, 18);
