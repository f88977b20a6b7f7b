-- What the trail feeds: usage by hour and the counters of a dashboard, each event counted exactly once because a producer's
-- place moves in the transaction that counts.

CREATE TABLE audit.usage_mark (
    producer uuid   NOT NULL,
    epoch    bigint NOT NULL,
    next_seq bigint NOT NULL,     -- everything below it is counted
    PRIMARY KEY (producer, epoch)
);

-- '' stands for none.  Only answers count, by what they stand for; retention leaves this table alone.
CREATE TABLE audit.usage (
    hour       timestamptz NOT NULL,
    tenant_id  text   NOT NULL,
    user_id    text   NOT NULL,
    key_id     text   NOT NULL,
    server     text   NOT NULL,
    requests   bigint NOT NULL,
    refused    bigint NOT NULL,     -- answered 4xx
    failed     bigint NOT NULL,     -- answered 5xx
    bytes      bigint NOT NULL,
    latency_us bigint NOT NULL,     -- their sum
    PRIMARY KEY (hour, key_id, user_id, tenant_id, server)
);
CREATE INDEX usage_key ON audit.usage (key_id, hour);
CREATE INDEX usage_user ON audit.usage (user_id, hour);
CREATE INDEX usage_tenant ON audit.usage (tenant_id, hour);

-- The last two hours in steps of ten seconds.
CREATE TABLE audit.pulse (
    slot        timestamptz NOT NULL,
    outcome     text   NOT NULL,
    auth_method text   NOT NULL,
    server      text   NOT NULL,
    requests    bigint NOT NULL,
    latency_us  bigint NOT NULL,
    PRIMARY KEY (slot, outcome, auth_method, server)
);

-- Counts up to p_batches more batches of one producer; false: there is nothing to count.
CREATE FUNCTION audit.count_usage(p_batches integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET jit = off AS $$
DECLARE
    v_mark record;
    v_next bigint;
BEGIN
    SELECT w.producer, w.epoch, coalesce(m.next_seq, 1) AS next_seq INTO v_mark
    FROM audit.watermark w LEFT JOIN audit.usage_mark m USING (producer, epoch)
    WHERE w.next_seq > coalesce(m.next_seq, 1) ORDER BY w.updated LIMIT 1;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO audit.usage_mark VALUES (v_mark.producer, v_mark.epoch, 1) ON CONFLICT DO NOTHING;
    -- Whoever counts holds the place; a second one finds it moved.
    PERFORM FROM audit.usage_mark m WHERE m.producer = v_mark.producer AND m.epoch = v_mark.epoch
        AND m.next_seq = v_mark.next_seq FOR UPDATE;
    IF NOT FOUND THEN
        RETURN true;
    END IF;
    WITH due AS MATERIALIZED (
        SELECT b.* FROM audit.batch b WHERE b.producer = v_mark.producer AND b.epoch = v_mark.epoch
        AND b.first_seq >= v_mark.next_seq ORDER BY b.first_seq LIMIT p_batches
    ), counted AS MATERIALIZED (
        SELECT to_timestamp(floor(extract(epoch FROM e.at) / 10) * 10) AS slot, e.outcome, e.status,
               coalesce(e.tenant_id, '') AS tenant_id, coalesce(e.user_id, '') AS user_id, coalesce(e.key_id, '') AS key_id,
               coalesce(e.auth_method, '') AS auth_method, coalesce(e.server, '') AS server,
               sum(e.requests)::bigint AS requests, sum(e.bytes)::bigint AS bytes, sum(e.latency_us)::bigint AS latency_us
        FROM due, unnest(due.at, due.outcome, due.status, due.tenant_id, due.user_id, due.key_id, due.auth_method, due.server,
                         due.requests, due.bytes, due.latency_us)
             AS e (at, outcome, status, tenant_id, user_id, key_id, auth_method, server, requests, bytes, latency_us)
        WHERE e.status IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ), hours AS (
        INSERT INTO audit.usage AS u (hour, tenant_id, user_id, key_id, server, requests, refused, failed, bytes, latency_us)
        SELECT date_trunc('hour', c.slot), c.tenant_id, c.user_id, c.key_id, c.server, sum(c.requests),
               coalesce(sum(c.requests) FILTER (WHERE c.status BETWEEN 400 AND 499), 0),
               coalesce(sum(c.requests) FILTER (WHERE c.status >= 500), 0), sum(c.bytes), sum(c.latency_us)
        FROM counted c GROUP BY 1, 2, 3, 4, 5
        ON CONFLICT (hour, key_id, user_id, tenant_id, server) DO UPDATE
        SET requests = u.requests + excluded.requests, refused = u.refused + excluded.refused, failed = u.failed + excluded.failed,
            bytes = u.bytes + excluded.bytes, latency_us = u.latency_us + excluded.latency_us
    ), slots AS (
        INSERT INTO audit.pulse AS p (slot, outcome, auth_method, server, requests, latency_us)
        SELECT c.slot, c.outcome, c.auth_method, c.server, sum(c.requests), sum(c.latency_us)
        FROM counted c WHERE c.slot > now() - interval '2 hours' GROUP BY 1, 2, 3, 4
        ON CONFLICT (slot, outcome, auth_method, server) DO UPDATE
        SET requests = p.requests + excluded.requests, latency_us = p.latency_us + excluded.latency_us
    )
    SELECT max(due.last_seq) + 1 INTO v_next FROM due;
    -- Without a batch there, retention was faster.
    UPDATE audit.usage_mark m SET next_seq = coalesce(v_next, (SELECT w.next_seq FROM audit.watermark w
        WHERE w.producer = v_mark.producer AND w.epoch = v_mark.epoch))
    WHERE m.producer = v_mark.producer AND m.epoch = v_mark.epoch;
    RETURN true;
END $$;

-- Is this decision one that its closed epoch left without a completion?
CREATE FUNCTION audit.is_unfinished(p_producer uuid, p_epoch bigint, p_seq bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM audit.unfinished u JOIN audit.watermark w USING (producer, epoch)
                   WHERE w.is_swept AND u.producer = p_producer AND u.epoch = p_epoch AND u.seq = p_seq)
$$;

-- Events of one request, newest first: looks into one column of each batch only.
CREATE FUNCTION audit.of_request(p_request text, p_from timestamptz, p_to timestamptz, p_max integer) RETURNS SETOF audit.event
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
SELECT b.producer || '-' || b.epoch || '-' || (b.first_seq + e.position - 1),
       e.at, e.event, e.outcome, e.reason, e.request_id, e.user_id, e.tenant_id, e.auth_method, e.key_id,
       e.address, e.method, e.path, e.server, e.tool, e.status, e.latency_us, e.bytes, e.requests,
       b.producer, b.epoch, b.first_seq + e.position - 1, e.details::jsonb
FROM audit.batch b,
     unnest(b.at, b.event, b.outcome, b.reason, b.request_id, b.user_id, b.tenant_id, b.auth_method, b.key_id,
            b.address, b.method, b.path, b.server, b.tool, b.status, b.latency_us, b.bytes, b.requests, b.details)
     WITH ORDINALITY AS e (at, event, outcome, reason, request_id, user_id, tenant_id, auth_method, key_id,
            address, method, path, server, tool, status, latency_us, bytes, requests, details, position)
WHERE b.last_at >= coalesce(p_from, '-infinity') AND b.first_at < coalesce(p_to, 'infinity')
  AND b.request_id @> ARRAY[p_request] AND e.request_id = p_request
  AND (p_from IS NULL OR e.at >= p_from) AND (p_to IS NULL OR e.at < p_to)
ORDER BY e.at DESC, 1 DESC
LIMIT p_max
$$;

-- As before, and: what only proves or describes dropped events goes two days after them.
CREATE OR REPLACE FUNCTION audit.maintain(retention_days integer) RETURNS void
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
    DELETE FROM audit.pulse WHERE slot < now() - interval '2 hours';
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
    DELETE FROM audit.checkpoint WHERE signed_at < cutoff - interval '2 days';
    DELETE FROM audit.unfinished u USING audit.watermark w
    WHERE w.producer = u.producer AND w.epoch = u.epoch AND w.is_swept AND w.updated < cutoff - interval '2 days';
END $$;

REVOKE ALL ON FUNCTION audit.count_usage(integer), audit.is_unfinished(uuid, bigint, bigint) FROM public;
GRANT EXECUTE ON FUNCTION audit.count_usage(integer) TO mcpgw_audit;
GRANT EXECUTE ON FUNCTION audit.is_unfinished(uuid, bigint, bigint) TO mcpgw_audit, mcpgw_keys;
GRANT SELECT ON audit.usage, audit.pulse TO mcpgw_audit, mcpgw_keys;
