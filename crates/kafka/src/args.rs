//! The flags that every client of Kafka shares.

use std::ffi::OsStr;
use std::fmt;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::{Error, ErrorKind};
use clap::{Arg, Command};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

/// What the guarantees rest on, or what has a flag of its own. Aliases included.
const RESERVED: &[&str] = &[
    "acks",
    "auto.commit.enable",
    "auto.offset.reset",
    "bootstrap.servers",
    "client.id",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "request.required.acks",
    "transactional.id",
];

/// Flags of every binary that uses Kafka.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaArgs {
    /// Brokers to ask first: host:port[,host:port…]
    #[arg(
        long = "kafka-brokers",
        env = "TIDEWATCH_KAFKA_BROKERS",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9092"
    )]
    pub brokers: String,

    /// Setting of librdkafka (TLS, SASL …); repeatable
    #[arg(
        long = "kafka-option",
        env = "TIDEWATCH_KAFKA_OPTIONS",
        hide_env_values = true,
        value_name = "KEY=VALUE",
        value_parser = OptionsParser
    )]
    pub options: Vec<ClientOptions>,

    /// Put before the name of every topic and consumer group
    #[arg(long = "topic-prefix", env = "TIDEWATCH_TOPIC_PREFIX", value_name = "PREFIX", default_value = "")]
    pub topic_prefix: TopicPrefix,

    /// Name of this instance in its consumer groups, one for each (such as the pod's): with it, an instance that dies and is
    /// started again within the session's 10 s goes on at once with the partitions it had, and no others: after a topic
    /// has grown, leave every instance stopped for 10 s once
    #[arg(long = "instance-id", env = "TIDEWATCH_INSTANCE_ID", value_name = "NAME", value_parser = instance_id)]
    pub instance_id: Option<String>,
}

fn instance_id(text: &str) -> Result<String, String> {
    let legal = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    if (1..=200).contains(&text.len()) && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("has 1 to 200 characters, of a-z, A-Z, 0-9, '.', '_' and '-'".to_owned())
    }
}

impl KafkaArgs {
    /// These brokers, no prefix, no options: for tests, and for binaries that are told their brokers in another way.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            options: Vec::new(),
            topic_prefix: TopicPrefix::default(),
            instance_id: None,
        }
    }

    /// The same brokers with another prefix: tests use one each.
    #[must_use]
    pub fn with_prefix(&self, prefix: TopicPrefix) -> Self {
        Self { topic_prefix: prefix, ..self.clone() }
    }

    /// Full name of a topic.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.topic_prefix)
    }

    /// Full name of a consumer group.
    pub fn group(&self, name: &str) -> String {
        format!("{}{name}", self.topic_prefix)
    }

    /// Whether an option of the user's sets this.
    pub(crate) fn sets(&self, key: &str) -> bool {
        self.options.iter().flat_map(|options| &options.0).any(|option| option.key == key)
    }

    /// What every client of this crate has in common.
    pub(crate) fn client_config(&self, client_id: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", client_id)
            // A broker that comes back is found within a second instead of ten.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            // The bootstrap list is asked again after this long without metadata instead of five minutes; see brokers.rs.
            .set("metadata.recovery.rebootstrap.trigger.ms", "5000")
            .set("socket.keepalive.enable", "true")
            // Grown partitions are noticed this soon.
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("allow.auto.create.topics", "false");
        for option in self.options.iter().flat_map(|options| &options.0) {
            config.set(&option.key, &option.value);
        }
        if self.sets("debug") {
            config.set_log_level(RDKafkaLogLevel::Debug);
        }
        config
    }
}

/// One setting of librdkafka.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientOption {
    /// Its name there.
    pub key: String,
    /// Its value, which may be secret.
    pub value: String,
}

/// Without the value, which may be a password.
impl fmt::Debug for ClientOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.key)
    }
}

/// Settings of librdkafka as one flag or the environment gives them: `KEY=VALUE[,KEY=VALUE…]`. A comma before anything
/// that is not `key=` belongs to the value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientOptions(pub Vec<ClientOption>);

/// An option cannot be used. Says nothing of its value, which may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOption {
    /// Not of the form `KEY=VALUE`.
    #[error("an option has the form KEY=VALUE")]
    Form,
    /// Set by this program.
    #[error("{0} is set by tidewatch, whose guarantees rest on it")]
    Reserved(String),
    /// librdkafka does not know it or does not take its value.
    #[error("librdkafka refuses {0} or its value")]
    Refused(String),
}

impl FromStr for ClientOptions {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut options: Vec<ClientOption> = Vec::new();
        for piece in text.split(',') {
            let begins = piece.split_once('=').filter(|(key, _)| is_option_name(key.trim()));
            match (begins, options.last_mut()) {
                (Some((key, value)), _) => {
                    options.push(ClientOption { key: key.trim().into(), value: value.into() });
                }
                (None, Some(last)) => {
                    last.value.push(',');
                    last.value.push_str(piece);
                }
                (None, None) if text.trim().is_empty() => {}
                (None, None) => return Err(InvalidOption::Form),
            }
        }
        for ClientOption { key, value } in &options {
            if RESERVED.contains(&key.as_str()) {
                return Err(InvalidOption::Reserved(key.clone()));
            }
            if ClientConfig::new().set(key, value).create_native_config().is_err() {
                return Err(InvalidOption::Refused(key.clone()));
            }
        }
        Ok(Self(options))
    }
}

fn is_option_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|char| char.is_ascii_lowercase() || ".-_".contains(char))
}

/// clap's own message would quote the value.
#[derive(Clone)]
struct OptionsParser;

impl TypedValueParser for OptionsParser {
    type Value = ClientOptions;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Self::Value, Error> {
        let name = arg.map(ToString::to_string).unwrap_or_default();
        let parsed = value.to_str().ok_or(InvalidOption::Form).and_then(str::parse);
        parsed.map_err(|error| {
            Error::raw(ErrorKind::ValueValidation, format!("invalid value for '{name}': {error}\n"))
                .with_cmd(command)
        })
    }
}

/// What is put before the name of every topic and group; empty by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicPrefix(String);

/// A prefix would make names that Kafka does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("has at most 100 characters, of a-z, A-Z, 0-9, '.', '_' and '-'")]
pub struct InvalidPrefix;

impl FromStr for TopicPrefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
        if text.len() > 100 || !text.chars().all(legal) {
            return Err(InvalidPrefix);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TopicPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use rstest::rstest;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        kafka: KafkaArgs,
    }

    fn pairs(text: &str) -> Vec<(String, String)> {
        let options: ClientOptions = text.parse().unwrap();
        options.0.into_iter().map(|option| (option.key, option.value)).collect()
    }

    #[test]
    fn options_are_split_at_commas_before_names() {
        assert_eq!(pairs(""), []);
        assert_eq!(
            pairs("debug=cgrp,topic,security.protocol=sasl_plaintext,sasl.password=a=b,C=d"),
            [
                ("debug".into(), "cgrp,topic".into()),
                ("security.protocol".into(), "sasl_plaintext".into()),
                ("sasl.password".into(), "a=b,C=d".into()),
            ]
        );
    }

    #[rstest]
    #[case("nonsense", InvalidOption::Form)]
    #[case("=1", InvalidOption::Form)]
    #[case("enable.idempotence=false", InvalidOption::Reserved("enable.idempotence".into()))]
    #[case("no.such.thing=1", InvalidOption::Refused("no.such.thing".into()))]
    #[case("socket.timeout.ms=soon", InvalidOption::Refused("socket.timeout.ms".into()))]
    fn options_that_cannot_be_used_are_refused(#[case] text: &str, #[case] error: InvalidOption) {
        assert_eq!(text.parse::<ClientOptions>(), Err(error));
    }

    #[test]
    fn secrets_are_shown_nowhere() {
        let program =
            Program::try_parse_from(["x", "--kafka-option", "sasl.password=hunter2", "--topic-prefix", "t-"])
                .unwrap();
        assert!(!format!("{program:?}").contains("hunter2"));
        let error = Program::try_parse_from(["x", "--kafka-option", "sasl.pasword=hunter2"]).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(error.to_string().contains("--kafka-option"), "{error}");
        assert_eq!(program.kafka.topic("events"), "t-events");
        assert_eq!(program.kafka.group("tidewatch-sink"), "t-tidewatch-sink");
    }

    #[test]
    fn a_prefix_that_kafka_would_not_take_is_refused() {
        assert!(Program::try_parse_from(["x", "--topic-prefix", "a/b"]).is_err());
        assert!("x".repeat(101).parse::<TopicPrefix>().is_err());
    }
}
