-- Up to which change Better-Auth's entries in Redis have been deleted, twice (services/keys/entries.h).  No row: nobody has to.
CREATE TABLE mcpgw.entries_done (
    "only"   boolean PRIMARY KEY DEFAULT true CHECK ("only"),
    sequence bigint NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON mcpgw.entries_done TO mcpgw_keys;

-- What is remembered of the uses of keys that are gone.
CREATE OR REPLACE FUNCTION mcpgw.prune_key_life() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM mcpgw.former f WHERE f.expires_at < now() - interval '1 hour' OR NOT EXISTS (SELECT FROM mcpgw.apikey a WHERE a.id = f.key_id);
    DELETE FROM mcpgw.key_notice n WHERE n.expires_at < now() - interval '1 day';
    DELETE FROM mcpgw.use_claim c WHERE c.at < now() - interval '1 hour';
    DELETE FROM mcpgw.use u WHERE u.key_id IN (SELECT x.key_id FROM mcpgw.use x
        WHERE NOT EXISTS (SELECT FROM mcpgw.apikey a WHERE a.id = x.key_id) LIMIT 10000);
$$;
