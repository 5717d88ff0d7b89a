-- Keyed pushes that are stored: a row per part of a push. A push with the same org, key and digest, received within 24 h of
-- the stored copy, is that copy again; one with another digest is refused. `received_at` is when ingest took the stored copy
-- in, so that a sink that lags does not shorten the 24 h; `stored_at` is when it was stored, and says when the row may go
-- (48 h, by `tidewatch-partitions run`). kpart, koffset, kindex and n say where the copy is: a raw record, and the share of it.
CREATE TABLE push_key (
    org         text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    part        integer NOT NULL,
    digest      bytea NOT NULL,
    received_at timestamptz NOT NULL,
    stored_at   timestamptz NOT NULL DEFAULT now(),
    stream      text COLLATE "C" NOT NULL,
    kpart       integer NOT NULL,
    koffset     bigint NOT NULL,
    kindex      integer NOT NULL,
    n           integer NOT NULL,
    PRIMARY KEY (org, key, part)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX push_key_stored_at ON push_key (stored_at);

-- Takes the keys of a batch's pushes: called after sink_commit, in the one message that ends the transaction, and only by
-- batches that have any. In key order, so that two sinks wait for one another at most, and never hold a row while they wait
-- for a client.
--   TW003  some keys are taken; DETAIL is [{"org", "key", "part"}]
-- p_keys: [{"org", "key", "part", "digest", "received_at", "stream", "kpart", "koffset", "kindex", "n"}].
CREATE FUNCTION sink_keys(p_keys json) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    v_taken json;
BEGIN
    WITH wanted AS MATERIALIZED (
        SELECT * FROM json_to_recordset(p_keys) AS k (
            org text, key text, part integer, digest bytea, received_at timestamptz, stream text, kpart integer,
            koffset bigint, kindex integer, n integer
        )
    ), stored AS (
        INSERT INTO push_key AS held (org, key, part, digest, received_at, stream, kpart, koffset, kindex, n)
        SELECT org, key, part, digest, received_at, stream, kpart, koffset, kindex, n
        FROM wanted
        ORDER BY org COLLATE "C", key COLLATE "C", part
        -- One whose 24 h are over is no hindrance.
        ON CONFLICT (org, key, part) DO UPDATE SET
            digest = excluded.digest, received_at = excluded.received_at, stored_at = excluded.stored_at,
            stream = excluded.stream, kpart = excluded.kpart, koffset = excluded.koffset, kindex = excluded.kindex,
            n = excluded.n
        WHERE excluded.received_at >= held.received_at + interval '24 hours'
        RETURNING held.org, held.key, held.part
    )
    SELECT json_agg(json_build_object('org', w.org, 'key', w.key, 'part', w.part))
    INTO v_taken
    FROM wanted w
    WHERE NOT EXISTS (SELECT FROM stored s WHERE s.org = w.org AND s.key = w.key AND s.part = w.part);

    IF v_taken IS NOT NULL THEN
        RAISE EXCEPTION 'pushes of this batch have been stored meanwhile'
            USING ERRCODE = 'TW003', DETAIL = v_taken::text;
    END IF;
END
$$;
