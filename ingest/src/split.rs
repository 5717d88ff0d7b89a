//! From the body of a push to its records.
//!
//! A record is looked at only as far as its framing needs: a line of NDJSON must be one JSON object, whatever it
//! says. Bytes that are not UTF-8 inside a JSON string pass: an event with a stray Latin-1 letter is worth more
//! stored and flagged than refused.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// Largest record, bytes. Larger ones are refused by their index: further down they could only be quarantined.
pub const MAX_RECORD_BYTES: usize = 256 * 1024;

/// Most records in a push, so that a body of `{}` lines cannot grow a hundredfold on its way to Kafka.
pub const MAX_RECORDS: usize = 200_000;

/// Most refusals that an answer lists; the others are counted.
pub const MAX_LISTED: usize = 1_000;

/// How records are delimited in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One JSON object a line; blank lines are skipped.
    JsonLines,
    /// One JSON object, or an array of them.
    Json,
    /// One record a line, of any form; blank lines are skipped.
    Text,
}

impl Layout {
    /// Its name in the digest of a keyed push: never to be changed.
    pub fn name(self) -> &'static str {
        match self {
            Layout::JsonLines => "lines",
            Layout::Json => "json",
            Layout::Text => "text",
        }
    }

    /// The `format` of the raw records.
    pub fn format(self) -> &'static str {
        match self {
            Layout::JsonLines | Layout::Json => "json",
            Layout::Text => "text",
        }
    }
}

/// A record that was not taken.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct Rejection {
    /// Ordinal among the records of the push, from 0; blank lines do not count.
    pub index: usize,
    /// What is wrong with it, for a person.
    pub reason: String,
}

/// A body taken apart.
#[derive(Debug, Default)]
pub struct Split<'a> {
    /// What can be published, in order.
    pub records: Vec<&'a [u8]>,
    /// What cannot: the first [`MAX_LISTED`].
    pub rejected: Vec<Rejection>,
    /// Refused records that `rejected` does not list.
    pub unlisted: usize,
}

/// Why nothing of a body can be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Neither a record nor an empty JSON array.
    #[error("the body holds no record")]
    Empty,
    /// A JSON body (not NDJSON) that is not one JSON value.
    #[error("{0}")]
    Json(String),
    /// More than [`MAX_RECORDS`].
    #[error("the body holds more than {MAX_RECORDS} records; split the push")]
    TooMany,
}

/// Takes `body` apart. Linear in its size, and flat: nesting takes heap by the bit, never stack.
///
/// # Errors
/// [`Malformed`], when no record at all can be told from it.
pub fn split(body: &[u8], layout: Layout) -> Result<Split<'_>, Malformed> {
    // PowerShell and .NET writers begin a body with a byte order mark.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match layout {
        Layout::JsonLines => split_lines(body, check_object),
        Layout::Text => split_lines(body, |_| Ok(())),
        Layout::Json => split_json(body),
    }
}

impl<'a> Split<'a> {
    fn sized_for(body: &[u8]) -> Self {
        // 128 bytes is a short event: one allocation is enough for most bodies.
        Self { records: Vec::with_capacity(body.len() / 128 + 1), ..Self::default() }
    }

    fn seen(&self) -> usize {
        self.records.len() + self.rejected.len() + self.unlisted
    }

    fn add(&mut self, record: &'a [u8], checked: Result<(), String>) -> Result<(), Malformed> {
        let index = self.seen();
        if index >= MAX_RECORDS {
            return Err(Malformed::TooMany);
        }
        let checked = if record.len() > MAX_RECORD_BYTES {
            Err(format!("too large: {} bytes, at most {MAX_RECORD_BYTES} are taken", record.len()))
        } else {
            checked
        };
        match checked {
            Ok(()) => self.records.push(record),
            Err(reason) if self.rejected.len() < MAX_LISTED => {
                self.rejected.push(Rejection { index, reason })
            }
            Err(_) => self.unlisted += 1,
        }
        Ok(())
    }
}

fn split_lines<'a>(
    body: &'a [u8],
    check: impl Fn(&[u8]) -> Result<(), String>,
) -> Result<Split<'a>, Malformed> {
    let mut split = Split::sized_for(body);
    let mut rest = body;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let (line, tail) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        rest = tail.get(1..).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii_start().is_empty() {
            continue;
        }
        // What is too large anyway is not worth parsing.
        let checked = if line.len() > MAX_RECORD_BYTES { Ok(()) } else { check(line) };
        split.add(line, checked)?;
    }
    if split.seen() == 0 { Err(Malformed::Empty) } else { Ok(split) }
}

fn check_object(line: &[u8]) -> Result<(), String> {
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err("not a JSON object".to_owned());
    }
    let mut json = serde_json::Deserializer::from_slice(line);
    IgnoredAny::deserialize(&mut json)
        .and_then(|_| json.end())
        .map_err(|error| format!("malformed JSON: {} at byte {}", what(&error), error.column()))
}

fn split_json(body: &[u8]) -> Result<Split<'_>, Malformed> {
    let mut at = Cursor { body, offset: 0 };
    match at.peek() {
        None => Err(Malformed::Empty),
        Some(b'[') => split_array(at),
        Some(b'{') => {
            let mut split = Split::default();
            let object = at.value()?;
            at.expect_end()?;
            split.add(object, Ok(()))?;
            Ok(split)
        }
        Some(_) => Err(Malformed::Json("the body is neither a JSON object nor an array of them".to_owned())),
    }
}

fn split_array(mut at: Cursor<'_>) -> Result<Split<'_>, Malformed> {
    let mut split = Split::sized_for(at.body);
    at.offset += 1;
    if at.peek() == Some(b']') {
        at.offset += 1;
        at.expect_end()?;
        return Ok(split);
    }
    loop {
        let element = at.value()?;
        let object = element.first() == Some(&b'{');
        split.add(element, if object { Ok(()) } else { Err("not a JSON object".to_owned()) })?;
        match at.peek() {
            Some(b',') => at.offset += 1,
            Some(b']') => {
                at.offset += 1;
                at.expect_end()?;
                return Ok(split);
            }
            Some(_) => return Err(at.malformed("expected `,` or `]`")),
            None => return Err(at.malformed("the array is cut short")),
        }
    }
}

/// A place in a JSON body.
struct Cursor<'a> {
    body: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a [u8] {
        self.body.get(self.offset..).unwrap_or_default()
    }

    /// The next byte that is not white space, standing on it.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.rest();
        let blank =
            rest.iter().position(|b| !matches!(b, b' ' | b'\t' | b'\n' | b'\r')).unwrap_or(rest.len());
        self.offset += blank;
        rest.get(blank).copied()
    }

    /// Steps over one JSON value.
    fn value(&mut self) -> Result<&'a [u8], Malformed> {
        self.peek();
        let rest = self.rest();
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
        match values.next() {
            Some(Ok(_)) => {
                let length = values.byte_offset();
                self.offset += length;
                Ok(rest.get(..length).unwrap_or_default())
            }
            Some(Err(error)) => {
                Err(Malformed::Json(format!("malformed JSON: {}{}", what(&error), self.place(&error))))
            }
            None => Err(self.malformed("the body is cut short")),
        }
    }

    fn expect_end(&mut self) -> Result<(), Malformed> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.malformed(
                "more follows the JSON value; one object a line has the content type application/x-ndjson",
            )),
        }
    }

    /// Line and column of an error that serde_json found in [`rest`](Self::rest), in terms of the whole body.
    fn place(&self, error: &serde_json::Error) -> String {
        let before = self.body.get(..self.offset).unwrap_or_default();
        let line = before.iter().filter(|&&b| b == b'\n').count() + error.line();
        let column = if error.line() == 1 {
            self.offset - memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1) + error.column()
        } else {
            error.column()
        };
        format!(" at line {line} column {column}")
    }

    fn malformed(&self, what: &str) -> Malformed {
        Malformed::Json(format!("malformed JSON at byte {}: {what}", self.offset))
    }
}

/// serde_json's message without the place, which it counts from the start of the value.
fn what(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text.get(..end).unwrap_or_default().to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records(body: &[u8], layout: Layout) -> Vec<String> {
        let split = split(body, layout).unwrap();
        assert_eq!(split.rejected, []);
        split.records.iter().map(|record| String::from_utf8_lossy(record).into_owned()).collect()
    }

    fn rejections(body: &[u8], layout: Layout) -> Vec<(usize, String)> {
        split(body, layout).unwrap().rejected.into_iter().map(|r| (r.index, r.reason)).collect()
    }

    #[test]
    fn lines_are_records_and_blank_ones_are_not() {
        let body = b"\xef\xbb\xbf{\"a\":1}\r\n\n  \n{\"b\":[{}]}";
        assert_eq!(records(body, Layout::JsonLines), ["{\"a\":1}", "{\"b\":[{}]}"]);
        assert_eq!(records(b"\nfirst\r\n \t\nsecond line\n", Layout::Text), ["first", "second line"]);
    }

    #[test]
    fn a_malformed_line_is_refused_by_its_index_and_its_neighbours_stay() {
        let body = b"{\"a\":1}\n\n{\"a\":}\n42\n{\"a\":1} x\n{\"b\":2}\n{\"a\"";
        let split = split(body, Layout::JsonLines).unwrap();
        assert_eq!(split.records, [b"{\"a\":1}", b"{\"b\":2}"]);
        let rejected: Vec<_> = split.rejected.iter().map(|r| (r.index, r.reason.as_str())).collect();
        assert_eq!(
            rejected,
            [
                (1, "malformed JSON: expected value at byte 6"),
                (2, "not a JSON object"),
                (3, "malformed JSON: trailing characters at byte 9"),
                (5, "malformed JSON: EOF while parsing an object at byte 4"),
            ]
        );
    }

    #[test]
    fn an_array_is_taken_apart_element_by_element() {
        let body = b" [ {\"a\":\"],}\"} ,\n 7, [1], \"x\",{} ] \n";
        let split = split(body, Layout::Json).unwrap();
        assert_eq!(split.records, [b"{\"a\":\"],}\"}".as_slice(), b"{}"]);
        assert_eq!(rejections(body, Layout::Json).iter().map(|r| r.0).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(records(b"\n{\n\"a\":1}\n", Layout::Json), ["{\n\"a\":1}"]);
        assert!(records(b" [ ] ", Layout::Json).is_empty());
    }

    #[test]
    fn a_json_body_that_is_not_one_value_is_refused_whole() {
        for (body, reason) in [
            ("[{},]", "malformed JSON: expected value at line 1 column 5"),
            ("[{}\n,\n {\"a\" 1}]", "malformed JSON: expected `:` at line 3 column 7"),
            ("[{} {}]", "malformed JSON at byte 4: expected `,` or `]`"),
            ("[{}", "malformed JSON at byte 3: the array is cut short"),
            ("[{},", "malformed JSON at byte 4: the body is cut short"),
            ("\"text\"", "the body is neither a JSON object nor an array of them"),
        ] {
            let error = split(body.as_bytes(), Layout::Json).unwrap_err();
            assert_eq!(error, Malformed::Json(reason.to_owned()), "{body}");
        }
        let error = split(b"{}\n{}", Layout::Json).unwrap_err().to_string();
        assert!(error.ends_with("application/x-ndjson"), "{error}");
    }

    #[test]
    fn nothing_is_told_from_an_empty_array() {
        for body in [b"".as_slice(), b" \n\r\n"] {
            for layout in [Layout::Json, Layout::JsonLines, Layout::Text] {
                assert_eq!(split(body, layout).unwrap_err(), Malformed::Empty);
            }
        }
    }

    #[test]
    fn deep_nesting_takes_no_stack() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(records(deep.as_bytes(), Layout::JsonLines).len(), 1);
        assert_eq!(records(format!("[{deep}]").as_bytes(), Layout::Json).len(), 1);
        let open = format!("{{\"a\":{}\n{{}}", "[".repeat(10_000));
        assert_eq!(rejections(open.as_bytes(), Layout::JsonLines).len(), 1);
    }

    #[test]
    fn hostile_strings_pass_as_they_are() {
        for line in [
            b"{\"a\":\"\\u0000\"}".as_slice(),
            b"{\"a\":\"\\ud800\"}",
            b"{\"a\":\"\xff\xfe\"}",
            b"{\"time\":\"1970-01-01T00:00:00Z\"}",
        ] {
            assert_eq!(split(line, Layout::JsonLines).unwrap().records, [line]);
            assert_eq!(split(line, Layout::Json).unwrap().records, [line]);
        }
        // A bare control character is no JSON.
        assert_eq!(rejections(b"{\"a\":\"\0\"}", Layout::JsonLines).len(), 1);
    }

    #[test]
    fn a_record_too_large_is_refused_alone() {
        let large = format!("{{}}\n{{\"a\":\"{}\"}}\n{{}}", "x".repeat(5 << 20));
        for layout in [Layout::JsonLines, Layout::Text] {
            let split = split(large.as_bytes(), layout).unwrap();
            assert_eq!(split.records.len(), 2);
            assert_eq!(split.rejected[0].index, 1);
            assert!(split.rejected[0].reason.starts_with("too large: 52428"));
        }
    }

    #[test]
    fn refusals_are_listed_up_to_a_bound() {
        let lines = b"x\n".repeat(MAX_RECORDS + 1);
        let refused = split(&lines[..2 * (MAX_LISTED + 5)], Layout::JsonLines).unwrap();
        assert_eq!((refused.rejected.len(), refused.unlisted), (MAX_LISTED, 5));
        assert_eq!(split(&lines[2..], Layout::Text).unwrap().records.len(), MAX_RECORDS);
        assert_eq!(split(&lines, Layout::Text).unwrap_err(), Malformed::TooMany);
    }

    proptest! {
        #[test]
        fn any_bytes_are_split_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            for layout in [Layout::JsonLines, Layout::Json, Layout::Text] {
                let _ = split(&body, layout);
            }
        }

        #[test]
        fn an_array_and_its_lines_hold_the_same_records(
            values in proptest::collection::vec("[a-z\"\\\\ ,\\]\\[{}]{0,12}", 1..20),
        ) {
            let objects: Vec<String> =
                values.iter().map(|v| serde_json::json!({ "v": v }).to_string()).collect();
            let array = format!("[{}]", objects.join(" , "));
            prop_assert_eq!(records(array.as_bytes(), Layout::Json), objects.clone());
            prop_assert_eq!(records(objects.join("\n").as_bytes(), Layout::JsonLines), objects);
        }
    }
}
