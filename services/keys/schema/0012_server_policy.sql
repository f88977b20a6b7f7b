-- How a server authenticates, and how strictly its callers are: columns of its row, told to every edge.
--   upstream_auth  gateway: the client's credential ends at the gateway; own: a token made for `resource` travels on
--   enforce        observe: what would be refused is let through, marked, counted and recorded

ALTER TABLE mcpgw.server
    ADD COLUMN upstream_auth text NOT NULL DEFAULT 'gateway' CHECK (upstream_auth IN ('gateway', 'own')),
    ADD COLUMN resource      text CHECK (resource ~ '^[!-~]+$' AND length(resource) <= 256),
    ADD COLUMN second_factor boolean NOT NULL DEFAULT false,
    ADD COLUMN enforce       text NOT NULL DEFAULT 'on' CHECK (enforce IN ('on', 'observe')),
    ADD CHECK (upstream_auth <> 'own' OR resource IS NOT NULL);

CREATE OR REPLACE FUNCTION mcpgw.on_server() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM mcpgw.take_change(5, NULL, NULL, NULL, OLD.tenant_id, OLD.slug, 'server.deleted', NULL);
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.slug IS DISTINCT FROM NEW.slug THEN
        PERFORM mcpgw.take_change(5, NULL, NULL, NULL, OLD.tenant_id, OLD.slug, 'server.deleted', NULL);
    END IF;
    PERFORM mcpgw.take_change(5, NULL, NULL, NULL, NEW.tenant_id, NEW.slug, CASE TG_OP WHEN 'INSERT' THEN 'server.created' ELSE 'server.updated' END,
                              jsonb_build_object('url', left(NEW.url, 300), 'enabled', NEW.enabled, 'upstreamAuth', NEW.upstream_auth,
                                                 'secondFactor', NEW.second_factor, 'enforce', NEW.enforce));
    RETURN NULL;
END
$$;

DROP TRIGGER mcpgw_updated ON mcpgw.server;
CREATE CONSTRAINT TRIGGER mcpgw_updated AFTER UPDATE ON mcpgw.server
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.slug, OLD.url, OLD.name, OLD.tenant_id, OLD.enabled, OLD.upstream_auth, OLD.resource, OLD.second_factor, OLD.enforce)
          IS DISTINCT FROM (NEW.slug, NEW.url, NEW.name, NEW.tenant_id, NEW.enabled, NEW.upstream_auth, NEW.resource, NEW.second_factor, NEW.enforce))
    EXECUTE FUNCTION mcpgw.on_server();
