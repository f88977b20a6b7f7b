-- What the keys of a tenant begin with; NULL: mcp_.  Keys that were made with another prefix go on working.
ALTER TABLE mcpgw.tenant ADD COLUMN key_prefix text CHECK (key_prefix ~ '^[A-Za-z][A-Za-z0-9_]{0,14}_$');
