//! What a shipper should not send: each has a clear answer or a quarantine row, and its neighbours are stored.

use std::io::Write;

use serde_json::json;
use tidewatch_tests::{Org, Pipeline};
use tokio::io::AsyncWriteExt;

/// Waits until the org has that many event rows, and returns (reason, detail) of its quarantine rows.
async fn settled(org: &Org<'_>, rows: i64, quarantined: i64) -> Vec<String> {
    let pipeline = org.pipeline();
    let id = org.id();
    org.until(&format!("{rows} rows and {quarantined} in quarantine"), async || {
        let stored = pipeline.count(&format!("SELECT count(*) FROM events WHERE org = '{id}'")).await;
        let held = pipeline.count(&format!("SELECT count(*) FROM quarantine WHERE org = '{id}'")).await;
        (stored == rows && held == quarantined).then_some(())
    })
    .await;
    pipeline.texts(&format!("SELECT reason FROM quarantine WHERE org = '{id}' ORDER BY reason")).await
}

const GOOD: &str = r#"{"message":"good neighbour"}"#;

#[tokio::test]
async fn a_malformed_line_is_named_by_its_index_and_the_rest_is_stored() {
    let pipeline = Pipeline::shared().await;
    let org = pipeline.new_org().await;
    let answer =
        org.push("/v1/events", "application/x-ndjson", format!("{GOOD}\n{{\"message\":\n{GOOD}\n")).await;
    assert_eq!(answer["accepted"], 2);
    assert_eq!(answer["rejected"][0]["index"], 1);
    assert!(!answer["rejected"][0]["reason"].as_str().unwrap().is_empty());
    assert!(settled(&org, 2, 0).await.is_empty());
}

#[tokio::test]
async fn text_that_postgres_refuses_is_quarantined_line_by_line() {
    let pipeline = Pipeline::shared().await;
    let org = pipeline.new_org().await;
    let body = [
        GOOD,
        r#"{"message":"a","note":"nul \u0000 escaped in attributes"}"#,
        r#"{"message":"nul \u0000 escaped in the message"}"#,
        r#"{"message":"a","note":"lone \ud800 surrogate"}"#,
        GOOD,
    ]
    .join("\n");
    let answer = org.push("/v1/events", "application/x-ndjson", body).await;
    assert_eq!(answer["accepted"], 5, "{answer}");
    let reasons = settled(&org, 2, 3).await;
    assert!(reasons.iter().all(|reason| !reason.is_empty()), "{reasons:?}");
}

#[tokio::test]
async fn a_plain_nul_and_invalid_utf8_in_text_lines_hurt_no_neighbour() {
    let pipeline = Pipeline::shared().await;
    let org = pipeline.new_org().await;
    let body = b"good neighbour\nnul \0 inside\nlatin \xe9t\xe9\ngood neighbour\n".to_vec();
    let answer = org.push("/v1/events", "text/plain", body).await;
    assert_eq!(answer["accepted"], 4);
    // The NUL cannot be stored as text; what is not UTF-8 is stored with U+FFFD and flagged.
    settled(&org, 3, 1).await;
    let flagged = pipeline
        .count(&format!("SELECT count(*) FROM events WHERE org = '{}' AND flags & 4 <> 0", org.id()))
        .await;
    assert_eq!(flagged, 1);
}

#[tokio::test]
async fn times_out_of_range_are_clamped_or_quarantined() {
    let pipeline = Pipeline::shared().await;
    let org = pipeline.new_org().await;
    let body = [
        GOOD.to_owned(),
        json!({"message": "old", "time": "1970-01-01T00:00:00Z"}).to_string(),
        json!({"message": "future", "time": "2100-01-01T00:00:00Z"}).to_string(),
    ]
    .join("\n");
    org.push("/v1/events", "application/x-ndjson", body).await;
    assert_eq!(settled(&org, 2, 1).await, ["too_old"]);
    let future = org.get("/v1/events").await;
    let future =
        future["items"].as_array().unwrap().iter().find(|event| event["message"] == "future").unwrap();
    assert!(future["flags"].to_string().contains("time_clamped"), "{future}");
    assert!(future["attributes"]["original_time"].to_string().contains("2100"), "{future}");
}

#[tokio::test]
async fn huge_and_deep_lines_cost_themselves_only() {
    let pipeline = Pipeline::shared().await;
    let org = pipeline.new_org().await;
    let huge = format!("{{\"message\":\"{}\"}}", "x".repeat(5 << 20));
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let body = format!("{GOOD}\n{huge}\n{deep}\n{GOOD}\n");
    let answer = org.push("/v1/events", "application/x-ndjson", body).await;
    let accepted = answer["accepted"].as_i64().unwrap();
    let rejected = answer["rejected"].as_array().unwrap();
    assert_eq!(accepted + rejected.len() as i64, 4, "{answer}");
    assert!(rejected.iter().any(|reject| reject["index"] == 1), "the 5 MiB line is named: {answer}");
    // Whatever was accepted is stored or quarantined; the good ones are stored.
    org.until("all that was accepted has arrived", async || {
        let id = org.id();
        let stored = pipeline.count(&format!("SELECT count(*) FROM events WHERE org = '{id}'")).await;
        let held = pipeline.count(&format!("SELECT count(*) FROM quarantine WHERE org = '{id}'")).await;
        (stored + held == accepted && stored >= 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn half_a_mebibyte_of_control_characters_reaches_quarantine_not_the_table() {
    let pipeline = Pipeline::shared().await;
    let org = pipeline.new_org().await;
    let body = [b"good neighbour\n".as_slice(), &[1u8; 512 << 10], b"\ngood neighbour\n"].concat();
    let answer = org.push("/v1/events", "text/plain", body).await;
    let accepted = answer["accepted"].as_i64().unwrap();
    let rejected = answer["rejected"].as_array().unwrap().len() as i64;
    assert_eq!(accepted + rejected, 3, "{answer}");
    settled(&org, 2, accepted - 2).await;
}

#[tokio::test]
async fn bodies_that_cannot_be_taken_get_problem_json() {
    let pipeline = Pipeline::shared().await;
    let org = pipeline.new_org().await;
    let bomb = {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let zeros = vec![b' '; 1 << 20];
        for _ in 0..64 {
            gzip.write_all(&zeros).unwrap();
        }
        gzip.finish().unwrap()
    };
    let http = reqwest::Client::new();
    let post = |content_type: &'static str, encoding: Option<&'static str>, body: Vec<u8>| {
        let request = http
            .post(format!("{}/v1/events", pipeline.ingest_url()))
            .bearer_auth(org.ingest_token())
            .header("content-type", content_type);
        let request = if let Some(encoding) = encoding {
            request.header("content-encoding", encoding)
        } else {
            request
        };
        request.body(body).send()
    };
    let cases = [
        (post("application/json", None, b"{\"a\":".to_vec()).await, 400),
        (post("application/json", Some("gzip"), bomb).await, 413),
        (post("image/png", None, b"x".to_vec()).await, 415),
        (post("application/json", Some("br"), b"x".to_vec()).await, 415),
        (post("application/x-ndjson", None, vec![b'x'; 11 << 20]).await, 413),
    ];
    for (answer, status) in cases {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
    }
}

#[tokio::test]
async fn a_foreign_record_without_org_is_quarantined() {
    let pipeline = Pipeline::shared().await;
    let mut kcat = tokio::process::Command::new("kcat")
        .args(["-P", "-b", pipeline.brokers(), "-t", &pipeline.topic("events.raw")])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = kcat.stdin.take().unwrap();
    stdin.write_all(b"{\"message\":\"whose am I\"}\n").await.unwrap();
    drop(stdin);
    assert!(kcat.wait().await.unwrap().success());
    pipeline
        .until("the orphan is in quarantine", async || {
            let held = pipeline
                .count("SELECT count(*) FROM quarantine WHERE org IS NULL AND reason = 'no_org'")
                .await;
            (held == 1).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_truncated_syslog_frame_hurts_no_neighbour() {
    let pipeline = Pipeline::shared().await;
    let mut socket = tokio::net::TcpStream::connect(pipeline.syslog_tcp()).await.unwrap();
    let message = format!("<13>1 {} host-t app - - - whole frame before a cut", tidewatch_tests::now());
    socket.write_all(format!("{} {message}200 <13>1 - cut", message.len()).as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    pipeline
        .until("the whole frame is a row", async || {
            let rows = pipeline
                .count("SELECT count(*) FROM events WHERE message LIKE '%whole frame before a cut%'")
                .await;
            (rows == 1).then_some(())
        })
        .await;
}
