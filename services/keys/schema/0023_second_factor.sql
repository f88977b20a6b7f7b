-- Which sessions prove a second factor.  Better-Auth keeps none of its own record of it: by password it makes a session of a user
-- with twoFactorEnabled only once the factor was given.  But when a user enables it no other session ends, so those that are
-- older were made with a password alone; and an administrator who impersonates a user gave no factor of that user's.

-- Since when a user has one.  No row: since before this table; which sessions are older cannot be told any more.
CREATE TABLE mcpgw.second_factor (
    user_id text PRIMARY KEY,
    since   timestamptz NOT NULL
);

-- Better-Auth writes updatedAt as it enables the factor, and createdAt of the session that it makes next, by one clock; what
-- changes the row by plain SQL leaves updatedAt as it is.
CREATE FUNCTION mcpgw.on_second_factor() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM mcpgw.second_factor f WHERE f.user_id = OLD.id::text;
    ELSE
        INSERT INTO mcpgw.second_factor (user_id, since)
            VALUES (NEW.id::text, CASE WHEN NEW."updatedAt" > OLD."updatedAt" THEN NEW."updatedAt" ELSE clock_timestamp() END)
            ON CONFLICT (user_id) DO UPDATE SET since = excluded.since;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER mcpgw_second_factor AFTER UPDATE ON public."user" FOR EACH ROW
    WHEN (coalesce(to_jsonb(NEW)->>'twoFactorEnabled', 'false') = 'true' AND coalesce(to_jsonb(OLD)->>'twoFactorEnabled', 'false') <> 'true')
    EXECUTE FUNCTION mcpgw.on_second_factor();
CREATE TRIGGER mcpgw_second_factor_deleted AFTER DELETE ON public."user" FOR EACH ROW EXECUTE FUNCTION mcpgw.on_second_factor();

-- Of a user with twoFactorEnabled.  p_session '': it is in Redis, and was made at p_created (Unix time in us; 0: not known).
CREATE FUNCTION mcpgw.session_proves_factor(p_user text, p_session text, p_created bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
    SELECT CASE WHEN p_session <> ''
                THEN EXISTS (SELECT FROM public.session s
                             WHERE s.id = p_session AND coalesce(to_jsonb(s)->>'impersonatedBy', '') = ''
                               AND (f.since IS NULL OR s."createdAt"::timestamptz >= f.since))
                ELSE f.since IS NULL OR to_timestamp(p_created / 1000000.0) >= f.since END
    FROM (SELECT (SELECT x.since FROM mcpgw.second_factor x WHERE x.user_id = p_user) AS since) f
$$;

INSERT INTO mcpgw.wanted_trigger (schema_name, table_name, trigger_name) VALUES
    ('public', 'user', 'mcpgw_second_factor'), ('public', 'user', 'mcpgw_second_factor_deleted');

REVOKE ALL ON FUNCTION mcpgw.on_second_factor(), mcpgw.session_proves_factor(text, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mcpgw.session_proves_factor(text, text, bigint) TO mcpgw_authz;
