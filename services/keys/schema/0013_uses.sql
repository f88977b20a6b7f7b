-- Keys with a number of uses (`remaining`, refilled by `refillAmount` every `refillInterval`): taken from the row in blocks,
-- so that no request writes to the database, and exactly as Better-Auth would take them one by one.

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
       mcpgw.uses_are_spent(a.remaining, a."refillAmount", a."refillInterval", coalesce(a."lastRefillAt", a."createdAt")) AS spent
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

-- Takes up to p_wanted uses of one key, as the plugin takes one: refill where it is due, then what is left.
--   taken     0: none is left.  The last 20 are given one by one, and none of them ahead of a request (p_ahead): at
--             zero Better-Auth deletes the row, with uses that somebody holds.
--   valid_ms  how long they may be spent: until the next refill is due, because the plugin forgets then what was left.
--             NULL: nothing ends them.  With taken 0: when to ask again.
--   refilled  lastRefillAt, for mcpgw.give_uses_back
--   sequence  change number before the row was read: a later change that names the key ends them
-- The row's lock is waited for half a second at most.
CREATE FUNCTION mcpgw.take_uses(p_key_id text, p_wanted int, p_ahead boolean,
                                OUT taken int, OUT valid_ms bigint, OUT refilled timestamptz, OUT sequence bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    v_row   record;
    v_now   timestamptz;
    v_every interval;
    v_due   boolean;
    v_have  int;
BEGIN
    SELECT s.value INTO sequence FROM mcpgw.change_sequence s;
    SELECT a.remaining, a."refillAmount" AS amount, a."refillInterval" AS every, a."lastRefillAt" AS refilled_at,
           coalesce(a."lastRefillAt", a."createdAt") AS since INTO v_row
    FROM mcpgw.apikey a WHERE a.id = p_key_id FOR UPDATE OF a;
    IF NOT FOUND THEN
        taken := 0;
        RETURN;
    END IF;
    refilled := v_row.refilled_at;
    IF v_row.remaining IS NULL THEN    -- unlimited since: its change is on its way
        taken := p_wanted;
        valid_ms := 0;
        RETURN;
    END IF;
    -- Better-Auth compares lastRefillAt with what JavaScript can hold: never microseconds.
    v_now := date_trunc('milliseconds', clock_timestamp());
    v_every := v_row.every * interval '1 millisecond' * (SELECT (b.shape->>'refillUnitMs')::bigint FROM mcpgw.better_auth b);
    v_due := coalesce(v_row.amount <> 0 AND v_row.every <> 0 AND v_now - v_row.since > v_every, false);
    v_have := CASE WHEN v_due THEN v_row.amount ELSE v_row.remaining END;
    taken := CASE WHEN v_have > 20 THEN least(p_wanted, v_have - 20) WHEN p_ahead OR (v_have <= 0 AND NOT v_due) THEN 0 ELSE 1 END;
    IF v_due AND taken > 0 THEN
        refilled := v_now;
        valid_ms := extract(epoch FROM v_every) * 1000;
    ELSIF v_row.amount <> 0 AND v_row.every <> 0 THEN
        valid_ms := greatest(extract(epoch FROM v_row.since + v_every - v_now) * 1000, 0);
    END IF;
    IF taken = 0 THEN
        RETURN;
    END IF;
    PERFORM set_config('mcpgw.uses', 'taken', true);    -- for the trigger: this is no change
    UPDATE mcpgw.apikey a SET remaining = v_have - taken, "lastRefillAt" = take_uses.refilled WHERE a.id = p_key_id;
END
$$;

-- What was taken and not spent, unless something has happened since that it must not undo: a refill (done, or due), or
-- any change of the key.
CREATE FUNCTION mcpgw.give_uses_back(p_key_id text, p_count int, p_refilled timestamptz, p_sequence bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    v_row record;
BEGIN
    SELECT a.remaining, a."lastRefillAt" AS refilled_at, a."refillAmount" AS amount, a."refillInterval" AS every,
           coalesce(a."lastRefillAt", a."createdAt") AS since INTO v_row
    FROM mcpgw.apikey a WHERE a.id = p_key_id FOR UPDATE OF a;
    IF NOT FOUND OR p_count NOT BETWEEN 1 AND 1000 OR v_row.remaining IS NULL OR v_row.refilled_at IS DISTINCT FROM p_refilled THEN
        RETURN;
    END IF;
    IF coalesce(v_row.amount <> 0 AND v_row.every <> 0 AND clock_timestamp() - v_row.since
                > v_row.every * interval '1 millisecond' * (SELECT (b.shape->>'refillUnitMs')::bigint FROM mcpgw.better_auth b), false)
       OR EXISTS (SELECT FROM mcpgw.change c WHERE c.sequence > p_sequence AND (c.key_id = p_key_id OR c.kind = 6)) THEN
        RETURN;
    END IF;
    PERFORM set_config('mcpgw.uses', 'taken', true);
    UPDATE mcpgw.apikey a SET remaining = v_row.remaining + p_count WHERE a.id = p_key_id;
END
$$;

REVOKE ALL ON FUNCTION mcpgw.take_uses(text, int, boolean), mcpgw.give_uses_back(text, int, timestamptz, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mcpgw.take_uses(text, int, boolean), mcpgw.give_uses_back(text, int, timestamptz, bigint) TO mcpgw_authz;
