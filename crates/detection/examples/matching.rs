//! Events a second and core of matching alone, and of parsing the same JSON alone as the floor:
//! `cargo run --release -p tidewatch-detection --example matching -- rules` or, with rules of SigmaHQ, the folders of those
//! instead. Prints one line for each mix of events.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::indexing_slicing, reason = "prints for people")]

use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use normalise::Input;
use schemas::{Event, Micros};
use serde_json::{Value, json};
use tidewatch_detection::{Rules, Subject, Taxonomy, load};

/// Different events of a mix.
const DIFFERENT: usize = 2_000;
/// Time that each figure is measured for, the best of three.
const MEASURED: Duration = Duration::from_millis(1_500);
/// Bytes of a raw Windows event, about.
const WINDOWS_BYTES: usize = 2_500;

fn main() {
    let directories: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let taxonomy = Taxonomy::shipped().unwrap();
    let scratch = std::env::temp_dir().join(format!("tidewatch-matching-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).unwrap();
    for (number, directory) in directories.iter().enumerate() {
        let target = directory.canonicalize().unwrap();
        std::os::unix::fs::symlink(target, scratch.join(number.to_string())).unwrap();
    }
    let started = Instant::now();
    let loaded = load(&scratch, &taxonomy, None).unwrap();
    std::fs::remove_dir_all(&scratch).unwrap();
    let rules = loaded.rules;
    println!(
        "{} detections, {} correlations, {} refused, loaded in {:.1?}",
        rules.detections().len(),
        rules.correlations().len(),
        loaded.defects.len(),
        started.elapsed()
    );
    println!(
        "{:24} {:>7} {:>12} {:>12} {:>12} {:>8}",
        "events", "bytes", "parse/s", "normalise/s", "match/s", "hits"
    );
    report(&rules, "Windows, mixed", &raw(windows));
    report(&rules, "Windows, process creation", &raw(|n| process(n, false)));
    report(&rules, "Linux and web lines", &raw(line));
}

fn raw(make: impl Fn(usize) -> String) -> Vec<String> {
    (0..DIFFERENT).map(make).collect()
}

fn report(rules: &Rules, name: &str, raw: &[String]) {
    let received_at = Micros(1_790_000_000_000_000);
    let input = |line: &'static str| Input {
        bytes: line.as_bytes(),
        format: "text",
        org: "demo",
        received_at,
        index: 0,
        event_uid: None,
    };
    let lines: Vec<&'static str> = raw.iter().map(|line| &*line.clone().leak()).collect();
    let bytes: usize = lines.iter().map(|line| line.len()).sum::<usize>() / lines.len();
    let parse = rate(&lines, |line| {
        if line.starts_with('{') {
            black_box(serde_json::from_str::<Value>(line).unwrap());
        }
    });
    let normalise = rate(&lines, |line| drop(black_box(normalise::event(&input(line)).unwrap())));
    let events: Vec<Event<'_>> = lines.iter().map(|line| normalise::event(&input(line)).unwrap()).collect();
    let hits = |event: &Event<'_>| {
        let view = rules.view(Subject::Event(event));
        rules.matching(&view).count()
    };
    let matched = rate(&events, |event| {
        black_box(hits(event));
    });
    let hits: usize = events.iter().map(hits).sum();
    println!("{name:24} {bytes:>7} {parse:>12.0} {normalise:>12.0} {matched:>12.0} {hits:>8}");
}

/// The best of three.
fn rate<T>(items: &[T], mut each: impl FnMut(&T)) -> f64 {
    let mut once = || {
        let started = Instant::now();
        let mut rounds = 0u32;
        while started.elapsed() < MEASURED {
            items.iter().for_each(&mut each);
            rounds += 1;
        }
        f64::from(rounds) * items.len() as f64 / started.elapsed().as_secs_f64()
    };
    (0..3).map(|_| once()).fold(0.0, f64::max)
}

const IMAGES: [&str; 8] = [
    "C:\\Windows\\System32\\svchost.exe",
    "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
    "C:\\Windows\\System32\\WindowsPowerShell\\v1.0\\powershell.exe",
    "C:\\Windows\\System32\\cmd.exe",
    "C:\\Windows\\explorer.exe",
    "C:\\Program Files\\Microsoft Office\\root\\Office16\\OUTLOOK.EXE",
    "C:\\Windows\\System32\\conhost.exe",
    "C:\\ProgramData\\Microsoft\\Windows Defender\\Platform\\4.18.2\\MsMpEng.exe",
];
const COMMANDS: [&str; 8] = [
    "C:\\Windows\\system32\\svchost.exe -k netsvcs -p -s Schedule",
    "\"C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe\" --type=renderer --lang=en-US --device-scale-factor=1",
    "powershell.exe -NoProfile -File C:\\Scripts\\inventory.ps1 -Verbose",
    "C:\\Windows\\system32\\cmd.exe /c \"dir C:\\Users\\ada\\Documents > C:\\Temp\\list.txt\"",
    "C:\\Windows\\Explorer.EXE",
    "\"C:\\Program Files\\Microsoft Office\\root\\Office16\\OUTLOOK.EXE\" /recycle",
    "\\??\\C:\\Windows\\system32\\conhost.exe 0xffffffff -ForceV1",
    "\"C:\\ProgramData\\Microsoft\\Windows Defender\\Platform\\4.18.2\\MsMpEng.exe\"",
];

/// As a collector sends it, filled up with the text that it renders.
fn finished(mut event: Value) -> String {
    let fields: Vec<String> =
        event.as_object().unwrap().iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let mut message = fields.join("\r\n");
    let size = event.to_string().len();
    while size + message.len() + 40 < WINDOWS_BYTES {
        message.push_str("\r\nThe description of this event was rendered by the machine that it came from. ");
    }
    event["Message"] = message.into();
    event.to_string()
}

fn common(n: usize, channel: &str, id: u32) -> Value {
    json!({
        "EventTime": format!("2026-09-21T14:13:{:02}.{:03}Z", n % 60, n % 1_000), "Channel": channel, "EventID": id,
        "Computer": format!("WS-{:03}.corp.example.com", n % 200), "EventRecordID": 100_000 + n, "Level": 4, "Task": id, "Opcode": 0,
        "Keywords": "0x8000000000000000", "ExecutionProcessID": 3100, "ExecutionThreadID": 4200 + n % 50,
        "UtcTime": format!("2026-09-21 14:13:{:02}.{:03}", n % 60, n % 1_000), "RuleName": "-",
        "ProcessGuid": format!("{{6f1a2b3c-{:04x}-65f0-0b00-00000000{:04x}}}", n % 65_536, n % 65_536), "ProcessId": 1_000 + n % 9_000,
    })
}

fn with(mut event: Value, more: Value) -> String {
    if let (Value::Object(event), Value::Object(more)) = (&mut event, more) {
        event.extend(more);
    }
    finished(event)
}

const SYSMON: &str = "Microsoft-Windows-Sysmon/Operational";

fn process(n: usize, security: bool) -> String {
    let (image, command, parent) = (IMAGES[n % 8], COMMANDS[n % 8], IMAGES[(n / 8) % 8]);
    if security {
        return with(
            common(n, "Security", 4688),
            json!({
                "NewProcessName": image, "CommandLine": command, "ParentProcessName": parent, "SubjectUserName": "ada",
                "SubjectDomainName": "CORP", "TokenElevationType": "%%1936", "MandatoryLabel": "S-1-16-8192",
            }),
        );
    }
    with(
        common(n, SYSMON, 1),
        json!({
            "Image": image, "CommandLine": format!("{command} {n}"), "CurrentDirectory": "C:\\Windows\\system32\\", "User": "CORP\\ada",
            "LogonGuid": "{6f1a2b3c-0a1b-65f0-e703-000000000000}", "LogonId": "0x3e7", "TerminalSessionId": 1, "IntegrityLevel": "Medium",
            "FileVersion": "10.0.19041.1", "Description": "Host process", "Product": "Operating system", "Company": "Example",
            "OriginalFileName": image.rsplit('\\').next().unwrap(),
            "Hashes": format!("SHA1={n:040x},MD5={n:032x},SHA256={n:064x},IMPHASH={:032x}", n % 97),
            "ParentProcessGuid": "{6f1a2b3c-0a1b-65f0-0a00-000000000a00}", "ParentProcessId": 800, "ParentImage": parent,
            "ParentCommandLine": COMMANDS[(n / 8) % 8], "ParentUser": "NT AUTHORITY\\SYSTEM",
        }),
    )
}

/// What a fleet of workstations sends: mostly Sysmon and Security, a tenth of it new processes.
fn windows(n: usize) -> String {
    let image = IMAGES[(n * 7) % 8];
    match n % 20 {
        0 => process(n, false),
        1 => process(n, true),
        2..=4 => with(
            common(n, SYSMON, 3),
            json!({
                "Image": image, "User": "CORP\\ada", "Protocol": "tcp", "Initiated": "true", "SourceIp": "192.0.2.77", "SourcePort": 50_000 + n % 9_000,
                "DestinationIp": "198.51.100.7", "DestinationPort": 443, "DestinationHostname": format!("h{n}.example.com"),
            }),
        ),
        5..=8 => with(
            common(n, SYSMON, 7),
            json!({
                "Image": image, "ImageLoaded": format!("C:\\Windows\\System32\\lib{}.dll", n % 90), "Signed": "true", "SignatureStatus": "Valid",
                "Signature": "Example Publisher", "Hashes": format!("SHA256={n:064x}"), "User": "CORP\\ada",
            }),
        ),
        9..=10 => with(
            common(n, SYSMON, 10),
            json!({
                "SourceImage": image, "TargetImage": "C:\\Windows\\System32\\services.exe", "GrantedAccess": "0x1000",
                "CallTrace": "C:\\Windows\\SYSTEM32\\ntdll.dll+9d4c4|C:\\Windows\\System32\\KERNELBASE.dll+2c13e", "SourceUser": "CORP\\ada",
            }),
        ),
        11..=12 => with(
            common(n, SYSMON, 11),
            json!({
                "Image": image, "TargetFilename": format!("C:\\Users\\ada\\AppData\\Local\\Cache\\f_{n}"), "User": "CORP\\ada",
            }),
        ),
        13..=15 => with(
            common(n, SYSMON, 13),
            json!({
                "EventType": "SetValue", "Image": image, "TargetObject": format!("HKLM\\System\\CurrentControlSet\\Services\\bam\\State\\{n}"),
                "Details": "Binary Data", "User": "NT AUTHORITY\\SYSTEM",
            }),
        ),
        16 => with(
            common(n, SYSMON, 22),
            json!({
                "Image": image, "QueryName": format!("h{n}.example.com"), "QueryStatus": "0", "QueryResults": "198.51.100.7;", "User": "CORP\\ada",
            }),
        ),
        17 => with(
            common(n, "Security", 4624),
            json!({
                "TargetUserName": "ada", "TargetDomainName": "CORP", "LogonType": 3, "IpAddress": "192.0.2.77", "IpPort": "50123",
                "LogonProcessName": "Kerberos", "AuthenticationPackageName": "Kerberos", "WorkstationName": "WS-001",
            }),
        ),
        18 => with(
            common(n, "Security", 4663),
            json!({
                "SubjectUserName": "ada", "ObjectServer": "Security", "ObjectType": "File", "ObjectName": "C:\\Data\\plan.xlsx",
                "AccessList": "%%4416", "AccessMask": "0x1", "ProcessName": image,
            }),
        ),
        _ => with(
            common(n, "Microsoft-Windows-PowerShell/Operational", 4104),
            json!({
                "MessageNumber": 1, "MessageTotal": 1, "Path": "C:\\Scripts\\inventory.ps1",
                "ScriptBlockText": "Get-CimInstance Win32_OperatingSystem | Select-Object Caption, Version | Export-Csv C:\\Temp\\os.csv",
            }),
        ),
    }
}

/// Some 150 to 300 bytes.
fn line(n: usize) -> String {
    match n % 4 {
        0 => format!("<38>1 2026-09-21T14:13:20Z bastion-{} sshd {n} - - Accepted publickey for ada from 198.51.100.7 port {} ssh2: ED25519 SHA256:{n:043}", n % 9, 40_000 + n % 9_000),
        1 => format!("192.0.2.{} - - [21/Sep/2026:14:13:20 +0000] \"GET /shop/item/{n}?ref=list&page={} HTTP/1.1\" 200 {} \"https://shop.example.com/list\" \"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36\"", n % 250, n % 7, 500 + n),
        2 => json!({"time": "2026-09-21T14:13:20Z", "class_uid": 4001, "src_ip": "100.64.1.2", "dst_ip": "10.0.3.4", "dst_port": 443, "host": format!("fw-{}", n % 5), "message": "allowed", "bytes_out": n, "rule": "default-out", "zone": "office", "interface": "eth1"}).to_string(),
        _ => format!("<85>1 2026-09-21T14:13:20Z web-{} sudo - - -     ada : TTY=pts/0 ; PWD=/home/ada ; USER=root ; COMMAND=/usr/bin/systemctl status unit-{n}.service --no-pager", n % 9),
    }
}
