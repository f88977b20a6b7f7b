-- Looking for what a caller presented: the details hold a keyed digest of it, which the service makes from what is asked for.
-- And counters by tier.

DROP FUNCTION mcpgw.audit_page(timestamptz, timestamptz, text, text, text, text, text, text, text, text, bigint, text, int);

-- A page of the trail, newest first, each event as the JSON object that people see.  NULL: any.  The row without an item, if
-- there is one, says where to go on looking: a filter may leave nothing of what one call reads.
CREATE FUNCTION mcpgw.audit_page(p_from timestamptz, p_to timestamptz, p_key text, p_user text, p_tenant text, p_outcome text,
                                 p_event text, p_server text, p_tool text, p_request text, p_presented text,
                                 p_cursor_us bigint, p_cursor_id text, p_limit int)
RETURNS TABLE (item text, cursor text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_cursor timestamptz := timestamptz 'epoch' + p_cursor_us * interval '1 microsecond';
    v_scan   int := CASE WHEN coalesce(p_outcome, p_event, p_tenant, p_server, p_tool, p_request, p_presented) IS NULL
                         THEN p_limit + 200 ELSE 10000 END;
BEGIN
    RETURN QUERY
    WITH scanned AS MATERIALIZED (
        SELECT r.*, (extract(epoch FROM r."time") * 1000000)::bigint || '.' || r.id AS place,
               CASE WHEN r.event = 'decision' AND audit.is_unfinished(r.producer, r.epoch, r.seq) THEN 'unknown'
                    ELSE r.outcome END AS told_outcome
        FROM (SELECT * FROM audit.recent(p_from, least(p_to, v_cursor + interval '1 microsecond'), p_key, p_user, v_scan)
              WHERE p_request IS NULL
              UNION ALL
              SELECT * FROM audit.of_request(p_request, p_from, least(p_to, v_cursor + interval '1 microsecond'), v_scan)
              WHERE p_request IS NOT NULL) r
    ), page AS (
        SELECT s.* FROM scanned s
        WHERE (p_outcome IS NULL OR s.told_outcome = p_outcome) AND (p_event IS NULL OR s.event = p_event)
          AND (p_tenant IS NULL OR s."tenantId" = p_tenant OR s.details->>'subjectTenantId' = p_tenant)
          AND (p_server IS NULL OR s.server = p_server) AND (p_tool IS NULL OR s.tool = p_tool)
          AND (p_presented IS NULL OR s.details->>'presented' = p_presented)
          AND (p_key IS NULL OR s."keyId" = p_key) AND (p_user IS NULL OR s."userId" = p_user)
          AND (v_cursor IS NULL OR (s."time", s.id) < (v_cursor, p_cursor_id))
        ORDER BY s."time" DESC, s.id DESC LIMIT p_limit
    ), told AS (
        SELECT 1 AS part, g."time", g.id, json_build_object(
                   'id', g.id, 'time', to_char(g."time" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                   'event', g.event, 'outcome', nullif(g.told_outcome, ''), 'reason', nullif(g.reason, ''),
                   'requestId', nullif(g."requestId", ''), 'userId', nullif(g."userId", ''), 'tenantId', nullif(g."tenantId", ''),
                   'authMethod', nullif(g."authMethod", ''), 'keyId', nullif(g."keyId", ''), 'address', nullif(g.address, ''),
                   'method', nullif(g.method, ''), 'path', nullif(g.path, ''), 'server', nullif(g.server, ''), 'tool', nullif(g.tool, ''),
                   'status', nullif(g.status, 0), 'latencyUs', g."latencyUs", 'bytes', g.bytes, 'count', g.count,
                   'producer', g.producer, 'epoch', g.epoch, 'seq', g.seq, 'details', g.details)::text AS item, g.place
        FROM page g
        UNION ALL
        (SELECT 2, s."time", s.id, NULL, s.place FROM scanned s
         WHERE (SELECT count(*) FROM scanned) >= v_scan AND (SELECT count(*) FROM page) < p_limit
         ORDER BY s."time", s.id LIMIT 1)
    )
    SELECT t.item, t.place FROM told t ORDER BY t.part, t."time" DESC, t.id DESC;
END
$$;

-- Counters of the last minute and the last hour, as one JSON object.
CREATE OR REPLACE FUNCTION mcpgw.stats() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_result jsonb := '{}';
    v_span   record;
BEGIN
    FOR v_span IN SELECT * FROM (VALUES ('lastMinute', interval '1 minute'), ('lastHour', interval '1 hour')) AS s (name, span) LOOP
        v_result := v_result || (
            WITH p AS (SELECT x.* FROM audit.pulse x WHERE x.slot > now() - v_span.span)
            SELECT jsonb_build_object(v_span.name, jsonb_build_object(
                'requests', coalesce(sum(p.requests), 0),
                'averageLatencyUs', (sum(p.latency_us)::numeric / nullif(sum(p.requests), 0))::bigint,
                'byOutcome', coalesce((SELECT jsonb_object_agg(o.outcome, o.n) FROM (SELECT p.outcome, sum(p.requests) AS n FROM p GROUP BY 1) o), '{}'),
                'byMethod', coalesce((SELECT jsonb_object_agg(coalesce(nullif(m.auth_method, ''), 'none'), m.n)
                                      FROM (SELECT p.auth_method, sum(p.requests) AS n FROM p GROUP BY 1) m), '{}'),
                'byTier', coalesce((SELECT jsonb_object_agg(coalesce(nullif(t.tier, ''), 'none'), t.n)
                                    FROM (SELECT p.tier, sum(p.requests) AS n FROM p GROUP BY 1) t), '{}'),
                'byServer', coalesce((SELECT jsonb_object_agg(v.server, v.n) FROM (SELECT p.server, sum(p.requests) AS n FROM p
                                      WHERE p.server <> '' GROUP BY 1 ORDER BY 2 DESC LIMIT 50) v), '{}')))
            FROM p);
    END LOOP;
    RETURN (v_result || jsonb_build_object('at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))::text;
END
$$;

REVOKE ALL ON FUNCTION mcpgw.audit_page(timestamptz, timestamptz, text, text, text, text, text, text, text, text, text, bigint, text, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mcpgw.audit_page(timestamptz, timestamptz, text, text, text, text, text, text, text, text, text, bigint, text, int) TO mcpgw_keys;
