//! Errors of the client, classified here once.

use std::fmt;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// What an error calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Repeat the same thing later: brokers come back, coordinators move. What was being sent may have arrived.
    Transient,
    /// A queue or quota is full: repeat later, or send less.
    Saturation,
    /// This record is refused and will be again; its neighbours are fine.
    Data,
    /// Wrong configuration, missing rights or a client that is no longer usable: stop and say so.
    Fatal,
}

impl Class {
    /// As a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Saturation => "saturation",
            Self::Data => "data",
            Self::Fatal => "fatal",
        }
    }
}

/// A failed call: what was being done, to what, and why it failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{action}: {reason}")]
pub struct Error {
    action: String,
    reason: String,
    class: Class,
    code: Option<Code>,
}

impl Error {
    pub(crate) fn new(action: impl Into<String>, error: &KafkaError) -> Self {
        let (reason, code) = match error.rdkafka_error_code().or(match error {
            KafkaError::AdminOp(code) => Some(*code),
            _ => None,
        }) {
            Some(code) => (code.to_string(), Some(code)),
            None => (error.to_string(), None),
        };
        let class = match error {
            KafkaError::MessageConsumptionFatal(_) => Class::Fatal,
            // librdkafka refuses to send; no code is kept for these.
            KafkaError::ClientConfig(..)
            | KafkaError::ClientCreation(_)
            | KafkaError::AdminOpCreation(_)
            | KafkaError::Subscription(_)
            | KafkaError::Nul(_) => Class::Fatal,
            _ => code.map_or(Class::Transient, classify),
        };
        Self { action: action.into(), reason, class, code }
    }

    pub(crate) fn from_code(action: impl Into<String>, code: Code) -> Self {
        Self { action: action.into(), reason: code.to_string(), class: classify(code), code: Some(code) }
    }

    pub(crate) fn other(action: impl Into<String>, reason: impl fmt::Display, class: Class) -> Self {
        Self { action: action.into(), reason: reason.to_string(), class, code: None }
    }

    /// What it calls for.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Why, without what was being done.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether the same call may succeed later.
    pub fn is_retriable(&self) -> bool {
        matches!(self.class, Class::Transient | Class::Saturation)
    }

    /// Whether the topic or partition does not exist (yet).
    pub fn is_unknown_topic(&self) -> bool {
        matches!(
            self.code,
            Some(
                Code::UnknownTopic
                    | Code::UnknownTopicOrPartition
                    | Code::UnknownPartition
                    | Code::UnknownTopicId
            )
        )
    }

    /// Whether a group has members, so that nobody else may commit for it.
    pub fn is_group_in_use(&self) -> bool {
        matches!(
            self.code,
            Some(
                Code::UnknownMemberId
                    | Code::IllegalGeneration
                    | Code::RebalanceInProgress
                    | Code::NonEmptyGroup
                    | Code::FencedInstanceId
            )
        )
    }

    /// Whether no broker answered in time; the record may nevertheless have been stored.
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.code,
            Some(
                Code::MessageTimedOut | Code::OperationTimedOut | Code::TimedOutQueue | Code::RequestTimedOut
            )
        )
    }
}

/// Codes are Kafka's own (protocol guide, "Error Codes") and librdkafka's local ones, which are negative. What is not
/// named here passes by itself: a broker that restarts answers with many of them. So do failed handshakes (TLS, SASL),
/// which librdkafka does not tell from broken ones, and repeats.
fn classify(code: Code) -> Class {
    match code {
        Code::QueueFull | Code::ThrottlingQuotaExceeded => Class::Saturation,
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidMessage
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidTimestamp => Class::Data,
        // The client is no longer usable, or the log is not the one that was read.
        Code::Fatal
        | Code::Fenced
        | Code::FencedInstanceId
        | Code::GaplessGuarantee
        | Code::Inconsistent
        | Code::InvalidProducerEpoch
        | Code::LogTruncation
        | Code::OffsetOutOfRange
        | Code::AutoOffsetReset
        | Code::NoOffset
        | Code::OutOfOrderSequenceNumber
        | Code::UnknownProducerId
        // Missing rights.
        | Code::ClusterAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::IllegalSASLState
        | Code::SaslAuthenticationFailed
        | Code::TopicAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::UnsupportedSASLMechanism
        // Wrong configuration or program.
        | Code::BadCompression
        | Code::BadMessage
        | Code::InconsistentGroupProtocol
        | Code::InvalidArgument
        | Code::InvalidConfig
        | Code::InvalidGroupId
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidReplicaAssignment
        | Code::InvalidRequest
        | Code::InvalidRequiredAcks
        | Code::InvalidSessionTimeout
        | Code::InvalidTopic
        | Code::NonEmptyGroup
        | Code::NotConfigured
        | Code::NotImplemented
        | Code::PolicyViolation
        | Code::SecurityDisabled
        | Code::TopicAlreadyExists
        | Code::UnsupportedAssignor
        | Code::UnsupportedCompressionType
        | Code::UnsupportedFeature
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedVersion => Class::Fatal,
        _ => Class::Transient,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Code::AllBrokersDown, Class::Transient)]
    #[case(Code::NotEnoughReplicas, Class::Transient)]
    #[case(Code::MessageTimedOut, Class::Transient)]
    #[case(Code::SSL, Class::Transient)]
    #[case(Code::UnknownTopicOrPartition, Class::Transient)]
    #[case(Code::QueueFull, Class::Saturation)]
    #[case(Code::MessageSizeTooLarge, Class::Data)]
    #[case(Code::TopicAuthorizationFailed, Class::Fatal)]
    #[case(Code::AutoOffsetReset, Class::Fatal)]
    #[case(Code::Fatal, Class::Fatal)]
    fn codes_are_classified(#[case] code: Code, #[case] class: Class) {
        assert_eq!(Error::from_code("doing", code).class(), class);
        assert_eq!(Error::new("doing", &KafkaError::MessageProduction(code)).class(), class);
        assert_eq!(Error::new("doing", &KafkaError::AdminOp(code)).class(), class);
    }

    #[test]
    fn an_error_says_what_was_being_done_once() {
        let error = Error::new("sending to events[3]", &KafkaError::MessageProduction(Code::MessageTimedOut));
        assert!(error.is_timeout() && error.is_retriable());
        let text = error.to_string();
        assert!(text.starts_with("sending to events[3]: ") && text.contains("imed out"), "{text}");
    }
}
