//! The log on stderr.

use std::io::IsTerminal;

use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{LogFormat, ServiceArgs};

/// Starts logging; records of the `log` crate come along.
pub(crate) fn start(args: &ServiceArgs) -> Result<(), TryInitError> {
    let registry = tracing_subscriber::registry().with(args.log.to_env_filter());
    match args.log_format() {
        LogFormat::Human => {
            let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
            registry.with(layer).try_init()
        }
        LogFormat::Json => {
            let layer = fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
            registry.with(layer).try_init()
        }
    }
}
