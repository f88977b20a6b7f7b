-- Counters by tier as well.  The edge's details name a tier only where it is not the one that the method gives.

ALTER TABLE audit.pulse ADD tier text NOT NULL DEFAULT '';
ALTER TABLE audit.pulse DROP CONSTRAINT pulse_pkey;
ALTER TABLE audit.pulse ADD PRIMARY KEY (slot, outcome, auth_method, tier, server);

-- Counts up to p_batches more batches of one producer; false: there is nothing to count.
CREATE OR REPLACE FUNCTION audit.count_usage(p_batches integer) RETURNS boolean
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
               CASE WHEN e.user_id IS NULL AND e.key_id IS NULL THEN ''
                    WHEN e.details LIKE '%"tier":"%' THEN coalesce(substring(e.details FROM '"tier":"([a-z_]+)"'), '')
                    WHEN e.auth_method = 'api_key' THEN 'api_key' WHEN e.auth_method IS NULL THEN '' ELSE 'oauth' END AS tier,
               sum(e.requests)::bigint AS requests, sum(e.bytes)::bigint AS bytes, sum(e.latency_us)::bigint AS latency_us
        FROM due, unnest(due.at, due.outcome, due.status, due.tenant_id, due.user_id, due.key_id, due.auth_method, due.server,
                         due.requests, due.bytes, due.latency_us, due.details)
             AS e (at, outcome, status, tenant_id, user_id, key_id, auth_method, server, requests, bytes, latency_us, details)
        WHERE e.status IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
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
        INSERT INTO audit.pulse AS p (slot, outcome, auth_method, tier, server, requests, latency_us)
        SELECT c.slot, c.outcome, c.auth_method, c.tier, c.server, sum(c.requests), sum(c.latency_us)
        FROM counted c WHERE c.slot > now() - interval '2 hours' GROUP BY 1, 2, 3, 4, 5
        ON CONFLICT (slot, outcome, auth_method, tier, server) DO UPDATE
        SET requests = p.requests + excluded.requests, latency_us = p.latency_us + excluded.latency_us
    )
    SELECT max(due.last_seq) + 1 INTO v_next FROM due;
    -- Without a batch there, retention was faster.
    UPDATE audit.usage_mark m SET next_seq = coalesce(v_next, (SELECT w.next_seq FROM audit.watermark w
        WHERE w.producer = v_mark.producer AND w.epoch = v_mark.epoch))
    WHERE m.producer = v_mark.producer AND m.epoch = v_mark.epoch;
    RETURN true;
END $$;
