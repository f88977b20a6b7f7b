-- Uses that come back to a key which had none left are told: workers that had just seen it spent ask again at once, and
-- Better-Auth's copy of the row in Redis, which says that it is spent and would make its verify delete the row, is deleted.
-- A notice (kind 8), not a change: what others hold of the key's uses stays good.
CREATE OR REPLACE FUNCTION mcpgw.give_uses_back(p_key_id text, p_count int, p_refilled timestamptz, p_sequence bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    v_row record;
BEGIN
    SELECT a.key, a."referenceId" AS owner_id, a.remaining, a."lastRefillAt" AS refilled_at, a."refillAmount" AS amount, a."refillInterval" AS every,
           coalesce(a."lastRefillAt", a."createdAt") AS since INTO v_row
    FROM mcpgw.apikey a WHERE a.id = p_key_id FOR UPDATE OF a;
    IF NOT FOUND OR p_count NOT BETWEEN 1 AND 1000 OR v_row.remaining IS NULL OR v_row.refilled_at IS DISTINCT FROM p_refilled THEN
        RETURN;
    END IF;
    IF coalesce(v_row.amount <> 0 AND v_row.every <> 0 AND clock_timestamp() - v_row.since
                > v_row.every * interval '1 millisecond' * (SELECT (b.shape->>'refillUnitMs')::bigint FROM mcpgw.better_auth b), false)
       OR EXISTS (SELECT FROM mcpgw.change c WHERE c.sequence > p_sequence AND ((c.key_id = p_key_id AND c.kind <> 8) OR c.kind = 6)) THEN
        RETURN;
    END IF;
    PERFORM set_config('mcpgw.uses', 'taken', true);
    UPDATE mcpgw.apikey a SET remaining = v_row.remaining + p_count WHERE a.id = p_key_id;
    IF v_row.remaining <= 0 THEN
        PERFORM mcpgw.take_change(8, v_row.key, p_key_id, v_row.owner_id, NULL, NULL, 'key.uses_returned', jsonb_build_object('count', p_count));
    END IF;
END
$$;
