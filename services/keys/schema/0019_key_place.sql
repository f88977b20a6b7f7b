-- A tenant's most keys holds for creates at the very same moment too: each counts its own key under the lock of the
-- tenant's row, where the others' keys are committed or not yet counted.
CREATE FUNCTION mcpgw.check_key_count(p_tenant text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_max integer;
BEGIN
    SELECT t.max_keys INTO v_max FROM mcpgw.tenant t WHERE t.id = p_tenant AND t.max_keys IS NOT NULL FOR UPDATE;
    IF v_max IS NOT NULL AND mcpgw.keys_in_tenant(p_tenant) > v_max THEN
        RAISE EXCEPTION 'tenant % has % keys already', p_tenant, v_max USING ERRCODE = 'MG001';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION mcpgw.check_key_count(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mcpgw.check_key_count(text) TO mcpgw_keys;
