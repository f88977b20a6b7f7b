-- A signing key that an issuer takes back, or that goes with its issuer, ends what it signed: caches by the change of the
-- key set, open streams by a change of kind 9 that names the key.

-- As token_bond() of common/token.h makes it.  A newline stands in no kind and in no issuer's name.
CREATE FUNCTION mcpgw.bond(p_kind text, p_issuer text, p_value text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT translate(rtrim(encode(substr(sha256(convert_to(p_kind || E'\n' || p_issuer || E'\n' || p_value, 'UTF8')), 1, 16), 'base64'), '='),
                     '+/', '-_')
$$;

-- RFC 7638; NULL for what is no such key.
CREATE FUNCTION mcpgw.thumbprint(p_key jsonb) RETURNS text
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT translate(rtrim(encode(sha256(convert_to(
               CASE p_key->>'kty'
                    WHEN 'RSA' THEN '{"e":"' || (p_key->>'e') || '","kty":"RSA","n":"' || (p_key->>'n') || '"}'
                    WHEN 'EC' THEN '{"crv":"' || (p_key->>'crv') || '","kty":"EC","x":"' || (p_key->>'x') || '","y":"' || (p_key->>'y') || '"}'
                    WHEN 'OKP' THEN '{"crv":"' || (p_key->>'crv') || '","kty":"OKP","x":"' || (p_key->>'x') || '"}'
               END, 'UTF8')), 'base64'), '='), '+/', '-_')
$$;

-- What verification looks at in each key of a set: certificates may be renewed.  NULL: it cannot be read.
CREATE FUNCTION mcpgw.keys_of_set(p_set text) RETURNS jsonb[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(SELECT k.key - ARRAY['x5c', 'x5t', 'x5t#S256', 'x5u'] FROM jsonb_array_elements(p_set::jsonb->'keys') k (key));
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

-- authz goes on with the former set where the new one cannot be read.  Where the former one could not, nobody knows whose
-- keys were in use: all is forgotten.
CREATE FUNCTION mcpgw.end_signers(p_issuer text, p_old text, p_new text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_old jsonb[] := mcpgw.keys_of_set(p_old);
    v_new jsonb[] := mcpgw.keys_of_set(coalesce(p_new, '{"keys":[]}'));
    v_key jsonb;
BEGIN
    IF p_old IS NULL OR v_new IS NULL THEN
        RETURN;
    END IF;
    IF v_old IS NULL THEN
        PERFORM mcpgw.take_change(6, NULL, NULL, NULL, NULL, NULL, 'issuer.keys_changed', jsonb_build_object('unreadable', p_issuer));
        RETURN;
    END IF;
    FOREACH v_key IN ARRAY v_old LOOP
        IF v_key <> ALL (v_new) AND mcpgw.thumbprint(v_key) IS NOT NULL THEN
            PERFORM mcpgw.take_change(9, NULL, mcpgw.bond('signer', p_issuer, mcpgw.thumbprint(v_key)), NULL, NULL, p_issuer,
                                      'issuer.key_ended', jsonb_build_object('kid', left(v_key->>'kid', 256)));
        END IF;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION mcpgw.on_issuer_keys() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        IF TG_OP = 'DELETE' OR OLD.name IS DISTINCT FROM NEW.name THEN
            PERFORM mcpgw.take_change(7, NULL, NULL, NULL, NULL, OLD.name, 'issuer.keys_dropped', NULL);
            PERFORM mcpgw.end_signers(OLD.name, OLD.jwks, NULL);
        END IF;
        IF TG_OP = 'DELETE' THEN
            RETURN NULL;
        END IF;
    END IF;
    PERFORM mcpgw.take_change(7, NULL, NULL, NULL, NULL, NEW.name,
                              CASE WHEN NEW.jwks IS NULL THEN 'issuer.keys_dropped' ELSE 'issuer.keys_changed' END,
                              jsonb_build_object('issuer', left(NEW.issuer, 300), 'keys', NEW.key_count));
    IF TG_OP = 'UPDATE' AND OLD.name = NEW.name THEN
        PERFORM mcpgw.end_signers(OLD.name, OLD.jwks, CASE WHEN OLD.issuer = NEW.issuer THEN NEW.jwks END);
    END IF;
    RETURN NULL;
END
$$;

-- Of issuers that no settings name any more; p_names: those that are named, with commas between.  A keys service that still
-- knows one fetches its set again.
CREATE FUNCTION mcpgw.drop_issuers(p_names text) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH dropped AS (
        UPDATE mcpgw.issuer_keys SET jwks = NULL, key_count = 0, due_at = NULL
        WHERE jwks IS NOT NULL AND name <> ALL (string_to_array(p_names, ',')) RETURNING 1)
    SELECT count(*) FROM dropped
$$;

REVOKE ALL ON FUNCTION mcpgw.bond(text, text, text), mcpgw.thumbprint(jsonb), mcpgw.keys_of_set(text), mcpgw.end_signers(text, text, text), mcpgw.on_issuer_keys(),
    mcpgw.drop_issuers(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mcpgw.drop_issuers(text) TO mcpgw_keys;
