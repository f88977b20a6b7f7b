-- One database role per service with the least it needs.  They log in without a password until an operator sets one (or
-- by peer authentication); nobody is superuser.  edge and ratelimit have none.

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['mcpgw_authz', 'mcpgw_keys', 'mcpgw_audit'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;    -- roles belong to the whole cluster: another database's migration was faster
            END;
        END IF;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), wanted);
    END LOOP;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA mcpgw FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA mcpgw FROM PUBLIC;
GRANT USAGE ON SCHEMA mcpgw TO mcpgw_authz, mcpgw_keys, mcpgw_audit;

-- authz reads.
GRANT SELECT ON mcpgw.credential, mcpgw.change, mcpgw.change_sequence TO mcpgw_authz;
GRANT EXECUTE ON FUNCTION mcpgw.triggers_present() TO mcpgw_authz;
-- What a view calls is called by whoever reads the view.
GRANT EXECUTE ON FUNCTION mcpgw.digest_of_plain(text), mcpgw.digest_of_hex(text), mcpgw.permissions_of(jsonb, text),
    mcpgw.uses_are_spent(int, int, int, timestamptz) TO mcpgw_authz, mcpgw_keys;

-- keys writes keys and servers, and sees of people what ownership needs.  Changes and events are the triggers' alone.
GRANT USAGE ON SCHEMA public TO mcpgw_keys;
GRANT SELECT, INSERT, DELETE ON mcpgw.apikey TO mcpgw_keys;
-- Through the view only: it leads to the application's table, whatever that is called, and to no other column.
GRANT UPDATE (name, start, key, enabled, "rateLimitEnabled", "rateLimitTimeWindow", "rateLimitMax", "expiresAt", "updatedAt",
              permissions, metadata) ON mcpgw.apikey TO mcpgw_keys;
GRANT SELECT (id, name, banned, "banExpires") ON public."user" TO mcpgw_keys;
GRANT SELECT (id, name, slug) ON public.organization TO mcpgw_keys;
GRANT SELECT (id, "organizationId", "userId", role) ON public.member TO mcpgw_keys;
GRANT SELECT, INSERT, UPDATE, DELETE ON mcpgw.key, mcpgw.server TO mcpgw_keys;
GRANT SELECT, INSERT ON mcpgw.request TO mcpgw_keys;
GRANT SELECT ON mcpgw.credential, mcpgw.change, mcpgw.change_sequence, mcpgw.outbox TO mcpgw_keys;
GRANT EXECUTE ON FUNCTION mcpgw.triggers_present(), mcpgw.prune(),
    mcpgw.audit_page(timestamptz, timestamptz, text, text, text, bigint, text, int) TO mcpgw_keys;

-- audit moves the outbox; its own schema grants it the rest.
GRANT SELECT ON mcpgw.outbox TO mcpgw_audit;
