//! Dead letters: records that could not go where they belong, kept byte for byte in one topic.
//!
//! Both services write them, and the `dlq` commands read them, so the header names and the reasons are fixed here.
//! The reasons are a bounded set: they are labels of metrics.

/// Why a record became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeadLetterReason {
    /// No bytes although the record has a value.
    Empty,
    InvalidUtf8,
    InvalidJson,
    /// Said to be Avro, but no event of the schema that it names.
    InvalidAvro,
    /// Avro of a schema that is not ours, or that the registry does not know.
    UnknownSchema,
    /// JSON, but an array or a scalar.
    NotAnObject,
    /// A top-level `_kafka` is there already: ours would make it twice.
    KafkaMemberPresent,
    /// The record's own namespace is not the topic's.
    NamespaceMismatch,
    /// Neither the record nor Kafka says when it happened.
    NoTime,
    /// Larger than a line may be.
    TooLarge,
    /// Its document breaks the schema that its collection has here.
    SchemaViolation,
    /// A change event whose bytes are no BSON.
    UnreadableEvent,
    /// A change event without a member that routing, key or position need.
    IncompleteEvent,
    /// A part of a value that was too large for its topic, in which a stub stands for it.
    Oversize,
}

impl DeadLetterReason {
    pub const ALL: [Self; 14] = [
        Self::Empty,
        Self::InvalidUtf8,
        Self::InvalidJson,
        Self::InvalidAvro,
        Self::UnknownSchema,
        Self::NotAnObject,
        Self::KafkaMemberPresent,
        Self::NamespaceMismatch,
        Self::NoTime,
        Self::TooLarge,
        Self::SchemaViolation,
        Self::UnreadableEvent,
        Self::IncompleteEvent,
        Self::Oversize,
    ];

    /// The text in the `dlq-reason` header and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::InvalidUtf8 => "invalid-utf8",
            Self::InvalidJson => "invalid-json",
            Self::InvalidAvro => "invalid-avro",
            Self::UnknownSchema => "unknown-schema",
            Self::NotAnObject => "not-an-object",
            Self::KafkaMemberPresent => "kafka-member-present",
            Self::NamespaceMismatch => "namespace-mismatch",
            Self::NoTime => "no-time",
            Self::TooLarge => "too-large",
            Self::SchemaViolation => "schema-violation",
            Self::UnreadableEvent => "unreadable-event",
            Self::IncompleteEvent => "incomplete-event",
            Self::Oversize => "oversize",
        }
    }
}

/// Error texts, causes included, are cut to this many bytes.
pub const ERROR_TEXT_BYTES_MAX: usize = 1024;

/// Headers that a dead letter has besides those of the original record, which stay as they were.
pub mod header {
    pub const REASON: &str = "dlq-reason";
    /// The message with its causes.
    pub const ERROR: &str = "dlq-error";
    /// `validate` (sink), `transcode` and `publish` (source): where it failed.
    pub const STAGE: &str = "dlq-stage";
    /// `<number>/<of>`, from 1: the letter's value is a part of what did not fit.
    pub const PART: &str = "dlq-part";
    pub const ATTEMPTS: &str = "dlq-attempts";
    pub const ORIGINAL_TOPIC: &str = "dlq-original-topic";
    pub const ORIGINAL_PARTITION: &str = "dlq-original-partition";
    pub const ORIGINAL_OFFSET: &str = "dlq-original-offset";
    /// Milliseconds since the epoch; absent if the record had none.
    pub const ORIGINAL_TIMESTAMP: &str = "dlq-original-timestamp";
    /// The original key, byte for byte; absent if the record had none.
    pub const ORIGINAL_KEY: &str = "dlq-original-key";
    pub const EVENT_ID: &str = "dlq-event-id";
    pub const COLLECTION: &str = "dlq-collection";
    /// RFC 3339, UTC, milliseconds.
    pub const FAILED_AT: &str = "dlq-failed-at";
    pub const SERVICE_VERSION: &str = "dlq-service-version";

    /// Of a record that `dlq retry` sent back to its topic: the letter's key. It comes in an order of its own, so it is never its source's last record.
    pub const RETRY: &str = "dlq-retry";
    /// `true` beside [`RETRY`]: the value is not the original one.
    pub const REPAIRED: &str = "dlq-repaired";

    /// Of a record that is no letter, but says what was done with the letter of its key: `retried` or `dropped`. The newest one decides.
    pub const MARKER: &str = "dlq-marker";
    /// RFC 3339, UTC, milliseconds.
    pub const MARKED_AT: &str = "dlq-marked-at";
    /// Why it was dropped, in the operator's words.
    pub const MARKER_REASON: &str = "dlq-marker-reason";
}
