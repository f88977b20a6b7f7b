-- What `mcpgw doctor` looks at: nothing here is called by a service.

CREATE FUNCTION mcpgw.json_or_null(p_text text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN p_text::jsonb;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- Indexes that look-ups need and the table has not, each with the statement that makes it.  Better-Auth before 1.4.22 made
-- none on the digest, and a digest in another form needs one on the expression.
CREATE FUNCTION mcpgw.missing_indexes() RETURNS TABLE (name text, purpose text, statement text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH wanted AS (
        SELECT 'mcpgw_apikey_key_idx' AS name, 'a key is found by its digest' AS purpose, b.relation,
               b.shape->'names'->>'key' AS col, nullif(b.shape->>'digest', 'base64url') AS form FROM mcpgw.better_auth b
        UNION ALL SELECT 'mcpgw_apikey_owner_idx', 'keys of a user or an organization', b.relation, b.shape->>'owner', NULL FROM mcpgw.better_auth b
        UNION ALL SELECT 'mcpgw_member_user_idx', 'organizations of a key''s owner', 'public.member'::regclass, 'userId', NULL
        UNION ALL SELECT 'mcpgw_member_organization_idx', 'members of an organization', 'public.member'::regclass, 'organizationId', NULL
    )
    SELECT w.name, w.purpose, format('CREATE INDEX CONCURRENTLY %I ON %s (%s)', w.name, w.relation,
                                     CASE WHEN w.form IS NULL THEN format('%I', w.col) ELSE format('mcpgw.digest_of_%s(%I)', w.form, w.col) END)
    FROM wanted w
    WHERE w.relation IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_index i LEFT JOIN pg_attribute c ON c.attrelid = i.indrelid AND c.attnum = i.indkey[0]
        WHERE i.indrelid = w.relation AND i.indisvalid AND i.indpred IS NULL
          AND CASE WHEN w.form IS NULL THEN c.attname = w.col
                   ELSE i.indkey[0] = 0 AND pg_get_indexdef(i.indexrelid, 1, true) LIKE '%digest_of_' || w.form || '(%' END)
$$;

-- severity: error (something does not work or is not safe), warning (some rows are not what they seem), note.
CREATE FUNCTION mcpgw.diagnose() RETURNS TABLE (severity text, subject text, finding text, remedy text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_found    mcpgw.better_auth;
    v_resource text;
BEGIN
    SELECT * INTO v_found FROM mcpgw.better_auth;
    v_resource := coalesce(v_found.settings->>'resource', 'mcp');
    IF v_found.relation IS NULL THEN
        RETURN QUERY SELECT 'error', 'table', 'the table of keys is detached: no key verifies', 'SELECT mcpgw.attach_better_auth(), or mcpgw-keys migrate';
        RETURN;
    END IF;
    IF NOT mcpgw.triggers_present() THEN
        RETURN QUERY SELECT 'error', 'triggers', 'change triggers are missing: changes that the application makes are not seen', 'mcpgw-keys migrate';
    END IF;
    RETURN QUERY SELECT 'error', 'grants', format('%s may not %s %s', g.role, g.privilege, g.object), 'mcpgw-keys migrate as the owner, or GRANT it'
        FROM (VALUES ('mcpgw_authz', 'SELECT', 'mcpgw.credential'), ('mcpgw_keys', 'SELECT', 'mcpgw.apikey'), ('mcpgw_keys', 'INSERT', 'mcpgw.apikey'),
                     ('mcpgw_keys', 'DELETE', 'mcpgw.apikey')) AS g (role, privilege, object)
        WHERE NOT has_table_privilege(g.role, g.object, g.privilege);
    RETURN QUERY SELECT 'error', 'grants', format('%s, the owner of our views, may not %s table %s', pg_get_userbyid(c.relowner), p.privilege, v_found.relation),
                        format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I', v_found.relation, pg_get_userbyid(c.relowner))
        FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p (privilege)
        WHERE c.oid = 'mcpgw.apikey'::regclass AND NOT has_table_privilege(c.relowner, v_found.relation, p.privilege);
    RETURN QUERY SELECT 'warning', 'grants', format('%s may %s table %s itself, past the columns that we write', r.role, p.privilege, v_found.relation),
                        format('REVOKE ALL ON %s FROM %s', v_found.relation, r.role)
        FROM unnest(ARRAY['mcpgw_authz', 'mcpgw_keys', 'mcpgw_audit']) AS r (role), unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p (privilege)
        WHERE has_table_privilege(r.role, v_found.relation, p.privilege);
    RETURN QUERY SELECT 'warning', 'indexes', format('no index %s (%s)', m.name, m.purpose), 'mcpgw doctor --create-indexes' FROM mcpgw.missing_indexes() m;

    RETURN QUERY
    WITH k AS MATERIALIZED (
        SELECT a.*, mcpgw.json_or_null(a.permissions) AS allowed, mcpgw.json_or_null(a.metadata) AS data,
               c.owner_exists, c.tenant_id AS tenant_found FROM mcpgw.apikey a JOIN mcpgw.credential c ON c.key_id = a.id
    ), hazard AS (
        SELECT k.id, h.* FROM k, LATERAL (VALUES
            ('note', 'enabled', k.enabled IS NULL, '"enabled" is NULL, which counts as enabled', 'set it'),
            ('warning', 'permissions', jsonb_typeof(k.allowed->v_resource) = 'string', 'permissions hold a word where a list belongs: Better-Auth matches it by'
                ' substring, the gateway gives no scope', format('write {"%s":["read"]}', v_resource)),
            ('warning', 'permissions', k.permissions IS NOT NULL AND (k.allowed IS NULL OR jsonb_typeof(k.allowed) <> 'object'),
                'permissions are no JSON object: no scope', format('write {"%s":["read"]}', v_resource)),
            ('note', 'metadata', jsonb_typeof(k.data) = 'string', 'metadata is JSON in JSON, as Better-Auth to 1.4 wrote it', 'a newer one rewrites it at its next verify'),
            ('warning', 'metadata', k.metadata IS NOT NULL AND (k.data IS NULL OR k.metadata ~ '"(constructor|__proto__)"\s*:'),
                'metadata that Better-Auth cannot read: its verify fails', 'write JSON without the names constructor and __proto__'),
            ('warning', 'lastRefillAt', k."lastRefillAt" <> date_trunc('milliseconds', k."lastRefillAt"), 'lastRefillAt has microseconds: Better-Auth never refills the key',
                'date_trunc(''milliseconds'', ...)'),
            ('error', 'requestCount', k."requestCount" IS NULL AND k."lastRequest" IS NOT NULL AND k."rateLimitEnabled" IS NOT FALSE
                AND k."rateLimitMax" IS NOT NULL AND k."rateLimitTimeWindow" IS NOT NULL, 'requestCount is NULL with a limit in force: Better-Auth''s verify never returns', 'set it to 0'),
            ('warning', 'key', k.key !~ '^[A-Za-z0-9_-]{43}$', 'the stored key is no base64url SHA-256: nothing finds it',
                'better_auth_digest says which form the table has (hex, plain)'),
            ('warning', 'refill', (k."refillAmount" IS NULL) <> (k."refillInterval" IS NULL), 'refillAmount without refillInterval, or the reverse: never refilled', 'set both'),
            ('note', 'owner', NOT k.owner_exists, 'the owner is gone: refused here, valid for Better-Auth', 'delete the keys'),
            ('note', 'tenant', k.tenant_found IS NULL, 'the owner is in several organizations and nothing says which one the key acts for: refused',
                'choose its tenant when it is made, or make it an organization''s key'),
            ('note', 'limit', k."rateLimitEnabled" IS NOT FALSE AND k."rateLimitMax" = 10 AND k."rateLimitTimeWindow" = 86400000,
                'the plugin''s untouched limit of 10 requests a day', 'better_auth_row_limits says what the gateway makes of it; Better-Auth obeys it')
        ) AS h (severity, subject, is_so, finding, remedy) WHERE h.is_so
        UNION ALL
        SELECT min(k.id), 'error', 'key', true, 'a digest stands in several rows: which one Better-Auth takes is undefined, here none verifies', 'delete all but one'
        FROM k GROUP BY k.key HAVING count(*) > 1
    )
    SELECT h.severity, h.subject, format('%s key(s): %s (%s)', count(*), h.finding,
               (SELECT string_agg(i, ', ') FROM unnest((array_agg(h.id ORDER BY h.id))[1:3]) AS i) || CASE WHEN count(*) > 3 THEN ', ...' ELSE '' END), h.remedy
    FROM hazard h GROUP BY h.severity, h.subject, h.finding, h.remedy ORDER BY h.severity, h.subject;

    IF NOT EXISTS (SELECT FROM mcpgw.apikey a WHERE a."referenceId" <> 'admin') AND EXISTS (SELECT FROM public."user" u WHERE u.id <> 'admin') THEN
        RETURN QUERY SELECT 'note', 'storage', 'there are users and no keys of theirs in the table: if the application has keys, it keeps them in Redis only'
            ' (secondaryStorage of the apiKey plugin), where no table shows them and the gateway cannot see them',
            'apiKey({ storage: "database" }), or storage: "secondary-storage" with fallbackToDatabase: true';
    END IF;
END
$$;

REVOKE ALL ON FUNCTION mcpgw.json_or_null(text), mcpgw.missing_indexes(), mcpgw.diagnose() FROM PUBLIC;
