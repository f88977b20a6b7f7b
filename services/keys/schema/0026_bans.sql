-- Whose a ban is: resuming a user lifts what the gateway did and gives back what stood there before.  And keys that come back
-- count against a tenant's most keys.

CREATE TABLE mcpgw.suspension (
    user_id     text PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    by_operator boolean NOT NULL,
    was_banned  boolean NOT NULL,
    was_reason  text,
    was_until   timestamptz
);

-- Whoever else sets or lifts a ban makes it theirs, also where the values stay the same: hence no WHEN.
CREATE FUNCTION mcpgw.on_ban() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM mcpgw.suspension s WHERE s.user_id = OLD.id::text AND s.xmin <> pg_current_xact_id()::xid;
    RETURN NULL;
END
$$;
CREATE TRIGGER mcpgw_ban AFTER UPDATE OF banned, "banReason", "banExpires" OR DELETE ON public."user"
    FOR EACH ROW EXECUTE FUNCTION mcpgw.on_ban();
INSERT INTO mcpgw.wanted_trigger (schema_name, table_name, trigger_name) VALUES ('public', 'user', 'mcpgw_ban');

-- Before a key is given a longer life: one that had expired was no key of the tenant any more.
CREATE FUNCTION mcpgw.check_key_room(p_tenant text, p_key text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_max integer;
BEGIN
    IF NOT EXISTS (SELECT FROM mcpgw.credential c WHERE c.key_id = p_key AND NOT c.revoked AND c.expires_at <= now()) THEN
        RETURN;
    END IF;
    SELECT t.max_keys INTO v_max FROM mcpgw.tenant t WHERE t.id = p_tenant AND t.max_keys IS NOT NULL FOR UPDATE;
    IF v_max IS NOT NULL AND mcpgw.keys_in_tenant(p_tenant) >= v_max THEN
        RAISE EXCEPTION 'tenant % has % keys already', p_tenant, v_max USING ERRCODE = 'MG001';
    END IF;
END
$$;

REVOKE ALL ON mcpgw.suspension FROM PUBLIC;
REVOKE ALL ON FUNCTION mcpgw.on_ban(), mcpgw.check_key_room(text, text) FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE ON mcpgw.suspension TO mcpgw_keys;
GRANT EXECUTE ON FUNCTION mcpgw.check_key_room(text, text) TO mcpgw_keys;
