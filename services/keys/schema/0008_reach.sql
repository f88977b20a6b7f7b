-- From where a key may be used and what it may reach.  NULL: no limit; an empty list admits nothing, and one that cannot
-- be read makes the key unusable (common/reach.h has the limits).

ALTER TABLE mcpgw.key
    ADD COLUMN allowed_ips text[],
    ADD COLUMN servers     text[],
    ADD COLUMN tools       text[],
    ADD COLUMN environment text;

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
       n.id                                          AS tenant_id,
       coalesce(t.state = 'suspended', false)        AS tenant_suspended,
       k.allowed_ips                                 AS allowed_ips,
       k.servers                                     AS servers,
       k.tools                                       AS tools
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

-- A side row counts through its key; without a key nothing depends on it.
CREATE OR REPLACE FUNCTION mcpgw.on_key() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_row     mcpgw.key := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    v_event   text;
    v_changed text[];
    v_key     record;
BEGIN
    SELECT a.key, a."referenceId" AS user_id INTO v_key FROM mcpgw.apikey a WHERE a.id = v_row.key_id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.revoked_at IS NOT NULL THEN
        IF TG_OP = 'INSERT' THEN
            v_event := 'key.revoked';
        ELSIF OLD.revoked_at IS NULL THEN
            v_event := 'key.revoked';
        END IF;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        SELECT array_agg(c.name) INTO v_changed
        FROM (VALUES ('tenantId', OLD.tenant_id IS DISTINCT FROM NEW.tenant_id),
                     ('revoked', OLD.revoked_at IS DISTINCT FROM NEW.revoked_at),
                     ('allowedIps', OLD.allowed_ips IS DISTINCT FROM NEW.allowed_ips),
                     ('servers', OLD.servers IS DISTINCT FROM NEW.servers),
                     ('tools', OLD.tools IS DISTINCT FROM NEW.tools),
                     ('environment', OLD.environment IS DISTINCT FROM NEW.environment)) AS c (name, is_so)
        WHERE c.is_so;
    END IF;
    PERFORM mcpgw.take_change(1, v_key.key, v_row.key_id, v_key.user_id, v_row.tenant_id, NULL, v_event,
                              CASE WHEN v_changed IS NOT NULL THEN jsonb_build_object('changed', v_changed) END);
    RETURN NULL;
END
$$;

DROP TRIGGER mcpgw_created ON mcpgw.key;
CREATE CONSTRAINT TRIGGER mcpgw_created AFTER INSERT ON mcpgw.key
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.tenant_id IS NOT NULL OR NEW.revoked_at IS NOT NULL OR NEW.allowed_ips IS NOT NULL OR NEW.servers IS NOT NULL
          OR NEW.tools IS NOT NULL OR NEW.environment IS NOT NULL)
    EXECUTE FUNCTION mcpgw.on_key();
DROP TRIGGER mcpgw_updated ON mcpgw.key;
CREATE CONSTRAINT TRIGGER mcpgw_updated AFTER UPDATE ON mcpgw.key
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.key_id, OLD.tenant_id, OLD.revoked_at, OLD.allowed_ips, OLD.servers, OLD.tools, OLD.environment)
          IS DISTINCT FROM
          (NEW.key_id, NEW.tenant_id, NEW.revoked_at, NEW.allowed_ips, NEW.servers, NEW.tools, NEW.environment))
    EXECUTE FUNCTION mcpgw.on_key();
