-- An operator's list of all keys goes by this index; without it every page sorts the whole table.  Where the table has the
-- columns under these names; a table of another shape is small enough to be sorted.
DO $$
DECLARE
    v_table regclass := (SELECT b.relation FROM mcpgw.better_auth b);
BEGIN
    IF (SELECT count(*) FROM pg_attribute WHERE attrelid = v_table AND attname IN ('createdAt', 'id') AND NOT attisdropped) = 2 THEN
        EXECUTE format('CREATE INDEX IF NOT EXISTS "mcpgw_apikey_createdAt_idx" ON %s ("createdAt", id)', v_table);
    END IF;
END
$$;
