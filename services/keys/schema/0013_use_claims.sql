-- An edge asks a second worker when the first is slow: the same request must not cost two uses.  Of each key the request
-- that took the last single use is remembered, for as long as a copy of it can be on its way.
CREATE TABLE mcpgw.use_claim (
    key_id  text PRIMARY KEY,
    request text NOT NULL,
    at      timestamptz NOT NULL
);

-- p_request: the edge's start and its number of the request, the same in every copy of it.
CREATE FUNCTION mcpgw.take_use(p_key_id text, p_request text,
                               OUT taken int, OUT valid_ms bigint, OUT refilled timestamptz, OUT sequence bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
BEGIN
    PERFORM FROM mcpgw.apikey a WHERE a.id = p_key_id FOR UPDATE OF a;    -- copies come one after the other
    IF EXISTS (SELECT FROM mcpgw.use_claim c WHERE c.key_id = p_key_id AND c.request = p_request AND c.at > now() - interval '10 s') THEN
        taken := 1;
        valid_ms := 0;
        SELECT s.value INTO take_use.sequence FROM mcpgw.change_sequence s;
        RETURN;
    END IF;
    SELECT * INTO taken, valid_ms, refilled, take_use.sequence FROM mcpgw.take_uses(p_key_id, 1, false);
    IF taken = 1 THEN
        INSERT INTO mcpgw.use_claim AS c (key_id, request, at) VALUES (p_key_id, p_request, now())
        ON CONFLICT (key_id) DO UPDATE SET request = excluded.request, at = excluded.at;
    END IF;
END
$$;

REVOKE ALL ON FUNCTION mcpgw.take_use(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mcpgw.take_use(text, text) TO mcpgw_authz;
