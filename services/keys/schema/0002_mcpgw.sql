-- Our own tables: side facts about keys, the registry of servers, the gapless sequence of changes, the outbox of
-- administrative events, and the one view that authz reads.

CREATE SCHEMA IF NOT EXISTS mcpgw;

-- One row.  Whoever changes something takes the next value at its commit and holds the row's lock until then: numbers
-- appear in commit order and without gaps (a sequence object would give neither).
CREATE TABLE mcpgw.change_sequence (
    "only" boolean PRIMARY KEY DEFAULT true CHECK ("only"),
    value  bigint NOT NULL
);
INSERT INTO mcpgw.change_sequence (value) VALUES (0);

-- kind: enum change_kind of common/change.h
CREATE TABLE mcpgw.change (
    sequence  bigint PRIMARY KEY,
    at        timestamptz NOT NULL,
    kind      smallint NOT NULL,
    digest    text,
    key_id    text,
    user_id   text,
    tenant_id text,
    server    text
);

-- One row for each row of mcpgw.change: what happened, for the audit trail.  Never a digest, never a value of metadata.
CREATE TABLE mcpgw.outbox (
    sequence        bigint PRIMARY KEY,
    at              timestamptz NOT NULL,
    event           text NOT NULL,
    source          text NOT NULL CHECK (source IN ('api', 'database')),
    actor_user_id   text,
    actor_key_id    text,
    actor_tenant_id text,
    request_id      text,
    address         text,
    key_id          text,
    user_id         text,
    tenant_id       text,
    server          text,
    reason          text,
    details         jsonb
);

-- No foreign key to apikey: Better-Auth deletes rows there (expired keys, on verify) and must not fail or wait for us.
CREATE TABLE mcpgw.key (
    key_id         text PRIMARY KEY,
    tenant_id      text,
    created_by     text,
    revoked_at     timestamptz,
    revoked_reason text
);

-- What does not fit a message to the edges must not get in.
CREATE TABLE mcpgw.server (
    slug       text PRIMARY KEY CHECK (slug ~ '^[a-z0-9-]{1,64}$'),
    url        text NOT NULL CHECK (url ~ '^https?://[!-~]+$' AND length(url) <= 1000),
    name       text,
    tenant_id  text CHECK (tenant_id ~ '^[ -~]{1,80}$'),
    enabled    boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

-- Changing calls of the last day: a repeated one finds the first one's effect.  Per user, so that nobody can take or
-- guess another's request id; `fingerprint` tells a repetition from an id used again for something else.
CREATE TABLE mcpgw.request (
    request_id  text NOT NULL,
    user_id     text NOT NULL,
    operation   smallint NOT NULL,
    fingerprint text NOT NULL,
    attempt     text NOT NULL,
    object      text,
    at          timestamptz NOT NULL,
    PRIMARY KEY (user_id, request_id)
);

-- What a verdict on an API key depends on.  One row per apikey row: a digest stored twice gives two rows.
CREATE VIEW mcpgw.credential AS
SELECT a.key                                         AS digest,
       a.id                                          AS key_id,
       a."referenceId"                               AS reference_id,
       a.enabled                                     AS enabled,
       a."expiresAt"                                 AS expires_at,
       a.permissions                                 AS permissions,
       a.metadata                                    AS metadata,
       a."rateLimitEnabled"                          AS rate_enabled,
       a."rateLimitMax"                              AS rate_max,
       a."rateLimitTimeWindow"                       AS rate_window_ms,
       (k.revoked_at IS NOT NULL)                    AS revoked,
       coalesce(k.tenant_id, a.tenant)               AS side_tenant_id,
       k.created_by                                  AS created_by,
       (o.id IS NOT NULL AND u.id IS NULL)           AS is_organization,
       (o.id IS NOT NULL OR u.id IS NOT NULL)        AS owner_exists,
       coalesce(u.banned AND (u."banExpires" IS NULL OR u."banExpires" > now()), false) AS owner_banned,
       m.count                                       AS organization_count,
       m.organization_id                             AS organization_id,
       a."configId"                                  AS config_id
FROM mcpgw.apikey a
LEFT JOIN mcpgw.key k ON k.key_id = a.id
LEFT JOIN public."user" u ON u.id = a."referenceId"
LEFT JOIN public.organization o ON o.id = a."referenceId"
LEFT JOIN LATERAL (SELECT count(*) AS count,
                          CASE WHEN count(*) = 1 THEN min(x."organizationId") END AS organization_id
                   FROM public.member x WHERE x."userId" = a."referenceId") m ON true;
