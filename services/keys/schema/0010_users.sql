-- Administrators see the users of their tenant and these users' sessions, suspend users and sign them out.  What is suspended
-- is Better-Auth's own column, so both systems refuse it; a session's token is not for us to read.

GRANT SELECT (email, role, "banReason", "createdAt", "updatedAt"), UPDATE (banned, "banReason", "banExpires", "updatedAt") ON public."user" TO mcpgw_keys;
GRANT SELECT (id, "userId", "expiresAt", "createdAt", "updatedAt", "ipAddress", "userAgent"), DELETE ON public.session TO mcpgw_keys;
