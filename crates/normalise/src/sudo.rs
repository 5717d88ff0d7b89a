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

/// `alice : TTY=pts/0 ; PWD=/home/alice ; USER=root ; COMMAND=/bin/ls`, a reason in front of the fields where it
/// was refused. The command is the last field and may hold anything.
fn command<'m>(message: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    let (user, mut rest) = message.trim_start().split_once(" : ")?;
    if user.contains(' ') {
        return None;
    }
    let mut reason = None;
    let mut class = class::PROCESS;
    let mut activity = 1;
    let mut fields = [None; 5];
    const NAMES: [(&str, &str); 5] = [
        ("COMMAND=", "command"),
        ("USER=", "run_as"),
        ("TTY=", "tty"),
        ("PWD=", "pwd"),
        ("GROUP=", "run_as_group"),
    ];
    loop {
        let (field, next) = match rest.starts_with("COMMAND=") {
            true => (rest, None),
            false => rest.split_once(" ; ").map_or((rest, None), |(field, next)| (field, Some(next))),
        };
        let known = NAMES.iter().zip(fields.iter_mut()).find(|((prefix, _), _)| field.starts_with(prefix));
        match known {
            Some(((prefix, _), value)) => *value = field.strip_prefix(prefix),
            None if !field.contains('=') => reason = reason.or(Some(field)),
            None => {}
        }
        match next {
            Some(next) => rest = next,
            None => break,
        }
    }
    if fields.iter().all(Option::is_none) {
        return None;
    }
    if reason.is_some_and(|reason| reason.contains("password")) {
        (class, activity) = (class::AUTHENTICATION, LOGON);
        attributes.text("action", "login");
    } else {
        attributes.text("action", "command");
    }
    attributes.text("outcome", if reason.is_some() { "failure" } else { "success" });
    attributes.optional("reason", reason);
    for ((_, name), value) in NAMES.iter().zip(fields) {
        attributes.optional(name, value);
    }
    Some(Reading { user: Some(Cow::Borrowed(user)), ..Reading::of(class, activity) })
}
