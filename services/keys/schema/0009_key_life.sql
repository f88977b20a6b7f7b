-- Rotation: a key's former values work until their moment, and not a second longer.  Policies of tenants that time
-- enforces, and notices of keys that expire soon.

ALTER TABLE mcpgw.key
    ADD COLUMN rotated_at timestamptz,
    ADD COLUMN rotated_by text;             -- user and request that made the present value: a repetition replaces it

CREATE TABLE mcpgw.former (
    digest     text PRIMARY KEY,
    key_id     text NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX former_key_id_idx ON mcpgw.former (key_id);

-- Under which digest the facts of a former value stand.
CREATE VIEW mcpgw.rotated AS
SELECT f.digest, f.key_id, a.key AS current_digest, f.expires_at
FROM mcpgw.former f JOIN mcpgw.apikey a ON a.id = f.key_id;

CREATE FUNCTION mcpgw.on_former() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_row mcpgw.former := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    v_key record;
BEGIN
    SELECT a."referenceId" AS user_id, k.tenant_id INTO v_key
    FROM mcpgw.apikey a LEFT JOIN mcpgw.key k ON k.key_id = a.id WHERE a.id = v_row.key_id;
    IF FOUND THEN
        PERFORM mcpgw.take_change(1, v_row.digest, v_row.key_id, v_key.user_id, v_key.tenant_id, NULL, 'key.updated',
                                  jsonb_build_object('changed', ARRAY['former'], 'until', v_row.expires_at));
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER mcpgw_changed AFTER INSERT OR UPDATE ON mcpgw.former
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mcpgw.on_former();
-- What is over changes nothing when it goes.
CREATE CONSTRAINT TRIGGER mcpgw_deleted AFTER DELETE ON mcpgw.former
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.expires_at > now()) EXECUTE FUNCTION mcpgw.on_former();

-- Keys of a tenant that can be used, found by indexes: its own, its members', and those that say so.
CREATE FUNCTION mcpgw.keys_in_tenant(p_tenant text) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) FROM mcpgw.credential c
    WHERE c.key_id IN (SELECT a.id FROM mcpgw.apikey a WHERE a."referenceId" IN (
                           SELECT p_tenant UNION ALL SELECT substr(p_tenant, 6) WHERE p_tenant LIKE 'user:%'
                           UNION ALL SELECT m."userId" FROM public.member m WHERE m."organizationId" = p_tenant)
                       UNION SELECT k.key_id FROM mcpgw.key k WHERE k.tenant_id = p_tenant)
      AND c.tenant_id = p_tenant AND NOT c.revoked AND (c.expires_at IS NULL OR c.expires_at > now())
$$;

-- Which keys a policy ends now: not rotated in time, or not used for too long.
CREATE VIEW mcpgw.overdue AS
SELECT c.key_id, t.id AS tenant_id,
       coalesce(k.rotated_at, a."createdAt") + make_interval(secs => t.rotate_after_s) < now()                    AS is_old,
       greatest(a."lastRequest", a."createdAt", k.rotated_at) + make_interval(secs => t.idle_after_s) < now()     AS is_idle
FROM mcpgw.tenant t
JOIN mcpgw.credential c ON c.tenant_id = t.id
JOIN mcpgw.apikey a ON a.id = c.key_id
LEFT JOIN mcpgw.key k ON k.key_id = c.key_id
WHERE (t.rotate_after_s IS NOT NULL OR t.idle_after_s IS NOT NULL) AND coalesce(a.enabled, true) AND NOT c.revoked;

-- Disables them once, whichever instance asks: the row's lock and its state decide.
CREATE FUNCTION mcpgw.disable_overdue(p_idle boolean) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_count bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM mcpgw.tenant t WHERE CASE WHEN p_idle THEN t.idle_after_s ELSE t.rotate_after_s END IS NOT NULL) THEN
        RETURN 0;
    END IF;
    UPDATE mcpgw.apikey a SET enabled = false, "updatedAt" = date_trunc('milliseconds', now())
    WHERE a.id IN (SELECT o.key_id FROM mcpgw.overdue o WHERE CASE WHEN p_idle THEN o.is_idle ELSE o.is_old END LIMIT 1000)
      AND coalesce(a.enabled, true);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$$;

-- One row for each key, expiry and step that was told.
CREATE TABLE mcpgw.key_notice (
    key_id     text NOT NULL,
    expires_at timestamptz NOT NULL,
    days       integer NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (key_id, expires_at, days)
);
-- Where the table has the column under that name; a table of another shape is small enough to be read through.
DO $$
DECLARE
    v_table regclass := (SELECT b.relation FROM mcpgw.better_auth b);
BEGIN
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = v_table AND attname = 'expiresAt' AND NOT attisdropped) THEN
        EXECUTE format('CREATE INDEX IF NOT EXISTS "mcpgw_apikey_expiresAt_idx" ON %s ("expiresAt")', v_table);
    END IF;
END
$$;

-- Tells of keys that expire within one of these many days, each step once for all instances: the nearest step that lies in
-- the key's life.  Change kind 8 is a notice: nothing depends on it.
CREATE FUNCTION mcpgw.tell_expiring(p_days integer[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_key   record;
    v_count bigint := 0;
BEGIN
    FOR v_key IN
        WITH due AS (
            SELECT DISTINCT ON (a.id) a.id, a."expiresAt" AS expires_at, s.days
            FROM mcpgw.apikey a JOIN unnest(p_days) AS s (days) ON a."expiresAt" <= now() + make_interval(days => s.days)
            WHERE a."expiresAt" > now() AND a."expiresAt" <= now() + make_interval(days => (SELECT max(d) FROM unnest(p_days) d))
              AND a."createdAt" <= a."expiresAt" - make_interval(days => s.days) AND coalesce(a.enabled, true)
            ORDER BY a.id, s.days
        ), told AS (
            INSERT INTO mcpgw.key_notice (key_id, expires_at, days)
            SELECT d.id, d.expires_at, d.days FROM due d JOIN mcpgw.credential c ON c.key_id = d.id AND NOT c.revoked
            WHERE NOT EXISTS (SELECT FROM mcpgw.key_notice n WHERE (n.key_id, n.expires_at, n.days) = (d.id, d.expires_at, d.days))
            ORDER BY d.id LIMIT 500
            ON CONFLICT DO NOTHING RETURNING key_id, expires_at, days
        )
        SELECT t.*, c.reference_id, c.tenant_id, a.name FROM told t JOIN mcpgw.credential c ON c.key_id = t.key_id
        JOIN mcpgw.apikey a ON a.id = t.key_id ORDER BY t.key_id
    LOOP
        PERFORM mcpgw.take_change(8, NULL, v_key.key_id, v_key.reference_id, v_key.tenant_id, NULL, 'key.expiring',
            jsonb_build_object('name', left(v_key.name, 64), 'days', v_key.days,
                               'expiresAt', to_char(v_key.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')));
        v_count := v_count + 1;
    END LOOP;
    RETURN v_count;
END
$$;

-- What nobody asks for any more.
CREATE FUNCTION mcpgw.prune_key_life() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM mcpgw.former f WHERE f.expires_at < now() - interval '1 hour' OR NOT EXISTS (SELECT FROM mcpgw.apikey a WHERE a.id = f.key_id);
    DELETE FROM mcpgw.key_notice n WHERE n.expires_at < now() - interval '1 day';
$$;

REVOKE ALL ON FUNCTION mcpgw.on_former(), mcpgw.keys_in_tenant(text), mcpgw.disable_overdue(boolean), mcpgw.tell_expiring(integer[]),
    mcpgw.prune_key_life() FROM PUBLIC;
REVOKE ALL ON mcpgw.former, mcpgw.rotated, mcpgw.overdue, mcpgw.key_notice FROM PUBLIC;
GRANT SELECT ON mcpgw.rotated TO mcpgw_authz;
GRANT SELECT, INSERT, UPDATE (expires_at) ON mcpgw.former TO mcpgw_keys;
GRANT SELECT ON mcpgw.rotated TO mcpgw_keys;
GRANT EXECUTE ON FUNCTION mcpgw.keys_in_tenant(text), mcpgw.disable_overdue(boolean), mcpgw.tell_expiring(integer[]),
    mcpgw.prune_key_life() TO mcpgw_keys;
