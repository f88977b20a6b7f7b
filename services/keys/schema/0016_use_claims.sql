-- An edge asks a second worker when the first is slow: the same request must not cost two uses.  Of each key the requests
-- that took a single use are remembered, for as long as a copy of one can be on its way.
CREATE TABLE mcpgw.use_claim (
    key_id  text NOT NULL,
    request text NOT NULL,
    at      timestamptz NOT NULL,
    PRIMARY KEY (key_id, request)
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
        DELETE FROM mcpgw.use_claim c WHERE c.key_id = p_key_id AND c.at <= now() - interval '10 s';
        INSERT INTO mcpgw.use_claim (key_id, request, at) VALUES (p_key_id, p_request, now());
    END IF;
END
$$;

REVOKE ALL ON FUNCTION mcpgw.take_use(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mcpgw.take_use(text, text) TO mcpgw_authz;
