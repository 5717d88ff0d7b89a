-- The sink's functions. The first two lock rows of sink_partition in key order and are each the last, or the only, message
-- of their transaction, so no row lock is ever held while waiting for a client.

-- Takes partitions over: a new epoch for each, which fences every sink that holds an older one. A partition seen for the
-- first time starts at offset 0. Where p_epochs is not 0, only while that epoch still holds: a sink that lost its
-- connection in the middle of a COMMIT finds out whether it happened, and takes nothing back from a successor.
-- Returns a row for each partition taken; one held by somebody else has none.
CREATE OR REPLACE FUNCTION sink_acquire(p_topics text[], p_kparts integer[], p_epochs bigint[])
RETURNS TABLE (
    topic text, kpart integer, epoch bigint, next_offset bigint, source_topic_id uuid, next_source_offset bigint
)
LANGUAGE sql VOLATILE
AS $$
    INSERT INTO sink_partition AS held (topic, kpart, epoch, next_offset, next_source_offset)
    SELECT wanted.topic, wanted.kpart, wanted.epoch + 1, 0, CASE WHEN wanted.topic <> 'incidents' THEN 0 END
    FROM unnest(p_topics, p_kparts, p_epochs) AS wanted (topic, kpart, epoch)
    ORDER BY wanted.topic, wanted.kpart
    ON CONFLICT (topic, kpart) DO UPDATE
        SET epoch = held.epoch + 1, updated_at = clock_timestamp()
        WHERE excluded.epoch = 1 OR held.epoch = excluded.epoch - 1
    RETURNING held.topic, held.kpart, held.epoch, held.next_offset, held.source_topic_id, held.next_source_offset
$$;

-- Closes a batch: checks that every partition still has the epoch and position that the batch was built on, and only
-- then writes counts, scans, incidents, ledger and positions. Called in one message with COMMIT, after the COPYs.
--   TW001  some partitions have another epoch; DETAIL is [{"topic", "kpart"}]
--   TW002  some partitions have this epoch and another position; DETAIL likewise
-- p_partitions: [{"topic", "kpart", "epoch", "first_offset", "next_offset", "source_topic_id", "first_source",
--   "next_source", "received", "stored", "quarantined", "duplicates"}], the source columns null for incidents.
-- p_count_*: columns of count_block, a row each; hours since 1970; n as the text of an array of 64.
-- p_scans: columns of scans and "slot", a row for each scan: the one with the highest sequence.
-- p_incidents: columns of incidents, whole new states. Their partition is held, so nobody else has changed them.
-- p_incident_counts: [{"org", "status", "severity_id", "slot", "n"}], n by how much.
CREATE OR REPLACE FUNCTION sink_commit(
    p_partitions json,
    p_count_block integer[], p_count_hour integer[], p_count_stream text[], p_count_class integer[],
    p_count_severity integer[], p_count_slot integer[], p_count_n text[],
    p_scans json, p_incidents json, p_incident_counts json
) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    v_fenced json;
    v_moved  json;
    v_scan   record;
    v_old    record;
BEGIN
    WITH batch AS (
        SELECT * FROM json_to_recordset(p_partitions) AS b (
            topic text, kpart integer, epoch bigint, first_offset bigint, source_topic_id uuid, first_source bigint
        )
    ), held AS (
        SELECT p.*
        FROM sink_partition p JOIN batch b ON p.topic = b.topic AND p.kpart = b.kpart
        ORDER BY p.topic, p.kpart
        FOR UPDATE OF p
    )
    SELECT
        json_agg(json_build_object('topic', b.topic, 'kpart', b.kpart))
            FILTER (WHERE h.epoch IS DISTINCT FROM b.epoch),
        json_agg(json_build_object('topic', b.topic, 'kpart', b.kpart))
            FILTER (WHERE h.next_offset IS DISTINCT FROM b.first_offset
                       OR h.next_source_offset IS DISTINCT FROM b.first_source
                       OR h.source_topic_id <> b.source_topic_id)
    INTO v_fenced, v_moved
    FROM batch b LEFT JOIN held h ON h.topic = b.topic AND h.kpart = b.kpart;

    IF v_fenced IS NOT NULL THEN
        RAISE EXCEPTION 'another sink has taken partitions of this batch'
            USING ERRCODE = 'TW001', DETAIL = v_fenced::text;
    END IF;
    IF v_moved IS NOT NULL THEN
        RAISE EXCEPTION 'partitions of this batch are at another position'
            USING ERRCODE = 'TW002', DETAIL = v_moved::text;
    END IF;

    INSERT INTO count_block AS c (block, hour, stream, class_uid, severity_id, slot, n)
    SELECT d.block, to_timestamp(d.hour * 3600::bigint), d.stream, d.class_uid, d.severity_id, d.slot, d.n::bigint[]
    FROM unnest(
        p_count_block, p_count_hour, p_count_stream, p_count_class, p_count_severity, p_count_slot, p_count_n
    ) AS d (block, hour, stream, class_uid, severity_id, slot, n)
    ON CONFLICT (block, hour, stream, class_uid, severity_id, slot)
    DO UPDATE SET n = sink_add(c.n, excluded.n);

    -- A scan may be fed from several partitions, thus by several sinks: locked one by one, in key order.
    FOR v_scan IN
        SELECT * FROM json_to_recordset(p_scans) AS s (
            org text, scan_id text, scan_type text, sequence bigint, state text, progress integer,
            queue_position integer, duration_ms bigint, target text, message text, attributes json,
            started_at timestamptz, "time" timestamptz, slot integer
        ) ORDER BY s.org COLLATE "C", s.scan_id COLLATE "C"
    LOOP
        INSERT INTO scans (
            org, scan_id, scan_type, sequence, state, progress, queue_position, duration_ms, target, message,
            attributes, started_at, "time"
        ) VALUES (
            v_scan.org, v_scan.scan_id, v_scan.scan_type, v_scan.sequence, v_scan.state, v_scan.progress,
            v_scan.queue_position, v_scan.duration_ms, v_scan.target, v_scan.message, v_scan.attributes,
            v_scan.started_at, v_scan."time"
        ) ON CONFLICT (org, scan_id) DO NOTHING;
        IF FOUND THEN
            PERFORM sink_count_scan(v_scan.org, v_scan.state, v_scan.slot, 1);
            CONTINUE;
        END IF;
        SELECT s.state, s.sequence, s."time" INTO v_old
        FROM scans s WHERE s.org = v_scan.org AND s.scan_id = v_scan.scan_id FOR UPDATE;
        IF (v_scan.sequence, v_scan."time") > (v_old.sequence, v_old."time") THEN
            UPDATE scans s SET
                scan_type = v_scan.scan_type, sequence = v_scan.sequence, state = v_scan.state,
                progress = v_scan.progress, queue_position = v_scan.queue_position,
                duration_ms = v_scan.duration_ms, target = coalesce(v_scan.target, s.target),
                message = v_scan.message, attributes = v_scan.attributes,
                started_at = least(s.started_at, v_scan.started_at), "time" = v_scan."time"
            WHERE s.org = v_scan.org AND s.scan_id = v_scan.scan_id;
            IF v_scan.state <> v_old.state THEN
                PERFORM sink_count_scan(v_scan.org, v_old.state, v_scan.slot, -1);
                PERFORM sink_count_scan(v_scan.org, v_scan.state, v_scan.slot, 1);
            END IF;
        ELSE
            UPDATE scans s SET
                target = coalesce(s.target, v_scan.target), started_at = least(s.started_at, v_scan.started_at)
            WHERE s.org = v_scan.org AND s.scan_id = v_scan.scan_id
              AND (s.started_at > v_scan.started_at OR s.target IS NULL AND v_scan.target IS NOT NULL);
        END IF;
    END LOOP;

    INSERT INTO incidents (
        org, id, rule_id, rule_hash, title, description, severity_id, status, assignee, tags, reference_urls,
        false_positives, group_key, entities, first_time, last_time, event_count, evidence, evidence_truncated, flags,
        reopened, merged_into, version, created_at, updated_at
    )
    SELECT
        org, id, rule_id, rule_hash, title, description, severity_id, status, assignee, tags, reference_urls,
        false_positives, group_key, entities, first_time, last_time, event_count, evidence, evidence_truncated, flags,
        reopened, merged_into, version, created_at, updated_at
    FROM json_populate_recordset(NULL::incidents, p_incidents)
    ON CONFLICT (org, id) DO UPDATE SET
        rule_id = excluded.rule_id, rule_hash = excluded.rule_hash, title = excluded.title,
        description = excluded.description, severity_id = excluded.severity_id, status = excluded.status,
        assignee = excluded.assignee, tags = excluded.tags, reference_urls = excluded.reference_urls,
        false_positives = excluded.false_positives, group_key = excluded.group_key, entities = excluded.entities,
        first_time = excluded.first_time, last_time = excluded.last_time, event_count = excluded.event_count,
        evidence = excluded.evidence, evidence_truncated = excluded.evidence_truncated, flags = excluded.flags,
        reopened = excluded.reopened, merged_into = excluded.merged_into, version = excluded.version,
        created_at = excluded.created_at, updated_at = excluded.updated_at;

    INSERT INTO incident_counts AS c (org, status, severity_id, slot, n)
    SELECT d.org, d.status, d.severity_id, d.slot, d.n
    FROM json_to_recordset(p_incident_counts) AS d (
        org text, status text, severity_id integer, slot integer, n bigint
    )
    ON CONFLICT (org, status, severity_id, slot) DO UPDATE SET n = c.n + excluded.n;

    INSERT INTO sink_ledger (
        topic, kpart, first_offset, next_offset, first_source, next_source, epoch, received, stored, quarantined,
        duplicates
    )
    SELECT
        topic, kpart, first_offset, next_offset, first_source, next_source, epoch, received, stored, quarantined,
        duplicates
    FROM json_populate_recordset(NULL::sink_ledger, p_partitions)
    ORDER BY topic, kpart;

    UPDATE sink_partition p SET
        next_offset = b.next_offset,
        source_topic_id = coalesce(b.source_topic_id, p.source_topic_id),
        next_source_offset = b.next_source,
        updated_at = clock_timestamp()
    FROM json_to_recordset(p_partitions) AS b (
        topic text, kpart integer, next_offset bigint, source_topic_id uuid, next_source bigint
    )
    WHERE p.topic = b.topic AND p.kpart = b.kpart;
END
$$;

-- Moves the count of scans in a state.
CREATE OR REPLACE FUNCTION sink_count_scan(p_org text, p_state text, p_slot integer, p_n bigint) RETURNS void
LANGUAGE sql VOLATILE
AS $$
    INSERT INTO scan_counts AS c (org, state, slot, n) VALUES (p_org, p_state, p_slot, p_n)
    ON CONFLICT (org, state, slot) DO UPDATE SET n = c.n + excluded.n
$$;

-- Adds two arrays of the same length, place by place.
CREATE OR REPLACE FUNCTION sink_add(p_a bigint[], p_b bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE
AS $$
    SELECT array_agg(a + b ORDER BY place) FROM unnest(p_a, p_b) WITH ORDINALITY AS pairs (a, b, place)
$$;

-- The numbers of orgs in count_org, given to those that have none. In a transaction of its own, before any rows: a number
-- that nothing is counted under does no harm.
CREATE OR REPLACE FUNCTION sink_org_numbers(p_orgs text[]) RETURNS TABLE (org text, number integer)
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    INSERT INTO count_org (org)
    SELECT wanted FROM unnest(p_orgs) AS wanted
    WHERE NOT EXISTS (SELECT FROM count_org known WHERE known.org = wanted)
    ORDER BY wanted
    ON CONFLICT ON CONSTRAINT count_org_pkey DO NOTHING;
    RETURN QUERY SELECT known.org, known.number FROM count_org known WHERE known.org = ANY (p_orgs);
END
$$;
