//! Query parameters, taken one by one; everything that is wrong is told at once.

use std::net::IpAddr;

use ipnet::IpNet;
use schemas::Stream;
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3Default;

use crate::auth::Org;
use crate::cursor::{self, Binding, Position};
use crate::names;
use crate::problem::{FieldError, Problem};
use crate::time::Time;

/// Rows of a page when nothing is said.
pub(crate) const DEFAULT_LIMIT: u16 = 100;
/// Rows of a page at most.
pub(crate) const MAX_LIMIT: u16 = 1000;
/// The window when nothing is said: the last hour.
const DEFAULT_WINDOW_MICROS: i64 = 3600 * Time::SECOND;
/// Values of a list at most.
const MAX_VALUES: usize = 32;
/// Longest text to compare with, bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// The parameters of one request.
#[derive(Debug)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
    taken: Vec<&'static str>,
    errors: Vec<FieldError>,
}

/// The times `from..to` that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) from: Time,
    pub(crate) to: Time,
}

/// What every list takes: the window, the size of a page, and where the walk stands.
#[derive(Debug)]
pub(crate) struct Paging<P> {
    pub(crate) window: Window,
    pub(crate) limit: u16,
    pub(crate) after: Option<P>,
    /// What cursors of this walk belong to.
    pub(crate) binding: Binding,
}

impl Params {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
        Self { pairs, taken: Vec::new(), errors: Vec::new() }
    }

    /// Ends the taking.
    ///
    /// # Errors
    /// Everything that was wrong, parameters that nobody took included.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        let mut unknown: Vec<&str> = self.pairs.iter().map(|(name, _)| name.as_str()).collect();
        unknown.retain(|name| !self.taken.contains(name));
        unknown.dedup();
        let known = self.taken.join(", ");
        let unknown = unknown.into_iter().map(|name| FieldError {
            field: name.chars().take(64).collect(),
            reason: format!("is not a parameter of this list; there are {known}"),
        });
        self.errors.extend(unknown);
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::parameters(self.errors)) }
    }

    #[cfg(test)]
    pub(crate) fn taken(&self) -> &[&'static str] {
        &self.taken
    }

    fn wrong(&mut self, field: &str, reason: impl Into<String>) {
        self.errors.push(FieldError { field: field.to_owned(), reason: reason.into() });
    }

    fn take(&mut self, name: &'static str) -> Option<String> {
        self.taken.push(name);
        let mut values = self.pairs.iter().filter(|(given, _)| given == name).map(|(_, value)| value);
        let value = values.next()?.clone();
        if values.next().is_some() {
            self.wrong(name, "may be given once");
            return None;
        }
        if value.is_empty() {
            self.wrong(name, "is empty");
            return None;
        }
        Some(value)
    }

    fn take_as<T>(&mut self, name: &'static str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let value = self.take(name)?;
        read(&value).map_err(|reason| self.wrong(name, reason)).ok()
    }

    /// A comma-separated list; none when the parameter is not there.
    fn take_list<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        self.take_as(name, |text| {
            if text.split(',').count() > MAX_VALUES {
                return Err(format!("may have {MAX_VALUES} values at most"));
            }
            text.split(',').map(|item| read(item.trim())).collect()
        })
    }

    /// Text to compare with as it is.
    pub(crate) fn text(&mut self, name: &'static str) -> Option<String> {
        self.take_as(name, |text| {
            if text.len() > MAX_TEXT_BYTES {
                return Err(format!("may have {MAX_TEXT_BYTES} bytes at most"));
            }
            // Postgres has no such text, so nothing could match.
            if text.contains('\0') {
                return Err("must not contain U+0000".to_owned());
            }
            Ok(text.to_owned())
        })
    }

    /// A name or number of a severity.
    pub(crate) fn severity(&mut self) -> Option<i32> {
        self.take_as("severity", |text| {
            names::severity_id(text).ok_or_else(|| {
                "must be informational, low, medium, high, critical, fatal or a number from 0 to 6".to_owned()
            })
        })
    }

    /// Class numbers.
    pub(crate) fn classes(&mut self) -> Option<Vec<i32>> {
        self.take_list("class", |text| {
            text.parse().map_err(|_| "must be a class number such as 3002, or several with commas".to_owned())
        })
    }

    /// Some of `allowed`.
    pub(crate) fn choices(
        &mut self,
        name: &'static str,
        allowed: &'static [&'static str],
    ) -> Option<Vec<String>> {
        self.take_list(name, |text| {
            let known = allowed.contains(&text).then(|| text.to_owned());
            known.ok_or_else(|| format!("must be among {}, or several with commas", allowed.join(", ")))
        })
    }

    /// A stream's name.
    pub(crate) fn stream(&mut self) -> Option<Stream> {
        self.take_as("stream", |text| {
            Stream::from_name(text).ok_or_else(|| "must be events or findings".to_owned())
        })
    }

    /// An address or a network.
    pub(crate) fn network(&mut self, name: &'static str) -> Option<IpNet> {
        self.take_as(name, |text| {
            let address = text.parse::<IpAddr>().map(IpNet::from);
            address
                .or_else(|_| text.parse::<IpNet>().map(|network| network.trunc()))
                .map_err(|_| "must be an IP address, or a network such as 10.0.0.0/8".to_owned())
        })
    }

    /// An address.
    pub(crate) fn address(&mut self, name: &'static str) -> Option<IpAddr> {
        self.take_as(name, |text| text.parse().map_err(|_| "must be one IP address".to_owned()))
    }

    /// Whether to wait for a change to be applied.
    pub(crate) fn wait(&mut self) -> bool {
        self.take_as("wait", |text| match text {
            "applied" => Ok(true),
            _ => Err("must be applied".to_owned()),
        })
        .unwrap_or(false)
    }

    /// `from` and `to`: the last hour where they are not given.
    pub(crate) fn window(&mut self) -> Window {
        let read = |text: &str| text.parse::<Time>().map_err(|error| error.to_string());
        let to = self.take_as("to", read);
        let from = self.take_as("from", read);
        let to = to.unwrap_or_else(Time::now);
        let from = from.unwrap_or_else(|| to.plus(-DEFAULT_WINDOW_MICROS));
        if from > to {
            self.wrong("from", "must not be after to, which is now unless it is given");
        }
        Window { from, to }
    }

    /// The window, `limit` and `cursor`. To be called last: a cursor belongs to all other parameters.
    pub(crate) fn paging<P: Position>(&mut self, org: &Org) -> Paging<P> {
        let mut window = self.window();
        let limit = self.take_as("limit", |text| match text.parse() {
            Ok(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
            _ => Err(format!("must be a number from 1 to {MAX_LIMIT}")),
        });
        let binding = self.binding(org);
        let after = self.take_as("cursor", |text| {
            cursor::decode(text, binding).ok_or_else(|| {
                "is not a cursor of this query: repeat the query that gave it, its parameters unchanged"
                    .to_owned()
            })
        });
        let after = after.map(|(from, position)| {
            // The window the walk began with, however long the walk takes.
            window.from = from;
            position
        });
        Paging { window, limit: limit.unwrap_or(DEFAULT_LIMIT), after, binding }
    }

    /// A hash of the org and every parameter but the size and place of the page.
    fn binding(&self, org: &Org) -> Binding {
        let mut pairs: Vec<&(String, String)> =
            self.pairs.iter().filter(|(name, _)| name != "cursor" && name != "limit").collect();
        pairs.sort_unstable();
        let mut hash = Xxh3Default::new();
        let mut part = |text: &str| {
            hash.update(&(text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        part(org.as_str());
        for (name, value) in pairs {
            part(name);
            part(value);
        }
        Binding(hash.digest())
    }
}

/// Reads an id in a path.
///
/// # Errors
/// 404: what is not a UUID names nothing.
pub(crate) fn path_uuid(text: &str) -> Result<Uuid, Problem> {
    Uuid::parse_str(text).map_err(|_| Problem::not_found("there is no such incident"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::cursor::EventPosition;

    fn fields(query: &str, take: impl FnOnce(&mut Params)) -> Vec<String> {
        let mut params = Params::parse(Some(query));
        take(&mut params);
        params.errors.iter().map(|error| error.field.clone()).collect()
    }

    #[rstest]
    #[case("from=yesterday", &["from"])]
    #[case("from=2026-11-21T00:00:00Z&to=2026-11-20T00:00:00Z", &["from"])]
    #[case("to=", &["to"])]
    #[case("limit=0", &["limit"])]
    #[case("limit=1001", &["limit"])]
    #[case("limit=many", &["limit"])]
    #[case("limit=1&limit=2", &["limit"])]
    #[case("cursor=abc", &["cursor"])]
    #[case("from=x&to=y&limit=z", &["to", "from", "limit"])]
    #[case("limit=1000", &[])]
    fn paging_is_checked_field_by_field(#[case] query: &str, #[case] wrong: &[&str]) {
        let org = Org::for_test("demo");
        let take = |params: &mut Params| {
            params.paging::<EventPosition>(&org);
        };
        assert_eq!(fields(query, take), wrong);
    }

    #[rstest]
    #[case("severity=high", false)]
    #[case("severity=4", false)]
    #[case("severity=99", true)]
    #[case("class=3002,4001", false)]
    #[case("class=3002,", true)]
    #[case("src_ip=10.0.0.1", false)]
    #[case("src_ip=10.0.0.1/8", false)]
    #[case("src_ip=2001:db8::/32", false)]
    #[case("src_ip=10.0.0", true)]
    #[case("user=a%00b", true)]
    #[case("user=%20", false)]
    fn filters_are_checked(#[case] query: &str, #[case] wrong: bool) {
        let errors = fields(query, |params| {
            params.severity();
            params.classes();
            params.network("src_ip");
            params.text("user");
        });
        assert_eq!(!errors.is_empty(), wrong, "{errors:?}");
    }

    #[test]
    fn what_nobody_took_is_told_with_what_there_is() {
        let mut params = Params::parse(Some("sevrity=high"));
        params.severity();
        let detail = format!("{:?}", params.finish().unwrap_err());
        assert!(detail.contains("sevrity is not a parameter of this list; there are severity"), "{detail}");
    }

    #[test]
    fn a_cursor_belongs_to_its_org_and_filters_and_not_to_the_size_of_a_page() {
        let binding = |org: &str, query: &str| Params::parse(Some(query)).binding(&Org::for_test(org));
        let one = binding("demo", "user=root&host=a&limit=5");
        assert_eq!(one, binding("demo", "host=a&user=root&cursor=x"));
        assert_ne!(one, binding("demo", "host=b&user=root"));
        assert_ne!(one, binding("other", "host=a&user=root"));
    }

    #[test]
    fn a_walk_keeps_the_window_it_began_with() {
        let org = Org::for_test("demo");
        let mut first = Params::parse(Some("user=root"));
        let binding = first.paging::<EventPosition>(&org).binding;
        let at = EventPosition { time: Time(9), partition: 1, offset: 2, index: 3 };
        let cursor = cursor::encode(Time(7), &at, binding);
        let mut second = Params::parse(Some(&format!("user=root&cursor={cursor}")));
        let paging = second.paging::<EventPosition>(&org);
        assert_eq!((paging.window.from, paging.after), (Time(7), Some(at)));
    }
}
