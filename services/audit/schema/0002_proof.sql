-- What shows that somebody touched the trail: a Merkle tree over each producer's epoch (common/checkpoint.h), whose state
-- moves with the watermark and is signed with every batch, and signed checkpoints that are copied outside the database.
-- And where an epoch ended without saying how its calls did.

ALTER TABLE audit.watermark
    ADD size       bigint NOT NULL DEFAULT 0,     -- events stored: leaves of the tree
    ADD peaks      bytea  NOT NULL DEFAULT '',    -- roots of its perfect subtrees, largest first
    ADD signature  bytea,                         -- Ed25519 over (producer, epoch, size, next_seq, root, signed_at)
    ADD signed_at  timestamptz,
    ADD closed     boolean NOT NULL DEFAULT false,    -- the producer will add nothing, and all it had is stored
    ADD swept_seq  bigint NOT NULL DEFAULT 1,     -- audit.sweep has looked for unfinished calls below it
    ADD is_swept   boolean NOT NULL DEFAULT false;

ALTER TABLE audit.batch ADD first_leaf bigint;    -- leaves of the tree before this batch
CREATE INDEX batch_place ON audit.batch (producer, epoch, first_seq);

CREATE TABLE audit.checkpoint (
    producer   uuid        NOT NULL,
    epoch      bigint      NOT NULL,
    size       bigint      NOT NULL,
    next_seq   bigint      NOT NULL,
    peaks      bytea       NOT NULL,
    signed_at  timestamptz NOT NULL,
    signature  bytea       NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (producer, epoch, size)
);

-- Decisions of a closed epoch that no completion followed: nobody knows what became of those calls.
CREATE TABLE audit.unfinished (
    producer   uuid   NOT NULL,
    epoch      bigint NOT NULL,
    seq        bigint NOT NULL,
    request_id text   NOT NULL,
    PRIMARY KEY (producer, epoch, seq)
);
CREATE INDEX unfinished_request ON audit.unfinished (producer, epoch, request_id);

-- Looks at up to p_batches more batches of one closed epoch; returns false when there is nothing to sweep.  A completion
-- always stands behind its decision, so what is left at the end was never completed.
CREATE FUNCTION audit.sweep(p_batches integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_mark record;
    v_row  record;
    v_seen integer := 0;
BEGIN
    SELECT w.producer, w.epoch, w.swept_seq INTO v_mark FROM audit.watermark w
    WHERE w.closed AND NOT w.is_swept ORDER BY w.updated LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    FOR v_row IN SELECT b.first_seq, b.last_seq, b.event, b.request_id FROM audit.batch b
                 WHERE b.producer = v_mark.producer AND b.epoch = v_mark.epoch AND b.first_seq >= v_mark.swept_seq
                 ORDER BY b.first_seq LIMIT p_batches LOOP
        v_seen := v_seen + 1;
        v_mark.swept_seq := v_row.last_seq + 1;
        CONTINUE WHEN NOT v_row.event && ARRAY['decision', 'completion'];
        INSERT INTO audit.unfinished (producer, epoch, seq, request_id)
        SELECT v_mark.producer, v_mark.epoch, v_row.first_seq + e.n - 1, e.request_id
        FROM unnest(v_row.event, v_row.request_id) WITH ORDINALITY AS e (event, request_id, n)
        WHERE e.event = 'decision' AND e.request_id IS NOT NULL ON CONFLICT DO NOTHING;
        -- One completion ends one decision: a request id may be used again.
        DELETE FROM audit.unfinished u USING (
            SELECT d.seq FROM (
                SELECT x.seq, x.request_id, row_number() OVER (PARTITION BY x.request_id ORDER BY x.seq) AS n
                FROM audit.unfinished x WHERE x.producer = v_mark.producer AND x.epoch = v_mark.epoch) d
            JOIN (SELECT e.request_id, count(*) AS n
                  FROM unnest(v_row.event, v_row.request_id) AS e (event, request_id)
                  WHERE e.event = 'completion' GROUP BY 1) c ON c.request_id = d.request_id AND d.n <= c.n) done
        WHERE u.producer = v_mark.producer AND u.epoch = v_mark.epoch AND u.seq = done.seq;
    END LOOP;
    UPDATE audit.watermark w SET swept_seq = v_mark.swept_seq, is_swept = v_seen < p_batches
    WHERE w.producer = v_mark.producer AND w.epoch = v_mark.epoch;
    RETURN true;
END $$;

CREATE OR REPLACE VIEW audit.event AS
SELECT b.producer || '-' || b.epoch || '-' || (b.first_seq + e.position - 1) AS id,
       e.at AS "time", e.event,
       CASE WHEN e.event = 'decision' AND EXISTS (
                SELECT FROM audit.unfinished u JOIN audit.watermark w ON w.producer = u.producer AND w.epoch = u.epoch AND w.is_swept
                WHERE u.producer = b.producer AND u.epoch = b.epoch AND u.seq = b.first_seq + e.position - 1)
            THEN 'unknown' ELSE e.outcome END AS outcome,
       e.reason, e.request_id AS "requestId", e.user_id AS "userId",
       e.tenant_id AS "tenantId", e.auth_method AS "authMethod", e.key_id AS "keyId", e.address, e.method, e.path,
       e.server, e.tool, e.status, e.latency_us AS "latencyUs", e.bytes, e.requests AS count,
       b.producer, b.epoch, b.first_seq + e.position - 1 AS seq, e.details::jsonb AS details
FROM audit.batch b,
     unnest(b.at, b.event, b.outcome, b.reason, b.request_id, b.user_id, b.tenant_id, b.auth_method, b.key_id,
            b.address, b.method, b.path, b.server, b.tool, b.status, b.latency_us, b.bytes, b.requests, b.details)
     WITH ORDINALITY AS e (at, event, outcome, reason, request_id, user_id, tenant_id, auth_method, key_id,
            address, method, path, server, tool, status, latency_us, bytes, requests, details, position);

REVOKE ALL ON FUNCTION audit.sweep(integer) FROM public;
GRANT SELECT, INSERT ON audit.checkpoint TO mcpgw_audit;
GRANT SELECT ON audit.unfinished TO mcpgw_audit, mcpgw_keys;
GRANT EXECUTE ON FUNCTION audit.sweep(integer) TO mcpgw_audit;
