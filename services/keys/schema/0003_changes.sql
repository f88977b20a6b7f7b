-- Triggers: every change that a verdict or a route depends on gets a number, a row in mcpgw.change and one in
-- mcpgw.outbox, whoever makes it: our service, Better-Auth, or a person with psql.
--
-- They are constraint triggers deferred to commit, so the lock on the sequence is held for the shortest time and taken
-- last.  They run as their owner with a fixed search_path: writers need no right on our tables and cannot lead the
-- functions to other ones.

-- Takes the next number and writes both rows.  What a transaction does twice in a row to one subject under one event
-- is one change: all of it becomes visible at the same commit.  p_event NULL: an update, unless the transaction has told
-- of this subject already.
--
-- mcpgw.last and mcpgw.place remember, until the end of the transaction, the number taken last and where its row lies: in
-- a transaction of many changes an index would lead through all former versions of that row.  A session that sets them
-- to something else gains nothing: the first is believed only of a row this transaction wrote, the second only finds
-- the one row or none.
CREATE FUNCTION mcpgw.take_change(p_kind int, p_digest text, p_key_id text, p_user_id text, p_tenant_id text, p_server text,
                                  p_event text, p_details jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
    -- Only our service and the owner may speak for others: any session can set a variable.
    v_is_api   boolean := coalesce(current_setting('mcpgw.source', true) = 'api', false)
                          AND (session_user = current_user OR pg_has_role(session_user, 'mcpgw_keys', 'MEMBER'));
    v_event    text := coalesce(CASE WHEN v_is_api AND p_kind IN (1, 5) THEN nullif(current_setting('mcpgw.event', true), '') END,
                                p_event, 'key.updated');
    v_sequence bigint;
    v_place    tid;
    v_last     record;
    v_is_first boolean;
BEGIN
    SELECT c.digest, c.key_id, c.user_id, c.tenant_id, c.server, o.event INTO v_last
    FROM mcpgw.change c JOIN mcpgw.outbox o ON o.sequence = c.sequence
    WHERE c.sequence = nullif(current_setting('mcpgw.last', true), '')::bigint AND c.xmin = pg_current_xact_id()::xid;
    v_is_first := NOT FOUND;
    IF NOT v_is_first THEN
        IF (p_event IS NULL OR v_last.event = v_event)
           AND (v_last.digest, v_last.key_id, v_last.server) IS NOT DISTINCT FROM (p_digest, p_key_id, p_server)
           AND (p_kind <> 2 OR v_last.user_id IS NOT DISTINCT FROM p_user_id)
           AND (p_kind <> 3 OR v_last.tenant_id IS NOT DISTINCT FROM p_tenant_id) THEN
            RETURN;
        END IF;
        UPDATE mcpgw.change_sequence SET value = value + 1
        WHERE ctid = nullif(current_setting('mcpgw.place', true), '')::tid
        RETURNING value, ctid INTO v_sequence, v_place;
    END IF;
    IF v_sequence IS NULL THEN
        UPDATE mcpgw.change_sequence SET value = value + 1 WHERE "only" RETURNING value, ctid INTO STRICT v_sequence, v_place;
    END IF;
    PERFORM set_config('mcpgw.place', v_place::text, true), set_config('mcpgw.last', v_sequence::text, true);

    INSERT INTO mcpgw.change (sequence, at, kind, digest, key_id, user_id, tenant_id, server)
    VALUES (v_sequence, clock_timestamp(), p_kind, p_digest, p_key_id, CASE WHEN p_kind = 2 THEN p_user_id END,
            CASE WHEN p_kind = 3 THEN p_tenant_id END, p_server);
    INSERT INTO mcpgw.outbox (sequence, at, event, source, actor_user_id, actor_key_id, actor_tenant_id, request_id, address,
                              key_id, user_id, tenant_id, server, reason, details)
    SELECT v_sequence, clock_timestamp(), v_event, CASE WHEN v_is_api THEN 'api' ELSE 'database' END,
           a.user_id, a.key_id, a.tenant_id, a.request_id, a.address, p_key_id, p_user_id, p_tenant_id, p_server, a.reason, p_details
    FROM (SELECT nullif(current_setting('mcpgw.actor_user_id', true), '') AS user_id,
                 nullif(current_setting('mcpgw.actor_key_id', true), '') AS key_id,
                 nullif(current_setting('mcpgw.actor_tenant_id', true), '') AS tenant_id,
                 nullif(current_setting('mcpgw.request_id', true), '') AS request_id,
                 nullif(current_setting('mcpgw.address', true), '') AS address,
                 nullif(current_setting('mcpgw.reason', true), '') AS reason) a
    WHERE v_is_api
    UNION ALL
    SELECT v_sequence, clock_timestamp(), v_event, 'database', NULL, NULL, NULL, NULL, NULL,
           p_key_id, p_user_id, p_tenant_id, p_server, NULL, p_details
    WHERE NOT v_is_api;
    -- Once per transaction: whoever is woken reads all that is new.
    IF v_is_first THEN
        PERFORM pg_notify('mcpgw_change', v_sequence::text);
    END IF;
END
$$;

-- Tells of a row of mcpgw.apikey before and after (NULL: there was none, there is none); called by the trigger function
-- that mcpgw.attach_triggers makes.
CREATE FUNCTION mcpgw.tell_apikey(p_old jsonb, p_new jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_changed text[];
    v_event   text := 'key.updated';
    v_tenant  text;
BEGIN
    IF p_new IS NULL THEN
        SELECT k.tenant_id INTO v_tenant FROM mcpgw.key k WHERE k.key_id = p_old->>'id';
        PERFORM mcpgw.take_change(1, p_old->>'key', p_old->>'id', p_old->>'referenceId', v_tenant, NULL, 'key.deleted',
                                  jsonb_build_object('name', left(p_old->>'name', 64)));
        RETURN;
    END IF;
    SELECT k.tenant_id INTO v_tenant FROM mcpgw.key k WHERE k.key_id = p_new->>'id';
    IF p_old IS NULL THEN
        PERFORM mcpgw.take_change(1, p_new->>'key', p_new->>'id', p_new->>'referenceId', v_tenant, NULL, 'key.created',
                                  jsonb_build_object('name', left(p_new->>'name', 64), 'permissions', left(p_new->>'permissions', 300)));
        RETURN;
    END IF;

    SELECT array_agg(c.name) INTO v_changed
    FROM unnest(ARRAY['id', 'key', 'referenceId', 'enabled', 'expiresAt', 'permissions', 'configId', 'name', 'metadata', 'tenant',
                      'rateLimitEnabled', 'rateLimitTimeWindow', 'rateLimitMax', 'refillAmount', 'refillInterval', 'remaining']) AS c (name)
    WHERE p_old->c.name IS DISTINCT FROM p_new->c.name;
    IF v_changed = ARRAY['enabled'] THEN
        v_event := CASE WHEN coalesce((p_new->>'enabled')::boolean, true) THEN 'key.enabled' ELSE 'key.disabled' END;
    END IF;
    -- The former digest (or id) may stand in caches too.
    IF p_old->>'key' IS DISTINCT FROM p_new->>'key' OR p_old->>'id' IS DISTINCT FROM p_new->>'id' THEN
        PERFORM mcpgw.take_change(1, p_old->>'key', p_old->>'id', p_old->>'referenceId', v_tenant, NULL, v_event,
                                  jsonb_build_object('changed', v_changed, 'part', 'former secret'));
    END IF;
    PERFORM mcpgw.take_change(1, p_new->>'key', p_new->>'id', p_new->>'referenceId', v_tenant, NULL, v_event,
                              jsonb_build_object('changed', v_changed, 'name', left(p_new->>'name', 64)));
    RETURN;
END
$$;

-- A side row counts through its key; without a key nothing depends on it.
CREATE FUNCTION mcpgw.on_key() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_row   mcpgw.key := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    v_event text;
    v_key   record;
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
    PERFORM mcpgw.take_change(1, v_key.key, v_row.key_id, v_key.user_id, v_row.tenant_id, NULL, v_event, NULL);
    RETURN NULL;
END
$$;

-- A new user or organization matters only when keys were waiting for it: their verdicts are cached as refusals.
CREATE FUNCTION mcpgw.on_owner_created() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_key record;
BEGIN
    FOR v_key IN SELECT a.id, a.key FROM mcpgw.apikey a
                 WHERE a."referenceId" = NEW.id AND a.row_xmin <> pg_current_xact_id()::xid ORDER BY a.id
    LOOP
        PERFORM mcpgw.take_change(1, v_key.key, v_key.id, NEW.id, NULL, NULL, 'key.updated', jsonb_build_object('changed', ARRAY['owner']));
    END LOOP;
    RETURN NULL;
END
$$;

CREATE FUNCTION mcpgw.on_user() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM mcpgw.take_change(2, NULL, NULL, OLD.id, NULL, NULL, 'user.deleted', NULL);
        RETURN NULL;
    END IF;
    IF OLD.id IS DISTINCT FROM NEW.id THEN
        PERFORM mcpgw.take_change(2, NULL, NULL, OLD.id, NULL, NULL, 'user.updated', jsonb_build_object('changed', ARRAY['id']));
    END IF;
    PERFORM mcpgw.take_change(2, NULL, NULL, NEW.id, NULL, NULL, 'user.updated', jsonb_build_object('banned', coalesce(NEW.banned, false)));
    RETURN NULL;
END
$$;

CREATE FUNCTION mcpgw.on_member() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM mcpgw.take_change(2, NULL, NULL, OLD."userId", OLD."organizationId", NULL, 'member.changed', jsonb_build_object('left', OLD."organizationId"));
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM mcpgw.take_change(2, NULL, NULL, NEW."userId", NEW."organizationId", NULL, 'member.changed', jsonb_build_object('joined', NEW."organizationId"));
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION mcpgw.on_organization() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM mcpgw.take_change(3, NULL, NULL, NULL, OLD.id, NULL, 'organization.changed', jsonb_build_object('operation', lower(TG_OP)));
    IF TG_OP = 'UPDATE' THEN
        PERFORM mcpgw.take_change(3, NULL, NULL, NULL, NEW.id, NULL, 'organization.changed', jsonb_build_object('operation', lower(TG_OP)));
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION mcpgw.on_server() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM mcpgw.take_change(5, NULL, NULL, NULL, NEW.tenant_id, NEW.slug, 'server.created', jsonb_build_object('url', left(NEW.url, 300)));
        RETURN NULL;
    END IF;
    IF TG_OP = 'DELETE' THEN
        PERFORM mcpgw.take_change(5, NULL, NULL, NULL, OLD.tenant_id, OLD.slug, 'server.deleted', NULL);
        RETURN NULL;
    END IF;
    IF OLD.slug IS DISTINCT FROM NEW.slug THEN
        PERFORM mcpgw.take_change(5, NULL, NULL, NULL, OLD.tenant_id, OLD.slug, 'server.deleted', NULL);
    END IF;
    PERFORM mcpgw.take_change(5, NULL, NULL, NULL, NEW.tenant_id, NEW.slug, 'server.updated',
                              jsonb_build_object('url', left(NEW.url, 300), 'enabled', NEW.enabled));
    RETURN NULL;
END
$$;

-- TRUNCATE fires no row trigger and cannot be deferred: everything is forgotten.
CREATE FUNCTION mcpgw.on_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM mcpgw.take_change(6, NULL, NULL, NULL, NULL, NULL, TG_ARGV[0], jsonb_build_object('truncated', TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME));
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER mcpgw_created AFTER INSERT ON mcpgw.key
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.tenant_id IS NOT NULL OR NEW.revoked_at IS NOT NULL)
    EXECUTE FUNCTION mcpgw.on_key();
CREATE CONSTRAINT TRIGGER mcpgw_deleted AFTER DELETE ON mcpgw.key
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mcpgw.on_key();
CREATE CONSTRAINT TRIGGER mcpgw_updated AFTER UPDATE ON mcpgw.key
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.key_id, OLD.tenant_id, OLD.revoked_at) IS DISTINCT FROM (NEW.key_id, NEW.tenant_id, NEW.revoked_at))
    EXECUTE FUNCTION mcpgw.on_key();
CREATE TRIGGER mcpgw_truncated AFTER TRUNCATE ON mcpgw.key
    FOR EACH STATEMENT EXECUTE FUNCTION mcpgw.on_truncate('key.updated');

CREATE CONSTRAINT TRIGGER mcpgw_created AFTER INSERT ON public."user"
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mcpgw.on_owner_created();
CREATE CONSTRAINT TRIGGER mcpgw_deleted AFTER DELETE ON public."user"
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mcpgw.on_user();
CREATE CONSTRAINT TRIGGER mcpgw_updated AFTER UPDATE ON public."user"
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.id, OLD.banned, OLD."banExpires") IS DISTINCT FROM (NEW.id, NEW.banned, NEW."banExpires"))
    EXECUTE FUNCTION mcpgw.on_user();
CREATE TRIGGER mcpgw_truncated AFTER TRUNCATE ON public."user"
    FOR EACH STATEMENT EXECUTE FUNCTION mcpgw.on_truncate('user.deleted');

CREATE CONSTRAINT TRIGGER mcpgw_changed AFTER INSERT OR DELETE ON public.member
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mcpgw.on_member();
CREATE CONSTRAINT TRIGGER mcpgw_updated AFTER UPDATE ON public.member
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD."userId", OLD."organizationId") IS DISTINCT FROM (NEW."userId", NEW."organizationId"))
    EXECUTE FUNCTION mcpgw.on_member();
CREATE TRIGGER mcpgw_truncated AFTER TRUNCATE ON public.member
    FOR EACH STATEMENT EXECUTE FUNCTION mcpgw.on_truncate('member.changed');

CREATE CONSTRAINT TRIGGER mcpgw_created AFTER INSERT ON public.organization
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mcpgw.on_owner_created();
CREATE CONSTRAINT TRIGGER mcpgw_deleted AFTER DELETE ON public.organization
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mcpgw.on_organization();
CREATE CONSTRAINT TRIGGER mcpgw_updated AFTER UPDATE ON public.organization
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.id IS DISTINCT FROM NEW.id)
    EXECUTE FUNCTION mcpgw.on_organization();
CREATE TRIGGER mcpgw_truncated AFTER TRUNCATE ON public.organization
    FOR EACH STATEMENT EXECUTE FUNCTION mcpgw.on_truncate('organization.changed');

CREATE CONSTRAINT TRIGGER mcpgw_changed AFTER INSERT OR DELETE ON mcpgw.server
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mcpgw.on_server();
CREATE CONSTRAINT TRIGGER mcpgw_updated AFTER UPDATE ON mcpgw.server
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.slug, OLD.url, OLD.name, OLD.tenant_id, OLD.enabled) IS DISTINCT FROM (NEW.slug, NEW.url, NEW.name, NEW.tenant_id, NEW.enabled))
    EXECUTE FUNCTION mcpgw.on_server();
CREATE TRIGGER mcpgw_truncated AFTER TRUNCATE ON mcpgw.server
    FOR EACH STATEMENT EXECUTE FUNCTION mcpgw.on_truncate('server.deleted');

-- Are all of them there, enabled, and calling our functions?  A migration of the application may have dropped a table.
CREATE FUNCTION mcpgw.triggers_present() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) = 22
    FROM pg_trigger t
    JOIN pg_class c ON c.oid = t.tgrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_proc p ON p.oid = t.tgfoid
    JOIN pg_namespace f ON f.oid = p.pronamespace
    WHERE f.nspname = 'mcpgw' AND t.tgenabled IN ('O', 'A')
      AND (CASE WHEN c.oid = (SELECT b.relation FROM mcpgw.better_auth b) THEN 'keys' ELSE n.nspname END,
           CASE WHEN c.oid = (SELECT b.relation FROM mcpgw.better_auth b) THEN '' ELSE c.relname END, t.tgname) IN (
          ('keys', '', 'mcpgw_created'), ('keys', '', 'mcpgw_deleted'), ('keys', '', 'mcpgw_updated'), ('keys', '', 'mcpgw_truncated'),
          ('mcpgw', 'key', 'mcpgw_created'), ('mcpgw', 'key', 'mcpgw_deleted'), ('mcpgw', 'key', 'mcpgw_updated'), ('mcpgw', 'key', 'mcpgw_truncated'),
          ('public', 'user', 'mcpgw_created'), ('public', 'user', 'mcpgw_deleted'), ('public', 'user', 'mcpgw_updated'), ('public', 'user', 'mcpgw_truncated'),
          ('public', 'member', 'mcpgw_changed'), ('public', 'member', 'mcpgw_updated'), ('public', 'member', 'mcpgw_truncated'),
          ('public', 'organization', 'mcpgw_created'), ('public', 'organization', 'mcpgw_deleted'), ('public', 'organization', 'mcpgw_updated'), ('public', 'organization', 'mcpgw_truncated'),
          ('mcpgw', 'server', 'mcpgw_changed'), ('mcpgw', 'server', 'mcpgw_updated'), ('mcpgw', 'server', 'mcpgw_truncated'))
$$;

-- Those of the table of keys.
SELECT mcpgw.attach_better_auth();

-- Called hourly by the keys service.  Changes are of use for minutes; outbox rows until audit has them (its watermark for
-- the outbox's fixed producer), and a week more for people; requests as long as a client may repeat one.
CREATE FUNCTION mcpgw.prune() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_count bigint;
    v_moved bigint;
BEGIN
    DELETE FROM mcpgw.change WHERE at < now() - interval '1 day';
    GET DIAGNOSTICS v_count = ROW_COUNT;
    DELETE FROM mcpgw.request WHERE at < now() - interval '1 day';
    IF to_regclass('audit.watermark') IS NOT NULL THEN
        SELECT w.next_seq INTO v_moved FROM audit.watermark w
        WHERE w.producer = '00000000-0000-7000-8000-000000000001'::uuid AND w.epoch = 1;
        DELETE FROM mcpgw.outbox WHERE sequence < v_moved AND at < now() - interval '7 days';
    END IF;
    RETURN v_count;
END
$$;

-- A page of the trail, newest first, each event as the JSON object that people see.  The row without an item, if there
-- is one, says where to go on looking: a filter may leave nothing of what one call reads.
-- In PL/pgSQL, which binds late: the schema audit belongs to another service and may come later.
CREATE FUNCTION mcpgw.audit_page(p_from timestamptz, p_to timestamptz, p_key text, p_user text, p_outcome text,
                                 p_cursor_us bigint, p_cursor_id text, p_limit int)
RETURNS TABLE (item text, cursor text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_cursor timestamptz := timestamptz 'epoch' + p_cursor_us * interval '1 microsecond';
    v_scan   int := CASE WHEN p_outcome IS NULL THEN p_limit + 200 ELSE 5000 END;
BEGIN
    RETURN QUERY
    WITH scanned AS MATERIALIZED (
        SELECT r.*, (extract(epoch FROM r."time") * 1000000)::bigint || '.' || r.id AS place
        FROM audit.recent(p_from, least(p_to, v_cursor + interval '1 microsecond'), p_key, p_user, v_scan) r
    ), page AS (
        SELECT s.* FROM scanned s
        WHERE (p_outcome IS NULL OR s.outcome = p_outcome) AND (v_cursor IS NULL OR (s."time", s.id) < (v_cursor, p_cursor_id))
        ORDER BY s."time" DESC, s.id DESC LIMIT p_limit
    ), told AS (
        SELECT 1 AS part, g."time", g.id, json_build_object(
                   'id', g.id, 'time', to_char(g."time" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                   'event', g.event, 'outcome', nullif(g.outcome, ''), 'reason', nullif(g.reason, ''),
                   'requestId', nullif(g."requestId", ''), 'userId', nullif(g."userId", ''), 'tenantId', nullif(g."tenantId", ''),
                   'authMethod', nullif(g."authMethod", ''), 'keyId', nullif(g."keyId", ''), 'address', nullif(g.address, ''),
                   'method', nullif(g.method, ''), 'path', nullif(g.path, ''), 'server', nullif(g.server, ''), 'tool', nullif(g.tool, ''),
                   'status', nullif(g.status, 0), 'latencyUs', g."latencyUs", 'bytes', g.bytes, 'count', g.count,
                   'producer', g.producer, 'epoch', g.epoch, 'seq', g.seq, 'details', g.details)::text AS item, g.place
        FROM page g
        UNION ALL
        (SELECT 2, s."time", s.id, NULL, s.place FROM scanned s
         WHERE (SELECT count(*) FROM scanned) >= v_scan AND (SELECT count(*) FROM page) < p_limit
         ORDER BY s."time", s.id LIMIT 1)
    )
    SELECT t.item, t.place FROM told t ORDER BY t.part, t."time" DESC, t.id DESC;
END
$$;
