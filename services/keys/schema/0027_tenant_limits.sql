-- A tenant's limits: of all its callers together (the columns have been there), and of each user in it over all their
-- credentials.  Both or none of each pair.
ALTER TABLE mcpgw.tenant
    ADD COLUMN user_limit_requests integer CHECK (user_limit_requests >= 1),
    ADD COLUMN user_limit_window_s integer CHECK (user_limit_window_s BETWEEN 1 AND 2147483),
    ADD CONSTRAINT tenant_user_limit_check CHECK ((user_limit_requests IS NULL) = (user_limit_window_s IS NULL));

CREATE OR REPLACE VIEW mcpgw.tenant_state AS
SELECT t.id, (t.state = 'suspended') AS suspended, t.limit_requests, t.limit_window_s, t.user_limit_requests, t.user_limit_window_s
FROM mcpgw.tenant t;
