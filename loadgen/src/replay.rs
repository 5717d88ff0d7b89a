//! `replay`: a file of lines, its times rebased to now.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use crate::cli::{ReplayArgs, Speed};
use crate::client::Connection;
use crate::progress::Progress;
use crate::push::{Push, Pusher};
use crate::report::Report;
use crate::stamp::Stamp;

/// Largest body of a push, well below what ingest takes.
const MAX_BODY_BYTES: usize = 4 << 20;

/// Sends the lines of a file.
///
/// # Errors
/// A file that cannot be read, no token, or a journal that cannot be written.
pub async fn run(args: ReplayArgs, pusher: Arc<Pusher>) -> anyhow::Result<Report> {
    pusher.tokens()?;
    let now = Timestamp::now();
    let span = if args.keep_times { Span::default() } else { Span::of(&args.file, now)? };
    let _progress = Progress::show(Arc::clone(&pusher), Some(span.lines).filter(|lines| *lines > 0));
    let mut sender = Sender {
        connection: pusher.connection(),
        pusher: &pusher,
        args: &args,
        lines: Vec::new(),
        bytes: 0,
        json: false,
        seq: 0,
        started: Instant::now(),
    };
    for line in open(&args.file)?.split(b'\n') {
        let line = line.with_context(|| format!("cannot read {}", args.file.display()))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let Some((line, due)) = rebased(line, &span, args.speed, now) else { continue };
        let pause = due.map_or(SignedDuration::ZERO, |due| due.duration_since(Timestamp::now()));
        if pause.is_positive() {
            // Nothing that is due waits for what is not.
            sender.flush().await?;
            tokio::time::sleep(pause.unsigned_abs()).await;
        }
        sender.add(line).await?;
    }
    sender.flush().await?;
    Ok(pusher.stats.report(&pusher.run))
}

fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        anyhow::ensure!(!std::io::stdin().is_terminal(), "stdin is a terminal: redirect a file into it");
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Box::new(BufReader::with_capacity(1 << 20, file)))
}

/// The first and last time in a file.
#[derive(Debug, Default, Clone, Copy)]
struct Span {
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    lines: u64,
}

impl Span {
    fn of(path: &Path, now: Timestamp) -> anyhow::Result<Self> {
        anyhow::ensure!(
            path != Path::new("-"),
            "stdin is read once: rebasing needs a file, or pass --keep-times"
        );
        let mut span = Self::default();
        for line in open(path)?.split(b'\n') {
            let line = line.with_context(|| format!("cannot read {}", path.display()))?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            span.lines += 1;
            let Some(at) =
                std::str::from_utf8(&line).ok().and_then(|line| Stamp::find(line, now)).map(|stamp| stamp.at)
            else {
                continue;
            };
            span.first = Some(span.first.map_or(at, |first| first.min(at)));
            span.last = Some(span.last.map_or(at, |last| last.max(at)));
        }
        Ok(span)
    }
}

/// The line with its new time, and when it is due. A line without a time is due with the one before it.
fn rebased(
    line: Vec<u8>,
    span: &Span,
    speed: Speed,
    started: Timestamp,
) -> Option<(Vec<u8>, Option<Timestamp>)> {
    let (Some(first), Some(last)) = (span.first, span.last) else { return Some((line, None)) };
    let found = std::str::from_utf8(&line).ok().and_then(|text| Some((Stamp::find(text, started)?, text)));
    let Some((stamp, text)) = found else { return Some((line, None)) };
    let (at, due) = match speed {
        Speed::Max => (started.checked_sub(last.duration_since(stamp.at)).ok()?, None),
        Speed::Factor(factor) => {
            let since = stamp.at.duration_since(first).as_secs_f64() / factor;
            let at = started.checked_add(SignedDuration::try_from_secs_f64(since).ok()?).ok()?;
            (at, Some(at))
        }
    };
    Some((stamp.replaced(text, at).into_bytes(), due))
}

/// Lines on their way into a push.
struct Sender<'a> {
    connection: Connection,
    pusher: &'a Pusher,
    args: &'a ReplayArgs,
    lines: Vec<Vec<u8>>,
    bytes: usize,
    json: bool,
    seq: u64,
    started: Instant,
}

impl Sender<'_> {
    async fn add(&mut self, line: Vec<u8>) -> anyhow::Result<()> {
        let json = line.trim_ascii_start().first() == Some(&b'{');
        let full = self.lines.len() >= self.args.batch.get() || self.bytes + line.len() > MAX_BODY_BYTES;
        // A push has one content type, and the lines keep their order.
        if full || json != self.json {
            self.flush().await?;
        }
        self.json = json;
        self.bytes += line.len() + 1;
        self.lines.push(line);
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let count = self.lines.len() as u64;
        let push = Push {
            path: if self.args.findings { "/v1/findings" } else { "/v1/events" },
            content_type: if self.json || self.args.findings { "application/x-ndjson" } else { "text/plain" },
            sender: self.args.sender.clone(),
            token: 0,
            body: Bytes::from(self.lines.join(&b'\n')),
            first_seq: self.seq,
            count,
        };
        if let Some(rate) = self.args.rate {
            // What was late is made up for.
            let due = self.started + Duration::from_secs_f64(self.seq as f64 / rate.get() as f64);
            tokio::time::sleep_until(due.into()).await;
        }
        self.seq += count;
        self.lines.clear();
        self.bytes = 0;
        self.pusher.push(&mut self.connection, push).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replayed(lines: &[&str], speed: Speed) -> Vec<(String, Option<String>)> {
        let started: Timestamp = "2026-11-21T09:00:00Z".parse().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        let span = Span::of(file.path(), started).unwrap();
        assert_eq!(span.lines, lines.len() as u64);
        lines
            .iter()
            .map(|line| rebased(line.as_bytes().to_vec(), &span, speed, started).unwrap())
            .map(|(line, due)| (String::from_utf8(line).unwrap(), due.map(|due| due.to_string())))
            .collect()
    }

    const LINES: [&str; 3] = ["2024-01-01T00:00:00Z a", "no time", "2024-01-01T00:01:00Z b"];

    #[test]
    fn at_full_speed_the_last_event_is_now() {
        let replayed = replayed(&LINES, Speed::Max);
        assert_eq!(replayed[0], ("2026-11-21T08:59:00Z a".to_owned(), None));
        assert_eq!(replayed[1], ("no time".to_owned(), None));
        assert_eq!(replayed[2], ("2026-11-21T09:00:00Z b".to_owned(), None));
    }

    #[test]
    fn a_factor_shortens_the_time_between_events() {
        let replayed = replayed(&LINES, Speed::Factor(6.0));
        assert_eq!(
            replayed[0],
            ("2026-11-21T09:00:00Z a".to_owned(), Some("2026-11-21T09:00:00Z".to_owned()))
        );
        assert_eq!(
            replayed[2],
            ("2026-11-21T09:00:10Z b".to_owned(), Some("2026-11-21T09:00:10Z".to_owned()))
        );
    }
}
