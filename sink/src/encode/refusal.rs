//! Why a row is not stored but quarantined.

/// What is wrong with a record. Shows itself as the detail of its quarantine row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Text in Postgres holds no NUL.
    #[error("{0} holds a NUL character")]
    Nul(&'static str),
    /// `\u0000` in JSON, which Postgres stores as json and chokes on when it is read.
    #[error("attributes hold an escaped NUL character")]
    EscapedNul,
    /// Half of a surrogate pair escaped in JSON, likewise.
    #[error("attributes hold an unpaired surrogate")]
    LoneSurrogate,
    /// Not JSON, or nested too deeply.
    #[error("attributes are not JSON: {0}")]
    Json(String),
    /// Postgres' timestamps end before.
    #[error("{field} is out of range: {micros} us since 1970")]
    TimeRange {
        /// The column.
        field: &'static str,
        /// Its value.
        micros: i64,
    },
    /// Before the oldest month that live events are stored in.
    #[error("the event is of {0}, more than 6 months before it was received")]
    TooOld(String),
    /// Not an IP address.
    #[error("{field} is not an IP address: {text}")]
    Ip {
        /// The column.
        field: &'static str,
        /// Its value.
        text: String,
    },
    /// Not an org id.
    #[error("not an org id: {0}")]
    Org(String),
    /// A scan that cannot be merged.
    #[error("{0}")]
    Scan(String),
    /// Bytes on an enriched topic that are no record of it.
    #[error("not an enriched batch: {0}")]
    Undecodable(String),
    /// The server's own word.
    #[error("{0}")]
    Refused(String),
    /// Not looked at one by one: the org has had too many refused rows.
    #[error("among rows that Postgres refuses, of an org with too many of them: {0}")]
    RefusedUnexamined(String),
    /// Its push has the Idempotency-Key of another one.
    #[error(
        "the Idempotency-Key {0:?} belongs to another push, which came first; send this one with a key of its own"
    )]
    IdempotencyConflict(String),
    /// No partition is planned for its time.
    #[error("no partition holds {0}")]
    NoPartition(String),
}

impl Refusal {
    /// The reason of the quarantine row and the metric: a short code.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Nul(_) | Self::EscapedNul => "nul_character",
            Self::LoneSurrogate => "lone_surrogate",
            Self::Json(_) => "invalid_json",
            Self::TimeRange { .. } => "time_out_of_range",
            Self::TooOld(_) => "too_old",
            Self::Ip { .. } => "invalid_ip",
            Self::Org(_) => "invalid_org",
            Self::Scan(_) => "invalid_scan",
            Self::Undecodable(_) => "undecodable",
            Self::Refused(_) => "refused",
            Self::RefusedUnexamined(_) => "refused_unexamined",
            Self::IdempotencyConflict(_) => "idempotency_conflict",
            Self::NoPartition(_) => "no_partition",
        }
    }
}
