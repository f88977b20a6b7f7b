-- Better-Auth 1.7.5's own tables (with its admin, organization and api-key plugins), exactly as its migration makes them.
-- An application that has made them already keeps them; a shape that we cannot read stops the migration with the reason.

CREATE TABLE IF NOT EXISTS public."user" (
    id              text PRIMARY KEY,
    name            text NOT NULL,
    email           text NOT NULL UNIQUE,
    "emailVerified" boolean NOT NULL,
    image           text,
    "createdAt"     timestamptz DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "updatedAt"     timestamptz DEFAULT CURRENT_TIMESTAMP NOT NULL,
    role            text,
    banned          boolean,
    "banReason"     text,
    "banExpires"    timestamptz
);

CREATE TABLE IF NOT EXISTS public.session (
    id                     text PRIMARY KEY,
    "expiresAt"            timestamptz NOT NULL,
    token                  text NOT NULL UNIQUE,
    "createdAt"            timestamptz DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "updatedAt"            timestamptz NOT NULL,
    "ipAddress"            text,
    "userAgent"            text,
    "userId"               text NOT NULL REFERENCES public."user" (id) ON DELETE CASCADE,
    "activeOrganizationId" text,
    "impersonatedBy"       text
);

CREATE TABLE IF NOT EXISTS public.account (
    id                      text PRIMARY KEY,
    "accountId"             text NOT NULL,
    "providerId"            text NOT NULL,
    "userId"                text NOT NULL REFERENCES public."user" (id) ON DELETE CASCADE,
    "accessToken"           text,
    "refreshToken"          text,
    "idToken"               text,
    "accessTokenExpiresAt"  timestamptz,
    "refreshTokenExpiresAt" timestamptz,
    scope                   text,
    password                text,
    "createdAt"             timestamptz DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "updatedAt"             timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS public.verification (
    id          text PRIMARY KEY,
    identifier  text NOT NULL,
    value       text NOT NULL,
    "expiresAt" timestamptz NOT NULL,
    "createdAt" timestamptz DEFAULT CURRENT_TIMESTAMP NOT NULL,
    "updatedAt" timestamptz DEFAULT CURRENT_TIMESTAMP NOT NULL
);

CREATE TABLE IF NOT EXISTS public.organization (
    id          text PRIMARY KEY,
    name        text NOT NULL,
    slug        text NOT NULL UNIQUE,
    logo        text,
    "createdAt" timestamptz NOT NULL,
    metadata    text
);

CREATE TABLE IF NOT EXISTS public.member (
    id               text PRIMARY KEY,
    "organizationId" text NOT NULL REFERENCES public.organization (id) ON DELETE CASCADE,
    "userId"         text NOT NULL REFERENCES public."user" (id) ON DELETE CASCADE,
    role             text NOT NULL,
    "createdAt"      timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS public.apikey (
    id                    text PRIMARY KEY,
    "configId"            text NOT NULL,
    name                  text,
    start                 text,
    "referenceId"         text NOT NULL,
    prefix                text,
    key                   text NOT NULL,
    "refillInterval"      integer,
    "refillAmount"        integer,
    "lastRefillAt"        timestamptz,
    enabled               boolean,
    "rateLimitEnabled"    boolean,
    "rateLimitTimeWindow" integer,
    "rateLimitMax"        integer,
    "requestCount"        integer,
    remaining             integer,
    "lastRequest"         timestamptz,
    "expiresAt"           timestamptz,
    "createdAt"           timestamptz NOT NULL,
    "updatedAt"           timestamptz NOT NULL,
    permissions           text,
    metadata              text
);

-- The admin plugin's columns: nullable, so Better-Auth's schema check accepts them without the plugin too.
-- Altered only where one is missing: the statement needs the table's owner even when nothing is to do.
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES ('role', 'text'), ('banned', 'boolean'), ('banReason', 'text'), ('banExpires', 'timestamptz')) AS w (name, type)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_attribute
                       WHERE attrelid = 'public."user"'::regclass AND attname = wanted.name AND NOT attisdropped) THEN
            EXECUTE format('ALTER TABLE public."user" ADD COLUMN %I %s', wanted.name, wanted.type);
        END IF;
    END LOOP;
END
$$;

DO $$
DECLARE
    missing text;
BEGIN
    SELECT string_agg(w.name, ', ') INTO missing
    FROM unnest(ARRAY['configId', 'referenceId', 'key', 'enabled', 'rateLimitEnabled', 'rateLimitTimeWindow', 'rateLimitMax',
                      'expiresAt', 'permissions', 'metadata']) AS w (name)
    WHERE NOT EXISTS (SELECT FROM pg_attribute
                      WHERE attrelid = 'public.apikey'::regclass AND attname = w.name AND NOT attisdropped);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'table public.apikey lacks: %', missing
            USING HINT = 'It was made by a Better-Auth before 1.5. Upgrade Better-Auth (and its table) first.';
    END IF;
    IF EXISTS (SELECT FROM pg_attribute
               WHERE attrelid = 'public.apikey'::regclass AND attname = 'expiresAt' AND atttypid <> 'timestamptz'::regtype) THEN
        RAISE EXCEPTION 'column "expiresAt" of table public.apikey is not timestamptz'
            USING HINT = 'Times without a zone mean whatever zone their writer had. Upgrade Better-Auth (and its table) first.';
    END IF;
END
$$;

-- CREATE INDEX IF NOT EXISTS asks for the table's owner even when the index is there, so look first.
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES
        ('apikey_configId_idx', 'apikey', 'configId'), ('apikey_referenceId_idx', 'apikey', 'referenceId'), ('apikey_key_idx', 'apikey', 'key'),
        ('session_userId_idx', 'session', 'userId'), ('account_userId_idx', 'account', 'userId'),
        ('member_organizationId_idx', 'member', 'organizationId'), ('member_userId_idx', 'member', 'userId'),
        ('verification_identifier_idx', 'verification', 'identifier')) AS w (index_name, table_name, column_name)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = wanted.index_name) THEN
            EXECUTE format('CREATE INDEX %I ON public.%I (%I)', wanted.index_name, wanted.table_name, wanted.column_name);
        END IF;
    END LOOP;
END
$$;
