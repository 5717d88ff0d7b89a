//! Events made ahead but for a few fields, which are patched in: some 50 ns an event.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A field that differs from event to event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// `$time`: RFC 3339, milliseconds, UTC.
    Time,
    /// `$clf`: `21/Nov/2026:09:00:00 +0000`.
    Clf,
    /// `$seq`: the event's number in the run.
    Seq,
    /// `$ip`: an address of 100.64.0.0/10, a different one nearly every time.
    Ip,
    /// `$port`: 32768 to 65535.
    Port,
}

const FIELDS: [(&str, Field); 5] = [
    ("$time", Field::Time),
    ("$clf", Field::Clf),
    ("$seq", Field::Seq),
    ("$ip", Field::Ip),
    ("$port", Field::Port),
];

/// An event with holes.
#[derive(Debug)]
pub struct Template {
    text: Vec<u8>,
    /// Where in `text` a field goes, in order.
    holes: Vec<(usize, Field)>,
}

/// A time in the forms that templates need, made once a push.
#[derive(Debug)]
pub struct Stamp {
    rfc3339: String,
    clf: String,
}

impl Stamp {
    /// `at` in every form.
    pub fn new(at: Timestamp) -> Self {
        let zoned = at.to_zoned(TimeZone::UTC);
        Self {
            rfc3339: zoned.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
            clf: zoned.strftime("%d/%b/%Y:%H:%M:%S %z").to_string(),
        }
    }
}

impl Template {
    /// Reads `$time`, `$clf`, `$seq`, `$ip` and `$port` in `pattern` as holes.
    pub fn new(pattern: &str) -> Self {
        let (mut text, mut holes) = (Vec::with_capacity(pattern.len()), Vec::new());
        let mut rest = pattern;
        while let Some(at) = rest.find('$') {
            let (before, tail) = rest.split_at(at);
            text.extend_from_slice(before.as_bytes());
            match FIELDS.iter().find_map(|(name, field)| Some((tail.strip_prefix(name)?, *field))) {
                Some((after, field)) => {
                    holes.push((text.len(), field));
                    rest = after;
                }
                None => {
                    text.push(b'$');
                    rest = tail.get(1..).unwrap_or_default();
                }
            }
        }
        text.extend_from_slice(rest.as_bytes());
        Self { text, holes }
    }

    /// Appends an event. `random` decides address and port.
    pub fn write(&self, stamp: &Stamp, seq: u64, random: u64, out: &mut Vec<u8>) {
        let mut done = 0;
        for &(at, field) in &self.holes {
            out.extend_from_slice(self.text.get(done..at).unwrap_or_default());
            done = at;
            match field {
                Field::Time => out.extend_from_slice(stamp.rfc3339.as_bytes()),
                Field::Clf => out.extend_from_slice(stamp.clf.as_bytes()),
                Field::Seq => put_number(seq, out),
                Field::Ip => {
                    let [_, b, c, d, ..] = random.to_le_bytes();
                    out.extend_from_slice(b"100.");
                    put_number(u64::from(64 | (b & 63)), out);
                    out.push(b'.');
                    put_number(u64::from(c), out);
                    out.push(b'.');
                    put_number(u64::from(d), out);
                }
                Field::Port => put_number(32_768 + (random >> 48) % 32_768, out),
            }
        }
        out.extend_from_slice(self.text.get(done..).unwrap_or_default());
    }
}

fn put_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled() {
        let template = Template::new("$$time [$clf] #$seq costs $5 from $ip:$port$");
        let stamp = Stamp::new("2026-11-21T09:05:07.1234Z".parse().unwrap());
        let mut out = Vec::new();
        template.write(&stamp, 42, 0x8000_0000_ffff_ff00, &mut out);
        let expected =
            "$2026-11-21T09:05:07.123Z [21/Nov/2026:09:05:07 +0000] #42 costs $5 from 100.127.255.255:32768$";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
