//! Events from a file or stdin, a bounded batch at a time.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use detection::without_mark;
use normalise::MAX_EVENT_BYTES;

/// Events in a batch, as in a raw record of production.
const BATCH_EVENTS: usize = 500;

/// Bytes after which a batch is closed.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// What a line of the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Shape {
    /// A JSON object.
    #[default]
    Jsonl,
    /// A line of a log file.
    Log,
}

impl Shape {
    /// The hint that normalising gets.
    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::Jsonl => "json",
            Self::Log => "text",
        }
    }
}

/// A line that holds an event.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// Ordinal among the events of the file, from 0.
    pub index: u64,
    /// Line in the file, from 1.
    pub number: u64,
    /// Without its end. Cut off one byte past the largest event, so that it is still seen to be too large.
    pub bytes: &'a [u8],
}

/// Some events in a row.
#[derive(Debug, Default)]
pub struct Batch {
    buffer: Vec<u8>,
    lines: Vec<(u64, Range<usize>)>,
    first: u64,
}

impl Batch {
    /// The events of `lines`, the first of which is number 0.
    pub fn of<'l>(lines: impl IntoIterator<Item = &'l [u8]>) -> Self {
        let mut batch = Self::default();
        for (line, number) in lines.into_iter().zip(1u64..) {
            let start = batch.buffer.len();
            batch.buffer.extend_from_slice(line);
            batch.lines.push((number, start..batch.buffer.len()));
        }
        batch
    }

    /// Its events.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        (self.first..).zip(&self.lines).map(|(index, (number, range))| Line {
            index,
            number: *number,
            bytes: self.buffer.get(range.clone()).unwrap_or_default(),
        })
    }
}

/// Reads events. Blank lines are none.
pub struct Events {
    input: Box<dyn BufRead>,
    path: PathBuf,
    bytes: Option<u64>,
    read: u64,
    index: u64,
    number: u64,
}

impl Events {
    /// Opens `path`; `-` is stdin.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::new(Box::new(BufReader::new(io::stdin())), Path::new("stdin"), None));
        }
        let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let metadata = file.metadata().with_context(|| format!("{} cannot be read", path.display()))?;
        anyhow::ensure!(!metadata.is_dir(), "{} is a directory; give a file of events", path.display());
        let bytes = metadata.is_file().then_some(metadata.len());
        Ok(Self::new(Box::new(BufReader::with_capacity(256 * 1024, file)), path, bytes))
    }

    fn new(input: Box<dyn BufRead>, path: &Path, bytes: Option<u64>) -> Self {
        Self { input, path: path.to_owned(), bytes, read: 0, index: 0, number: 0 }
    }

    /// Where the events come from, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file, where it has one.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Bytes read so far.
    pub fn bytes_read(&self) -> u64 {
        self.read
    }

    /// Events read so far.
    pub fn events_read(&self) -> u64 {
        self.index
    }

    /// Fills `batch` with the next events; false at the end.
    ///
    /// # Errors
    /// The file cannot be read on.
    pub fn next_batch(&mut self, batch: &mut Batch) -> anyhow::Result<bool> {
        batch.buffer.clear();
        batch.lines.clear();
        batch.first = self.index;
        while batch.lines.len() < BATCH_EVENTS && batch.buffer.len() < BATCH_BYTES {
            let start = batch.buffer.len();
            let more = self
                .read_line(&mut batch.buffer)
                .with_context(|| format!("{}:{} cannot be read", self.path.display(), self.number + 1))?;
            if !more {
                break;
            }
            self.number += 1;
            if batch.buffer.get(start..).unwrap_or_default().iter().all(u8::is_ascii_whitespace) {
                batch.buffer.truncate(start);
                continue;
            }
            batch.lines.push((self.number, start..batch.buffer.len()));
            self.index += 1;
        }
        Ok(!batch.lines.is_empty())
    }

    /// Appends the next line without its end, no more of it than an event may have and one byte; false at the end.
    fn read_line(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let start = buffer.len();
        let first = self.read == 0;
        let mut any = false;
        loop {
            let chunk = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                chunk => chunk?,
            };
            if chunk.is_empty() {
                break;
            }
            any = true;
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let text = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
            let room = (MAX_EVENT_BYTES + 1).saturating_sub(buffer.len() - start);
            buffer.extend_from_slice(text.get(..room.min(text.len())).unwrap_or_default());
            let used = end.map_or(chunk.len(), |end| end + 1);
            self.read += used as u64;
            self.input.consume(used);
            if end.is_some() {
                break;
            }
        }
        if first {
            let line = buffer.get(start..).unwrap_or_default();
            let mark = line.len() - without_mark(line).len();
            buffer.drain(start..start + mark);
        }
        if buffer.len() > start && buffer.last() == Some(&b'\r') {
            buffer.pop();
        }
        Ok(any)
    }
}

/// Tells of lines that are not what they should be, the first few one by one.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    count: u64,
}

impl Complaints {
    const SHOWN: u64 = 10;

    /// What is wrong with `line`, if anything; counts it.
    pub(crate) fn about(&mut self, path: &Path, line: &Line<'_>, shape: Shape) -> Option<String> {
        let reason = if line.bytes.len() > MAX_EVENT_BYTES {
            format!("more than {MAX_EVENT_BYTES} bytes, which is rejected")
        } else if shape == Shape::Jsonl && !is_object(line.bytes) {
            "no JSON object; it is read as a line of text".to_owned()
        } else {
            return None;
        };
        self.count += 1;
        (self.count <= Self::SHOWN).then(|| format!("{}:{}: {reason}", path.display(), line.number))
    }

    /// What was not told one by one.
    pub(crate) fn rest(&self) -> Option<String> {
        let rest = self.count.checked_sub(Self::SHOWN).filter(|rest| *rest > 0)?;
        Some(format!("and {rest} more lines like these"))
    }
}

/// Looked at closely only where the ends do not already tell.
fn is_object(bytes: &[u8]) -> bool {
    let trimmed = bytes.trim_ascii();
    trimmed.starts_with(b"{")
        && trimmed.ends_with(b"}")
        && serde_json::from_slice::<serde::de::IgnoredAny>(trimmed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &'static [u8]) -> Vec<(u64, u64, Vec<u8>)> {
        let mut events = Events::new(Box::new(text), Path::new("x"), None);
        let mut batch = Batch::default();
        let mut all = Vec::new();
        while events.next_batch(&mut batch).unwrap() {
            all.extend(batch.lines().map(|line| (line.index, line.number, line.bytes.to_vec())));
        }
        all
    }

    #[test]
    fn events_are_counted_from_zero_and_lines_from_one() {
        let found = events(b"\xef\xbb\xbf{}\r\n\n  \na\nb");
        let expected: [(u64, u64, &[u8]); 3] = [(0, 1, b"{}"), (1, 4, b"a"), (2, 5, b"b")];
        assert_eq!(found, expected.map(|(index, number, line)| (index, number, line.to_vec())));
    }

    #[test]
    fn a_batch_ends_and_the_next_goes_on() {
        let text: &'static [u8] = "x\n".repeat(1_001).into_bytes().leak();
        let found = events(text);
        assert_eq!(found.len(), 1_001);
        assert_eq!((found[1_000].0, found[1_000].1), (1_000, 1_001));
    }

    #[test]
    fn a_line_without_end_takes_no_more_memory_than_an_event() {
        let text: &'static [u8] = vec![b'x'; 3 * MAX_EVENT_BYTES].leak();
        assert_eq!(events(text)[0].2.len(), MAX_EVENT_BYTES + 1);
    }

    #[test]
    fn lines_that_are_no_objects_are_told_of() {
        let mut complaints = Complaints::default();
        let mut about = |bytes: &[u8], shape| {
            complaints.about(Path::new("e.jsonl"), &Line { index: 0, number: 7, bytes }, shape)
        };
        assert_eq!(about(b" {\"a\": 1} ", Shape::Jsonl), None);
        assert_eq!(about(b"{\"a\": 1", Shape::Log), None);
        assert!(about(b"{\"a\": 1", Shape::Jsonl).unwrap().starts_with("e.jsonl:7: no JSON object"));
        assert!(about(b"[1]", Shape::Jsonl).is_some());
    }
}
