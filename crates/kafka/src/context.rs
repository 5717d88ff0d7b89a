//! librdkafka's log lines and errors, as events of `tracing`.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel as Level;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// librdkafka repeats an error with every attempt to connect.
const SILENCE: Duration = Duration::from_secs(10);

/// One log line of librdkafka. `facility` is its own short name of the occasion.
pub(crate) fn log(level: Level, facility: &str, message: &str) {
    // Said at every start, and meant for those who do not know what they ask for.
    if facility == "CONFWARN" && message.contains("enable.gapless.guarantee is experimental") {
        return;
    }
    match level {
        Level::Emerg | Level::Alert | Level::Critical | Level::Error => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        Level::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
        Level::Notice | Level::Info => tracing::info!(target: "librdkafka", facility, "{message}"),
        Level::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}

/// Tells of an error when it is not the one just told.
#[derive(Debug, Default)]
pub(crate) struct ErrorLog {
    last: Mutex<Option<(Code, Instant)>>,
}

impl ErrorLog {
    pub(crate) fn tell(&self, error: &KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        let now = Instant::now();
        {
            let mut last = self.last.lock();
            if last.is_some_and(|(told, at)| told == code && now.duration_since(at) < SILENCE) {
                return;
            }
            *last = Some((code, now));
        }
        if code == Code::Fatal {
            tracing::error!(target: "librdkafka", %code, "{reason}");
        } else {
            tracing::warn!(target: "librdkafka", %code, "{reason}");
        }
    }
}

/// Context of clients that are asked and answer: administration.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    errors: ErrorLog,
}

impl ClientContext for Quiet {
    fn log(&self, level: Level, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.errors.tell(&error, reason);
    }
}

impl rdkafka::consumer::ConsumerContext for Quiet {}
