-- The audit trail: where each producer's stream has got to, its events as columnar batches, and what could not be read.

-- Roles belong to the whole cluster: another database's migration may have made them, or be making them now.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['mcpgw_audit', 'mcpgw_keys'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I LOGIN', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
END $$;

CREATE SCHEMA IF NOT EXISTS audit;

-- Rises with every take-over: a statement that carries an older number moves no watermark.
CREATE SEQUENCE audit.consumer_token;

CREATE TABLE audit.watermark (
    producer       uuid        NOT NULL,
    epoch          bigint      NOT NULL,
    next_seq       bigint      NOT NULL,     -- everything below it is in audit.batch
    consumer_token bigint      NOT NULL,
    head           bytea,                    -- mac of the last block taken, where blocks are chained
    updated        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (producer, epoch)
);

-- One row is a producer's consecutive events; the n-th element of every array belongs to sequence first_seq + n - 1.
CREATE TABLE audit.batch (
    producer    uuid        NOT NULL,
    epoch       bigint      NOT NULL,
    first_seq   bigint      NOT NULL,
    last_seq    bigint      NOT NULL,
    count       integer     NOT NULL,
    first_at    timestamptz NOT NULL,
    last_at     timestamptz NOT NULL,
    at          timestamptz[] NOT NULL,
    event       text[] NOT NULL,
    outcome     text[] NOT NULL,
    reason      text[] NOT NULL,
    request_id  text[] NOT NULL,
    user_id     text[] NOT NULL,
    tenant_id   text[] NOT NULL,
    auth_method text[] NOT NULL,
    key_id      text[] NOT NULL,
    address     text[] NOT NULL,
    method      text[] NOT NULL,
    path        text[] NOT NULL,
    server      text[] NOT NULL,
    tool        text[] NOT NULL,
    status      integer[] NOT NULL,
    latency_us  bigint[] NOT NULL,
    bytes       bigint[] NOT NULL,
    requests    bigint[] NOT NULL,
    details     text[] NOT NULL,             -- JSON
    keys        text[] NOT NULL,             -- each once, for the index
    users       text[] NOT NULL
) PARTITION BY RANGE (first_at);

-- lz4 costs a third of pglz on these arrays and packs better (3.0 us of server time per event against 9.6).
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT attname FROM pg_attribute
                WHERE attrelid = 'audit.batch'::regclass AND attnum > 0 AND attndims > 0 LOOP
        EXECUTE format('ALTER TABLE audit.batch ALTER COLUMN %I SET COMPRESSION lz4', name);
    END LOOP;
EXCEPTION WHEN feature_not_supported THEN
    RAISE NOTICE 'this server has no lz4: batches are packed with pglz';
END $$;

CREATE INDEX batch_last_at ON audit.batch (last_at);
CREATE INDEX batch_keys ON audit.batch USING gin (keys);
CREATE INDEX batch_users ON audit.batch USING gin (users);

-- Events whose day has no partition (a producer's clock is far off, or maintenance has not run for a week).
CREATE TABLE audit.batch_default PARTITION OF audit.batch DEFAULT;

-- Blocks and records that could not be read, as they came.
CREATE TABLE audit.quarantine (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    producer  uuid,
    epoch     bigint,
    first_seq bigint,
    reason    text  NOT NULL,
    bytes     bytea NOT NULL
);

-- Makes the partitions of today and the next seven days and drops what is older than retention_days (0: keeps all).
-- Called by the service at start and hourly; a lock it cannot have soon is left for the next call.
CREATE FUNCTION audit.maintain(retention_days integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '500ms' AS $$
DECLARE
    day    date;
    cutoff timestamptz := now() - make_interval(days => retention_days);
    name   text;
BEGIN
    FOR day IN SELECT d::date FROM generate_series(now(), now() + interval '7 days', interval '1 day') AS d LOOP
        name := 'batch_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('audit.' || name) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE TABLE audit.%I PARTITION OF audit.batch FOR VALUES FROM (%L) TO (%L)',
                           name, day::timestamptz, (day + 1)::timestamptz);
        EXCEPTION
            WHEN check_violation THEN NULL;    -- the default partition holds events of that day: they stay there
            WHEN lock_not_available THEN RETURN;
        END;
    END LOOP;
    IF retention_days = 0 THEN
        RETURN;
    END IF;
    FOR name IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                WHERE i.inhparent = 'audit.batch'::regclass AND c.relname ~ '^batch_[0-9]{8}$'
                  AND (to_date(substr(c.relname, 7), 'YYYYMMDD') + 1)::timestamptz <= cutoff LOOP
        BEGIN
            EXECUTE format('DROP TABLE audit.%I', name);
        EXCEPTION WHEN lock_not_available THEN RETURN;
        END;
    END LOOP;
    DELETE FROM audit.batch_default WHERE last_at < cutoff;
    DELETE FROM audit.quarantine WHERE at < cutoff;
END $$;

CREATE VIEW audit.event AS
SELECT b.producer || '-' || b.epoch || '-' || (b.first_seq + e.position - 1) AS id,
       e.at AS "time", e.event, e.outcome, e.reason, e.request_id AS "requestId", e.user_id AS "userId",
       e.tenant_id AS "tenantId", e.auth_method AS "authMethod", e.key_id AS "keyId", e.address, e.method, e.path,
       e.server, e.tool, e.status, e.latency_us AS "latencyUs", e.bytes, e.requests AS count,
       b.producer, b.epoch, b.first_seq + e.position - 1 AS seq, e.details::jsonb AS details
FROM audit.batch b,
     unnest(b.at, b.event, b.outcome, b.reason, b.request_id, b.user_id, b.tenant_id, b.auth_method, b.key_id,
            b.address, b.method, b.path, b.server, b.tool, b.status, b.latency_us, b.bytes, b.requests, b.details)
     WITH ORDINALITY AS e (at, event, outcome, reason, request_id, user_id, tenant_id, auth_method, key_id,
            address, method, path, server, tool, status, latency_us, bytes, requests, details, position);

-- Newest events first, opening few more batches than the answer needs.  NULL: no restriction.
-- A batch wholly inside the time asked for holds `count` wanted events, or at least one when a key or user is asked
-- for, and all of them at or after its first_at.  So there is a moment (the horizon) at or after which batches hold
-- max_events: what ended before it cannot be in the answer.
CREATE FUNCTION audit.recent(since timestamptz, until timestamptz, wanted_key text, wanted_user text,
                             max_events integer)
RETURNS SETOF audit.event
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
WITH inside AS (
    SELECT b.first_at, CASE WHEN wanted_key IS NULL AND wanted_user IS NULL THEN b.count ELSE 1 END AS weight
    FROM audit.batch b
    WHERE (wanted_key IS NULL OR b.keys @> ARRAY[wanted_key])
      AND (wanted_user IS NULL OR b.users @> ARRAY[wanted_user])
      AND b.last_at < coalesce(until, 'infinity') AND b.first_at >= coalesce(since, '-infinity')
    ORDER BY b.last_at DESC
    LIMIT max_events
), horizon AS (
    SELECT coalesce(max(i.first_at), since, '-infinity') AS at
    FROM (SELECT first_at, sum(weight) OVER (ORDER BY first_at DESC) AS whole FROM inside) i
    WHERE i.whole >= max_events
)
SELECT b.producer || '-' || b.epoch || '-' || (b.first_seq + e.position - 1),
       e.at, e.event, e.outcome, e.reason, e.request_id, e.user_id, e.tenant_id, e.auth_method, e.key_id,
       e.address, e.method, e.path, e.server, e.tool, e.status, e.latency_us, e.bytes, e.requests,
       b.producer, b.epoch, b.first_seq + e.position - 1, e.details::jsonb
FROM audit.batch b,
     unnest(b.at, b.event, b.outcome, b.reason, b.request_id, b.user_id, b.tenant_id, b.auth_method, b.key_id,
            b.address, b.method, b.path, b.server, b.tool, b.status, b.latency_us, b.bytes, b.requests, b.details)
     WITH ORDINALITY AS e (at, event, outcome, reason, request_id, user_id, tenant_id, auth_method, key_id,
            address, method, path, server, tool, status, latency_us, bytes, requests, details, position)
WHERE b.last_at >= (SELECT at FROM horizon) AND b.first_at < coalesce(until, 'infinity')
  AND (wanted_key IS NULL OR b.keys @> ARRAY[wanted_key])
  AND (wanted_user IS NULL OR b.users @> ARRAY[wanted_user])
  AND (wanted_key IS NULL OR e.key_id = wanted_key) AND (wanted_user IS NULL OR e.user_id = wanted_user)
  AND (since IS NULL OR e.at >= since) AND (until IS NULL OR e.at < until)
ORDER BY e.at DESC, 1 DESC
LIMIT max_events
$$;

REVOKE ALL ON FUNCTION audit.maintain(integer) FROM public;
GRANT USAGE ON SCHEMA audit TO mcpgw_audit, mcpgw_keys;
GRANT SELECT, INSERT, UPDATE ON audit.watermark TO mcpgw_audit;
GRANT SELECT, INSERT ON audit.batch, audit.quarantine TO mcpgw_audit;
GRANT SELECT ON audit.event TO mcpgw_audit, mcpgw_keys;
GRANT SELECT ON audit.batch TO mcpgw_keys;
GRANT USAGE ON SEQUENCE audit.consumer_token TO mcpgw_audit;
GRANT EXECUTE ON FUNCTION audit.maintain(integer) TO mcpgw_audit;

DO $$
BEGIN
    IF to_regclass('mcpgw.outbox') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA mcpgw TO mcpgw_audit;
        GRANT SELECT ON mcpgw.outbox TO mcpgw_audit;
    END IF;
END $$;

SELECT audit.maintain(0);
