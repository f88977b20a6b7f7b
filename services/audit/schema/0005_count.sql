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
    -- Grouped by what stands in the arrays, before anything is made of it: a third of the time for each event.
    WITH due AS MATERIALIZED (
        SELECT b.last_seq, b.at, b.outcome, b.status, b.tenant_id, b.user_id, b.key_id, b.auth_method, b.server, b.requests, b.bytes,
               b.latency_us, b.details
        FROM audit.batch b WHERE b.producer = v_mark.producer AND b.epoch = v_mark.epoch
        AND b.first_seq >= v_mark.next_seq ORDER BY b.first_seq LIMIT p_batches
    ), counted AS MATERIALIZED (
        SELECT date_bin('10 seconds', e.at, timestamptz '2000-01-01 00:00:00+00') AS slot, e.outcome, e.status, e.tenant_id, e.user_id,
               e.key_id, e.auth_method, e.server,
               CASE WHEN e.details IS NOT NULL THEN substring(e.details FROM '"tier":"([a-z_]+)"') END AS tier,
               sum(e.requests)::bigint AS requests, sum(e.bytes)::bigint AS bytes, sum(e.latency_us)::bigint AS latency_us
        FROM (SELECT unnest(due.at) AS at, unnest(due.outcome) AS outcome, unnest(due.status) AS status,
                     unnest(due.tenant_id) AS tenant_id, unnest(due.user_id) AS user_id, unnest(due.key_id) AS key_id,
                     unnest(due.auth_method) AS auth_method, unnest(due.server) AS server, unnest(due.requests) AS requests,
                     unnest(due.bytes) AS bytes, unnest(due.latency_us) AS latency_us, unnest(due.details) AS details FROM due) e
        WHERE e.status IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
    ), hours AS (
        INSERT INTO audit.usage AS u (hour, tenant_id, user_id, key_id, server, requests, refused, failed, bytes, latency_us)
        SELECT date_trunc('hour', c.slot), coalesce(c.tenant_id, ''), coalesce(c.user_id, ''), coalesce(c.key_id, ''),
               coalesce(c.server, ''), sum(c.requests),
               coalesce(sum(c.requests) FILTER (WHERE c.status BETWEEN 400 AND 499), 0),
               coalesce(sum(c.requests) FILTER (WHERE c.status >= 500), 0), sum(c.bytes), sum(c.latency_us)
        FROM counted c GROUP BY 1, 2, 3, 4, 5
        ON CONFLICT (hour, key_id, user_id, tenant_id, server) DO UPDATE
        SET requests = u.requests + excluded.requests, refused = u.refused + excluded.refused, failed = u.failed + excluded.failed,
            bytes = u.bytes + excluded.bytes, latency_us = u.latency_us + excluded.latency_us
    ), slots AS (
        INSERT INTO audit.pulse AS p (slot, outcome, auth_method, tier, server, requests, latency_us)
        SELECT c.slot, c.outcome, coalesce(c.auth_method, ''),
               CASE WHEN coalesce(c.user_id, c.key_id, '') = '' THEN '' WHEN c.tier IS NOT NULL THEN c.tier
                    WHEN c.auth_method = 'api_key' THEN 'api_key' WHEN c.auth_method IS NULL THEN '' ELSE 'oauth' END,
               coalesce(c.server, ''), sum(c.requests), sum(c.latency_us)
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
