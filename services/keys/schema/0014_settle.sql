-- What Better-Auth's own pages show of a key's use (requestCount, lastRequest), settled from the trail: no request writes it.

-- How far each producer's stream has been counted; moved with what was counted, so every event counts once.
CREATE TABLE mcpgw.settled (
    producer uuid NOT NULL,
    epoch    bigint NOT NULL,
    next_seq bigint NOT NULL,
    PRIMARY KEY (producer, epoch)
);
-- lastRequest is also the clock of the plugin's own limit.  What we wrote there, and what the plugin had written last:
-- so that its limit goes on as if ours had never been.
CREATE TABLE mcpgw.use (
    key_id      text PRIMARY KEY,
    ours        timestamptz NOT NULL,
    plugins     timestamptz
);

-- Counts at most p_batches of audit.batch; returns how many it did.  p_limits: better_auth_row_limits.
--   limit of the row that is not in force   requestCount grows
--   one that the gateway obeys              requestCount grows within its window, as the plugin counts
--   one that it ignores                     requestCount is the plugin's alone (its verify would refuse for our requests);
--                                           it is set to 0 when the plugin itself would, at the end of its window
-- lastRequest moves in all of them.  In PL/pgSQL, which binds late: schema audit may come later.
CREATE FUNCTION mcpgw.settle_uses(p_limits text, p_batches int) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    v_count bigint;
BEGIN
    IF to_regclass('audit.batch') IS NULL OR NOT pg_try_advisory_xact_lock(x'6d636770670004'::bigint) THEN
        RETURN 0;
    END IF;
    WITH batch AS MATERIALIZED (
        SELECT b.producer, b.epoch, b.last_seq, b.at, b.event, b.outcome, b.key_id, b.requests
        FROM audit.watermark w
        LEFT JOIN mcpgw.settled s ON s.producer = w.producer AND s.epoch = w.epoch
        CROSS JOIN LATERAL (SELECT * FROM audit.batch x
                            WHERE x.producer = w.producer AND x.epoch = w.epoch
                              AND x.first_seq >= coalesce(s.next_seq, 0) AND x.first_seq < w.next_seq
                            ORDER BY x.first_seq LIMIT p_batches) b
        WHERE w.next_seq > coalesce(s.next_seq, 0)
        ORDER BY b.producer, b.epoch, b.last_seq LIMIT p_batches
    ), moved AS (
        INSERT INTO mcpgw.settled AS s (producer, epoch, next_seq)
        SELECT b.producer, b.epoch, max(b.last_seq) + 1 FROM batch b GROUP BY 1, 2
        ON CONFLICT (producer, epoch) DO UPDATE SET next_seq = excluded.next_seq
    ), used AS (
        SELECT e.key_id, sum(greatest(e.requests, 1)) AS count, date_trunc('milliseconds', max(e.at)) AS last
        FROM batch b, unnest(b.at, b.event, b.outcome, b.key_id, b.requests) AS e (at, event, outcome, key_id, requests)
        WHERE e.key_id <> '' AND e.outcome = 'allowed' AND e.event IN ('request', 'decision')
        GROUP BY e.key_id
    ), locked AS MATERIALIZED (
        SELECT a.id, u.count, u.last, coalesce(a."requestCount", 0) AS had, a."lastRequest" AS former,
               a."rateLimitTimeWindow" * interval '1 millisecond' AS lasting,
               CASE WHEN a."lastRequest" IS DISTINCT FROM s.ours THEN a."lastRequest" ELSE s.plugins END AS plugins,
               a."rateLimitEnabled" IS NOT FALSE AND a."rateLimitTimeWindow" IS NOT NULL AND a."rateLimitMax" IS NOT NULL AS in_force,
               p_limits = 'obey' OR (p_limits = 'ignore_default'
                   AND NOT (a."rateLimitMax" = 10 AND a."rateLimitTimeWindow" = 86400000)) AS obeyed
        FROM used u JOIN mcpgw.apikey a ON a.id = u.key_id LEFT JOIN mcpgw.use s ON s.key_id = a.id
        ORDER BY a.id FOR UPDATE OF a
    ), written AS (
        UPDATE mcpgw.apikey a SET "lastRequest" = greatest(l.former, l.last), "requestCount" = least(2147483647, CASE
            WHEN NOT l.in_force THEN l.had + l.count
            WHEN l.obeyed THEN CASE WHEN l.former IS NULL OR l.last - l.former > l.lasting THEN l.count ELSE l.had + l.count END
            WHEN l.plugins IS NULL OR l.last - l.plugins > l.lasting THEN 0
            ELSE l.had END)
        FROM locked l WHERE a.id = l.id
    ), noted AS (
        INSERT INTO mcpgw.use AS s (key_id, ours, plugins) SELECT l.id, greatest(l.former, l.last), l.plugins FROM locked l
        ON CONFLICT (key_id) DO UPDATE SET ours = excluded.ours, plugins = excluded.plugins
    )
    SELECT count(*) INTO v_count FROM batch;
    RETURN v_count;
END
$$;

REVOKE ALL ON FUNCTION mcpgw.settle_uses(text, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mcpgw.settle_uses(text, int) TO mcpgw_keys;
