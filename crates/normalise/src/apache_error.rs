//! Error logs of Apache: time, level and client; what else they say stays message.

use crate::app::Reading;
use crate::attributes::Attributes;
use crate::{ip, severity, time};

/// `[time] [module:level] [pid N] [client 192.0.2.7:80] message`; the module, pid and port are not always there. The client
/// is the last of them: a message may begin with brackets of its own.
pub(crate) fn read<'m>(line: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    let (stamp, rest) = line.strip_prefix('[')?.split_once("] [")?;
    let stamp = time::ctime(stamp)?;
    let (level, mut rest) = rest.split_once(']')?;
    let (module, level) =
        level.split_once(':').map_or((None, level), |(module, level)| (Some(module), level));
    let mut reading = Reading {
        source_type: Some("web_error"),
        time: Some(stamp.micros),
        severity_id: severity::of_name(level),
        ..Reading::default()
    };
    attributes.text("level", level);
    attributes.optional("module", module.filter(|module| !module.is_empty()));
    while let Some((field, next)) = rest.trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']'))
    {
        match field.split_once(' ') {
            Some(("client", client)) => {
                // Newer servers add the port.
                let with_port = client.rsplit_once(':').filter(|(address, _)| ip::parse(address).is_some());
                match (ip::canonical(client), with_port) {
                    (Some(address), _) => reading.src_ip = Some(address),
                    (None, Some((address, port))) => {
                        reading.src_ip = ip::canonical(address);
                        reading.src_port = ip::port(port);
                    }
                    (None, None) => attributes.text("client", client),
                }
                break;
            }
            Some(("pid", pid)) => attributes.digits("pid", pid),
            _ => break,
        }
        rest = next;
    }
    Some(reading)
}
