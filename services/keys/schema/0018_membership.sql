-- The organization that a session names is its tenant only while the user is a member: Better-Auth leaves the name in the
-- sessions of a member who is removed, and in Redis no trigger and no look-up of ours sees them.
CREATE FUNCTION mcpgw.is_member(p_user text, p_organization text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM public.member m WHERE m."userId" = p_user AND m."organizationId" = p_organization)
$$;

REVOKE ALL ON FUNCTION mcpgw.is_member(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mcpgw.is_member(text, text) TO mcpgw_authz;
