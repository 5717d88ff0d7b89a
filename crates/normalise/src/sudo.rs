//! Messages of sudo.

use std::borrow::Cow;

use crate::app::{LOGON, Reading, class};
use crate::attributes::Attributes;
use crate::pam;

/// Reads any message of sudo; one that is not known says no more than where it comes from.
pub(crate) fn read<'m>(message: &'m str, attributes: &mut Attributes) -> Reading<'m> {
    let reading = command(message, attributes).or_else(|| pam::read(message, attributes)).unwrap_or_default();
    Reading { source_type: Some("sudo"), severity_id: Some(1), ..reading }
}

/// A field that sudo writes.
struct Field {
    /// What its value stands behind.
    mark: &'static str,
    /// The attribute it becomes; none is left out.
    name: Option<&'static str>,
    /// What ends a value in which the user may have written ` ; `: the first of these that is there. A value
    /// without blanks ends at the next ` ; `.
    ends: &'static [&'static str],
}

/// The fields in the order in which sudo writes them; each may be missing.
const FIELDS: [Field; 9] = [
    Field { mark: "HOST=", name: None, ends: &[] },
    Field { mark: "TTY=", name: Some("tty"), ends: &[] },
    Field { mark: "CHROOT=", name: None, ends: &[" ; PWD="] },
    Field { mark: "PWD=", name: Some("pwd"), ends: &[" ; USER=", " ; COMMAND="] },
    Field { mark: "USER=", name: Some("run_as"), ends: &[] },
    Field { mark: "GROUP=", name: Some("run_as_group"), ends: &[] },
    Field { mark: "TSID=", name: None, ends: &[] },
    Field { mark: "ENV=", name: None, ends: &[" ; COMMAND="] },
    Field { mark: "COMMAND=", name: Some("command"), ends: &[] },
];

impl Field {
    /// Value and what follows it, at the start of `rest`.
    fn read<'m>(&self, rest: &'m str) -> Option<(&'m str, &'m str)> {
        let value = rest.strip_prefix(self.mark)?;
        if self.mark == "COMMAND=" {
            return Some((value, ""));
        }
        let end = match self.ends {
            [] => value.find(" ; "),
            ends => ends.iter().find_map(|end| value.find(end)),
        };
        let (value, rest) = end.and_then(|end| value.split_at_checked(end)).unwrap_or((value, ""));
        Some((value, rest.strip_prefix(" ; ").unwrap_or(rest)))
    }
}

/// `alice : TTY=pts/0 ; PWD=/home/alice ; USER=root ; COMMAND=/bin/ls`, a reason in front of the fields where it
/// was refused. The command is the last field and may hold anything, and so may the name of a directory: what
/// reads like a field inside one is none, as far as the order of fields tells.
fn command<'m>(message: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    let (user, mut rest) = message.trim_start().split_once(" : ")?;
    if user.contains(' ') {
        return None;
    }
    let is_field = |text: &str| FIELDS.iter().any(|field| text.starts_with(field.mark));
    let mut reason = None;
    if !is_field(rest) {
        (reason, rest) = rest
            .match_indices(" ; ")
            .filter_map(|(at, mark)| Some((rest.get(..at), rest.get(at.saturating_add(mark.len())..)?)))
            .find(|(_, fields)| is_field(fields))?;
    }
    let mut class = class::PROCESS;
    let mut activity = 1;
    if reason.is_some_and(|reason| reason.contains("password")) {
        (class, activity) = (class::AUTHENTICATION, LOGON);
        attributes.text("action", "login");
    } else {
        attributes.text("action", "command");
    }
    attributes.text("outcome", if reason.is_some() { "failure" } else { "success" });
    attributes.optional("reason", reason);
    let mut fields = FIELDS.iter();
    while !rest.is_empty() {
        let mut later = fields.clone();
        match later.find_map(|field| Some((field, field.read(rest)?))) {
            Some((field, (value, next))) => {
                if let Some(name) = field.name {
                    attributes.text(name, value);
                }
                (fields, rest) = (later, next);
            }
            // A field that is not known, or one that has been read.
            None => rest = rest.split_once(" ; ").map_or("", |(_, next)| next),
        }
    }
    Some(Reading { user: Some(Cow::Borrowed(user)), ..Reading::of(class, activity) })
}
