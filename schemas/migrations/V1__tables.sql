-- Tables of tidewatch. Times are timestamptz; `stream` is 'events' or 'findings'; (stream, kpart, koffset, kindex) is
-- the identity of an event or finding: raw partition, raw offset, ordinal in the raw record.

CREATE TABLE org (
    id         text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Bearer tokens: only their SHA-256 is kept.
CREATE TABLE token (
    id         uuid PRIMARY KEY,
    org        text NOT NULL REFERENCES org (id),
    kind       text NOT NULL CHECK (kind IN ('ingest', 'analyst')),
    label      text NOT NULL,
    digest     bytea NOT NULL UNIQUE CHECK (length(digest) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);

-- Events, one partition a month. No default partition (it would block DETACH CONCURRENTLY), no btree, unique index,
-- volatile default or trigger: COPY into the live month must stay on its fastest path. No labels are NULL, not {}.
CREATE TABLE events (
    time        timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    org         text NOT NULL,
    class_uid   integer NOT NULL,
    activity_id integer NOT NULL,
    severity_id integer NOT NULL,
    host        text,
    "user"      text,
    src_ip      inet,
    dst_ip      inet,
    src_port    integer,
    dst_port    integer,
    source_type text NOT NULL,
    message     text,
    repeat      integer NOT NULL,
    labels      text[],
    attributes  json,
    flags       integer NOT NULL,
    event_uid   uuid,
    kpart       integer NOT NULL,
    koffset     bigint NOT NULL,
    kindex      integer NOT NULL
) PARTITION BY RANGE (time);

CREATE INDEX events_time_org_brin ON events
    USING brin (time timestamptz_minmax_multi_ops, org) WITH (pages_per_range = 32);

CREATE TABLE findings (
    time        timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    org         text NOT NULL,
    scan_id     text,
    uid         text NOT NULL,
    scan_type   text NOT NULL,
    class_uid   integer NOT NULL,
    severity_id integer NOT NULL,
    kind        text NOT NULL,
    title       text,
    resource    text,
    risk        integer,
    host        text,
    "user"      text,
    message     text,
    labels      text[],
    attributes  json,
    flags       integer NOT NULL,
    event_uid   uuid,
    kpart       integer NOT NULL,
    koffset     bigint NOT NULL,
    kindex      integer NOT NULL
) PARTITION BY RANGE (time);

CREATE INDEX findings_time_org_brin ON findings
    USING brin (time timestamptz_minmax_multi_ops, org) WITH (pages_per_range = 32);

-- What could not be understood or stored, beside the reason. Cleared by redriving, never by hand. payload is the raw
-- record where enrich rejected it, and the event as a JSON object (its own field names, time in microseconds) where
-- the sink did. A Kafka record that is no enriched batch at all has its own partition and offset and kindex -1.
CREATE TABLE quarantine (
    received_at timestamptz NOT NULL,
    org         text,
    stream      text NOT NULL,
    kpart       integer NOT NULL,
    koffset     bigint NOT NULL,
    kindex      integer NOT NULL,
    reason      text NOT NULL,
    detail      text NOT NULL,
    payload     bytea NOT NULL,
    digest      bytea,
    state       text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'redriven'))
) PARTITION BY RANGE (received_at);

CREATE INDEX quarantine_received_at_brin ON quarantine
    USING brin (received_at timestamptz_minmax_multi_ops, org) WITH (pages_per_range = 32);

-- Who changed what: one row a change, applied or refused. Of an incident (object 'incident', object_id its uuid, id the
-- change's uuid) the actions are opened, changed, reopened, merged and refused; detail holds what applies of
-- {"version": n, "status": {"from", "to"}, "assignee": {"from", "to"}, "note", "into", "reason"}.
CREATE TABLE audit_log (
    at        timestamptz NOT NULL,
    id        uuid NOT NULL,
    org       text,
    actor     text NOT NULL,
    action    text NOT NULL,
    object    text NOT NULL,
    object_id text NOT NULL,
    detail    json NOT NULL
) PARTITION BY RANGE (at);

CREATE INDEX audit_log_object ON audit_log (org, object, object_id, at);

-- Scans, merged by sequence.
CREATE TABLE scans (
    org            text NOT NULL,
    scan_id        text NOT NULL,
    scan_type      text NOT NULL,
    sequence       bigint NOT NULL,
    state          text NOT NULL CHECK (state IN ('queued', 'running', 'completed', 'failed', 'cancelled')),
    progress       integer CHECK (progress BETWEEN 0 AND 100),
    queue_position integer,
    duration_ms    bigint,
    target         text,
    message        text,
    attributes     json,
    started_at     timestamptz NOT NULL,
    time           timestamptz NOT NULL,
    PRIMARY KEY (org, scan_id)
);

CREATE INDEX scans_page ON scans (org, started_at DESC, scan_id DESC);

-- Incidents: the merge of all their changes, in topic order. group_key and entities are [{"name", "value"}]; evidence is
-- [{"stream", "partition", "offset", "index", "time"}], oldest first, time in microseconds since 1970, at most 100: the
-- first 50 and the last 50. reopened: activity after it was closed, until an analyst sets a status again.
CREATE TABLE incidents (
    org                text NOT NULL,
    id                 uuid NOT NULL,
    rule_id            text NOT NULL,
    rule_hash          text NOT NULL,
    title              text NOT NULL,
    description        text NOT NULL,
    severity_id        integer NOT NULL,
    status             text NOT NULL DEFAULT 'open'
                       CHECK (status IN ('open', 'acknowledged', 'resolved', 'false_positive')),
    assignee           text,
    tags               text[] NOT NULL,
    reference_urls     text[] NOT NULL,
    false_positives    text[] NOT NULL,
    group_key          jsonb NOT NULL,
    entities           jsonb NOT NULL,
    first_time         timestamptz NOT NULL,
    last_time          timestamptz NOT NULL,
    event_count        bigint NOT NULL,
    evidence           jsonb NOT NULL,
    evidence_truncated boolean NOT NULL,
    flags              integer NOT NULL,
    reopened           boolean NOT NULL DEFAULT false,
    merged_into        uuid,
    version            integer NOT NULL DEFAULT 1,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL,
    PRIMARY KEY (org, id)
);

CREATE INDEX incidents_page ON incidents (org, created_at DESC, id DESC);

-- Exact counts of rows, kept by the sink in the transaction that stores them; read them through the view `counts`. An org
-- has a place in a block of 64, and a row counts a whole block: a transaction of many orgs upserts a row for 64 of them,
-- which is a tenth of the price of a row for each. A slot is a Kafka partition of that transaction, so that two sinks
-- never wait for one another; a read sums the slots.
CREATE TABLE count_org (
    org    text COLLATE "C" PRIMARY KEY,
    number integer NOT NULL GENERATED ALWAYS AS IDENTITY (START 0 MINVALUE 0)
);

CREATE TABLE count_block (
    block       integer NOT NULL,
    hour        timestamptz NOT NULL,
    stream      text COLLATE "C" NOT NULL,
    class_uid   integer NOT NULL,
    severity_id integer NOT NULL,
    slot        integer NOT NULL,
    n           bigint[] NOT NULL,
    PRIMARY KEY (block, hour, stream, class_uid, severity_id, slot)
) WITH (fillfactor = 50);

CREATE VIEW counts AS
SELECT o.org, b.hour, b.stream, b.class_uid, b.severity_id, b.slot, b.n[o.number % 64 + 1] AS n
FROM count_org o JOIN count_block b ON b.block = o.number / 64
WHERE b.n[o.number % 64 + 1] <> 0;

CREATE TABLE incident_counts (
    org         text NOT NULL,
    status      text NOT NULL,
    severity_id integer NOT NULL,
    slot        integer NOT NULL,
    n           bigint NOT NULL,
    PRIMARY KEY (org, status, severity_id, slot)
) WITH (fillfactor = 50);

CREATE TABLE scan_counts (
    org   text NOT NULL,
    state text NOT NULL,
    slot  integer NOT NULL,
    n     bigint NOT NULL,
    PRIMARY KEY (org, state, slot)
) WITH (fillfactor = 50);

-- Where the sink is in every enriched partition and in `incidents`. `epoch` fences: a sink that lost the partition
-- holds an older one and its commit is refused. The source columns are null for `incidents`.
CREATE TABLE sink_partition (
    topic              text NOT NULL,
    kpart              integer NOT NULL,
    epoch              bigint NOT NULL,
    next_offset        bigint NOT NULL,
    source_topic_id    uuid,
    next_source_offset bigint,
    updated_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, kpart)
) WITH (fillfactor = 50);

-- A row per partition and transaction: received = stored + quarantined + duplicates, for every range of raw offsets.
CREATE TABLE sink_ledger (
    topic              text NOT NULL,
    kpart              integer NOT NULL,
    first_offset       bigint NOT NULL,
    next_offset        bigint NOT NULL,
    first_source       bigint,
    next_source        bigint,
    epoch              bigint NOT NULL,
    received           bigint NOT NULL,
    stored             bigint NOT NULL,
    quarantined        bigint NOT NULL,
    duplicates         bigint NOT NULL,
    committed_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, kpart, first_offset)
);
