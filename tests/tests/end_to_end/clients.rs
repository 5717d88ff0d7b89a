//! Real shippers: rsyslogd and kcat.

use std::process::Stdio;

use tidewatch_tests::Pipeline;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

#[tokio::test]
async fn rsyslogd_forwards_a_log_file() {
    let pipeline = Pipeline::shared().await;
    let scratch = tempfile::tempdir().unwrap();
    let log = scratch.path().join("app.log");
    let lines: String = (0..50).map(|i| format!("worker {i}: did its work\n")).collect();
    std::fs::write(&log, lines).unwrap();
    let (host, port) =
        pipeline.syslog_tcp().rsplit_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
    let directory = scratch.path().display();
    let config = scratch.path().join("rsyslog.conf");
    std::fs::write(
        &config,
        format!(
            r#"
global(workDirectory="{directory}")
module(load="imfile")
input(type="imfile" file="{}" tag="payroll")
action(type="omfwd" target="{host}" port="{port}" protocol="tcp" TCP_Framing="octet-counted"
       template="RSYSLOG_SyslogProtocol23Format")
"#,
            log.display()
        ),
    )
    .unwrap();
    let mut rsyslogd = Command::new("/usr/sbin/rsyslogd")
        .args(["-n", "-f", config.to_str().unwrap(), "-i", scratch.path().join("pid").to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("rsyslogd is installed by make test");

    pipeline
        .until("rsyslogd's lines are rows", async || {
            let rows = pipeline
                .count("SELECT count(DISTINCT message) FROM events WHERE message LIKE '%worker %: did its work%'")
                .await;
            (rows == 50).then_some(())
        })
        .await;
    rsyslogd.kill().await.unwrap();
}

#[tokio::test]
async fn kcat_publishes_plain_json_to_events_raw() {
    let pipeline = Pipeline::shared().await;
    let org = pipeline.new_org().await;
    let mut kcat = Command::new("kcat")
        .args(["-P", "-b", pipeline.brokers(), "-t", &pipeline.topic("events.raw")])
        .args(["-H", &format!("org={}", org.id())])
        .stdin(Stdio::piped())
        .spawn()
        .expect("kcat is installed by make test");
    let mut stdin = kcat.stdin.take().unwrap();
    for i in 0..20 {
        let line =
            format!("{{\"message\":\"from kcat {i}\",\"host\":\"db-1\",\"src_ip\":\"198.51.100.4\"}}\n");
        stdin.write_all(line.as_bytes()).await.unwrap();
    }
    drop(stdin);
    assert!(kcat.wait().await.unwrap().success());

    let page = org
        .until("kcat's records are on a page", async || {
            let page = org.get("/v1/events").await;
            (page["items"].as_array()?.len() == 20).then_some(page)
        })
        .await;
    for event in page["items"].as_array().unwrap() {
        assert_eq!(event["host"], "db-1");
        assert_eq!(event["src_ip"], "198.51.100.4");
    }
}
