-- A key counts as unused only for the time whose uses are known: they reach its row late (settle_uses), and not at all while
-- audit is away.

-- Up to when the uses of keys have reached their rows; NULL: unknown.  Batches that are not counted yet, and streams that audit
-- brings more than a minute late, hold it back.  Silence means no use only while audit is there to say otherwise; without it
-- the last event that was counted decides.
CREATE FUNCTION mcpgw.uses_known_until() RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    v_held   timestamptz;
    v_newest timestamptz;
BEGIN
    IF to_regclass('audit.batch') IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT min(least(uncounted.first_at,
                     CASE WHEN w.updated > now() - interval '10 minutes' AND w.updated > counted.last_at + interval '1 minute'
                          THEN counted.last_at END)),
           max(counted.last_at)
    INTO v_held, v_newest
    FROM audit.watermark w
    LEFT JOIN mcpgw.settled s ON s.producer = w.producer AND s.epoch = w.epoch
    LEFT JOIN LATERAL (SELECT x.first_at FROM audit.batch x
                       WHERE x.producer = w.producer AND x.epoch = w.epoch
                         AND x.first_seq >= coalesce(s.next_seq, 0) AND x.first_seq < w.next_seq
                       ORDER BY x.first_seq LIMIT 1) uncounted ON w.next_seq > coalesce(s.next_seq, 0)
    LEFT JOIN LATERAL (SELECT x.last_at FROM audit.batch x
                       WHERE x.producer = w.producer AND x.epoch = w.epoch AND x.first_seq < s.next_seq
                       ORDER BY x.first_seq DESC LIMIT 1) counted ON true;
    IF EXISTS (SELECT FROM pg_stat_activity p WHERE p.application_name = 'mcpgw-audit' AND p.datname = current_database()
                 AND p.backend_start < now() - interval '1 minute') THEN
        v_newest := greatest(v_newest, now() - interval '1 minute');
    END IF;
    RETURN least(v_held, v_newest);
END
$$;

-- Which keys a policy ends: not rotated in time, or not used for too long.  To be enabled again is a use, or it would not last.
DROP VIEW mcpgw.overdue;
CREATE VIEW mcpgw.overdue AS
SELECT c.key_id, t.id AS tenant_id,
       coalesce(k.rotated_at, a."createdAt") + make_interval(secs => t.rotate_after_s) < now()                    AS is_old,
       greatest(a."lastRequest", a."createdAt", a."updatedAt", k.rotated_at) + make_interval(secs => t.idle_after_s) AS idle_at
FROM mcpgw.tenant t
JOIN mcpgw.credential c ON c.tenant_id = t.id
JOIN mcpgw.apikey a ON a.id = c.key_id
LEFT JOIN mcpgw.key k ON k.key_id = c.key_id
WHERE (t.rotate_after_s IS NOT NULL OR t.idle_after_s IS NOT NULL) AND coalesce(a.enabled, true) AND NOT c.revoked;
REVOKE ALL ON mcpgw.overdue FROM PUBLIC;

-- Disables them once, whichever instance asks: the row's lock and its state decide.
CREATE OR REPLACE FUNCTION mcpgw.disable_overdue(p_idle boolean) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_known timestamptz;
    v_count bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM mcpgw.tenant t WHERE CASE WHEN p_idle THEN t.idle_after_s ELSE t.rotate_after_s END IS NOT NULL) THEN
        RETURN 0;
    END IF;
    v_known := CASE WHEN p_idle THEN mcpgw.uses_known_until() END;
    UPDATE mcpgw.apikey a SET enabled = false, "updatedAt" = date_trunc('milliseconds', now())
    WHERE a.id IN (SELECT o.key_id FROM mcpgw.overdue o WHERE CASE WHEN p_idle THEN o.idle_at < v_known ELSE o.is_old END LIMIT 1000)
      AND coalesce(a.enabled, true);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$$;
REVOKE ALL ON FUNCTION mcpgw.uses_known_until() FROM PUBLIC;
