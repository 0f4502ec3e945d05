-- One schema and two roles per service, run inside the database `defray`; running it again changes nothing.
--   defray_<service>        works: it sees its own schema only and holds no right but those its migrations grant
--   defray_<service>_owner  migrates: it owns the schema, so that "append-only" is a grant the running service cannot lift
-- Passwords are set apart from this file. Needs a superuser, or a role with CREATEDB and CREATEROLE.

DO $$
DECLARE
    service text;
    schema_name text;
    runtime text;
    owner text;
BEGIN
    FOR service, schema_name IN
        VALUES ('order', 'orders'), ('payment', 'payments'), ('settlement', 'settlement'), ('notifier', 'notify')
    LOOP
        runtime := 'defray_' || service;
        owner := runtime || '_owner';
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = runtime) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOINHERIT', runtime);
        END IF;
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = owner) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOINHERIT', owner);
        END IF;
        -- A schema can only be given to a role one may act as; a superuser always may.
        IF NOT pg_has_role(current_user, owner, 'MEMBER') THEN
            EXECUTE format('GRANT %I TO %I', owner, current_user);
        END IF;
        EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I AUTHORIZATION %I', schema_name, owner);
        EXECUTE format('REVOKE ALL ON SCHEMA %I FROM PUBLIC', schema_name);
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', schema_name, runtime);
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I, %I', current_database(), runtime, owner);

        EXECUTE format('ALTER ROLE %I SET search_path = %I', runtime, schema_name);
        EXECUTE format('ALTER ROLE %I SET search_path = %I', owner, schema_name);
        EXECUTE format('ALTER ROLE %I SET timezone = ''UTC''', runtime);
        EXECUTE format('ALTER ROLE %I SET timezone = ''UTC''', owner);
        -- Everything has a limit: a statement, the wait for a lock, a transaction somebody forgot (or a frozen process).
        EXECUTE format('ALTER ROLE %I SET statement_timeout = ''30s''', runtime);
        EXECUTE format('ALTER ROLE %I SET lock_timeout = ''10s''', runtime);
        EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = ''30s''', runtime);
        EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = ''60s''', owner);
    END LOOP;
    EXECUTE format('REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    REVOKE CREATE ON SCHEMA public FROM PUBLIC;
END
$$;
