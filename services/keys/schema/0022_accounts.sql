-- Users who came in by Better-Auth's social login: its `account` rows say which subject of an identity provider is which user.
-- A token of that subject is then that user's, and what happens to the row or the user counts for the token.

-- How changes name a subject, whose own id may be of any length.  A newline stands in no provider's id.
CREATE FUNCTION mcpgw.account_name(p_provider text, p_account text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'account:' || translate(rtrim(encode(sha256(convert_to(p_provider || E'\n' || p_account, 'UTF8')), 'base64'), '='), '+/', '-_')
$$;

-- Whose a subject was before its row went.  A deleted user takes the rows along (Better-Auth deletes them first, in a
-- transaction of their own), and without this one's tokens would be a stranger's, who is let in.
CREATE TABLE mcpgw.former_account (
    name    text PRIMARY KEY,
    user_id text NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX former_account_user_idx ON mcpgw.former_account (user_id);

-- Better-Auth indexes accounts by user alone.
CREATE INDEX IF NOT EXISTS mcpgw_account_subject_idx ON public.account ("accountId", "providerId");

CREATE FUNCTION mcpgw.on_account() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_name text;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        v_name := mcpgw.account_name(OLD."providerId", OLD."accountId");
        INSERT INTO mcpgw.former_account (name, user_id) VALUES (v_name, OLD."userId"::text)
            ON CONFLICT (name) DO UPDATE SET user_id = excluded.user_id, at = excluded.at;
        PERFORM mcpgw.take_change(2, NULL, v_name, OLD."userId"::text, NULL, NULL, 'account.unlinked',
                                  jsonb_build_object('provider', left(OLD."providerId", 64)));
    END IF;
    IF TG_OP <> 'DELETE' THEN
        v_name := mcpgw.account_name(NEW."providerId", NEW."accountId");
        DELETE FROM mcpgw.former_account f WHERE f.name = v_name;
        PERFORM mcpgw.take_change(2, NULL, v_name, NEW."userId"::text, NULL, NULL, 'account.linked',
                                  jsonb_build_object('provider', left(NEW."providerId", 64)));
    END IF;
    RETURN NULL;
END
$$;

-- `credential` is the password: no issuer vouches for it.
CREATE CONSTRAINT TRIGGER mcpgw_created AFTER INSERT ON public.account
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW."providerId" <> 'credential')
    EXECUTE FUNCTION mcpgw.on_account();
CREATE CONSTRAINT TRIGGER mcpgw_deleted AFTER DELETE ON public.account
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD."providerId" <> 'credential')
    EXECUTE FUNCTION mcpgw.on_account();
CREATE CONSTRAINT TRIGGER mcpgw_updated AFTER UPDATE ON public.account
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD."providerId", OLD."accountId", OLD."userId") IS DISTINCT FROM (NEW."providerId", NEW."accountId", NEW."userId"))
    EXECUTE FUNCTION mcpgw.on_account();
CREATE TRIGGER mcpgw_truncated AFTER TRUNCATE ON public.account
    FOR EACH STATEMENT EXECUTE FUNCTION mcpgw.on_truncate('account.unlinked');

-- Subjects of a user who goes after the rows: each may have been looked up as a stranger in between.
CREATE FUNCTION mcpgw.on_former_user() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_account record;
BEGIN
    FOR v_account IN SELECT f.name FROM mcpgw.former_account f WHERE f.user_id = OLD.id::text ORDER BY f.name
    LOOP
        PERFORM mcpgw.take_change(2, NULL, v_account.name, OLD.id::text, NULL, NULL, 'user.deleted', NULL);
    END LOOP;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER mcpgw_subjects AFTER DELETE ON public."user"
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mcpgw.on_former_user();

-- One row.  users: how many have this account (Better-Auth's table forbids no second one).  departed: its last user is gone.
CREATE FUNCTION mcpgw.find_linked(p_provider text, p_account text)
RETURNS TABLE (user_id text, users bigint, departed boolean)
LANGUAGE sql STABLE STRICT SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
    SELECT min(a."userId"::text), count(DISTINCT a."userId"),
           EXISTS (SELECT FROM mcpgw.former_account f WHERE f.name = mcpgw.account_name(p_provider, p_account)
                   AND NOT EXISTS (SELECT FROM public."user" u WHERE u.id::text = f.user_id))
    FROM public.account a WHERE a."providerId" = p_provider AND a."accountId" = p_account
$$;

-- For the owner: lets the subject of a deleted user in again, as a stranger.
CREATE FUNCTION mcpgw.forget_account(p_provider text, p_account text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_user text;
BEGIN
    DELETE FROM mcpgw.former_account f WHERE f.name = mcpgw.account_name(p_provider, p_account) RETURNING f.user_id INTO v_user;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM mcpgw.take_change(2, NULL, mcpgw.account_name(p_provider, p_account), v_user, NULL, NULL, 'account.forgotten',
                              jsonb_build_object('provider', left(p_provider, 64)));
    RETURN true;
END
$$;

INSERT INTO mcpgw.wanted_trigger (schema_name, table_name, trigger_name) VALUES
    ('public', 'account', 'mcpgw_created'), ('public', 'account', 'mcpgw_deleted'), ('public', 'account', 'mcpgw_updated'),
    ('public', 'account', 'mcpgw_truncated'), ('public', 'user', 'mcpgw_subjects');

REVOKE ALL ON FUNCTION mcpgw.account_name(text, text), mcpgw.on_account(), mcpgw.on_former_user(), mcpgw.find_linked(text, text),
    mcpgw.forget_account(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mcpgw.find_linked(text, text) TO mcpgw_authz;
