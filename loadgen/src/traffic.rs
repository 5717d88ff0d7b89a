//! What `run` sends: mostly benign events of some 270 bytes, in the formats that shippers send.
//!
//! Nothing in here should fire a rule: failed logins and missing pages come one by one from ever other addresses.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};

use crate::cli::Kind;
use crate::template::{Stamp, Template};

/// Templates of each kind: enough for variety, few enough to stay in the cache.
const VARIANTS: usize = 64;

const USERS: &[&str] =
    &["ada", "grace", "linus", "margaret", "ken", "barbara", "dennis", "radia", "svc-backup", "deploy"];
const HOSTS: &[&str] =
    &["web-01", "web-02", "db-01", "bastion", "gw-eu-1", "build-07", "files-02", "mail-01"];
const PATHS: &[&str] = &[
    "/",
    "/index.html",
    "/api/v2/orders",
    "/api/v2/customers/4711",
    "/static/app.3f9c.js",
    "/static/site.css",
    "/images/logo.svg",
    "/search?q=harbour",
    "/login",
    "/healthz",
    "/docs/getting-started",
    "/favicon.ico",
];
const AGENTS: &[&str] = &[
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36",
    "curl/8.5.0",
    "okhttp/4.12.0",
];
const PROGRAMS: &[&str] = &[
    "C:\\\\Windows\\\\System32\\\\svchost.exe",
    "C:\\\\Windows\\\\explorer.exe",
    "C:\\\\Program Files\\\\Mozilla Firefox\\\\firefox.exe",
    "C:\\\\Windows\\\\System32\\\\taskhostw.exe",
];

/// How events are laid out in what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Every event a JSON object: a push of `application/x-ndjson`.
    Json,
    /// Every event a syslog line, RFC 5424: a push of `text/plain`, or frames.
    Syslog,
}

/// Makes events. The events of a push depend on the seed and its first number alone.
#[derive(Debug)]
pub struct Traffic {
    seed: u64,
    json: Vec<Template>,
    syslog: Vec<Template>,
    /// Pushes of text among a hundred.
    text_share: u64,
}

impl Traffic {
    /// Traffic of the run `run` in the formats `mix`.
    pub fn new(run: &str, seed: u64, mix: &[Kind]) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut json, mut syslog) = (Vec::new(), Vec::new());
        for kind in mix {
            for _ in 0..VARIANTS {
                match kind {
                    Kind::Json => json.push(event(run, &mut rng)),
                    Kind::Windows => json.push(windows(run, &mut rng)),
                    Kind::Sshd => {
                        let message = sshd(&mut rng);
                        json.push(wrapped(run, "sshd", &message, &mut rng));
                        syslog.push(line(run, 38, "sshd", &message, &mut rng));
                    }
                    Kind::Access => {
                        let message = access(&mut rng);
                        json.push(wrapped(run, "nginx", &message, &mut rng));
                        syslog.push(line(run, 190, "nginx", &message, &mut rng));
                    }
                }
            }
        }
        // One push in five is of text, as long as there are lines to send.
        let lines = mix.iter().filter(|kind| matches!(kind, Kind::Sshd | Kind::Access)).count();
        let text_share = if lines == 0 { 0 } else { 20 };
        Self { seed, json, syslog, text_share }
    }

    /// The shape of the push that begins with event `first_seq`.
    pub fn shape(&self, first_seq: u64) -> Shape {
        if self.rng(first_seq).next_u64() % 100 < self.text_share { Shape::Syslog } else { Shape::Json }
    }

    /// Whether there is anything to send in `shape`.
    pub fn has(&self, shape: Shape) -> bool {
        !self.templates(shape).is_empty()
    }

    /// Calls `each` with every event of the push `first_seq .. first_seq + count`, appended to `out` one after the
    /// other; `each` puts what belongs around it.
    pub fn write(
        &self,
        shape: Shape,
        stamp: &Stamp,
        first_seq: u64,
        count: u64,
        out: &mut Vec<u8>,
        mut each: impl FnMut(&mut Vec<u8>, usize),
    ) {
        let templates = self.templates(shape);
        let mut rng = self.rng(first_seq);
        let _ = rng.next_u64();
        for seq in first_seq..first_seq + count {
            let random = rng.next_u64();
            let Some(template) = templates.get((random >> 32) as usize % templates.len().max(1)) else {
                return;
            };
            let start = out.len();
            template.write(stamp, seq, random, out);
            each(out, start);
        }
    }

    fn templates(&self, shape: Shape) -> &[Template] {
        match shape {
            Shape::Json => &self.json,
            Shape::Syslog => &self.syslog,
        }
    }

    fn rng(&self, first_seq: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ first_seq)
    }
}

fn pick<'a>(from: &[&'a str], rng: &mut StdRng) -> &'a str {
    from.choose(rng).copied().unwrap_or_default()
}

fn event(run: &str, rng: &mut StdRng) -> Template {
    let (user, host) = (pick(USERS, rng), pick(HOSTS, rng));
    let dst = rng.random_range(1..250);
    let tail = format!("\"run\":\"{run}\",\"seq\":$seq}}");
    Template::new(&match rng.random_range(0..10) {
        0..5 => format!(
            "{{\"time\":\"$time\",\"class_uid\":4001,\"activity_id\":6,\"severity_id\":1,\"host\":\"{host}\",\
             \"src_ip\":\"$ip\",\"src_port\":$port,\"dst_ip\":\"10.0.3.{dst}\",\"dst_port\":443,\
             \"message\":\"connection allowed by policy egress-web\",\"bytes_out\":{},{tail}",
            rng.random_range(200..90_000)
        ),
        5..7 => format!(
            "{{\"time\":\"$time\",\"class_uid\":3002,\"activity_id\":1,\"severity_id\":1,\"host\":\"{host}\",\
             \"user\":\"{user}\",\"src_ip\":\"$ip\",\"message\":\"user {user} signed in with a passkey\",\
             \"service\":\"sso\",\"mfa\":true,\"session_minutes\":{},{tail}",
            rng.random_range(5..600)
        ),
        7..9 => format!(
            "{{\"time\":\"$time\",\"class_uid\":1007,\"activity_id\":1,\"severity_id\":1,\"host\":\"{host}\",\
             \"user\":\"{user}\",\"message\":\"process started: /usr/bin/rsync --archive /srv /backup\",\
             \"pid\":{},\"parent\":\"/usr/lib/systemd/systemd\",{tail}",
            rng.random_range(300..60_000)
        ),
        _ => format!(
            "{{\"time\":\"$time\",\"class_uid\":0,\"severity_id\":1,\"host\":\"{host}\",\"source_type\":\"billing\",\
             \"message\":\"invoice {} rendered and queued for delivery to the customer\",\
             \"duration_ms\":{},\"queue\":\"mail-out\",{tail}",
            rng.random_range(10_000..99_999),
            rng.random_range(3..900)
        ),
    })
}

fn windows(run: &str, rng: &mut StdRng) -> Template {
    let (user, host) = (pick(USERS, rng), format!("WS-{:03}", rng.random_range(1..400)));
    Template::new(&if rng.random_bool(0.5) {
        format!(
            "{{\"EventTime\":\"$time\",\"EventID\":4624,\"Channel\":\"Security\",\"Computer\":\"{host}\",\
             \"TargetUserName\":\"{user}\",\"LogonType\":2,\"IpAddress\":\"$ip\",\
             \"LogonProcessName\":\"User32\",\"AuthenticationPackageName\":\"Negotiate\",\
             \"run\":\"{run}\",\"seq\":$seq}}"
        )
    } else {
        let program = pick(PROGRAMS, rng);
        format!(
            "{{\"EventTime\":\"$time\",\"EventID\":4688,\"Channel\":\"Security\",\"Computer\":\"{host}\",\
             \"SubjectUserName\":\"{user}\",\"NewProcessName\":\"{program}\",\
             \"ParentProcessName\":\"C:\\\\Windows\\\\System32\\\\services.exe\",\
             \"run\":\"{run}\",\"seq\":$seq}}"
        )
    })
}

/// A line as a shipper wraps it.
fn wrapped(run: &str, app: &str, message: &str, rng: &mut StdRng) -> Template {
    let host = pick(HOSTS, rng);
    let message = message.replace('\\', "\\\\").replace('"', "\\\"");
    Template::new(&format!(
        "{{\"@timestamp\":\"$time\",\"host\":\"{host}\",\"app\":\"{app}\",\"message\":\"{message}\",\
         \"agent\":{{\"name\":\"shipper\",\"version\":\"8.15.0\"}},\"run\":\"{run}\",\"seq\":$seq}}"
    ))
}

/// A line of RFC 5424. 32473 is the enterprise number for examples (RFC 5612).
fn line(run: &str, priority: u8, app: &str, message: &str, rng: &mut StdRng) -> Template {
    let (host, pid) = (pick(HOSTS, rng), rng.random_range(300..60_000));
    Template::new(&format!(
        "<{priority}>1 $time {host} {app} {pid} - [loadgen@32473 run=\"{run}\" seq=\"$seq\"] {message}"
    ))
}

fn sshd(rng: &mut StdRng) -> String {
    let user = pick(USERS, rng);
    match rng.random_range(0..64) {
        0 => format!("Failed password for {user} from $ip port $port ssh2"),
        1..24 => format!(
            "Accepted publickey for {user} from $ip port $port ssh2: ED25519 \
             SHA256:{:016x}{:016x}9bQ0cVdY",
            rng.next_u64(),
            rng.next_u64()
        ),
        24..44 => {
            format!("pam_unix(sshd:session): session opened for user {user}(uid=1000) by {user}(uid=0)")
        }
        44..54 => format!("Disconnected from user {user} $ip port $port"),
        _ => "Connection closed by $ip port $port [preauth]".to_owned(),
    }
}

fn access(rng: &mut StdRng) -> String {
    let (path, agent) = (pick(PATHS, rng), pick(AGENTS, rng));
    let status = match rng.random_range(0..64) {
        0 => 404,
        1..5 => 304,
        _ => 200,
    };
    format!(
        "$ip - - [$clf] \"GET {path} HTTP/1.1\" {status} {} \"https://shop.example/\" \"{agent}\"",
        rng.random_range(150..80_000)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Kind; 4] = [Kind::Json, Kind::Sshd, Kind::Access, Kind::Windows];

    fn events(traffic: &Traffic, shape: Shape, first: u64, count: u64) -> Vec<String> {
        let stamp = Stamp::new("2026-11-21T09:05:07Z".parse().unwrap());
        let (mut out, mut starts) = (Vec::new(), Vec::new());
        traffic.write(shape, &stamp, first, count, &mut out, |_, start| starts.push(start));
        starts.push(out.len());
        starts.windows(2).map(|pair| String::from_utf8(out[pair[0]..pair[1]].to_vec()).unwrap()).collect()
    }

    #[test]
    fn json_events_are_json_with_their_run_and_number() {
        let traffic = Traffic::new("r1", 1, &ALL);
        for (seq, event) in (10..).zip(events(&traffic, Shape::Json, 10, 2_000)) {
            let event: serde_json::Value =
                serde_json::from_str(&event).unwrap_or_else(|e| panic!("{e}: {event}"));
            assert_eq!(event["run"], "r1");
            assert_eq!(event["seq"], seq);
        }
    }

    #[test]
    fn syslog_lines_carry_their_run_and_number() {
        let traffic = Traffic::new("r1", 1, &ALL);
        for (seq, line) in (7..).zip(events(&traffic, Shape::Syslog, 7, 500)) {
            assert!(line.starts_with('<') && line.contains(&format!("run=\"r1\" seq=\"{seq}\"] ")), "{line}");
        }
    }

    #[test]
    fn events_are_some_270_bytes() {
        let traffic = Traffic::new("0123456789abcdef", 1, &ALL);
        for shape in [Shape::Json, Shape::Syslog] {
            let events = events(&traffic, shape, 1_000_000, 5_000);
            let mean = events.iter().map(String::len).sum::<usize>() / events.len();
            assert!((200..300).contains(&mean), "{shape:?}: {mean}");
        }
    }

    #[test]
    fn the_seed_decides_everything_but_the_time() {
        let (one, same, other) =
            (Traffic::new("r", 1, &ALL), Traffic::new("r", 1, &ALL), Traffic::new("r", 2, &ALL));
        assert_eq!(events(&one, Shape::Json, 500, 50), events(&same, Shape::Json, 500, 50));
        assert_ne!(events(&one, Shape::Json, 500, 50), events(&other, Shape::Json, 500, 50));
        assert_eq!(one.shape(500), same.shape(500));
    }

    #[test]
    fn a_mix_without_lines_has_no_text_pushes() {
        let traffic = Traffic::new("r", 1, &[Kind::Json]);
        assert!((0..1000).all(|n| traffic.shape(n * 500) == Shape::Json) && !traffic.has(Shape::Syslog));
        let traffic = Traffic::new("r", 1, &ALL);
        let text = (0..1000).filter(|n| traffic.shape(n * 500) == Shape::Syslog).count();
        assert!((100..300).contains(&text), "{text}");
    }
}
