-- Key sets of token issuers: fetched by the keys service, read by authz.  One row per issuer of the settings file.
--
-- attempted_at is the cool-down and the single flight of all keys processes, and outlives them: who may set it fetches.

CREATE TABLE mcpgw.issuer_keys (
    name         text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9_.-]{1,64}$'),
    issuer       text NOT NULL,       -- what `iss` must be: a set under another one is not this issuer's
    source       text NOT NULL,       -- the settings of the last attempt; others are tried at once
    jwks         text CHECK (octet_length(jwks) <= 262144),    -- RFC 7517, without private members; NULL: none that may be used
    jwks_url     text,
    key_count    integer NOT NULL DEFAULT 0,                   -- usable ones
    fetched_at   timestamptz,         -- last success, whether or not the set was another one
    due_at       timestamptz,         -- when it is fetched again; NULL: at once
    attempted_at timestamptz NOT NULL,
    attempted_by text NOT NULL,
    failures     integer NOT NULL DEFAULT 0,                   -- since the last success
    failed_at    timestamptz,
    last_error   text CHECK (length(last_error) <= 300)
);

CREATE FUNCTION mcpgw.on_issuer_keys() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        IF TG_OP = 'DELETE' OR OLD.name IS DISTINCT FROM NEW.name THEN
            PERFORM mcpgw.take_change(7, NULL, NULL, NULL, NULL, OLD.name, 'issuer.keys_dropped', NULL);
        END IF;
        IF TG_OP = 'DELETE' THEN
            RETURN NULL;
        END IF;
    END IF;
    PERFORM mcpgw.take_change(7, NULL, NULL, NULL, NULL, NEW.name,
                              CASE WHEN NEW.jwks IS NULL THEN 'issuer.keys_dropped' ELSE 'issuer.keys_changed' END,
                              jsonb_build_object('issuer', left(NEW.issuer, 300), 'keys', NEW.key_count));
    RETURN NULL;
END
$$;

-- Not for attempts: only another set is a change.
CREATE CONSTRAINT TRIGGER mcpgw_created AFTER INSERT ON mcpgw.issuer_keys
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.jwks IS NOT NULL) EXECUTE FUNCTION mcpgw.on_issuer_keys();
CREATE CONSTRAINT TRIGGER mcpgw_updated AFTER UPDATE ON mcpgw.issuer_keys
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.name, OLD.issuer, OLD.jwks) IS DISTINCT FROM (NEW.name, NEW.issuer, NEW.jwks)) EXECUTE FUNCTION mcpgw.on_issuer_keys();
CREATE CONSTRAINT TRIGGER mcpgw_deleted AFTER DELETE ON mcpgw.issuer_keys
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.jwks IS NOT NULL) EXECUTE FUNCTION mcpgw.on_issuer_keys();
CREATE TRIGGER mcpgw_truncated AFTER TRUNCATE ON mcpgw.issuer_keys
    FOR EACH STATEMENT EXECUTE FUNCTION mcpgw.on_truncate('issuer.keys_dropped');
INSERT INTO mcpgw.wanted_trigger (schema_name, table_name, trigger_name)
SELECT 'mcpgw', 'issuer_keys', 'mcpgw_' || t FROM unnest(ARRAY['created', 'updated', 'deleted', 'truncated']) t;

REVOKE ALL ON mcpgw.issuer_keys FROM PUBLIC;
REVOKE ALL ON FUNCTION mcpgw.on_issuer_keys() FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE ON mcpgw.issuer_keys TO mcpgw_keys;
GRANT SELECT (name, issuer, jwks, fetched_at) ON mcpgw.issuer_keys TO mcpgw_authz;
