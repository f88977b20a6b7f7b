-- Better-Auth 1.7.5's own tables (with its admin, organization and api-key plugins), exactly as its migration makes them.
-- An application that has made them already keeps them.

CREATE TABLE IF NOT EXISTS public."user" (
    id              text PRIMARY KEY,
    name            text NOT NULL,
    email           text NOT NULL UNIQUE,
    "emailVerified" boolean NOT NULL,
    image           text,
    "createdAt"     timestamptz DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "updatedAt"     timestamptz DEFAULT CURRENT_TIMESTAMP NOT NULL,
    role            text,
    banned          boolean,
    "banReason"     text,
    "banExpires"    timestamptz
);

CREATE TABLE IF NOT EXISTS public.session (
    id                     text PRIMARY KEY,
    "expiresAt"            timestamptz NOT NULL,
    token                  text NOT NULL UNIQUE,
    "createdAt"            timestamptz DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "updatedAt"            timestamptz NOT NULL,
    "ipAddress"            text,
    "userAgent"            text,
    "userId"               text NOT NULL REFERENCES public."user" (id) ON DELETE CASCADE,
    "activeOrganizationId" text,
    "impersonatedBy"       text
);

CREATE TABLE IF NOT EXISTS public.account (
    id                      text PRIMARY KEY,
    "accountId"             text NOT NULL,
    "providerId"            text NOT NULL,
    "userId"                text NOT NULL REFERENCES public."user" (id) ON DELETE CASCADE,
    "accessToken"           text,
    "refreshToken"          text,
    "idToken"               text,
    "accessTokenExpiresAt"  timestamptz,
    "refreshTokenExpiresAt" timestamptz,
    scope                   text,
    password                text,
    "createdAt"             timestamptz DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "updatedAt"             timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS public.verification (
    id          text PRIMARY KEY,
    identifier  text NOT NULL,
    value       text NOT NULL,
    "expiresAt" timestamptz NOT NULL,
    "createdAt" timestamptz DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "updatedAt" timestamptz DEFAULT CURRENT_TIMESTAMP NOT NULL
);

CREATE TABLE IF NOT EXISTS public.organization (
    id          text PRIMARY KEY,
    name        text NOT NULL,
    slug        text NOT NULL UNIQUE,
    logo        text,
    "createdAt" timestamptz NOT NULL,
    metadata    text
);

CREATE TABLE IF NOT EXISTS public.member (
    id               text PRIMARY KEY,
    "organizationId" text NOT NULL REFERENCES public.organization (id) ON DELETE CASCADE,
    "userId"         text NOT NULL REFERENCES public."user" (id) ON DELETE CASCADE,
    role             text NOT NULL,
    "createdAt"      timestamptz NOT NULL
);

-- Keys: made here, with the plugin's indexes, unless the application has a table of its own or names another one
-- (setting better_auth_table).  What shape that has is found out by mcpgw.attach_better_auth, in the next file.
DO $create$
BEGIN
    IF coalesce(nullif(current_setting('mcpgw.better_auth', true), '')::jsonb->>'table', '') <> '' OR to_regclass('public.apikey') IS NOT NULL THEN
        RETURN;
    END IF;
    CREATE TABLE public.apikey (
        id                    text PRIMARY KEY,
        "configId"            text NOT NULL,
        name                  text,
        start                 text,
        "referenceId"         text NOT NULL,
        prefix                text,
        key                   text NOT NULL,
        "refillInterval"      integer,
        "refillAmount"        integer,
        "lastRefillAt"        timestamptz,
        enabled               boolean,
        "rateLimitEnabled"    boolean,
        "rateLimitTimeWindow" integer,
        "rateLimitMax"        integer,
        "requestCount"        integer,
        remaining             integer,
        "lastRequest"         timestamptz,
        "expiresAt"           timestamptz,
        "createdAt"           timestamptz NOT NULL,
        "updatedAt"           timestamptz NOT NULL,
        permissions           text,
        metadata              text
    );
    CREATE INDEX "apikey_configId_idx" ON public.apikey ("configId");
    CREATE INDEX "apikey_referenceId_idx" ON public.apikey ("referenceId");
    CREATE INDEX apikey_key_idx ON public.apikey (key);
END
$create$;

-- The admin plugin's columns: nullable, so Better-Auth's schema check accepts them without the plugin too.
-- Altered only where one is missing: the statement needs the table's owner even when nothing is to do.
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES ('role', 'text'), ('banned', 'boolean'), ('banReason', 'text'), ('banExpires', 'timestamptz')) AS w (name, type)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_attribute
                       WHERE attrelid = 'public."user"'::regclass AND attname = wanted.name AND NOT attisdropped) THEN
            EXECUTE format('ALTER TABLE public."user" ADD COLUMN %I %s', wanted.name, wanted.type);
        END IF;
    END LOOP;
END
$$;

-- CREATE INDEX IF NOT EXISTS asks for the table's owner even when the index is there, so look first.
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES
        ('session_userId_idx', 'session', 'userId'), ('account_userId_idx', 'account', 'userId'),
        ('member_organizationId_idx', 'member', 'organizationId'), ('member_userId_idx', 'member', 'userId'),
        ('verification_identifier_idx', 'verification', 'identifier')) AS w (index_name, table_name, column_name)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = wanted.index_name) THEN
            EXECUTE format('CREATE INDEX %I ON public.%I (%I)', wanted.index_name, wanted.table_name, wanted.column_name);
        END IF;
    END LOOP;
END
$$;

-- ---- the table of keys, whatever it looks like -----------------------------------------------------
--
-- Better-Auth 1.3 names the owner userId and keeps times without a zone; 1.5 and later say referenceId and add configId;
-- people upgrade by hand, rename tables and columns, or store another form of the digest.  mcpgw.attach_better_auth finds
-- out which of these it is and makes three things of it, the only ones that know the real names:
--   view mcpgw.apikey     the columns of 1.7.5, for all statements of ours
--   its write trigger     where a column is not simply the table's own (then Postgres itself writes through the view)
--   the change triggers   on the real table, whose function reads rows in the view's words

CREATE TABLE mcpgw.better_auth (
    "only"      boolean PRIMARY KEY DEFAULT true CHECK ("only"),
    settings    jsonb NOT NULL,     -- better_auth_* as the last migrate gave them
    relation    regclass,           -- NULL: detached
    shape       jsonb NOT NULL,     -- what was found, for the report
    made        text NOT NULL       -- digest of all that was made of it: the same again is left alone
);
INSERT INTO mcpgw.better_auth (settings, shape, made) VALUES ('{}', '{}', '');

CREATE FUNCTION mcpgw.digest_of_plain(p_key text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT translate(rtrim(encode(sha256(convert_to(p_key, 'UTF8')), 'base64'), '='), '+/', '-_')
$$;
-- What is no hexadecimal SHA-256 stays as it is: rows of the plugin's own form may stand beside them.
CREATE FUNCTION mcpgw.digest_of_hex(p_stored text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN p_stored ~ '^[0-9a-fA-F]{64}$' THEN translate(rtrim(encode(decode(p_stored, 'hex'), 'base64'), '='), '+/', '-_')
                ELSE p_stored END
$$;
CREATE FUNCTION mcpgw.hex_of_digest(p_digest text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN p_digest ~ '^[A-Za-z0-9_-]{43}$' THEN encode(decode(translate(p_digest, '-_', '+/') || '=', 'base64'), 'hex')
                ELSE p_digest END
$$;

-- A flat column of scopes (a list, or words between commas and spaces) as the plugin's permissions text.
CREATE FUNCTION mcpgw.permissions_of(p_scopes jsonb, p_resource text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE jsonb_typeof(p_scopes)
           WHEN 'array' THEN jsonb_build_object(p_resource, p_scopes)::text
           WHEN 'string' THEN jsonb_build_object(p_resource, to_jsonb(array_remove(
               regexp_split_to_array(translate(p_scopes #>> '{}', '[]{}"', '     '), '[[:space:],]+'), '')))::text
           END
$$;
CREATE FUNCTION mcpgw.scopes_of(p_permissions text, p_resource text) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(e.scope), '{}') FROM jsonb_array_elements_text(coalesce(p_permissions::jsonb -> p_resource, '[]')) AS e (scope)
$$;

-- Has the key no uses left, as the plugin would say now?  p_interval in the unit of the table.
CREATE FUNCTION mcpgw.uses_are_spent(p_remaining int, p_amount int, p_interval int, p_since timestamptz) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(p_remaining <= 0 AND NOT coalesce(p_amount <> 0 AND p_interval <> 0
        AND now() - p_since > p_interval * interval '1 millisecond'
                              * coalesce((SELECT (b.shape->>'refillUnitMs')::bigint FROM mcpgw.better_auth b), 1), false), false)
$$;

-- The real column of a name of 1.7.5: as configured, else the name itself, else in snake case, else in lower case.
CREATE FUNCTION mcpgw.better_auth_column(p_relation regclass, p_settings jsonb, p_name text) RETURNS name
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_configured text := p_settings->'columns'->>p_name;
    v_found      name;
BEGIN
    SELECT c.attname INTO v_found FROM pg_attribute c,
        unnest(CASE WHEN v_configured IS NOT NULL THEN ARRAY[v_configured]
                    ELSE ARRAY[p_name, lower(regexp_replace(p_name, '([A-Z])', '_\1', 'g')), lower(p_name)] END)
        WITH ORDINALITY AS w (name, rank)
    WHERE c.attrelid = p_relation AND c.attnum > 0 AND NOT c.attisdropped AND c.attname = w.name ORDER BY w.rank LIMIT 1;
    IF v_found IS NULL AND v_configured IS NOT NULL THEN
        RAISE EXCEPTION 'table % has no column "%", which better_auth_columns names for "%"', p_relation, v_configured, p_name;
    END IF;
    RETURN v_found;
END
$$;

-- One column of the view: how it is read of the real row `a`, and how a value %s of the view is written back.
CREATE FUNCTION mcpgw.better_auth_expression(p_relation regclass, p_column name, p_type regtype, p_zone text,
                                             OUT reading text, OUT writing text, OUT is_plain boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_type oid;
    v_mod  int;
    v_real text := format('a.%I', p_column);
BEGIN
    SELECT c.atttypid, c.atttypmod INTO v_type, v_mod FROM pg_attribute c WHERE c.attrelid = p_relation AND c.attname = p_column;
    is_plain := v_type = p_type AND v_mod = -1;
    writing := format('%%s::%s', format_type(v_type, v_mod));
    IF is_plain THEN
        reading := v_real;
        writing := '%s';
    ELSIF v_type = p_type THEN
        reading := format('coalesce(%s, NULL::%s)', v_real, p_type);    -- without its length
    ELSIF p_type = 'timestamptz'::regtype AND v_type = 'timestamp'::regtype THEN
        reading := format('(coalesce(%s, NULL::timestamp) AT TIME ZONE %L)', v_real, p_zone);
        writing := format('(%%s AT TIME ZONE %L)', p_zone);
    ELSIF p_type = 'integer'::regtype AND v_type IN ('bigint'::regtype, 'smallint'::regtype, 'numeric'::regtype) THEN
        reading := format('greatest(least(%s, 2147483647), -2147483648)::integer', v_real);
    ELSIF p_type = 'text'::regtype AND v_type IN ('varchar'::regtype, 'bpchar'::regtype, 'json'::regtype, 'jsonb'::regtype) THEN
        reading := v_real || '::text';
    ELSE
        RAISE EXCEPTION 'column "%" of table % is %, which cannot be read as %', p_column, p_relation, format_type(v_type, v_mod), p_type
            USING HINT = CASE WHEN p_column = 'id' THEN 'Better-Auth''s generateId "uuid" and "serial" are not supported.'
                         ELSE 'better_auth_columns may name another column.' END;
    END IF;
END
$$;

-- The columns of the view in order.  `needed`: without it nothing can be judged.  `judged`: a verdict depends on it.
CREATE FUNCTION mcpgw.better_auth_columns() RETURNS TABLE (name text, type regtype, needed boolean, judged boolean, absent text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    VALUES ('id', 'text'::regtype, true, true, NULL), ('configId', 'text', false, true, '''default''::text'), ('name', 'text', false, true, NULL),
           ('start', 'text', false, false, NULL), ('referenceId', 'text', true, true, NULL), ('prefix', 'text', false, false, NULL),
           ('key', 'text', true, true, NULL), ('refillInterval', 'integer', false, true, NULL), ('refillAmount', 'integer', false, true, NULL),
           ('lastRefillAt', 'timestamptz', false, false, NULL), ('enabled', 'boolean', true, true, NULL),
           ('rateLimitEnabled', 'boolean', false, true, NULL), ('rateLimitTimeWindow', 'integer', false, true, NULL),
           ('rateLimitMax', 'integer', false, true, NULL), ('requestCount', 'integer', false, false, NULL),
           ('remaining', 'integer', false, false, NULL), ('lastRequest', 'timestamptz', false, false, NULL),
           ('expiresAt', 'timestamptz', true, true, NULL), ('createdAt', 'timestamptz', true, false, NULL),
           ('updatedAt', 'timestamptz', false, false, NULL), ('permissions', 'text', false, true, NULL), ('metadata', 'text', false, true, NULL)
$$;

-- Everything known of the table: {"table", "owner", "release", "dates", "digest", "columns": {name: {real, reading, writing, plain}}, ...}.
-- Changes nothing, so that a report can ask it too.
CREATE FUNCTION mcpgw.find_better_auth(p_settings jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_relation regclass := to_regclass(coalesce(nullif(p_settings->>'table', ''), 'public.apikey'));
    v_digest   text := coalesce(nullif(p_settings->>'digest', ''), 'base64url');
    v_zone     text := coalesce(nullif(p_settings->>'zone', ''), 'UTC');
    v_unit     text := coalesce(nullif(p_settings->>'refillUnit', ''), 'auto');
    v_scopes   name := nullif(p_settings->>'scopeColumn', '');
    v_tenant   name := nullif(p_settings->>'tenantColumn', '');
    v_columns  jsonb := '{}';
    v_missing  text[] := '{}';
    v_user     name;
    v_zones    text[];
    v_column   record;
    v_real     name;
    v_how      record;
BEGIN
    IF v_relation IS NULL THEN
        RAISE EXCEPTION 'there is no table %', coalesce(nullif(p_settings->>'table', ''), 'public.apikey')
            USING HINT = 'better_auth_table names it; a name with capitals needs double quotes.';
    END IF;
    IF (SELECT count(*) FROM pg_attribute c WHERE c.attrelid = v_relation AND c.attname IN (v_scopes, v_tenant))
       <> (v_scopes IS NOT NULL)::int + (v_tenant IS NOT NULL)::int THEN
        RAISE EXCEPTION 'table % has no column "%"', v_relation,
            (SELECT w.name FROM unnest(ARRAY[v_scopes, v_tenant]) AS w (name) WHERE w.name IS NOT NULL
             AND NOT EXISTS (SELECT FROM pg_attribute c WHERE c.attrelid = v_relation AND c.attname = w.name) LIMIT 1)
            USING HINT = 'better_auth_scope_column and better_auth_tenant_column name columns of it.';
    END IF;
    v_user := mcpgw.better_auth_column(v_relation, p_settings, 'userId');

    FOR v_column IN SELECT * FROM mcpgw.better_auth_columns() LOOP
        v_real := mcpgw.better_auth_column(v_relation, p_settings, v_column.name);
        IF v_real IS NULL AND v_column.name = 'referenceId' THEN
            v_real := v_user;
        END IF;
        IF v_real IS NULL THEN
            v_missing := v_missing || v_column.name;
            CONTINUE;
        END IF;
        SELECT * INTO v_how FROM mcpgw.better_auth_expression(v_relation, v_real, v_column.type, v_zone);
        v_columns := v_columns || jsonb_build_object(v_column.name, jsonb_build_object(
            'real', v_real, 'reading', v_how.reading, 'writing', v_how.writing, 'plain', v_how.is_plain));
    END LOOP;
    IF EXISTS (SELECT FROM mcpgw.better_auth_columns() c WHERE c.needed AND c.name = ANY (v_missing))
       OR ('permissions' = ANY (v_missing) AND v_scopes IS NULL) THEN
        RAISE EXCEPTION 'table % lacks: %', v_relation,
            (SELECT string_agg(c.name, ', ') FROM mcpgw.better_auth_columns() c WHERE c.name = ANY (v_missing) AND (c.needed OR c.name = 'permissions'))
            USING HINT = 'If they have other names, better_auth_columns gives them: referenceId=owner_id,expiresAt=valid_until.';
    END IF;

    -- A table upgraded by hand may have both owners, the new one empty in old rows.
    IF v_user IS NOT NULL AND v_columns->'referenceId'->>'real' <> v_user
       AND NOT (SELECT c.attnotnull FROM pg_attribute c WHERE c.attrelid = v_relation AND c.attname = v_columns->'referenceId'->>'real') THEN
        SELECT * INTO v_how FROM mcpgw.better_auth_expression(v_relation, v_user, 'text', v_zone);
        v_columns := jsonb_set(v_columns, '{referenceId}', v_columns->'referenceId' || jsonb_build_object('plain', false,
            'reading', format('coalesce(%s, %s)', v_columns->'referenceId'->>'reading', v_how.reading)));
    END IF;
    IF v_digest NOT IN ('base64url', 'hex', 'plain') OR v_unit NOT IN ('auto', 'ms', 'days') THEN
        RAISE EXCEPTION 'better_auth_digest is one of base64url, hex, plain; better_auth_refill_unit one of auto, ms, days';
    END IF;
    IF v_digest <> 'base64url' THEN
        v_columns := jsonb_set(v_columns, '{key}', v_columns->'key' || jsonb_build_object('plain', false,
            'reading', format('mcpgw.digest_of_%s(%s)', v_digest, v_columns->'key'->>'reading'),
            'writing', CASE v_digest WHEN 'hex' THEN 'mcpgw.hex_of_digest(%s)' ELSE '%s' END));
    END IF;
    IF v_scopes IS NOT NULL THEN
        v_columns := jsonb_set(v_columns, '{permissions}', coalesce(v_columns->'permissions', '{}') || jsonb_build_object('plain', false,
            'reading', format('coalesce(mcpgw.permissions_of(to_jsonb(a.%I), %L), %s)', v_scopes, p_settings->>'resource',
                              coalesce(v_columns->'permissions'->>'reading', 'NULL'))));
        v_missing := array_remove(v_missing, 'permissions');
    END IF;
    SELECT array_agg(DISTINCT c.atttypid::regtype::text || CASE WHEN c.atttypmod = -1 THEN '' ELSE '()' END) INTO v_zones
    FROM pg_attribute c WHERE c.attrelid = v_relation AND c.atttypid IN ('timestamp'::regtype, 'timestamptz'::regtype)
      AND c.attname IN (SELECT e.value->>'real' FROM jsonb_each(v_columns) e);
    IF v_unit = 'auto' THEN    -- days until 1.3.24, told from later ones by its own migration's plain timestamps
        v_unit := CASE WHEN v_columns->'referenceId'->>'real' = v_user AND NOT v_columns ? 'configId'
                            AND v_zones = ARRAY['timestamp without time zone'] THEN 'days' ELSE 'ms' END;
    END IF;
    RETURN jsonb_build_object(
        'table', v_relation::text, 'owner', v_columns->'referenceId'->>'real',
        'release', CASE WHEN v_columns->'referenceId'->>'real' = v_user AND NOT v_columns ? 'configId' THEN '1.3 or 1.4'
                        WHEN v_user IS NULL AND v_columns ? 'configId' THEN '1.5 or later' ELSE 'upgraded by hand' END,
        'dates', CASE WHEN v_zones::text NOT LIKE '%without%' THEN 'with zone' WHEN v_zones::text NOT LIKE '%with time%' THEN 'without zone' ELSE 'mixed' END,
        'zone', v_zone, 'digest', v_digest, 'refillUnitMs', CASE v_unit WHEN 'days' THEN 86400000 ELSE 1 END,
        'scopeColumn', v_scopes, 'tenantColumn', v_tenant, 'missing', to_jsonb(v_missing),
        'direct', v_missing = '{}' AND NOT EXISTS (SELECT FROM jsonb_each(v_columns) e WHERE NOT (e.value->>'plain')::boolean),
        'columns', v_columns);
END
$$;

-- The view, and what writes through it where Postgres cannot.
CREATE FUNCTION mcpgw.attach_view(p_relation regclass, p_shape jsonb, p_settings jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_columns jsonb := p_shape->'columns';
    v_id      text := v_columns->'id'->>'real';
    v_scopes  name := p_shape->>'scopeColumn';
    v_names   text;
    v_values  text;
    v_sets    text;
    v_refused text;
BEGIN
    EXECUTE format('CREATE OR REPLACE VIEW mcpgw.apikey AS SELECT %s, %s AS tenant, a.xmin AS row_xmin FROM %s a',
                   mcpgw.apikey_expressions(p_shape),
                   coalesce('a.' || quote_ident(p_shape->>'tenantColumn') || '::text', 'NULL::text'), p_relation);
    EXECUTE 'DROP TRIGGER IF EXISTS write_apikey ON mcpgw.apikey';
    IF (p_shape->>'direct')::boolean THEN
        RETURN;
    END IF;
    WITH w AS (
        SELECT c.name, v_columns->c.name->>'real' AS real, v_columns->c.name->>'writing' AS writing
        FROM mcpgw.better_auth_columns() c WHERE v_columns->c.name ? 'real'
        UNION ALL
        SELECT 'permissions', v_scopes, CASE (SELECT c.atttypid FROM pg_attribute c WHERE c.attrelid = p_relation AND c.attname = v_scopes)
            WHEN 'text[]'::regtype THEN format('mcpgw.scopes_of(%%s, %L)', p_settings->>'resource')
            WHEN 'jsonb'::regtype THEN format('to_jsonb(mcpgw.scopes_of(%%s, %L))', p_settings->>'resource')
            ELSE format('array_to_string(mcpgw.scopes_of(%%s, %L), '','')', p_settings->>'resource') END
        WHERE v_scopes IS NOT NULL
    )
    SELECT string_agg(format('%I', w.real), ', '), string_agg(format(w.writing, format('NEW.%I', w.name)), ', '),
           string_agg(format('%I = CASE WHEN NEW.%I IS DISTINCT FROM OLD.%I THEN %s ELSE a.%I END', w.real, w.name, w.name,
                             format(w.writing, format('NEW.%I', w.name)), w.real), ', ')
    INTO v_names, v_values, v_sets FROM w;
    -- What the table has no place for must not be accepted in silence; NULL, false and the plugin's defaults say nothing.
    SELECT coalesce(string_agg(format('WHEN coalesce(NEW.%I::text, ''default'') NOT IN (''default'', ''false'', ''null'') THEN %L', m.name, m.name), ' '),
                    'WHEN false THEN NULL')
    INTO v_refused FROM jsonb_array_elements_text(p_shape->'missing') AS m (name)
    WHERE m.name IN ('configId', 'refillInterval', 'refillAmount', 'rateLimitEnabled', 'rateLimitTimeWindow', 'rateLimitMax', 'remaining', 'metadata');
    EXECUTE format($function$
        CREATE OR REPLACE FUNCTION mcpgw.write_apikey() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
        DECLARE
            v_lacks text;
        BEGIN
            IF TG_OP = 'DELETE' THEN
                DELETE FROM %1$s a WHERE a.%2$I = OLD.id;
                RETURN CASE WHEN FOUND THEN OLD END;
            END IF;
            v_lacks := CASE %3$s END;
            IF v_lacks IS NOT NULL THEN
                RAISE EXCEPTION 'table %1$s has no column for %%', v_lacks USING ERRCODE = 'feature_not_supported';
            END IF;
            IF TG_OP = 'INSERT' THEN
                INSERT INTO %1$s (%4$s) VALUES (%5$s);
                RETURN NEW;
            END IF;
            UPDATE %1$s a SET %6$s WHERE a.%2$I = OLD.id;
            RETURN CASE WHEN FOUND THEN NEW END;
        END
        $body$ $function$, p_relation, v_id, v_refused, v_names, v_values, v_sets);
    EXECUTE 'REVOKE ALL ON FUNCTION mcpgw.write_apikey() FROM PUBLIC';
    EXECUTE 'CREATE TRIGGER write_apikey INSTEAD OF INSERT OR UPDATE OR DELETE ON mcpgw.apikey FOR EACH ROW'
            ' EXECUTE FUNCTION mcpgw.write_apikey()';
END
$$;

-- The select list of the view over a row `a`.
CREATE FUNCTION mcpgw.apikey_expressions(p_shape jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(format('%s AS %I', coalesce(p_shape->'columns'->c.name->>'reading', c.absent, format('NULL::%s', c.type)), c.name), ', ' ORDER BY c.place)
    FROM mcpgw.better_auth_columns() WITH ORDINALITY AS c (name, type, needed, judged, absent, place)
$$;

-- The triggers that number changes.  They are constraint triggers deferred to commit (0003 says why), and their function
-- is made here because only here the real row's columns are known.
CREATE FUNCTION mcpgw.attach_triggers(p_relation regclass, p_shape jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_columns jsonb := p_shape->'columns';
    v_judged  text;
    v_taken   text;
BEGIN
    EXECUTE format($function$
        CREATE OR REPLACE FUNCTION mcpgw.on_apikey() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
        DECLARE
            v_old jsonb;
            v_new jsonb;
        BEGIN
            IF TG_OP <> 'INSERT' THEN
                SELECT to_jsonb(x) INTO v_old FROM (SELECT %1$s FROM (SELECT OLD.*) a) x;
            END IF;
            IF TG_OP <> 'DELETE' THEN
                SELECT to_jsonb(x) INTO v_new FROM (SELECT %1$s FROM (SELECT NEW.*) a) x;
            END IF;
            PERFORM mcpgw.tell_apikey(v_old, v_new);
            RETURN NULL;
        END
        $body$ $function$, mcpgw.apikey_expressions(p_shape));
    EXECUTE 'REVOKE ALL ON FUNCTION mcpgw.on_apikey() FROM PUBLIC';

    SELECT string_agg(format('%%1$s.%I', c.real) || CASE WHEN t.atttypid = 'json'::regtype THEN '::text' ELSE '' END, ', ') INTO v_judged
    FROM (SELECT v_columns->j.name->>'real' AS real FROM mcpgw.better_auth_columns() j WHERE j.judged AND v_columns->j.name ? 'real'
          UNION SELECT mcpgw.better_auth_column(p_relation, '{}', 'userId') UNION SELECT p_shape->>'scopeColumn' UNION SELECT p_shape->>'tenantColumn') c
    JOIN pg_attribute t ON t.attrelid = p_relation AND t.attname = c.real;
    -- Uses taken one by one, refilled, or by mcpgw.take_uses are no change; a person who sets them makes one.
    v_taken := CASE WHEN v_columns ? 'remaining' AND v_columns ? 'lastRefillAt' THEN format(
        ' OR ((OLD.%1$I IS NULL) <> (NEW.%1$I IS NULL)) OR (NEW.%1$I <> OLD.%1$I AND NEW.%1$I <> OLD.%1$I - 1'
        ' AND OLD.%2$I IS NOT DISTINCT FROM NEW.%2$I AND current_setting(''mcpgw.uses'', true) IS DISTINCT FROM ''taken'')',
        v_columns->'remaining'->>'real', v_columns->'lastRefillAt'->>'real') ELSE '' END;
    EXECUTE format('DROP TRIGGER IF EXISTS mcpgw_created ON %s', p_relation);
    EXECUTE format('DROP TRIGGER IF EXISTS mcpgw_deleted ON %s', p_relation);
    EXECUTE format('DROP TRIGGER IF EXISTS mcpgw_updated ON %s', p_relation);
    EXECUTE format('DROP TRIGGER IF EXISTS mcpgw_truncated ON %s', p_relation);
    EXECUTE format('CREATE CONSTRAINT TRIGGER mcpgw_created AFTER INSERT ON %s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mcpgw.on_apikey()', p_relation);
    EXECUTE format('CREATE CONSTRAINT TRIGGER mcpgw_deleted AFTER DELETE ON %s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mcpgw.on_apikey()', p_relation);
    -- Never lastRequest, requestCount, lastRefillAt, updatedAt: Better-Auth writes those on every verify.
    EXECUTE format('CREATE CONSTRAINT TRIGGER mcpgw_updated AFTER UPDATE ON %s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW'
                   ' WHEN ((%s) IS DISTINCT FROM (%s)%s) EXECUTE FUNCTION mcpgw.on_apikey()',
                   p_relation, format(v_judged, 'OLD'), format(v_judged, 'NEW'), v_taken);
    EXECUTE format('CREATE TRIGGER mcpgw_truncated AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION mcpgw.on_truncate(''key.deleted'')', p_relation);
END
$$;

-- The rows of mcpgw.wanted_trigger (0005) follow the table.
CREATE FUNCTION mcpgw.want_triggers(p_former text, p_relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM mcpgw.wanted_trigger w WHERE format('%I.%I', w.schema_name, w.table_name) = p_former;
    INSERT INTO mcpgw.wanted_trigger (schema_name, table_name, trigger_name)
    SELECT n.nspname, c.relname, t.tgname
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE t.tgrelid = p_relation AND t.tgname LIKE 'mcpgw\_%' AND NOT t.tgisinternal;
END
$$;

-- Leaves the application's table alone: its owner may alter it, in the same transaction, and attach again.  Meanwhile
-- there are no keys.  The view stays, with the same columns, so that what is made of it stays too.
CREATE FUNCTION mcpgw.detach_better_auth() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    v_relation regclass;
BEGIN
    SELECT b.relation INTO v_relation FROM mcpgw.better_auth b FOR UPDATE;
    EXECUTE 'DROP TRIGGER IF EXISTS write_apikey ON mcpgw.apikey';
    EXECUTE (SELECT 'CREATE OR REPLACE VIEW mcpgw.apikey AS SELECT ' || string_agg(format('NULL::%s AS %I', c.type, c.name), ', ' ORDER BY c.place)
                    || ', NULL::text AS tenant, NULL::xid AS row_xmin WHERE false'
             FROM mcpgw.better_auth_columns() WITH ORDINALITY AS c (name, type, needed, judged, absent, place));
    IF v_relation IS NOT NULL AND EXISTS (SELECT FROM pg_class c WHERE c.oid = v_relation) THEN
        EXECUTE format('DROP TRIGGER IF EXISTS mcpgw_created ON %s', v_relation);
        EXECUTE format('DROP TRIGGER IF EXISTS mcpgw_deleted ON %s', v_relation);
        EXECUTE format('DROP TRIGGER IF EXISTS mcpgw_updated ON %s', v_relation);
        EXECUTE format('DROP TRIGGER IF EXISTS mcpgw_truncated ON %s', v_relation);
    END IF;
    UPDATE mcpgw.better_auth SET relation = NULL, made = '';
END
$$;

-- Finds the shape and makes what follows from it; p_settings NULL: those of the last time.  What is made already is left
-- alone, so that it costs no lock.  Triggers come with the table of changes (0003).
CREATE FUNCTION mcpgw.attach_better_auth(p_settings jsonb DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    v_settings jsonb;
    v_relation regclass;
    v_shape    jsonb;
    v_numbers  boolean := to_regclass('mcpgw.change') IS NOT NULL;
    v_former   record;
    v_made     text;
BEGIN
    SELECT * INTO v_former FROM mcpgw.better_auth FOR UPDATE;
    v_settings := coalesce(p_settings, v_former.settings);
    v_shape := mcpgw.find_better_auth(v_settings);
    v_relation := (v_shape->>'table')::regclass;
    v_made := md5(v_shape::text || v_settings::text || v_relation::oid::text);
    IF v_made = v_former.made AND v_relation = v_former.relation THEN
        IF NOT v_numbers THEN
            RETURN;
        ELSIF mcpgw.triggers_present() THEN
            RETURN;
        END IF;
    END IF;
    IF v_former.relation IS NOT NULL AND v_former.relation <> v_relation THEN
        PERFORM mcpgw.detach_better_auth();
    END IF;
    PERFORM mcpgw.attach_view(v_relation, v_shape, v_settings);
    IF v_numbers THEN
        PERFORM mcpgw.attach_triggers(v_relation, v_shape);
        IF to_regclass('mcpgw.wanted_trigger') IS NOT NULL THEN
            PERFORM mcpgw.want_triggers(v_former.shape->>'table', v_relation);
        END IF;
        -- Whatever was cached of another shape, or while nobody numbered changes, counts for nothing.
        IF (SELECT s.value > 0 FROM mcpgw.change_sequence s) THEN
            PERFORM mcpgw.take_change(6, NULL, NULL, NULL, NULL, NULL, 'key.updated', jsonb_build_object('attached', v_shape->>'table'));
        END IF;
    END IF;
    UPDATE mcpgw.better_auth SET settings = v_settings, relation = v_relation, shape = v_shape - 'columns'
        || jsonb_build_object('names', (SELECT jsonb_object_agg(e.key, e.value->>'real') FROM jsonb_each(v_shape->'columns') e)), made = v_made;
END
$$;

SELECT mcpgw.attach_better_auth(nullif(current_setting('mcpgw.better_auth', true), '')::jsonb);
