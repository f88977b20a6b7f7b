-- What a verdict on a session or a token depends on.  authz reads it through functions: it may ask about a credential that
-- it was shown, and can list none (sessions stand in Better-Auth's table with their secret in plain text).
--
-- Columns that only plugins make (twoFactorEnabled, activeOrganizationId) are read through to_jsonb, which follows the
-- table: a plugin that is added later counts from then on, and the tables stay as the application made them.
--
-- ROWS 1: with the planner's guess of 1000 rows a look-up of one row seems dear enough to be compiled (jit), 0.5 s each.

-- A session that is longer than it was is no change: a cached one is looked up again when its former time is over.
CREATE FUNCTION mcpgw.on_session() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM mcpgw.take_change(4, NULL, OLD.id, OLD."userId", NULL, NULL, 'session.ended', NULL);
        RETURN NULL;
    END IF;
    IF OLD.id IS DISTINCT FROM NEW.id THEN
        PERFORM mcpgw.take_change(4, NULL, OLD.id, OLD."userId", NULL, NULL, 'session.ended', NULL);
    END IF;
    PERFORM mcpgw.take_change(4, NULL, NEW.id, NEW."userId", NULL, NULL, 'session.updated', NULL);
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER mcpgw_deleted AFTER DELETE ON public.session
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD."expiresAt" > now())
    EXECUTE FUNCTION mcpgw.on_session();
CREATE CONSTRAINT TRIGGER mcpgw_updated AFTER UPDATE ON public.session
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW."expiresAt" < OLD."expiresAt" OR (OLD.id, OLD.token, OLD."userId") IS DISTINCT FROM (NEW.id, NEW.token, NEW."userId")
          OR to_jsonb(OLD)->'activeOrganizationId' IS DISTINCT FROM to_jsonb(NEW)->'activeOrganizationId')
    EXECUTE FUNCTION mcpgw.on_session();
CREATE TRIGGER mcpgw_truncated AFTER TRUNCATE ON public.session
    FOR EACH STATEMENT EXECUTE FUNCTION mcpgw.on_truncate('session.ended');

-- Beside mcpgw_updated, which does not know these columns.
CREATE CONSTRAINT TRIGGER mcpgw_principal AFTER UPDATE ON public."user"
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.role IS DISTINCT FROM NEW.role
          OR to_jsonb(OLD)->'twoFactorEnabled' IS DISTINCT FROM to_jsonb(NEW)->'twoFactorEnabled')
    EXECUTE FUNCTION mcpgw.on_user();

-- One row when there is such a user, else none.  organization_id: the user's only one.
CREATE FUNCTION mcpgw.find_principal(p_user text)
RETURNS TABLE (user_id text, banned boolean, second_factor boolean, organization_count bigint, organization_id text, roles text)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.id, coalesce(u.banned AND (u."banExpires" IS NULL OR u."banExpires" > now()), false),
           coalesce(to_jsonb(u)->>'twoFactorEnabled', 'false') = 'true', m.count, m.organization_id, u.role
    FROM public."user" u
    LEFT JOIN LATERAL (SELECT count(*) AS count, CASE WHEN count(*) = 1 THEN min(x."organizationId") END AS organization_id
                       FROM public.member x WHERE x."userId" = u.id) m ON true
    WHERE u.id = p_user
$$;

-- organization_id: the one the user chose for this session, as long as the user is its member.
CREATE FUNCTION mcpgw.find_session(p_token text)
RETURNS TABLE (session_id text, user_id text, expires_at timestamptz, organization_id text)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.id, s."userId", s."expiresAt",
           (SELECT m."organizationId" FROM public.member m
            WHERE m."userId" = s."userId" AND m."organizationId" = to_jsonb(s)->>'activeOrganizationId' LIMIT 1)
    FROM public.session s WHERE s.token = p_token
$$;

CREATE FUNCTION mcpgw.session_lives(p_session text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM public.session s WHERE s.id = p_session AND s."expiresAt" > now())
$$;

-- Better-Auth's opaque access tokens: @better-auth/oauth-provider (1.7) keeps their digest, the mcp and oidc-provider plugins
-- before it the token itself, under the same table name.  The table comes with the application, perhaps later, so
-- which of them it is is looked up at each call.  ended: revoked, the client disabled, or bound to a key (DPoP), which a
-- bearer cannot prove.  audiences: JSON, NULL where the client named no resource.  Times without a zone (before 1.3.12) are
-- read as UTC.  Where the application's tables have another owner than this function, that one needs SELECT on both.
CREATE FUNCTION mcpgw.find_opaque(p_digest text, p_token text)
RETURNS TABLE (token_id text, client_id text, user_id text, session_id text, scopes text, audiences text, expires_at timestamptz, ended boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    v_columns text[] := ARRAY(SELECT a.attname::text FROM pg_attribute a
                              WHERE a.attrelid = to_regclass('public."oauthAccessToken"') AND a.attnum > 0 AND NOT a.attisdropped);
BEGIN
    IF 'token' = ANY (v_columns) THEN
        RETURN QUERY EXECUTE
            'SELECT t.id::text, t."clientId", t."userId"::text, to_jsonb(t)->>''sessionId'','
            '       (SELECT string_agg(e.value, '' '') FROM jsonb_array_elements_text(CASE jsonb_typeof(to_jsonb(t)->''scopes'') WHEN ''array'' THEN to_jsonb(t)->''scopes'' END) e),'
            '       nullif(to_jsonb(t)->''resources'', ''null'')::text, t."expiresAt"::timestamptz,'
            '       to_jsonb(t)->>''revoked'' IS NOT NULL OR to_jsonb(t)->>''confirmation'' IS NOT NULL OR coalesce(c.disabled, false)'
            ' FROM public."oauthAccessToken" t'
            ' LEFT JOIN LATERAL (SELECT to_jsonb(o)->>''disabled'' = ''true'' AS disabled FROM public."oauthClient" o WHERE o."clientId" = t."clientId") c ON true'
            ' WHERE t.token = $1 LIMIT 1' USING p_digest;
    ELSIF 'accessToken' = ANY (v_columns) THEN
        RETURN QUERY EXECUTE
            'SELECT t.id::text, t."clientId", t."userId"::text, NULL::text, t.scopes::text, NULL::text, t."accessTokenExpiresAt"::timestamptz,'
            '       coalesce(c.disabled, false)'
            ' FROM public."oauthAccessToken" t'
            ' LEFT JOIN LATERAL (SELECT to_jsonb(o)->>''disabled'' = ''true'' AS disabled FROM public."oauthApplication" o WHERE o."clientId" = t."clientId") c ON true'
            ' WHERE t."accessToken" = $1 LIMIT 1' USING p_token;
    END IF;
END
$$;

INSERT INTO mcpgw.wanted_trigger (schema_name, table_name, trigger_name) VALUES
    ('public', 'session', 'mcpgw_deleted'), ('public', 'session', 'mcpgw_updated'), ('public', 'session', 'mcpgw_truncated'),
    ('public', 'user', 'mcpgw_principal');

REVOKE ALL ON FUNCTION mcpgw.on_session(), mcpgw.find_principal(text), mcpgw.find_session(text), mcpgw.session_lives(text),
    mcpgw.find_opaque(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mcpgw.find_principal(text), mcpgw.find_session(text), mcpgw.session_lives(text),
    mcpgw.find_opaque(text, text) TO mcpgw_authz;
