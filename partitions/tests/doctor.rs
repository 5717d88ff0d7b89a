//! `doctor` on databases that the sink's own functions have filled: it finds nothing in a healthy one, and names whatever is
//! then done to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::process::Command;
use std::sync::Mutex;

use common::{BINARY, Database};
use rstest::rstest;
use tidewatch_partitions::{Options, Report, doctor};

/// Seven transactions: events of two partitions over two months, rejects, a record that nothing could read, repeats,
/// findings with scans, incidents with evidence.
async fn healthy() -> Database {
    let database = Database::new().await;
    database.client.batch_execute("SET TimeZone = 'UTC'").await.unwrap();
    database.execute(FUNCTIONS).await;
    for transaction in [
        // Partition, first raw offset, how many raw records, of 5 rows each, of 40 days ago.
        "SELECT fill(0, 0, 4, interval '40 days')",
        "SELECT fill(1, 0, 3, interval '40 days')",
        "SELECT fill(0, 4, 2, interval '2 hours')",
        "SELECT fill(1, 3, 2, interval '30 minutes')",
        "SELECT repeat(0)",
        "SELECT find()",
        "SELECT incidents()",
    ] {
        database.execute(transaction).await;
    }
    database
}

/// What the sink would send. Of the six items of a raw record number 3 is a reject.
const FUNCTIONS: &str = r#"
    CREATE FUNCTION commit(p_topic text, p_kpart integer, p_first_source bigint, p_next_source bigint, p_offsets bigint,
        p_received bigint, p_stored bigint, p_quarantined bigint, p_duplicates bigint, p_counts json, p_scans json,
        p_incidents json, p_incident_counts json) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        v_held record;
        v_topic_id uuid := CASE WHEN p_topic <> 'incidents' THEN '00000000-0000-0000-0000-000000000007'::uuid END;
    BEGIN
        SELECT * INTO v_held FROM sink_acquire(ARRAY[p_topic], ARRAY[p_kpart], ARRAY[0::bigint]);
        PERFORM sink_commit(
            json_build_array(json_build_object('topic', p_topic, 'kpart', p_kpart, 'epoch', v_held.epoch,
                'first_offset', v_held.next_offset, 'next_offset', v_held.next_offset + p_offsets,
                'source_topic_id', v_topic_id, 'first_source', p_first_source, 'next_source', p_next_source,
                'received', p_received, 'stored', p_stored, 'quarantined', p_quarantined, 'duplicates', p_duplicates)),
            array_agg(number / 64), array_agg(c.hour), array_agg(c.stream), array_agg(c.class_uid), array_agg(c.severity_id),
            -- A slot for each org: a row of count_block may be given once.
            array_agg(p_kpart * 64 + number % 64),
            array_agg((SELECT array_agg(CASE WHEN place = number % 64 THEN c.n ELSE 0 END ORDER BY place)::text
                       FROM generate_series(0, 63) AS place)),
            p_scans, p_incidents, p_incident_counts)
        FROM json_to_recordset(p_counts) AS c (
            org text, hour integer, stream text, class_uid integer, severity_id integer, n bigint)
        JOIN sink_org_numbers(ARRAY['acme', 'demo']) AS o ON o.org = c.org;
    END $$;

    CREATE FUNCTION counts_of(p_stream text, p_kpart integer, p_first bigint, p_next bigint) RETURNS json LANGUAGE sql AS $$
        SELECT coalesce(json_agg(c), '[]') FROM (
            SELECT org, (floor(extract(epoch FROM time))::bigint / 3600)::integer AS hour, p_stream AS stream, class_uid,
                severity_id, count(*) AS n
            FROM (SELECT org, time, class_uid, severity_id, kpart, koffset FROM events WHERE p_stream = 'events'
                  UNION ALL SELECT org, time, class_uid, severity_id, kpart, koffset FROM findings
                  WHERE p_stream = 'findings') AS rows
            WHERE kpart = p_kpart AND koffset >= p_first AND koffset < p_next GROUP BY 1, 2, 3, 4, 5) AS c
    $$;

    CREATE FUNCTION fill(p_kpart integer, p_first bigint, p_records bigint, p_ago interval) RETURNS void
    LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO events (time, received_at, org, class_uid, activity_id, severity_id, source_type, repeat, flags, kpart,
            koffset, kindex)
        SELECT now() - p_ago + make_interval(secs => koffset * 10 + kindex), now() - p_ago,
            CASE WHEN kindex < 2 THEN 'acme' ELSE 'demo' END, 3002, 1, 1 + kindex % 2, 'sshd', 1, 0, p_kpart, koffset, kindex
        FROM generate_series(p_first, p_first + p_records - 1) AS koffset, unnest('{0,1,2,4,5}'::integer[]) AS kindex;
        INSERT INTO quarantine (received_at, org, stream, kpart, koffset, kindex, reason, detail, payload, state)
        SELECT now(), 'demo', 'events', p_kpart, koffset, 3, 'invalid_json', '', '',
            CASE WHEN koffset = 1 THEN 'redriven' ELSE 'open' END
        FROM generate_series(p_first, p_first + p_records - 1) AS koffset;
        PERFORM commit('events', p_kpart, p_first, p_first + p_records, p_records, p_records * 6, p_records * 5, p_records,
            0, counts_of('events', p_kpart, p_first, p_first + p_records), '[]', '[]', '[]');
    END $$;

    -- A record that nothing could read, and two that came again.
    CREATE FUNCTION repeat(p_kpart integer) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        v_at sink_partition;
    BEGIN
        SELECT * INTO v_at FROM sink_partition WHERE topic = 'events' AND kpart = p_kpart;
        INSERT INTO quarantine (received_at, stream, kpart, koffset, kindex, reason, detail, payload)
        VALUES (now(), 'events', p_kpart, v_at.next_offset, -1, 'undecodable', '', '');
        PERFORM commit('events', p_kpart, v_at.next_source_offset, v_at.next_source_offset, 3, 13, 0, 1, 12, '[]', '[]', '[]',
            '[]');
    END $$;

    -- Three findings and three states of two scans.
    CREATE FUNCTION find() RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO findings (time, received_at, org, uid, scan_type, class_uid, severity_id, kind, flags, kpart, koffset,
            kindex)
        SELECT now() - interval '1 hour', now(), 'demo', 'f-' || kindex, 'code', 2002, 5, 'secret', 0, 0, 0, kindex
        FROM generate_series(0, 2) AS kindex;
        PERFORM commit('findings', 0, 0, 1, 1, 6, 6, 0, 0, counts_of('findings', 0, 0, 1),
            '[{"org": "demo", "scan_id": "s1", "scan_type": "code", "sequence": 2, "state": "running", "slot": 0,
               "started_at": "2026-01-01T00:00:00Z", "time": "2026-01-01T00:00:00Z"},
              {"org": "demo", "scan_id": "s2", "scan_type": "code", "sequence": 1, "state": "queued", "slot": 0,
               "started_at": "2026-01-01T00:00:00Z", "time": "2026-01-01T00:00:00Z"}]', '[]', '[]');
    END $$;

    -- Two incidents: of stored events; of a quarantined one, of one of a month long gone and of one not stored yet.
    CREATE FUNCTION incidents() RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        v_micros bigint := (SELECT (extract(epoch FROM time) * 1000000)::bigint FROM events
                            WHERE kpart = 0 AND koffset = 1 AND kindex = 4);
        v_finding bigint := (SELECT (extract(epoch FROM min(time)) * 1000000)::bigint FROM findings);
    BEGIN
        PERFORM commit('incidents', 5, NULL, NULL, 4, 4, 4, 0, 0, '[]', '[]', json_agg(json_build_object(
            'org', 'demo', 'id', id, 'rule_id', 'r', 'rule_hash', 'h', 'title', 't', 'description', 'd', 'severity_id', 4,
            'status', 'open', 'tags', '[]'::json, 'reference_urls', '[]'::json, 'false_positives', '[]'::json,
            'group_key', '[]'::json, 'entities', '[]'::json, 'first_time', now(), 'last_time', now(), 'event_count', 3,
            'evidence', evidence, 'evidence_truncated', false, 'flags', 0, 'reopened', false, 'version', 1,
            'created_at', now(), 'updated_at', now())),
            '[{"org": "demo", "status": "open", "severity_id": 4, "slot": 5, "n": 2}]')
        FROM (VALUES
            ('00000000-0000-0000-0000-000000000001'::uuid, json_build_array(
                json_build_object('stream', 'events', 'partition', 0, 'offset', 1, 'index', 4, 'time', v_micros),
                json_build_object('stream', 'findings', 'partition', 0, 'offset', 0, 'index', 1, 'time', v_finding))),
            ('00000000-0000-0000-0000-000000000002'::uuid, json_build_array(
                json_build_object('stream', 'events', 'partition', 0, 'offset', 1, 'index', 3, 'time', v_micros),
                json_build_object('stream', 'events', 'partition', 0, 'offset', 2, 'index', 9, 'time', 1500000000000000),
                json_build_object('stream', 'events', 'partition', 1, 'offset', 5, 'index', 0, 'time', v_micros)))
        ) AS i (id, evidence);
    END $$;
"#;

async fn examine(database: &Database) -> Report {
    doctor(&database.url, &Options::default(), &|_| {}).await.unwrap()
}

/// What failed, and every problem of it.
fn failures(report: &Report) -> Vec<(&'static str, String)> {
    let failed = report.checks.iter().filter(|check| !check.is_ok());
    failed
        .flat_map(|check| {
            assert_eq!(check.total as usize, check.problems.len(), "{check:?}");
            check.problems.iter().map(|problem| (check.name, format!("{}: {}", problem.at, problem.what)))
        })
        .collect()
}

#[tokio::test]
async fn a_healthy_database_adds_up() {
    let database = healthy().await;
    let report = examine(&database).await;
    assert_eq!(failures(&report), []);
    assert!(report.ok);
    let lines: Vec<[i64; 9]> = report
        .partitions
        .iter()
        .map(|line| {
            let of = line.sums;
            [
                of.ranges,
                of.received,
                of.rows,
                of.merged,
                of.open,
                of.redriven,
                of.duplicates,
                of.gone,
                of.missing,
            ]
        })
        .collect();
    let names: Vec<String> = report.partitions.iter().map(|line| line.of.to_string()).collect();
    assert_eq!(names, ["events/0", "events/1", "findings/0", "incidents/5"]);
    assert_eq!(
        lines,
        [
            [3, 49, 30, 0, 6, 1, 12, 0, 0],
            [2, 30, 25, 0, 4, 1, 0, 0, 0],
            [1, 6, 3, 3, 0, 0, 0, 0, 0],
            [1, 4, 0, 4, 0, 0, 0, 0, 0]
        ]
    );
    let evidence = report.checks.last().unwrap();
    assert_eq!(evidence.on, "5 named, 1 of months that are gone, 1 not stored yet, 1 in quarantine");
}

#[rstest]
#[case::a_row_deleted(
    "DELETE FROM events WHERE kpart = 0 AND koffset = 2 AND kindex = 1",
    &[
        ("rows are those", "events/0: raw offsets 0 to 4 (enriched 0 to 4): 20 were stored, 19 are there; missing: raw offset 2 index 1"),
        ("counts are", "org acme, events of "),
    ]
)]
#[case::the_last_row_of_a_record_deleted(
    "DELETE FROM events WHERE kpart = 1 AND koffset = 4 AND kindex = 5",
    &[("rows are those", "events/1: raw offsets 3 to 5 (enriched 3 to 5): 10 were stored, 9 are there; what is missing"), ("counts are", "org demo")]
)]
#[case::a_row_doubled(
    "INSERT INTO events SELECT * FROM events WHERE kpart = 1 AND koffset = 4 AND kindex = 2",
    &[("identities", "events/1: raw offset 4 index 2 is there 2 times (org demo, "), ("counts are", "org demo, events of ")]
)]
#[case::a_row_deleted_and_another_of_its_range_doubled(
    "DELETE FROM events WHERE kpart = 0 AND koffset = 0 AND kindex = 2;
     INSERT INTO events SELECT * FROM events WHERE kpart = 0 AND koffset = 3 AND kindex = 4",
    &[
        ("rows are those", "events/0: raw offsets 0 to 4 (enriched 0 to 4): 20 were stored, 19 are there; missing: raw offset 0 index 2"),
        ("identities", "events/0: raw offset 3 index 4 is there 2 times (org demo, "),
    ]
)]
#[case::a_row_doubled_in_another_month(
    "INSERT INTO events SELECT now(), received_at, org, class_uid, activity_id, severity_id, host, \"user\", src_ip, dst_ip,
        src_port, dst_port, source_type, message, repeat, labels, attributes, flags, event_uid, kpart, koffset, kindex
     FROM events WHERE kpart = 0 AND koffset = 3 AND kindex = 4",
    &[("identities", "events/0: raw offset 3 index 4 is there at different times"), ("counts are", "org demo")]
)]
#[case::a_row_that_the_ledger_knows_nothing_of(
    "UPDATE events SET koffset = 77 WHERE kpart = 1 AND koffset = 4 AND kindex = 5",
    &[
        ("rows are those", "events/1: a row of raw offset 77 index 5"),
        ("rows are those", "events/1: raw offsets 3 to 5 (enriched 3 to 5): 10 were stored, 9 are there"),
    ]
)]
#[case::a_finding_doubled(
    "INSERT INTO findings SELECT * FROM findings WHERE kindex = 2",
    &[("identities", "findings/0: raw offset 0 index 2 is there 2 times (org demo"), ("counts are", "org demo, findings of ")]
)]
#[case::a_finding_deleted("DELETE FROM findings WHERE kindex = 2", &[("counts are", "org demo, findings of ")])]
#[case::a_count_changed(
    "UPDATE count_block SET n[(SELECT number FROM count_org WHERE org = 'acme') + 1] = 7
     WHERE ctid = (SELECT ctid FROM count_block WHERE stream = 'events' AND severity_id = 2 LIMIT 1)",
    &[("counts are", "org acme, events of ")]
)]
#[case::a_count_of_an_hour_without_rows(
    "INSERT INTO count_block SELECT block, hour + interval '3 days', stream, class_uid, severity_id, slot, n
     FROM count_block WHERE stream = 'findings'",
    &[("counts are", "org demo, findings of ")]
)]
#[case::a_row_that_moved_to_another_org(
    "UPDATE events SET org = 'zeta' WHERE kpart = 1 AND koffset = 4 AND kindex = 5",
    &[("counts are", "org demo, events of "), ("counts are", "org zeta, events of ")]
)]
#[case::a_range_of_the_ledger_removed(
    "DELETE FROM sink_ledger WHERE topic = 'events' AND kpart = 1 AND first_offset = 0",
    &[("contiguous", "events/1: the ledger is at offset 0, the next range of the ledger begins at 3"), ("contiguous", "events/1: the ledger is at raw offset 0")]
)]
#[case::the_last_range_removed(
    "DELETE FROM sink_ledger WHERE topic = 'incidents'",
    &[("contiguous", "incidents/5: the ledger is at offset 0, sink_partition goes on at 4: nothing accounts")]
)]
#[case::a_sum_changed(
    "UPDATE sink_ledger SET duplicates = duplicates + 1 WHERE topic = 'events' AND kpart = 0 AND duplicates = 12",
    &[("received = stored", "events/0: offsets 6 to 9: received 13, but stored 0, quarantined 1, duplicates 13")]
)]
#[case::a_position_moved(
    "UPDATE sink_partition SET next_source_offset = 9 WHERE topic = 'events' AND kpart = 0",
    &[("contiguous", "events/0: the ledger is at raw offset 6, sink_partition goes on at 9")]
)]
#[case::a_position_lost(
    "DELETE FROM sink_partition WHERE topic = 'events' AND kpart = 0",
    &[("contiguous", "events/0: the ledger has ranges, sink_partition has no row")]
)]
#[case::a_quarantined_row_deleted(
    "DELETE FROM quarantine WHERE kpart = 0 AND koffset = 4 AND kindex = 3",
    &[("quarantine holds", "events/0: offsets 4 to 6: 2 were quarantined, 1 are in quarantine")]
)]
#[case::a_quarantined_record_doubled(
    "INSERT INTO quarantine SELECT * FROM quarantine WHERE kindex = -1",
    &[("quarantine holds", "events/0: offsets 6 to 9: 1 were quarantined, 2 are in quarantine")]
)]
#[case::evidence_that_points_nowhere(
    "UPDATE incidents SET evidence = jsonb_set(evidence, '{0,index}', '6') WHERE id::text LIKE '%1'",
    &[("evidence", "incident 00000000-0000-0000-0000-000000000001 of demo: events/0 raw offset 1 index 6 of ")]
)]
#[case::an_incident_deleted(
    "DELETE FROM incidents WHERE id::text LIKE '%1'",
    &[("incident counts", "org demo: 2 open incidents of severity 4 counted, 1 there")]
)]
#[case::a_scan_changed(
    "UPDATE scans SET state = 'failed' WHERE scan_id = 's2'",
    &[("scan counts", "org demo: 0 failed scans counted, 1 there"), ("scan counts", "org demo: 1 queued scans counted, 0 there")]
)]
#[tokio::test]
async fn what_was_done_to_it_is_named(#[case] change: &str, #[case] expected: &[(&str, &str)]) {
    let database = healthy().await;
    database.execute(change).await;
    let report = examine(&database).await;
    let found = failures(&report);
    assert!(!report.ok);
    for (check, problem) in expected {
        let is_it = |(name, told): &&(&str, String)| name.contains(check) && told.contains(problem);
        assert!(found.iter().any(|found| is_it(&found)), "no {problem} in {found:#?}");
    }
    let checks: std::collections::BTreeSet<_> = found.iter().map(|(check, _)| *check).collect();
    for check in checks {
        // A range that is not there takes its rows with it.
        let follows = change.contains("sink_ledger") || change.contains("sink_partition");
        assert!(follows || expected.iter().any(|(expected, _)| check.contains(expected)), "{found:#?}");
    }
}

#[tokio::test]
async fn little_memory_costs_passes_and_finds_the_same() {
    let database = healthy().await;
    let little = Options { connections: 1, identity_bytes: 0, evidence: 1 };
    let report = doctor(&database.url, &little, &|_| {}).await.unwrap();
    assert_eq!(failures(&report), []);
    database
        .execute(
            "DELETE FROM events WHERE kpart = 0 AND koffset = 0 AND kindex = 2;
             INSERT INTO events SELECT * FROM events WHERE kpart = 0 AND koffset = 3 AND kindex = 4;
             UPDATE incidents SET evidence = jsonb_set(evidence, '{1,index}', '7') WHERE id::text LIKE '%1'",
        )
        .await;
    let much = failures(&examine(&database).await).into_iter().map(|(_, told)| told).collect::<Vec<_>>();
    let little = doctor(&database.url, &little, &|_| {}).await.unwrap();
    let little = failures(&little).into_iter().map(|(_, told)| told).collect::<Vec<_>>();
    assert_eq!(little, much);
    assert!(little.iter().any(|told| told.contains("is there 2 times")), "{little:?}");
    assert!(little.iter().any(|told| told.contains("index 7")), "{little:?}");
}

#[tokio::test]
async fn a_month_that_was_dropped_is_accounted_for_by_its_counts() {
    let database = healthy().await;
    let month = database.text("SELECT tableoid::regclass::text FROM events ORDER BY time LIMIT 1").await;
    let older: Vec<String> = database
        .texts(&format!(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass
             AND inhrelid::regclass::text < '{month}'"
        ))
        .await;
    for table in older.iter().chain([&month]) {
        database.execute(&format!("DROP TABLE {table}")).await;
    }
    let report = examine(&database).await;
    assert_eq!(failures(&report), []);
    assert_eq!((report.gone.len(), report.gone[0].table, report.gone[0].rows), (1, "events", 35));
    let events: Vec<(i64, i64, i64)> = report.partitions[..2]
        .iter()
        .map(|line| (line.sums.rows, line.sums.gone, line.sums.missing))
        .collect();
    assert_eq!(events, [(10, 20, 0), (10, 15, 0)]);
    // But a row that is missing from a month that is there is not excused by it.
    database.execute("DELETE FROM events WHERE kpart = 0 AND koffset = 5 AND kindex = 1").await;
    let found = failures(&examine(&database).await);
    assert!(found.iter().any(|(_, told)| told.contains("org acme, events of")), "{found:?}");
    assert!(
        found.iter().any(|(_, told)| told.contains("36 rows of the ledger are not there, and 35")),
        "{found:?}"
    );
}

#[tokio::test]
async fn it_adds_up_while_rows_are_written() {
    let database = healthy().await;
    let writer = database.another().await;
    let writing = tokio::spawn(async move {
        let mut committed = 0;
        for offset in 6..106 {
            writer.batch_execute(&format!("SELECT fill(0, {offset}, 1, interval '1 minute')")).await.unwrap();
            committed += 1;
        }
        committed
    });
    let mut seen = std::collections::BTreeSet::new();
    while !writing.is_finished() {
        let report = examine(&database).await;
        assert_eq!(failures(&report), []);
        seen.insert(report.partitions[0].sums.ranges);
    }
    assert_eq!(writing.await.unwrap(), 100);
    assert!(seen.len() > 1, "all reports are of the same moment: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_in_the_midst_of_the_check_neither_waits_nor_is_seen() {
    let database = healthy().await;
    let before = examine(&database).await.partitions;
    let writer = Mutex::new(Some(database.another().await));
    let progress = |_| {
        let Some(writer) = writer.lock().unwrap().take() else { return };
        // While all tables are being read.
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let write = "SET lock_timeout = '2s'; SELECT fill(0, 6, 1, interval '1 minute')";
                writer.batch_execute(write).await.unwrap();
            });
        });
    };
    let report = doctor(&database.url, &Options::default(), &progress).await.unwrap();
    assert_eq!(failures(&report), []);
    assert_eq!(report.partitions, before);
    assert!(writer.lock().unwrap().is_none());
    assert_eq!(database.number("SELECT count(*) FROM events WHERE kpart = 0").await, 35);
}

#[test]
fn the_command_ends_with_1_and_shows_what_failed() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(healthy());
    let doctor = |args: &[&str]| {
        Command::new(BINARY)
            .arg("doctor")
            .args(args)
            .args(["--database-url", &database.address])
            .output()
            .unwrap()
    };
    let healthy = doctor(&[]);
    let shown = String::from_utf8(healthy.stdout).unwrap();
    assert_eq!(healthy.status.code(), Some(0), "{shown}");
    assert!(shown.contains("events/0") && shown.contains("Everything adds up"), "{shown}");
    assert!(healthy.stderr.is_empty(), "{}", String::from_utf8_lossy(&healthy.stderr));

    runtime.block_on(database.execute("DELETE FROM events WHERE kpart = 0 AND koffset = 2 AND kindex = 1"));
    let ill = doctor(&[]);
    let shown = String::from_utf8(ill.stdout).unwrap();
    assert_eq!(ill.status.code(), Some(1));
    assert!(shown.contains("FAILED") && shown.contains("raw offset 2 index 1"), "{shown}");
    let said = String::from_utf8(ill.stderr).unwrap();
    assert!(said.contains("2 of 10 checks failed"), "{said}");

    let ill = doctor(&["--format", "json"]);
    assert_eq!(ill.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&ill.stdout).unwrap();
    assert_eq!(report["ok"], false);
    let line = &report["partitions"][0];
    assert_eq!((&line["of"], &line["missing"]), (&"events/0".into(), &1.into()));
}
