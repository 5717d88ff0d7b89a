//! Messages of Linux-PAM's pam_unix, whatever program they come through.

use std::borrow::Cow;

use crate::app::{LOGOFF, LOGON, Reading, class};
use crate::attributes::Attributes;
use crate::ip;

/// Reads `pam_unix(sshd:auth): authentication failure; …`, `session opened for user …` and the like, also without
/// the module in front, as older syslogs have it in the tag.
pub(crate) fn read<'m>(message: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    let text = match message.strip_prefix("pam_") {
        // The module's name has no blank: what follows it in the line may be anything.
        Some(rest) => rest.split_once("): ").filter(|(module, _)| !module.contains(' '))?.1,
        None => message,
    };
    if let Some(fields) = text.strip_prefix("authentication failure; ") {
        return Some(failure(fields, attributes));
    }
    if text.starts_with("check pass; user unknown") {
        attributes.text("action", "unknown_user");
        attributes.text("outcome", "failure");
        return Some(Reading::of(class::AUTHENTICATION, LOGON));
    }
    let (action, activity, rest) = match text.strip_prefix("session opened for user ") {
        Some(rest) => ("session_opened", LOGON, rest),
        None => ("session_closed", LOGOFF, text.strip_prefix("session closed for user ")?),
    };
    // `root(uid=0) by alice(uid=1000)`, `root by (uid=0)` or `root`.
    let (who, by) = rest.split_once(" by ").unwrap_or((rest, ""));
    let who = who.split_once("(uid=").map_or(who, |(name, _)| name).trim_end();
    let by = by.split_once("(uid=").map_or(by, |(name, _)| name).trim_end();
    attributes.text("action", action);
    attributes.text("outcome", "success");
    attributes.optional("by", Some(by).filter(|by| !by.is_empty()));
    let user = Some(who).filter(|who| !who.is_empty()).map(Cow::Borrowed);
    Some(Reading { user, ..Reading::of(class::AUTHENTICATION, activity) })
}

/// `logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.7  user=root`
fn failure<'m>(fields: &'m str, attributes: &mut Attributes) -> Reading<'m> {
    let mut reading = Reading::of(class::AUTHENTICATION, LOGON);
    attributes.text("action", "pam_authentication");
    attributes.text("outcome", "failure");
    for field in fields.split_ascii_whitespace() {
        let Some((name, value)) = field.split_once('=').filter(|(_, value)| !value.is_empty()) else {
            continue;
        };
        match name {
            "user" => reading.user = Some(Cow::Borrowed(value)),
            "rhost" => match ip::canonical(value) {
                Some(address) => reading.src_ip = Some(address),
                None => attributes.text("rhost", value),
            },
            "ruser" | "logname" | "tty" => attributes.text(name, value),
            "uid" | "euid" => attributes.digits(name, value),
            _ => {}
        }
    }
    reading
}
