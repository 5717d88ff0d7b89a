//! Events of about 300 bytes, as they come from all sides.

/// `count` lines of each kind.
pub(crate) fn kinds(count: usize) -> [(&'static str, Vec<String>); 4] {
    let make = |line: &dyn Fn(usize) -> String| (0..count).map(line).collect();
    [
        ("300 B mixed", make(&mixed)),
        ("JSON", make(&json)),
        ("sshd", make(&sshd)),
        ("web access", make(&access)),
    ]
}

fn mixed(n: usize) -> String {
    match n % 4 {
        0 => json(n / 4),
        1 => sshd(n / 4),
        2 => access(n / 4),
        _ => logon(n / 4),
    }
}

fn json(n: usize) -> String {
    let (host, ip) = (n % 8, n % 250);
    match n % 10 {
        0..5 => format!(
            r#"{{"time":"2026-11-21T09:05:07.123Z","class_uid":4001,"activity_id":6,"severity_id":1,"host":"gw-{host}","src_ip":"100.64.3.{ip}","src_port":40123,"dst_ip":"10.0.3.{ip}","dst_port":443,"message":"connection allowed by policy egress-web","bytes_out":{n},"bytes_in":5120,"zone":"dmz-1","policy":"egress-web"}}"#
        ),
        5..7 => format!(
            r#"{{"time":"2026-11-21T09:05:07.123Z","class_uid":3002,"activity_id":1,"severity_id":1,"host":"web-{host}","user":"ada","src_ip":"100.64.3.{ip}","message":"user ada signed in with a passkey","service":"sso","mfa":true,"session_minutes":{n},"tenant":"emea-2","client":"firefox/128"}}"#
        ),
        7..9 => format!(
            r#"{{"time":"2026-11-21T09:05:07.123Z","class_uid":1007,"activity_id":1,"severity_id":1,"host":"db-{host}","user":"ada","message":"process started: /usr/bin/rsync --archive /srv /backup","pid":{n},"parent":"/usr/lib/systemd/systemd","uid":1000,"cwd":"/srv","tty":"pts/3"}}"#
        ),
        _ => format!(
            r#"{{"time":"2026-11-21T09:05:07.123Z","class_uid":0,"severity_id":1,"host":"app-{host}","source_type":"billing","message":"invoice {n} rendered and queued for delivery to the customer","duration_ms":31,"queue":"mail-out","attempt":1,"template":"invoice-2026","locale":"en"}}"#
        ),
    }
}

fn sshd(n: usize) -> String {
    let verb = if n.is_multiple_of(10) { "Failed password" } else { "Accepted publickey" };
    let (ip, port) = (n % 250, 30_000 + n % 20_000);
    format!(
        r#"<38>1 2026-11-21T09:05:07Z bastion-{host} sshd 4711 - [meta@32473 sequence="{n}" site="fra-1" image="debian-13"] {verb} for ada from 100.64.3.{ip} port {port} ssh2"#,
        host = n % 4
    )
}

fn access(n: usize) -> String {
    let (path, status) =
        if n.is_multiple_of(20) { ("/old-page", 404) } else { ("/api/v2/orders?page=3", 200) };
    format!(
        r#"<190>1 2026-11-21T09:05:07Z shop-1 nginx 4711 - [meta@32473 sequence="{n}"] 100.64.3.{} - - [21/Nov/2026:09:05:07 +0000] "GET {path} HTTP/1.1" {status} 5120 "-" "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0""#,
        n % 250
    )
}

fn logon(n: usize) -> String {
    format!(
        r#"{{"EventTime":"2026-11-21T09:05:07.123Z","EventID":4624,"Channel":"Security","Computer":"WS-042","TargetUserName":"ada","TargetDomainName":"CORP","LogonType":2,"IpAddress":"100.64.3.{}","LogonProcessName":"User32","AuthenticationPackageName":"Negotiate","RecordNumber":{n}}}"#,
        n % 250
    )
}
