-- Tenants as rows: a name, a state, the policy of the tenant's keys and its limit.  A tenant without a row is active and
-- has no policy, so nothing that works needs one; every organization of Better-Auth gets its row by itself.

CREATE TABLE mcpgw.tenant (
    id                text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9_.:@-]{1,80}$'),    -- an organization's id, "user:<id>", or its own
    slug              text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9-]{1,64}$'),
    name              text CHECK (length(name) BETWEEN 1 AND 64),
    state             text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'suspended')),
    suspended_reason  text CHECK (length(suspended_reason) <= 200),
    is_organization   boolean NOT NULL DEFAULT false,
    -- Policy of its keys; NULL: no rule.
    max_life_s        bigint CHECK (max_life_s BETWEEN 1 AND 315360000),      -- longest life a key is given
    max_keys          integer CHECK (max_keys >= 1),                          -- that are neither revoked nor expired
    scopes            text CHECK (scopes ~ '^[a-z]+( [a-z]+)*$'),             -- names with blanks between: what a key may hold
    rotate_after_s    bigint CHECK (rotate_after_s BETWEEN 1 AND 315360000),  -- age at which a key that was not rotated ends
    idle_after_s      bigint CHECK (idle_after_s BETWEEN 1 AND 315360000),    -- unused for so long: disabled
    -- All its callers together; both or none.
    limit_requests    integer CHECK (limit_requests >= 1),
    limit_window_s    integer CHECK (limit_window_s BETWEEN 1 AND 2147483),
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    CHECK ((limit_requests IS NULL) = (limit_window_s IS NULL))
);

-- What a verdict depends on, for credentials of every kind: whoever judges one looks its tenant's id up here; no row: active.
CREATE VIEW mcpgw.tenant_state AS
SELECT t.id, (t.state = 'suspended') AS suspended, t.limit_requests, t.limit_window_s FROM mcpgw.tenant t;

CREATE FUNCTION mcpgw.on_tenant() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_row   mcpgw.tenant := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    v_event text := CASE TG_OP WHEN 'INSERT' THEN 'tenant.created' WHEN 'DELETE' THEN 'tenant.deleted' ELSE 'tenant.updated' END;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF OLD.id IS DISTINCT FROM NEW.id THEN
            PERFORM mcpgw.take_change(3, NULL, NULL, NULL, OLD.id, NULL, 'tenant.deleted', NULL);
        END IF;
        IF OLD.state IS DISTINCT FROM NEW.state THEN
            v_event := CASE NEW.state WHEN 'suspended' THEN 'tenant.suspended' ELSE 'tenant.resumed' END;
        END IF;
    END IF;
    PERFORM mcpgw.take_change(3, NULL, NULL, NULL, v_row.id, NULL, v_event,
                              jsonb_build_object('slug', v_row.slug, 'name', left(v_row.name, 64), 'state', v_row.state));
    RETURN NULL;
END
$$;

-- Better-Auth's insert must not fail for our sake, whatever is wrong with our row.
CREATE FUNCTION mcpgw.on_organization_created() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM mcpgw.adopt_organization(NEW.id, NEW.slug, NEW.name);
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'mcpgw: organization % gets no row in mcpgw.tenant: %', NEW.id, SQLERRM;
    RETURN NULL;
END
$$;

-- An organization's slug may hold anything, or be taken here; then it is made to fit.
CREATE FUNCTION mcpgw.adopt_organization(p_id text, p_slug text, p_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_slug text := left(trim(BOTH '-' FROM regexp_replace(lower(p_slug), '[^a-z0-9]+', '-', 'g')), 55);
BEGIN
    IF p_id !~ '^[A-Za-z0-9_.:@-]{1,64}$' THEN
        RETURN;    -- no message could carry it: its keys verify nowhere
    END IF;
    IF v_slug = '' OR EXISTS (SELECT FROM mcpgw.tenant t WHERE t.slug = v_slug AND t.id <> p_id) THEN
        v_slug := trim(LEADING '-' FROM v_slug || '-' || left(md5(p_id), 8));
    END IF;
    INSERT INTO mcpgw.tenant (id, slug, name, is_organization) VALUES (p_id, v_slug, nullif(left(p_name, 64), ''), true)
    ON CONFLICT (id) DO NOTHING;
END
$$;

SELECT mcpgw.adopt_organization(o.id, o.slug, o.name) FROM public.organization o ORDER BY o."createdAt", o.id;

CREATE CONSTRAINT TRIGGER mcpgw_created AFTER INSERT ON mcpgw.tenant
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NOT NEW.is_organization OR NEW.state <> 'active') EXECUTE FUNCTION mcpgw.on_tenant();
CREATE CONSTRAINT TRIGGER mcpgw_deleted AFTER DELETE ON mcpgw.tenant
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mcpgw.on_tenant();
CREATE CONSTRAINT TRIGGER mcpgw_updated AFTER UPDATE ON mcpgw.tenant
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION mcpgw.on_tenant();
CREATE TRIGGER mcpgw_truncated AFTER TRUNCATE ON mcpgw.tenant
    FOR EACH STATEMENT EXECUTE FUNCTION mcpgw.on_truncate('tenant.deleted');
CREATE TRIGGER mcpgw_tenant AFTER INSERT ON public.organization
    FOR EACH ROW EXECUTE FUNCTION mcpgw.on_organization_created();

-- A trigger that must be there is a row, so that whoever adds one adds a row.
CREATE TABLE mcpgw.wanted_trigger (
    schema_name  text NOT NULL,
    table_name   text NOT NULL,
    trigger_name text NOT NULL,
    PRIMARY KEY (schema_name, table_name, trigger_name)
);
INSERT INTO mcpgw.wanted_trigger (schema_name, table_name, trigger_name)
SELECT n.nspname, c.relname, t.tgname
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE t.tgname LIKE 'mcpgw\_%' AND NOT t.tgisinternal;

CREATE OR REPLACE FUNCTION mcpgw.triggers_present() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT NOT EXISTS (
        SELECT FROM mcpgw.wanted_trigger w
        WHERE NOT EXISTS (
            SELECT FROM pg_trigger t
            JOIN pg_class c ON c.oid = t.tgrelid
            JOIN pg_namespace n ON n.oid = c.relnamespace
            JOIN pg_proc p ON p.oid = t.tgfoid
            JOIN pg_namespace f ON f.oid = p.pronamespace
            WHERE (n.nspname, c.relname, t.tgname) = (w.schema_name, w.table_name, w.trigger_name)
              AND f.nspname = 'mcpgw' AND t.tgenabled IN ('O', 'A')))
$$;

-- Which tenant a key acts in, and whether that one is suspended, stand beside the facts of the key.
CREATE OR REPLACE VIEW mcpgw.credential AS
SELECT a.key                                         AS digest,
       a.id                                          AS key_id,
       a."referenceId"                               AS reference_id,
       a.enabled                                     AS enabled,
       a."expiresAt"                                 AS expires_at,
       a.permissions                                 AS permissions,
       a.metadata                                    AS metadata,
       a."rateLimitEnabled"                          AS rate_enabled,
       a."rateLimitMax"                              AS rate_max,
       a."rateLimitTimeWindow"                       AS rate_window_ms,
       (k.revoked_at IS NOT NULL)                    AS revoked,
       coalesce(k.tenant_id, a.tenant)               AS side_tenant_id,
       k.created_by                                  AS created_by,
       (o.id IS NOT NULL AND u.id IS NULL)           AS is_organization,
       (o.id IS NOT NULL OR u.id IS NOT NULL)        AS owner_exists,
       coalesce(u.banned AND (u."banExpires" IS NULL OR u."banExpires" > now()), false) AS owner_banned,
       m.count                                       AS organization_count,
       m.organization_id                             AS organization_id,
       a."configId"                                  AS config_id,
       n.id                                          AS tenant_id,            -- NULL: several organizations and nothing chooses
       coalesce(t.state = 'suspended', false)        AS tenant_suspended
FROM mcpgw.apikey a
LEFT JOIN mcpgw.key k ON k.key_id = a.id
LEFT JOIN public."user" u ON u.id = a."referenceId"
LEFT JOIN public.organization o ON o.id = a."referenceId"
LEFT JOIN LATERAL (SELECT count(*) AS count,
                          CASE WHEN count(*) = 1 THEN min(x."organizationId") END AS organization_id
                   FROM public.member x WHERE x."userId" = a."referenceId") m ON true
LEFT JOIN LATERAL (SELECT CASE WHEN o.id IS NOT NULL AND u.id IS NULL THEN a."referenceId"
                               WHEN coalesce(k.tenant_id, a.tenant) <> '' THEN coalesce(k.tenant_id, a.tenant)
                               WHEN m.count > 1 THEN NULL
                               ELSE coalesce(m.organization_id, 'user:' || a."referenceId") END AS id) n ON true
LEFT JOIN mcpgw.tenant t ON t.id = n.id;

REVOKE ALL ON FUNCTION mcpgw.on_tenant(), mcpgw.on_organization_created(), mcpgw.adopt_organization(text, text, text) FROM PUBLIC;
GRANT SELECT ON mcpgw.tenant_state TO mcpgw_authz;
GRANT SELECT, INSERT, UPDATE, DELETE ON mcpgw.tenant TO mcpgw_keys;
GRANT SELECT ON mcpgw.tenant_state TO mcpgw_keys;
-- The keys of a tenant are found by their side rows too.
CREATE INDEX key_tenant_id_idx ON mcpgw.key (tenant_id);
