//! Metrics of the process itself, read from /proc when they are asked for. The names are the ones that Prometheus'
//! client libraries use, so that ready-made dashboards find them.

use std::fmt::Write;
use std::fs;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Declaration, Kind};

const fn declare(name: &'static str, kind: Kind, unit: &'static str, meaning: &'static str) -> Declaration {
    Declaration { name, kind, unit, labels: &[], buckets: &[], meaning }
}

const CPU: Declaration = declare(
    "process_cpu_seconds_total",
    Kind::Counter,
    "seconds",
    "Processor time used, in user and system mode.",
);
const RESIDENT: Declaration =
    declare("process_resident_memory_bytes", Kind::Gauge, "bytes", "Memory resident in RAM.");
const OPEN_FDS: Declaration =
    declare("process_open_fds", Kind::Gauge, "files", "Open file descriptors: sockets, files, pipes.");
const THREADS: Declaration = declare("process_threads", Kind::Gauge, "threads", "Threads.");
const START: Declaration = declare(
    "process_start_time_seconds",
    Kind::Gauge,
    "seconds",
    "When the process started, in seconds since 1970.",
);

pub(super) const DECLARED: &[Declaration] = &[CPU, RESIDENT, OPEN_FDS, THREADS, START];

/// USER_HZ, the unit of times in /proc: 100 on every architecture that Rust's Linux targets have.
const TICKS_PER_SECOND: f64 = 100.0;

static STARTED: LazyLock<Started> =
    LazyLock::new(|| Started { wall: SystemTime::now(), monotonic: Instant::now() });

struct Started {
    wall: SystemTime,
    monotonic: Instant,
}

/// Time since the first call, which is made when the process starts.
pub(super) fn uptime() -> Duration {
    STARTED.monotonic.elapsed()
}

/// Appends what /proc tells; what it does not is left out.
pub(super) fn render(text: &mut String) {
    let mut put = |declared: &Declaration, value: Option<f64>| {
        let Some(value) = value else { return };
        let Declaration { name, kind, meaning, .. } = declared;
        let _ = write!(text, "# HELP {name} {meaning}\n# TYPE {name} {}\n{name} {value}\n\n", kind.name());
    };
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    put(&CPU, cpu_seconds(&stat));
    put(&RESIDENT, status_field(&status, "VmRSS:").map(|kilobytes| kilobytes * 1024.0));
    // The listing's own descriptor is one of those counted.
    put(&OPEN_FDS, fs::read_dir("/proc/self/fd").ok().map(|files| files.count().saturating_sub(1) as f64));
    put(&THREADS, status_field(&status, "Threads:"));
    put(&START, STARTED.wall.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64()));
}

/// utime + stime, the 14th and 15th field of proc(5)'s stat.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let user: f64 = stat_field(stat, 14)?;
    let system: f64 = stat_field(stat, 15)?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// A field by its number in proc(5). The second one, the program's name, may hold spaces and parentheses.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(number.checked_sub(3)?)?.parse().ok()
}

fn status_field(status: &str, name: &str) -> Option<f64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_name_with_spaces_and_parentheses() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 99 0 0 0 250 50 0 0 20 0 1 0 1 1 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
    }

    #[test]
    fn a_live_process_has_all_of_them() {
        let mut text = String::new();
        render(&mut text);
        for declared in DECLARED {
            let line = text.lines().find(|line| line.starts_with(&format!("{} ", declared.name))).unwrap();
            let value: f64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
            assert!(value >= 0.0 && (value > 0.0 || declared.name == CPU.name), "{line}");
        }
    }
}
