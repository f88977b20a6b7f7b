-- A key ends with its owner's membership: a member who is removed from an organization opens nothing with the keys of it,
-- whoever made them (docs/decisions.md).

-- When a user last left an organization.  It counts for keys that were there then, and only while the user is no member again.
CREATE TABLE mcpgw.former_member (
    user_id         text NOT NULL,
    organization_id text NOT NULL,
    left_at         timestamptz NOT NULL,
    PRIMARY KEY (user_id, organization_id)
);

CREATE OR REPLACE FUNCTION mcpgw.on_member() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO mcpgw.former_member (user_id, organization_id, left_at) VALUES (OLD."userId", OLD."organizationId", clock_timestamp())
            ON CONFLICT (user_id, organization_id) DO UPDATE SET left_at = excluded.left_at;
        PERFORM mcpgw.take_change(2, NULL, NULL, OLD."userId", OLD."organizationId", NULL, 'member.changed', jsonb_build_object('left', OLD."organizationId"));
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM mcpgw.take_change(2, NULL, NULL, NEW."userId", NEW."organizationId", NULL, 'member.changed', jsonb_build_object('joined', NEW."organizationId"));
    END IF;
    RETURN NULL;
END
$$;

-- TRUNCATE fires no row trigger, and afterwards nobody knows who was there.
CREATE FUNCTION mcpgw.on_members_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO mcpgw.former_member (user_id, organization_id, left_at)
        SELECT DISTINCT m."userId", m."organizationId", clock_timestamp() FROM public.member m
        ON CONFLICT (user_id, organization_id) DO UPDATE SET left_at = excluded.left_at;
    RETURN NULL;
END
$$;
CREATE TRIGGER mcpgw_emptied BEFORE TRUNCATE ON public.member
    FOR EACH STATEMENT EXECUTE FUNCTION mcpgw.on_members_truncated();
INSERT INTO mcpgw.wanted_trigger (schema_name, table_name, trigger_name) VALUES ('public', 'member', 'mcpgw_emptied');

-- owner_left: the key's organization is one that its owner has left since the key was made; a key that names none (the owner's
-- only organization would be its tenant) ends with the last.
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
       k.tools                                       AS tools,
       (a.remaining IS NOT NULL)                     AS metered,
       mcpgw.uses_are_spent(a.remaining, a."refillAmount", a."refillInterval", coalesce(a."lastRefillAt", a."createdAt")) AS spent,
       CASE WHEN coalesce(k.tenant_id, a.tenant) <> ''
            THEN EXISTS (SELECT FROM mcpgw.former_member f WHERE f.user_id = a."referenceId" AND f.organization_id = coalesce(k.tenant_id, a.tenant)
                         AND f.left_at >= a."createdAt")
                 AND NOT EXISTS (SELECT FROM public.member x WHERE x."userId" = a."referenceId" AND x."organizationId" = coalesce(k.tenant_id, a.tenant))
            ELSE m.count = 0 AND EXISTS (SELECT FROM mcpgw.former_member f WHERE f.user_id = a."referenceId" AND f.left_at >= a."createdAt")
       END AND u.id IS NOT NULL                      AS owner_left
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

-- What nobody asks for any more.
CREATE OR REPLACE FUNCTION mcpgw.prune_key_life() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM mcpgw.former f WHERE f.expires_at < now() - interval '1 hour' OR NOT EXISTS (SELECT FROM mcpgw.apikey a WHERE a.id = f.key_id);
    DELETE FROM mcpgw.key_notice n WHERE n.expires_at < now() - interval '1 day';
    DELETE FROM mcpgw.use_claim c WHERE c.at < now() - interval '1 hour';
    DELETE FROM mcpgw.use u WHERE u.key_id IN (SELECT x.key_id FROM mcpgw.use x
        WHERE NOT EXISTS (SELECT FROM mcpgw.apikey a WHERE a.id = x.key_id) LIMIT 10000);
    DELETE FROM mcpgw.former_member f WHERE f.left_at < now() - interval '1 day'
        AND NOT EXISTS (SELECT FROM mcpgw.apikey a WHERE a."referenceId" = f.user_id AND a."createdAt" <= f.left_at);
$$;

REVOKE ALL ON FUNCTION mcpgw.on_members_truncated() FROM PUBLIC;
REVOKE ALL ON mcpgw.former_member FROM PUBLIC;
