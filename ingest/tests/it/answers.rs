//! What a push is answered with, and what of it arrives.

use std::io::Write;

use schemas::{Stream, partition_of};
use serde_json::json;

use crate::harness::{World, accepted, refused};

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(body).unwrap();
    out.finish().unwrap()
}

#[tokio::test]
async fn every_format_is_split_into_records_that_arrive_as_they_were() {
    let world = World::new().await;
    let ingest = world.ready(&[]).await;
    let lines = "{\"a\":1}\n{\"a\":2}\n";
    for (content_type, body, count) in [
        ("application/x-ndjson", lines, 2),
        ("application/jsonlines", lines, 2),
        ("application/json", "[{\"a\":3}, {\"a\":4}]", 2),
        ("application/json; charset=utf-8", "{\"a\":5}", 1),
        ("text/plain", "first\nsecond line\n", 2),
    ] {
        let answer = accepted(ingest.post("/v1/events", content_type, body)).await;
        assert_eq!(answer, json!({"accepted": count, "rejected": []}), "{content_type}");
    }
    for (coding, body) in
        [("gzip", gzip(lines.as_bytes())), ("zstd", zstd::encode_all(lines.as_bytes(), 3).unwrap())]
    {
        let request = ingest.lines(body).header("content-encoding", coding);
        assert_eq!(accepted(request).await["accepted"], 2);
    }
    let chunks = futures::stream::iter(["{\"chu", "nked\":1}\n{\"b\"", ":2}"].map(Ok::<_, std::io::Error>));
    assert_eq!(accepted(ingest.lines(reqwest::Body::wrap_stream(chunks))).await["accepted"], 2);
    let findings = ingest.post("/v1/findings", "application/x-ndjson", "{\"uid\":\"f\"}");
    assert_eq!(accepted(findings).await["accepted"], 1);
    ingest.stop().await;

    let mut expected =
        vec!["first", "second line", "{\"a\":3}", "{\"a\":4}", "{\"a\":5}", "{\"b\":2}", "{\"chunked\":1}"];
    expected.extend(["{\"a\":1}", "{\"a\":2}"].repeat(4));
    expected.sort_unstable();
    assert_eq!(world.texts().await, expected);
    let arrived = world.events().await;
    assert!(arrived.iter().all(|a| a.org == "demo" && a.protocol == "http" && a.key.is_none()));
    assert!(arrived.iter().all(|a| a.sender.starts_with("http:") && a.sender.ends_with("/127.0.0.1")));
    assert!(arrived.iter().all(|a| a.format == if a.bytes.starts_with(b"{") { "json" } else { "text" }));
    assert_eq!(world.arrived(Stream::Findings).await.len(), 1);
}

#[tokio::test]
async fn a_malformed_line_is_named_and_its_neighbours_arrive() {
    let world = World::new().await;
    let ingest = world.ready(&[]).await;
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(5 << 20));
    let deep = format!("{{\"deep\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let body = format!("{{\"a\":1}}\n{{\"a\":\n\n{large}\n42\n{deep}\n{{\"a\":2}}\n");
    let answer = accepted(ingest.lines(body)).await;
    assert_eq!(answer["accepted"], 3);
    let rejected = answer["rejected"].as_array().unwrap();
    let reasons: Vec<_> =
        rejected.iter().map(|r| (r["index"].as_u64().unwrap(), r["reason"].as_str().unwrap())).collect();
    assert_eq!(reasons[0], (1, "malformed JSON: EOF while parsing a value at byte 5"));
    assert_eq!(reasons[1].0, 2);
    assert!(reasons[1].1.starts_with("too large: 5242888 bytes"), "{reasons:?}");
    assert_eq!(reasons[2], (3, "not a JSON object"));
    let array = ingest.post("/v1/events", "application/json", "[{\"b\":1},2,{\"b\":3}]");
    assert_eq!(
        accepted(array).await,
        json!({"accepted": 2, "rejected": [{"index": 1, "reason": "not a JSON object"}]})
    );
    ingest.stop().await;
    assert_eq!(world.texts().await, ["{\"a\":1}", "{\"a\":2}", "{\"b\":1}", "{\"b\":3}", &deep]);
}

#[tokio::test]
async fn hostile_bytes_arrive_untouched() {
    let world = World::new().await;
    let ingest = world.ready(&[]).await;
    let lines: [&[u8]; 4] = [
        b"{\"a\":\"\\u0000\"}",
        b"{\"a\":\"\\ud800\"}",
        b"{\"a\":\"\xff\xfe\"}",
        b"{\"time\":\"2100-01-01T00:00:00Z\"}",
    ];
    assert_eq!(accepted(ingest.lines(lines.join(&b'\n'))).await["accepted"], 4);
    let text = [b"nul \0 inside".as_slice(), b"latin \xe9t\xe9", &[1; 200_000]];
    assert_eq!(accepted(ingest.post("/v1/events", "text/plain", text.join(&b'\n'))).await["accepted"], 3);
    ingest.stop().await;
    let mut arrived: Vec<_> = world.events().await.into_iter().map(|arrived| arrived.bytes).collect();
    let mut expected: Vec<_> = lines.iter().chain(&text).map(|line| line.to_vec()).collect();
    arrived.sort();
    expected.sort();
    assert_eq!(arrived, expected);
}

#[tokio::test]
async fn each_wrong_request_has_its_answer() {
    let world = World::new().await;
    let analyst = world.new_token("demo", "analyst").await;
    let ingest = world.ready(&[]).await;
    let at = |path: &str| format!("http://{}{path}", ingest.http);
    let bomb = |bytes: usize| gzip(&vec![b' '; bytes]);
    let zstd_bomb = zstd::encode_all(vec![0; 256 << 20].as_slice(), 1).unwrap();

    for body in ["", "\n\r\n  \n"] {
        refused(ingest.lines(body), 400).await;
    }
    refused(ingest.post("/v1/events", "application/json", "{\"a\":"), 400).await;
    refused(ingest.post("/v1/events", "application/json", "{}\n{}"), 400).await;
    refused(ingest.lines("{}").header("content-encoding", "gzip"), 400).await;
    refused(ingest.lines("{}").header("idempotency-key", ""), 400).await;
    refused(ingest.lines("{}").header("x-sender", "x".repeat(129)), 400).await;
    let nothing = refused(ingest.lines("x\ny\n"), 400).await;
    assert_eq!((&nothing["accepted"], &nothing["rejected"][1]["index"]), (&json!(0), &json!(1)));

    let anonymous = ingest.client.post(at("/v1/events")).header("content-type", "text/plain").body("x");
    let answer = refused(anonymous, 401).await;
    assert_eq!(answer["headers"]["www-authenticate"], "Bearer");
    for token in ["nonsense", &world.token.replace("tw_ingest_", "tw_ingest_0")] {
        refused(
            ingest
                .client
                .post(at("/v1/events"))
                .bearer_auth(token)
                .header("content-type", "text/plain")
                .body("x"),
            401,
        )
        .await;
    }
    refused(ingest.client.post(at("/v1/events")).bearer_auth(analyst).body("x"), 403).await;

    refused(ingest.client.get(at("/")), 404).await;
    refused(ingest.post("/v1/event", "text/plain", "x"), 404).await;
    let answer = refused(ingest.client.get(at("/v1/events")), 405).await;
    assert_eq!(answer["headers"]["allow"], "POST");

    refused(ingest.lines(vec![b'x'; 11 << 20]), 413).await;
    let chunked = futures::stream::iter((0..11).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 1 << 20])));
    refused(ingest.lines(reqwest::Body::wrap_stream(chunked)), 413).await;
    refused(ingest.lines(bomb(64 << 20)).header("content-encoding", "gzip"), 413).await;
    refused(ingest.lines(zstd_bomb).header("content-encoding", "zstd"), 413).await;
    refused(ingest.post("/v1/events", "text/plain", "x\n".repeat(200_001)), 413).await;

    let answer = refused(ingest.post("/v1/events", "image/png", "x"), 415).await;
    assert!(answer["detail"].as_str().unwrap().contains("application/x-ndjson"), "{answer}");
    assert!(answer["headers"]["accept-post"].as_str().unwrap().contains("text/plain"));
    refused(ingest.client.post(at("/v1/events")).bearer_auth(&world.token).body("x"), 415).await;
    refused(ingest.post("/v1/findings", "text/plain", "x"), 415).await;
    let answer = refused(ingest.lines("{}").header("content-encoding", "br"), 415).await;
    assert_eq!(answer["headers"]["accept-encoding"], "gzip, zstd");

    // Nothing of all this has arrived, and the connection pool still works.
    accepted(ingest.lines("{\"last\":1}")).await;
    ingest.stop().await;
    assert_eq!(world.texts().await, ["{\"last\":1}"]);
}

#[tokio::test]
async fn a_keyed_push_is_alone_in_its_records_and_goes_where_its_key_says() {
    let world = World::new().await;
    let ingest = world.ready(&["--linger", "100ms"]).await;
    let body: String = (0..700).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let keyed =
        |key: &'static str| ingest.lines(body.clone()).header("idempotency-key", key).header("x-sender", "s");
    let (one, two, plain) = tokio::join!(
        accepted(keyed("one")),
        accepted(keyed("\"two\"")),
        accepted(ingest.lines("{\"plain\":1}").header("x-sender", "s"))
    );
    assert_eq!(
        (&one["accepted"], &two["accepted"], &plain["accepted"]),
        (&json!(700), &json!(700), &json!(1))
    );
    ingest.stop().await;
    let arrived = world.events().await;
    for key in ["one", "two"] {
        let of_key: Vec<_> = arrived.iter().filter(|a| a.key.as_deref() == Some(key)).collect();
        let partition = partition_of(&[b"demo", key.as_bytes()], 4);
        assert!(of_key.iter().all(|a| a.partition == partition && a.sender == "s"));
        let sizes = |part| of_key.iter().filter(|a| a.part == Some(part)).count();
        assert_eq!((sizes(0), sizes(1), of_key.len()), (500, 200, 700));
    }
    // No Kafka record holds two keys, or a keyed and another push.
    for a in &arrived {
        for b in arrived.iter().filter(|b| (b.partition, b.offset) == (a.partition, a.offset)) {
            assert_eq!((&a.key, a.part), (&b.key, b.part));
        }
    }
    let plain = arrived.iter().find(|a| a.key.is_none()).unwrap();
    assert_eq!(plain.partition, partition_of(&[b"demo", b"s"], 4));
}

#[tokio::test]
async fn pushes_of_many_orgs_share_batches_and_stay_apart() {
    let world = World::new().await;
    let other = world.new_token("other", "ingest").await;
    let ingest = world.ready(&["--linger", "50ms"]).await;
    let pushes = (0..40).map(|n| {
        let token = [&world.token, &other][n % 2];
        let request = ingest.client.post(format!("http://{}/v1/events", ingest.http)).bearer_auth(token);
        let request =
            request.header("content-type", "application/json").header("x-sender", (n / 2 % 5).to_string());
        accepted(request.body(format!("{{\"n\":{n}}}")))
    });
    futures::future::join_all(pushes).await;
    ingest.stop().await;
    let arrived = world.events().await;
    assert_eq!(arrived.len(), 40);
    for a in &arrived {
        let n: usize = a.text().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        assert_eq!(a.org, ["demo", "other"][n % 2]);
    }
    let mut records: Vec<_> = arrived.iter().map(|a| (a.partition, a.offset)).collect();
    records.dedup();
    assert!(records.len() < 20, "{} Kafka records for 40 pushes", records.len());
}
