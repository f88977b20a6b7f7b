-- Access tokens that an administrator has ended before their time: one by its jti or uti, or all of a subject that were
-- issued until a moment.  Kept until no such token can be good any more.

CREATE TABLE mcpgw.ended_token (
    name          text PRIMARY KEY,        -- mcpgw.bond()
    kind          text NOT NULL CHECK (kind IN ('token', 'subject')),
    issuer        text NOT NULL,           -- its name in the settings
    value         text NOT NULL CHECK (length(value) <= 256),
    issued_before timestamptz CHECK ((kind = 'subject') = (issued_before IS NOT NULL)),
    expires_at    timestamptz NOT NULL,
    at            timestamptz NOT NULL DEFAULT now(),
    created_by    text,
    reason        text
);
CREATE INDEX ended_token_at_idx ON mcpgw.ended_token (at DESC, name DESC);

CREATE FUNCTION mcpgw.on_ended_token() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_row mcpgw.ended_token := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    PERFORM mcpgw.take_change(9, NULL, v_row.name, NULL, NULL, v_row.issuer,
                              CASE WHEN TG_OP = 'DELETE' THEN 'token.restored' ELSE 'token.revoked' END,
                              jsonb_build_object(v_row.kind, v_row.value, 'issuedBefore', v_row.issued_before, 'expiresAt', v_row.expires_at));
    RETURN NULL;
END
$$;

-- That one whose time is over goes is no change.
CREATE CONSTRAINT TRIGGER mcpgw_created AFTER INSERT ON mcpgw.ended_token
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mcpgw.on_ended_token();
CREATE CONSTRAINT TRIGGER mcpgw_updated AFTER UPDATE ON mcpgw.ended_token
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mcpgw.on_ended_token();
CREATE CONSTRAINT TRIGGER mcpgw_deleted AFTER DELETE ON mcpgw.ended_token
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.expires_at > now()) EXECUTE FUNCTION mcpgw.on_ended_token();
CREATE TRIGGER mcpgw_truncated AFTER TRUNCATE ON mcpgw.ended_token
    FOR EACH STATEMENT EXECUTE FUNCTION mcpgw.on_truncate('token.restored');
INSERT INTO mcpgw.wanted_trigger (schema_name, table_name, trigger_name)
SELECT 'mcpgw', 'ended_token', 'mcpgw_' || t FROM unnest(ARRAY['created', 'updated', 'deleted', 'truncated']) t;

-- p_issued: iat, 0 where the token does not say: then it may have been issued before any moment.
CREATE FUNCTION mcpgw.token_ended(p_token text, p_subject text, p_issued bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM mcpgw.ended_token e WHERE e.name IN (p_token, p_subject) AND e.expires_at > now()
                   AND (e.kind = 'token' OR p_issued <= extract(epoch FROM e.issued_before)))
$$;

-- NULL: there is no such session.
CREATE FUNCTION mcpgw.session_ends(p_session text) RETURNS timestamptz
LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s."expiresAt" FROM public.session s WHERE s.id = p_session
$$;

REVOKE ALL ON mcpgw.ended_token FROM PUBLIC;
REVOKE ALL ON FUNCTION mcpgw.on_ended_token(), mcpgw.token_ended(text, text, bigint), mcpgw.session_ends(text) FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON mcpgw.ended_token TO mcpgw_keys;
GRANT EXECUTE ON FUNCTION mcpgw.token_ended(text, text, bigint), mcpgw.session_ends(text) TO mcpgw_authz;
GRANT SELECT (failures) ON mcpgw.issuer_keys TO mcpgw_authz;
