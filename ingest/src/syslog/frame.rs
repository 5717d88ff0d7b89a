//! Syslog messages out of a TCP stream: RFC 6587, both framings, told apart frame by frame.
//!
//! A frame that begins with a number, a space and `<` is octet-counted (3.4.1); any other ends at the next LF
//! (3.4.2). After a wrong count the stream finds its feet again at the next LF.

use std::ops::Range;

/// Largest message, bytes. Of a larger one the first `MAX_MESSAGE_BYTES + 1` are passed on, so that it shows up in
/// quarantine as too large instead of vanishing; the rest is skipped.
pub const MAX_MESSAGE_BYTES: usize = crate::split::MAX_RECORD_BYTES;

/// Digits of a count: more than any message here can be long.
const MAX_DIGITS: usize = 9;

/// What is left of a message that was too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    Nothing,
    Octets(usize),
    Line,
}

/// Finds frames in a stream that arrives in pieces.
#[derive(Debug)]
pub struct Framer {
    skip: Skip,
    /// Bytes of an unfinished line that hold no LF.
    searched: usize,
    oversized: u64,
}

/// What the stream ended in.
#[derive(Debug, PartialEq, Eq)]
pub enum Tail {
    /// On a frame's border.
    Clean,
    /// In a line without LF: a whole message as far as anyone can tell.
    Line(Range<usize>),
    /// In an octet-counted frame: this much of it came.
    Truncated(Range<usize>),
}

enum Start {
    Octets { digits: usize, length: usize },
    Line,
    Unclear,
}

impl Default for Framer {
    fn default() -> Self {
        Self { skip: Skip::Nothing, searched: 0, oversized: 0 }
    }
}

impl Framer {
    /// Appends the frames in `data` to `frames` and returns how many bytes are done with; the rest belongs at the
    /// front of the next call's data.
    pub fn scan(&mut self, data: &[u8], frames: &mut Vec<Range<usize>>) -> usize {
        let mut at = 0;
        loop {
            let rest = data.get(at..).unwrap_or_default();
            if rest.is_empty() {
                return at;
            }
            match self.skip {
                Skip::Nothing => {}
                Skip::Octets(left) => {
                    let skipped = left.min(rest.len());
                    at += skipped;
                    self.skip = if skipped == left { Skip::Nothing } else { Skip::Octets(left - skipped) };
                    continue;
                }
                Skip::Line => {
                    let Some(end) = memchr::memchr(b'\n', rest) else { return data.len() };
                    at += end + 1;
                    self.skip = Skip::Nothing;
                    continue;
                }
            }
            // Between frames: the LF that some senders put after a counted frame, empty lines.
            if matches!(rest.first(), Some(b'\n' | b'\r' | b'\0' | b' ')) {
                at += 1;
                self.searched = 0;
                continue;
            }
            let taken = match start(rest) {
                Start::Unclear => None,
                Start::Octets { digits, length } => self.counted(rest, digits, length, at, frames),
                Start::Line => self.line(rest, at, frames),
            };
            match taken {
                Some(taken) => at += taken,
                None => return at,
            }
        }
    }

    /// What is left of the stream in `data`, which the last [`scan`](Self::scan) did not consume.
    pub fn finish(&mut self, data: &[u8]) -> Tail {
        if self.skip != Skip::Nothing || data.is_empty() {
            return Tail::Clean;
        }
        match start(data) {
            Start::Octets { digits, .. } => Tail::Truncated(digits + 1..data.len()),
            Start::Line | Start::Unclear => Tail::Line(trimmed(data, 0, data.len())),
        }
    }

    /// Messages too large since the last call.
    pub fn take_oversized(&mut self) -> u64 {
        std::mem::take(&mut self.oversized)
    }

    fn counted(
        &mut self,
        rest: &[u8],
        digits: usize,
        length: usize,
        at: usize,
        frames: &mut Vec<Range<usize>>,
    ) -> Option<usize> {
        let head = digits + 1;
        let wanted = length.min(MAX_MESSAGE_BYTES + 1);
        if rest.len() < head + wanted {
            return None;
        }
        if wanted < length {
            self.oversized += 1;
            self.skip = Skip::Octets(length - wanted);
            frames.push(at + head..at + head + wanted);
        } else {
            push(frames, offset(trimmed(rest, head, head + length), at));
        }
        Some(head + wanted)
    }

    fn line(&mut self, rest: &[u8], at: usize, frames: &mut Vec<Range<usize>>) -> Option<usize> {
        let from = self.searched.min(rest.len());
        let end = memchr::memchr(b'\n', rest.get(from..).unwrap_or_default()).map(|end| from + end);
        match end {
            Some(end) if end <= MAX_MESSAGE_BYTES => {
                self.searched = 0;
                push(frames, offset(trimmed(rest, 0, end), at));
                Some(end + 1)
            }
            None if rest.len() <= MAX_MESSAGE_BYTES => {
                self.searched = rest.len();
                None
            }
            _ => {
                self.searched = 0;
                self.oversized += 1;
                self.skip = Skip::Line;
                frames.push(at..at + MAX_MESSAGE_BYTES + 1);
                Some(MAX_MESSAGE_BYTES + 1)
            }
        }
    }
}

fn push(frames: &mut Vec<Range<usize>>, frame: Range<usize>) {
    if !frame.is_empty() {
        frames.push(frame);
    }
}

fn offset(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

/// `start..end` without the CR, LF and NUL at its end.
fn trimmed(data: &[u8], start: usize, end: usize) -> Range<usize> {
    let frame = data.get(start..end).unwrap_or_default();
    let kept = frame.iter().rposition(|b| !matches!(b, b'\r' | b'\n' | b'\0')).map_or(0, |last| last + 1);
    start..start + kept
}

fn start(rest: &[u8]) -> Start {
    let digits = rest.iter().take(MAX_DIGITS + 1).take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 || digits > MAX_DIGITS || rest.first() == Some(&b'0') {
        return Start::Line;
    }
    match (rest.get(digits), rest.get(digits + 1)) {
        (None, _) | (Some(b' '), None) => Start::Unclear,
        (Some(b' '), Some(b'<')) => {
            let number = rest.get(..digits).and_then(|digits| std::str::from_utf8(digits).ok());
            match number.and_then(|number| number.parse().ok()) {
                Some(length) => Start::Octets { digits, length },
                None => Start::Line,
            }
        }
        _ => Start::Line,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// Feeds `stream` in pieces of `piece` bytes; the frames, and what the end was.
    fn frames(stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, &'static str) {
        let (mut framer, mut buffer, mut out) = (Framer::default(), Vec::new(), Vec::new());
        for piece in stream.chunks(piece) {
            buffer.extend_from_slice(piece);
            let mut found = Vec::new();
            let used = framer.scan(&buffer, &mut found);
            out.extend(found.into_iter().map(|frame| buffer[frame].to_vec()));
            buffer.drain(..used);
        }
        let tail = match framer.finish(&buffer) {
            Tail::Clean => "clean",
            Tail::Line(frame) => {
                out.push(buffer[frame].to_vec());
                "line"
            }
            Tail::Truncated(frame) => {
                out.push(buffer[frame].to_vec());
                "truncated"
            }
        };
        (out, tail)
    }

    #[rstest]
    #[case::lines("<34>one\r\n\n<34>two\n", &["<34>one", "<34>two"], "clean")]
    #[case::counted("7 <34>one8 <34>\nsix", &["<34>one", "<34>\nsix"], "clean")]
    #[case::counted_with_lf("8 <34>one\n7 <34>two\n", &["<34>one", "<34>two"], "clean")]
    #[case::mixed("7 <34>one<34>two\n9 <34>three", &["<34>one", "<34>two", "<34>three"], "clean")]
    #[case::without_priority("12 monkeys\n0 x\n5\n", &["12 monkeys", "0 x", "5"], "clean")]
    #[case::count_too_small("5 <34>one\n<34>two\n", &["<34>o", "ne", "<34>two"], "clean")]
    #[case::cut_line("<34>one\n<34>tw", &["<34>one", "<34>tw"], "line")]
    #[case::cut_count("<34>one\n12", &["<34>one", "12"], "line")]
    #[case::cut_frame("7 <34>one20 <34>tw", &["<34>one", "<34>tw"], "truncated")]
    #[case::long_number("1234567890 <34>\n", &["1234567890 <34>"], "clean")]
    #[case::nothing("\n\r\n\0", &[], "clean")]
    fn both_framings_are_told_apart(#[case] stream: &str, #[case] expected: &[&str], #[case] end: &str) {
        for piece in [1, 2, 3, 5, 1000] {
            let (found, tail) = frames(stream.as_bytes(), piece);
            let found: Vec<_> = found.iter().map(|frame| std::str::from_utf8(frame).unwrap()).collect();
            assert_eq!((found.as_slice(), tail), (expected, end), "in pieces of {piece}");
        }
    }

    #[rstest]
    #[case::line(format!("<34>{}\n", "x".repeat(300_000)))]
    #[case::counted(format!("300004 <34>{}", "x".repeat(300_000)))]
    fn a_message_too_large_is_cut_and_its_neighbours_stay(#[case] large: String) {
        let stream = format!("<34>one\n{large}<34>two\n");
        for piece in [777, 65_536, 1 << 20] {
            let (found, tail) = frames(stream.as_bytes(), piece);
            assert_eq!(tail, "clean");
            assert_eq!(found.len(), 3);
            assert_eq!((found[0].as_slice(), found[2].as_slice()), (&b"<34>one"[..], &b"<34>two"[..]));
            assert_eq!(found[1].len(), MAX_MESSAGE_BYTES + 1);
        }
        let mut framer = Framer::default();
        framer.scan(stream.as_bytes(), &mut Vec::new());
        assert_eq!((framer.take_oversized(), framer.take_oversized()), (1, 0));
    }

    proptest! {
        #[test]
        fn the_pieces_of_a_stream_do_not_matter(stream in "[0-9 <>a\n\r\\x00]{0,60}", piece in 1usize..20) {
            prop_assert_eq!(frames(stream.as_bytes(), piece), frames(stream.as_bytes(), 1_000));
        }

        #[test]
        fn counted_messages_come_out_as_they_went_in(
            messages in proptest::collection::vec("<[0-9]{1,3}>[a-z0-9\n ]{0,30}[a-z]", 1..10),
        ) {
            let stream: String = messages.iter().map(|m| format!("{} {m}", m.len())).collect();
            let (found, tail) = frames(stream.as_bytes(), 7);
            let expected: Vec<_> = messages.iter().map(|m| m.as_bytes().to_vec()).collect();
            prop_assert_eq!((found, tail), (expected, "clean"));
        }
    }
}
