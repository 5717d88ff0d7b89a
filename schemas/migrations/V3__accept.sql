-- Positions that an operator has moved: `tidewatch-partitions accept --gap` and `--new-topic`.
--
-- Each move begins a generation of the partition. Within a generation the ranges of sink_ledger follow one another without
-- a gap; from one to the next a row of sink_accepted says from where to where. Where an enriched topic was made anew its
-- offsets begin at 0 again, so the generation is a part of the ledger's key.

ALTER TABLE sink_partition ADD COLUMN generation integer NOT NULL DEFAULT 0;
ALTER TABLE sink_ledger ADD COLUMN generation integer NOT NULL DEFAULT 0;
ALTER TABLE sink_ledger
    DROP CONSTRAINT sink_ledger_pkey,
    ADD CONSTRAINT sink_ledger_pkey PRIMARY KEY (topic, kpart, generation, first_offset);

-- The ledger's generation is that of its partition, whoever writes it. sink_commit holds the partition's row meanwhile.
CREATE FUNCTION sink_ledger_generation() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    SELECT coalesce(max(p.generation), NEW.generation) INTO NEW.generation
    FROM sink_partition p WHERE p.topic = NEW.topic AND p.kpart = NEW.kpart;
    RETURN NEW;
END
$$;

CREATE TRIGGER generation BEFORE INSERT ON sink_ledger
    FOR EACH ROW EXECUTE FUNCTION sink_ledger_generation();

-- A row for each move, kept for good: audit_log is dropped by the month. The source columns are null for `incidents`.
CREATE TABLE sink_accepted (
    topic         text NOT NULL,
    kpart         integer NOT NULL,
    generation    integer NOT NULL,
    action        text NOT NULL CHECK (action IN ('accepted_gap', 'accepted_new_topic')),
    actor         text NOT NULL,
    from_offset   bigint NOT NULL,
    to_offset     bigint NOT NULL,
    from_topic_id uuid,
    to_topic_id   uuid,
    from_source   bigint,
    to_source     bigint,
    accepted_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (topic, kpart, generation)
);

-- Moves a partition's position, under a new epoch, which fences whoever holds it. Returns the generation that begins.
--   TW004  the partition is not at the position that the move was planned from
CREATE FUNCTION sink_accept(
    p_topic text, p_kpart integer, p_action text, p_actor text,
    p_from_offset bigint, p_from_topic_id uuid, p_from_source bigint,
    p_to_offset bigint, p_to_topic_id uuid, p_to_source bigint
) RETURNS integer
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    v_generation integer;
BEGIN
    UPDATE sink_partition p SET
        epoch = p.epoch + 1,
        generation = p.generation + 1,
        next_offset = p_to_offset,
        source_topic_id = p_to_topic_id,
        next_source_offset = p_to_source,
        updated_at = clock_timestamp()
    WHERE p.topic = p_topic AND p.kpart = p_kpart
      AND p.next_offset = p_from_offset
      AND p.source_topic_id IS NOT DISTINCT FROM p_from_topic_id
      AND p.next_source_offset IS NOT DISTINCT FROM p_from_source
    RETURNING p.generation INTO v_generation;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the partition has moved meanwhile' USING ERRCODE = 'TW004';
    END IF;
    INSERT INTO sink_accepted (
        topic, kpart, generation, action, actor, from_offset, to_offset, from_topic_id, to_topic_id, from_source, to_source
    ) VALUES (
        p_topic, p_kpart, v_generation, p_action, p_actor, p_from_offset, p_to_offset, p_from_topic_id, p_to_topic_id,
        p_from_source, p_to_source
    );
    RETURN v_generation;
END
$$;
