//! The table. One row a metric, grouped by component; docs/metrics.md is generated from it.
//!
//! To add one: a row in its component's group, then regenerate the page (a test compares them):
//! `cargo run --release -p tidewatch-service --example metrics > docs/metrics.md`.
//!
//! ```text
//! kind NAME = "tidewatch_<component>_<what>_<unit>", unit, [labels], buckets (histograms only); meaning
//! ```
//!
//! A label's values are a small fixed set: kinds, reasons, topics, partitions, rule ids. Never an org, an address, a
//! user, a path or an error's text.

use super::{Counter, Declaration, Gauge, Histogram, Kind};

macro_rules! table {
    ($($kind:ident $name:ident = $metric:literal, $unit:literal, [$($label:literal),*] $(, $buckets:expr)?; $meaning:literal)*) => {
        $(
            #[doc = $meaning]
            #[doc = ""]
            #[doc = concat!("`", $metric, "`, ", $unit $(, ", label `", $label, "`")*, ".")]
            pub static $name: $kind<{ <[&str]>::len(&[$($label),*]) }> = $kind::declare(&Declaration {
                name: $metric,
                kind: Kind::$kind,
                unit: $unit,
                labels: &[$($label),*],
                buckets: table!(@buckets $($buckets)?),
                meaning: $meaning,
            });
        )*

        /// Every declared metric, in the order of the table.
        pub static ALL: &[Declaration] = &[$(
            Declaration {
                name: $metric,
                kind: Kind::$kind,
                unit: $unit,
                labels: &[$($label),*],
                buckets: table!(@buckets $($buckets)?),
                meaning: $meaning,
            }
        ),*];
    };
    (@buckets) => { &[] };
    (@buckets $buckets:expr) => { $buckets };
}

/// Durations of requests, flushes and queries: 0.5 ms to 10 s.
const DURATIONS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Durations of pure work on one batch: 10 µs to 1 s.
const WORK: &[f64] =
    &[0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0];

/// Delays through the pipeline, fine around the promised 1 s and 2 s, up to an outage of an hour.
const DELAYS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0,
    3600.0,
];

/// Sizes in events or rows: 1 to 20,000, the sink's limit.
const COUNTS: &[f64] = &[1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 1.5e4, 2e4];

/// Sizes in bytes: 256 B to 16 MiB, by fours.
const SIZES: &[f64] =
    &[256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

table! {
    // Ingest. surface: http, syslog_tcp, syslog_udp; route: events, findings and what comes to be offered.
    Counter INGEST_REQUESTS = "tidewatch_ingest_requests_total", "requests", ["route", "status"];
        "HTTP requests answered, by route and status code."
    Histogram INGEST_REQUEST_DURATION = "tidewatch_ingest_request_duration_seconds", "seconds", ["route"], DURATIONS;
        "Time from a request's head to its answer, the broker's acknowledgement included."
    Gauge INGEST_REQUESTS_IN_FLIGHT = "tidewatch_ingest_in_flight_requests", "requests", [];
        "Requests being answered now."
    Gauge INGEST_BYTES_IN_FLIGHT = "tidewatch_ingest_in_flight_bytes", "bytes", [];
        "Bytes of events received and not yet acknowledged by the broker."
    Counter INGEST_EVENTS = "tidewatch_ingest_events_total", "events", ["surface"];
        "Raw events that the broker has acknowledged."
    Counter INGEST_RECEIVED = "tidewatch_ingest_received_bytes_total", "bytes", ["surface"];
        "Bytes received from senders, as sent (compressed where they were)."
    Counter INGEST_DECODED = "tidewatch_ingest_decoded_bytes_total", "bytes", ["surface"];
        "Bytes of event bodies after decompression."
    Counter INGEST_REJECTED = "tidewatch_ingest_rejected_events_total", "events", ["surface", "reason"];
        "Single events refused and named in the answer, their neighbours being accepted."
    Counter INGEST_REFUSED = "tidewatch_ingest_refused_requests_total", "requests", ["route", "reason"];
        "Requests refused as a whole, by problem type."
    Counter INGEST_BACKPRESSURE = "tidewatch_ingest_backpressure_total", "requests", ["reason"];
        "Requests answered with 429 or 503 because a limit was reached or the broker did not take them in time."
    Gauge INGEST_CONNECTIONS = "tidewatch_ingest_open_connections", "connections", ["surface"];
        "Connections open now."
    Counter INGEST_CONNECTIONS_REFUSED = "tidewatch_ingest_refused_connections_total", "connections", ["surface"];
        "Connections closed at once because the limit was reached."
    Counter INGEST_CONNECTIONS_TIMED_OUT = "tidewatch_ingest_timed_out_connections_total", "connections", ["surface"];
        "Connections closed because their sender was idle or too slow."
    Counter INGEST_AUTH = "tidewatch_ingest_auth_total", "requests", ["result"];
        "Bearer tokens checked: cached, accepted, unknown, revoked, missing, unavailable (no database to ask)."
    Histogram INGEST_AUTH_LOOKUP_DURATION = "tidewatch_ingest_auth_lookup_duration_seconds", "seconds", [], DURATIONS;
        "Time to look a token up in Postgres."
    Counter INGEST_KEYED = "tidewatch_ingest_keyed_pushes_total", "pushes", ["outcome"];
        "Pushes with an Idempotency-Key: new; unchecked (new here, and Postgres did not answer in time); and not published: repeated (acknowledged before), joined (to the same push under way), stored (as Postgres says), conflict (the key is another push's)."
    Gauge INGEST_KEYS = "tidewatch_ingest_remembered_keys", "keys", [];
        "Acknowledged keyed pushes that this process remembers."
    Histogram INGEST_KEY_LOOKUP_DURATION = "tidewatch_ingest_key_lookup_duration_seconds", "seconds", [], DURATIONS;
        "Time that a keyed push waited to hear whether Postgres knows it."
    Counter INGEST_RECEIPTS = "tidewatch_ingest_receipts_total", "receipts", ["by", "state"];
        "What was said of pushes beyond their acknowledgement: to those that waited (wait) and those that asked later (asked): acknowledged, stored, quarantined (every record of it), lost."
    Histogram INGEST_BATCH_EVENTS = "tidewatch_ingest_batch_events", "events", [], COUNTS;
        "Events in a raw batch, which is one Kafka record."
    Histogram INGEST_BATCH_SIZE = "tidewatch_ingest_batch_bytes", "bytes", [], SIZES;
        "Bytes of a raw batch, before Kafka's compression."
    Counter INGEST_SYSLOG_FRAMES = "tidewatch_ingest_syslog_frames_total", "frames", ["surface", "outcome"];
        "Syslog frames read: accepted, truncated, oversized, malformed, dropped (the broker did not take them)."

    // Kafka, as the binaries use it.
    Counter KAFKA_PRODUCED = "tidewatch_kafka_produced_records_total", "records", ["topic"];
        "Records that the broker has acknowledged."
    Counter KAFKA_PRODUCED_BYTES = "tidewatch_kafka_produced_bytes_total", "bytes", ["topic"];
        "Payload bytes that the broker has acknowledged, before compression."
    Counter KAFKA_DELIVERY_ERRORS = "tidewatch_kafka_delivery_errors_total", "records", ["topic", "reason"];
        "Records that could not be delivered."
    Histogram KAFKA_DELIVERY_DURATION = "tidewatch_kafka_delivery_duration_seconds", "seconds", ["topic"], DURATIONS;
        "Time from handing a record to the producer to the broker's acknowledgement."
    Gauge KAFKA_PRODUCER_QUEUED = "tidewatch_kafka_producer_queued_records", "records", [];
        "Records handed to the producer and not yet acknowledged."
    Counter KAFKA_QUEUE_FULL = "tidewatch_kafka_producer_queue_full_total", "records", ["topic"];
        "Times that a record was not taken because the producer's queue was full: backpressure."
    Counter KAFKA_CONSUMED = "tidewatch_kafka_consumed_records_total", "records", ["topic"];
        "Records read."
    Counter KAFKA_CONSUMED_BYTES = "tidewatch_kafka_consumed_bytes_total", "bytes", ["topic"];
        "Payload bytes read, after decompression."
    Counter KAFKA_CONSUME_ERRORS = "tidewatch_kafka_consume_errors_total", "errors", ["reason"];
        "Errors of the consumer, the ones that it recovers from included."
    Gauge KAFKA_LAG = "tidewatch_kafka_lag_records", "records", ["topic", "partition"];
        "Records between this group's position and the end of the partition; 0 once the partition is given away."
    Gauge KAFKA_ASSIGNED = "tidewatch_kafka_assigned_partitions", "partitions", ["topic"];
        "Partitions that this process reads now."
    Counter KAFKA_REBALANCES = "tidewatch_kafka_rebalances_total", "rebalances", ["change"];
        "Rebalances seen, by change: assigned, revoked, lost."
    Counter KAFKA_COMMITS = "tidewatch_kafka_commits_total", "commits", ["result"];
        "Commits of the group's position, by result: ok, failed."

    // Enrich. stream: events, findings.
    Counter ENRICH_BATCHES = "tidewatch_enrich_batches_total", "batches", ["stream"];
        "Raw records turned into enriched ones, each into exactly one."
    Counter ENRICH_EVENTS = "tidewatch_enrich_events_total", "events", ["stream", "format"];
        "Events produced, by the format that they were understood as."
    Counter ENRICH_REJECTS = "tidewatch_enrich_rejected_events_total", "events", ["stream", "reason"];
        "Events that travel on as rejects and end in quarantine."
    Histogram ENRICH_BATCH_DURATION = "tidewatch_enrich_batch_duration_seconds", "seconds", ["stream"], WORK;
        "Time to decode, normalise, enrich and encode one raw record."
    Counter ENRICH_CONTEXT_MATCHES = "tidewatch_enrich_context_matches_total", "events", ["source"];
        "Events to which a source of context (assets, threat_ip, threat_domain, threat_hash) added something."
    Gauge ENRICH_CONTEXT_ENTRIES = "tidewatch_enrich_context_entries", "entries", ["source"];
        "Entries loaded, by source of context."
    Counter ENRICH_CONTEXT_RELOADS = "tidewatch_enrich_context_reloads_total", "reloads", ["source", "result"];
        "Reloads of a changed file: ok, or failed with the previous entries kept."

    // Detect.
    Counter DETECT_BATCHES = "tidewatch_detect_batches_total", "batches", ["stream"];
        "Enriched records matched."
    Counter DETECT_UNREADABLE = "tidewatch_detect_unreadable_total", "records", ["stream"];
        "Enriched records that are none of enrich's, or a later version's: passed over; the sink quarantines them."
    Counter DETECT_EVENTS = "tidewatch_detect_events_total", "events", ["stream"];
        "Events matched against the rules."
    Counter DETECT_SIGNALS = "tidewatch_detect_signals_total", "signals", ["rule"];
        "Signals emitted, by rule id."
    Counter DETECT_RULE_ERRORS = "tidewatch_detect_rule_errors_total", "errors", ["reason"];
        "Rules refused when they were loaded, and errors while matching."
    Gauge DETECT_RULES = "tidewatch_detect_rules", "rules", ["state"];
        "Rules, by state: active, refused."
    Counter DETECT_RELOADS = "tidewatch_detect_rule_reloads_total", "reloads", ["result"];
        "Reloads of the rules: ok, or failed with the previous ones kept."
    Histogram DETECT_BATCH_DURATION = "tidewatch_detect_batch_duration_seconds", "seconds", ["stream"], WORK;
        "Time to decode and match one enriched record."

    // Correlate.
    Counter CORRELATE_SIGNALS = "tidewatch_correlate_signals_total", "signals", ["outcome"];
        "Signals read: applied, replayed (at or below the high-water mark), retried (same event again), late, unknown_rule."
    Counter CORRELATE_UNREADABLE = "tidewatch_correlate_unreadable_total", "records", [];
        "Records of signals that are none of detect's, or a later version's: passed over."
    Counter CORRELATE_INCIDENTS = "tidewatch_correlate_incident_changes_total", "changes", ["change"];
        "Changes published: opened, updated, merged, reopened."
    Gauge CORRELATE_OPEN_KEYS = "tidewatch_correlate_open_keys", "keys", [];
        "Pairs of rule and group key whose window state is held in memory."
    Gauge CORRELATE_STATE = "tidewatch_correlate_state_bytes", "bytes", [];
        "Estimated memory of the window state."
    Counter CORRELATE_EVICTIONS = "tidewatch_correlate_evictions_total", "keys", ["reason"];
        "Keys dropped: expired (no signal can be late enough any more), limit (--max-keys, --max-keys-per-org, --max-state-mb)."
    Gauge CORRELATE_WATERMARK_LAG = "tidewatch_correlate_watermark_lag_seconds", "seconds", [];
        "How far the watermark, the least event time of all sources, is behind the clock."
    Histogram CORRELATE_DETECTION_DELAY = "tidewatch_correlate_detection_delay_seconds", "seconds", [], DELAYS;
        "Time from receiving the event that fired a rule to publishing the incident's change."

    // Sink. table: events, findings, quarantine …
    Counter SINK_ROWS = "tidewatch_sink_rows_total", "rows", ["table"];
        "Rows committed."
    Counter SINK_BATCHES = "tidewatch_sink_batches_total", "batches", ["result"];
        "Transactions, by result: committed, retried, fenced, failed, rebuilt (without keyed pushes that were stored already)."
    Counter SINK_FLUSHES = "tidewatch_sink_flushes_total", "batches", ["trigger"];
        "Batches closed, by what closed them: rows, bytes, time, revoked, stopping."
    Histogram SINK_BATCH_ROWS = "tidewatch_sink_batch_rows", "rows", [], COUNTS;
        "Rows of a transaction."
    Histogram SINK_BATCH_SIZE = "tidewatch_sink_batch_bytes", "bytes", [], SIZES;
        "Encoded bytes of a transaction."
    Histogram SINK_FLUSH_DURATION = "tidewatch_sink_flush_duration_seconds", "seconds", [], DURATIONS;
        "Time of a whole transaction: sort, encode, COPY, counts, commit."
    Histogram SINK_COPY_DURATION = "tidewatch_sink_copy_duration_seconds", "seconds", ["table"], DURATIONS;
        "Time of COPY alone."
    Histogram SINK_COMMIT_DURATION = "tidewatch_sink_commit_duration_seconds", "seconds", [], DURATIONS;
        "Time of the closing message: sink_commit and COMMIT."
    Gauge SINK_BUFFERED = "tidewatch_sink_buffered_bytes", "bytes", [];
        "Encoded bytes waiting for their transaction."
    Counter SINK_QUARANTINED = "tidewatch_sink_quarantined_rows_total", "rows", ["reason"];
        "Rows committed to quarantine instead of their table."
    Counter SINK_DUPLICATES = "tidewatch_sink_duplicate_events_total", "events", ["kind"];
        "Events not stored because they are: replay (an offset already stored), key (a client's retry)."
    Counter SINK_FENCED = "tidewatch_sink_fenced_partitions_total", "partitions", [];
        "Partitions given up because another sink has taken a newer epoch."
    Counter SINK_GAPS = "tidewatch_sink_gaps_total", "gaps", [];
        "Gaps between source offsets; the sink stops at the first."
    Counter SINK_BISECTS = "tidewatch_sink_bisects_total", "batches", ["stream"];
        "Batches searched for a row that Postgres refuses."
    Counter SINK_ERRORS = "tidewatch_sink_postgres_errors_total", "errors", ["class"];
        "Errors of Postgres, by class: transient, saturation, data, fatal."
    Counter SINK_CHANGES = "tidewatch_sink_incident_changes_total", "changes", ["kind"];
        "Incident changes applied."
    Histogram SINK_DELAY = "tidewatch_sink_end_to_end_delay_seconds", "seconds", ["stream"], DELAYS;
        "Time from receiving an event to its commit, recorded for a batch's oldest event."

    // Partitions.
    Gauge PARTITIONS_PRESENT = "tidewatch_partitions_present_partitions", "partitions", ["table"];
        "Partitions attached."
    Gauge PARTITIONS_AHEAD = "tidewatch_partitions_ahead_seconds", "seconds", ["table"];
        "Time from now to the end of the last partition; alert well before it gets to zero."
    Counter PARTITIONS_CREATED = "tidewatch_partitions_created_partitions_total", "partitions", ["table"];
        "Partitions created."
    Counter PARTITIONS_APPLIES = "tidewatch_partitions_applies_total", "runs", ["result"];
        "Runs of the partition plan: ok, failed."
    Counter PARTITIONS_SUMMARISED = "tidewatch_partitions_summarised_ranges_total", "ranges", ["table"];
        "BRIN page ranges summarised."
    Histogram PARTITIONS_SUMMARISE_DURATION = "tidewatch_partitions_summarise_duration_seconds", "seconds", ["table"], DURATIONS;
        "Time to summarise the new ranges of a table."
    Gauge PARTITIONS_PUSH_KEYS = "tidewatch_partitions_push_key_rows", "rows", [];
        "Rows of push_key, a row for each part of a keyed push of the last 48 h; an estimate of Postgres'."
    Counter PARTITIONS_FORGOTTEN = "tidewatch_partitions_forgotten_push_keys_total", "rows", [];
        "Rows of push_key deleted because their 48 h are over."

    // API. route: the template (/v1/incidents/{id}); query: its name in the code.
    Counter API_REQUESTS = "tidewatch_api_requests_total", "requests", ["route", "status"];
        "Requests answered, by route and status code."
    Histogram API_REQUEST_DURATION = "tidewatch_api_request_duration_seconds", "seconds", ["route"], DURATIONS;
        "Time to answer a request."
    Gauge API_IN_FLIGHT = "tidewatch_api_in_flight_requests", "requests", [];
        "Requests being answered now."
    Counter API_AUTH = "tidewatch_api_auth_total", "requests", ["result"];
        "Bearer tokens checked: cached, accepted, unknown, revoked, missing, unavailable (no database to ask)."
    Histogram API_QUERY_DURATION = "tidewatch_api_query_duration_seconds", "seconds", ["query"], DURATIONS;
        "Time of a query in Postgres."
    Counter API_SLOW_QUERIES = "tidewatch_api_slow_queries_total", "queries", ["query"];
        "Queries that took over 100 ms; the log has them."
    Counter API_QUERY_ERRORS = "tidewatch_api_query_errors_total", "errors", ["class"];
        "Failed queries, by class: transient, saturation, data, fatal."
    Counter API_CHANGES = "tidewatch_api_published_changes_total", "changes", ["kind"];
        "Changes of incidents that analysts asked for and the broker acknowledged."

    // Postgres, as the binaries use it.
    Histogram POSTGRES_POOL_WAIT = "tidewatch_postgres_pool_wait_seconds", "seconds", [], DURATIONS;
        "Time to get a connection from the pool."
    Gauge POSTGRES_POOL_CONNECTIONS = "tidewatch_postgres_pool_connections", "connections", ["state"];
        "Connections of the pool: open, idle; and waiting: tasks that want one."
    Counter POSTGRES_POOL_TIMEOUTS = "tidewatch_postgres_pool_timeouts_total", "requests", [];
        "Times that no connection was free within 5 s."

    // Every service.
    Gauge SERVICE_DEPENDENCY_UP = "tidewatch_service_dependency_up", "boolean", ["dependency"];
        "1 while the dependency answers, else 0."
    Gauge SERVICE_BUILD_INFO = "tidewatch_service_build_info", "boolean", ["service", "version"];
        "Always 1; which service and version this is."
    Gauge SERVICE_UPTIME = "tidewatch_service_uptime_seconds", "seconds", [];
        "Time since the process started."
    Counter SERVICE_PANICS_CONTAINED = "tidewatch_service_contained_panics_total", "panics", [];
        "Defects met by single records and contained; the log has them. Any is worth a report."
}
