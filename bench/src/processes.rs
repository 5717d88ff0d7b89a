//! What processes cost, from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Of one process, or of all with one name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// User and system time.
    pub cpu: Duration,
    /// Peak resident set, bytes; of the largest where there are several.
    pub peak_bytes: u64,
}

/// Costs by name of everything that runs on this machine and is part of the measurement.
pub fn costs() -> BTreeMap<String, Cost> {
    let mut costs = BTreeMap::new();
    let processes = fs::read_dir("/proc").expect("/proc");
    for process in processes.flatten() {
        let path = process.path();
        let Some(name) = fs::read(path.join("cmdline")).ok().and_then(|line| name_of(&line)) else {
            continue;
        };
        let (Some(cpu), Some(peak_bytes)) = (
            fs::read_to_string(path.join("stat")).ok().and_then(|stat| cpu_of(&stat)),
            fs::read_to_string(path.join("status")).ok().and_then(|status| peak_of(&status)),
        ) else {
            continue;
        };
        let cost: &mut Cost = costs.entry(name).or_default();
        cost.cpu += cpu;
        cost.peak_bytes = cost.peak_bytes.max(peak_bytes);
    }
    costs
}

fn name_of(command_line: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(command_line);
    let mut arguments = text.split('\0');
    let program = arguments.next()?.rsplit('/').next()?;
    if program.starts_with("tidewatch-") && program != "tidewatch-bench" {
        return Some(program.to_owned());
    }
    if program == "java" && arguments.any(|argument| argument == "kafka.Kafka") {
        return Some("kafka".to_owned());
    }
    program.starts_with("postgres").then(|| "postgres".to_owned())
}

/// Fields 14 and 15 of /proc/pid/stat, counted after the parenthesised name; ticks of 10 ms.
fn cpu_of(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
