//! What the source remembers: its position, and where each collection's events go.
//!
//! Both live in one compacted topic per source, `<prefix>.resume-tokens-<source id>`, one partition:
//!
//! | key | value |
//! |---|---|
//! | `<source id>` | [`TokenRecord`]: every event before `clusterTime` is committed |
//! | `topic/<topic>` | [`TopicRecord`]: which namespace a topic holds, in which form its name is written, how many partitions keys are spread over |
//!
//! A record is written only inside the transaction whose events it covers. Fields that a reader does not know are left alone,
//! so a newer source can add some.

use bson::{Bson, Document, RawDocument, RawDocumentBuf};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shared::{
    cluster_time::{ClusterTime, TimestampJson},
    namespace::Namespace,
    source_watermark::{self, ScopeRecord},
    topic_name::Form,
};

use crate::envelope::KeyFormat;

/// Of [`TokenRecord`]; a reader refuses what it does not know.
pub const VERSION: u32 = source_watermark::VERSION;

/// Before the name of a topic in a key. A source id has no slash, so the two kinds of keys never meet.
pub const TOPIC_KEY_PREFIX: &str = "topic/";

/// A resume token: the **whole** document as the server sent it. Without its `_typeBits` some do not resume (seen on 6.0.5).
#[derive(Clone, Debug, PartialEq)]
pub struct ResumeToken(RawDocumentBuf);

impl ResumeToken {
    /// `None` if this is no token: its `_data` is missing or of a form that says no time.
    pub fn new(token: &RawDocument) -> Option<Self> {
        let token = Self(token.to_owned());
        token.decoded_time()?;
        Some(token)
    }

    /// The time that the token stands at; read from the token, because a reply's `operationTime` may be ahead of it.
    pub fn cluster_time(&self) -> ClusterTime {
        self.decoded_time().expect("checked when the token was made")
    }

    /// For the stage that opens a stream.
    pub fn as_raw(&self) -> &RawDocument {
        &self.0
    }

    fn decoded_time(&self) -> Option<ClusterTime> {
        ClusterTime::from_token_data(self.0.get_str("_data").ok()?)
    }

    /// Canonical: every type comes back as it was.
    pub fn to_extended_json(&self) -> serde_json::Value {
        let document =
            Document::try_from(self.0.as_ref()).expect("a reply that the driver has walked is valid BSON");
        Bson::Document(document).into_canonical_extjson()
    }

    /// `None` if this is no token.
    pub fn from_extended_json(json: serde_json::Value) -> Option<Self> {
        let Ok(Bson::Document(document)) = Bson::try_from(json) else { return None };
        Self::new(&RawDocumentBuf::try_from(&document).ok()?)
    }
}

/// Where the stream goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum Position {
    /// Nothing was read yet: events at or after this time.
    Time(ClusterTime),
    /// Events after this token.
    After(ResumeToken),
}

impl Position {
    /// Sorts behind the id of every event before the position, and before those behind it.
    pub fn event_id(&self) -> &str {
        match self {
            Self::Time(_) => "00",
            Self::After(token) => token.as_raw().get_str("_data").unwrap_or("00"),
        }
    }

    pub fn cluster_time(&self) -> ClusterTime {
        match self {
            Self::Time(time) => *time,
            Self::After(token) => token.cluster_time(),
        }
    }
}

/// The wire form; [`TokenRecord`] has the types.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenRecordJson {
    version: u32,
    instance: String,
    run: u32,
    token: Option<serde_json::Value>,
    cluster_time: TimestampJson,
    #[serde(default)]
    scope: ScopeRecord,
    #[serde(default)]
    fingerprint: String,
    key_format: String,
    #[serde(default)]
    clean: bool,
}

/// The position of a source, as committed.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRecord {
    /// Random per process start: tells a takeover from an own transaction that timed out.
    pub instance: String,
    /// Rises whenever the position is set by anything but the stream; 1 at the very first start.
    pub run: u32,
    pub position: Position,
    pub scope: ScopeRecord,
    /// Of scope, pipeline and options: a token of another stream may not resume this one.
    pub fingerprint: String,
    pub key_format: KeyFormat,
    /// The process that wrote it ended in order: nothing was in flight, so where keys go may change.
    pub clean: bool,
}

/// A record that cannot be used: somebody else wrote it, or a newer version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableRecord {
    #[error("it is not the JSON of a token record: {0}")]
    Unreadable(String),
    #[error("it has version {0}, and this program knows version {VERSION}")]
    Version(u32),
    #[error("its resume token is not one")]
    Token,
    #[error("it has the unknown key format {0:?}")]
    KeyFormat(String),
}

impl TokenRecord {
    /// Where a stream with this fingerprint goes on. A token of another stream may not resume it; its time does, and the tails
    /// keep what is committed from coming twice.
    pub fn position_for(&self, fingerprint: &str) -> Position {
        if self.fingerprint == fingerprint {
            self.position.clone()
        } else {
            Position::Time(self.position.cluster_time())
        }
    }

    pub fn to_json(&self) -> Vec<u8> {
        let time = self.position.cluster_time();
        let json = TokenRecordJson {
            version: VERSION,
            instance: self.instance.clone(),
            run: self.run,
            token: match &self.position {
                Position::Time(_) => None,
                Position::After(token) => Some(token.to_extended_json()),
            },
            cluster_time: time.into(),
            scope: self.scope.clone(),
            fingerprint: self.fingerprint.clone(),
            key_format: key_format_name(self.key_format).to_owned(),
            clean: self.clean,
        };
        serde_json::to_vec(&json).expect("the record has only strings as keys")
    }

    /// # Errors
    /// See [`UnusableRecord`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, UnusableRecord> {
        let json: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| UnusableRecord::Unreadable(error.to_string()))?;
        // The version first: another one may have other fields.
        match json.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(VERSION) => {}
            Some(version) => return Err(UnusableRecord::Version(u32::try_from(version).unwrap_or(u32::MAX))),
            None => return Err(UnusableRecord::Unreadable("it has no version".to_owned())),
        }
        let json: TokenRecordJson =
            serde_json::from_value(json).map_err(|error| UnusableRecord::Unreadable(error.to_string()))?;
        let position = match json.token {
            None => Position::Time(json.cluster_time.into()),
            Some(token) => {
                Position::After(ResumeToken::from_extended_json(token).ok_or(UnusableRecord::Token)?)
            }
        };
        Ok(Self {
            instance: json.instance,
            run: json.run,
            position,
            scope: json.scope,
            fingerprint: json.fingerprint,
            key_format: key_format_of(&json.key_format).ok_or(UnusableRecord::KeyFormat(json.key_format))?,
            clean: json.clean,
        })
    }
}

/// One topic's place, fixed by the first event that went there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRecord {
    pub namespace: Namespace,
    pub form: Form,
    /// Keys are spread over this many, whatever is added to the topic later.
    pub partitions: u32,
}

#[derive(Serialize, Deserialize)]
struct TopicRecordJson {
    db: String,
    coll: String,
    form: FormJson,
    partitions: u32,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FormJson {
    Usual,
    FullyEscaped,
}

impl TopicRecord {
    pub fn to_json(&self) -> Vec<u8> {
        let json = TopicRecordJson {
            db: self.namespace.db.clone(),
            coll: self.namespace.coll.clone(),
            form: match self.form {
                Form::Usual => FormJson::Usual,
                Form::FullyEscaped => FormJson::FullyEscaped,
            },
            partitions: self.partitions,
        };
        serde_json::to_vec(&json).expect("the record has only strings as keys")
    }

    /// # Errors
    /// [`UnusableRecord::Unreadable`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, UnusableRecord> {
        let json: TopicRecordJson =
            serde_json::from_slice(bytes).map_err(|error| UnusableRecord::Unreadable(error.to_string()))?;
        let form = match json.form {
            FormJson::Usual => Form::Usual,
            FormJson::FullyEscaped => Form::FullyEscaped,
        };
        Ok(Self { namespace: Namespace::new(json.db, json.coll), form, partitions: json.partitions })
    }
}

/// 32 hexadecimal digits over what decides which events a stream has.
pub fn fingerprint(parts: &[&str]) -> String {
    use std::fmt::Write as _;

    let mut hasher = Sha256::new();
    for part in parts {
        // The length keeps ("a", "bc") apart from ("ab", "c").
        hasher.update(part.len().to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize()[..16].iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

/// As `KEY_FORMAT` has it.
pub fn key_format_name(format: KeyFormat) -> &'static str {
    match format {
        KeyFormat::ExtendedJson => "json",
        KeyFormat::Plain => "plain",
        KeyFormat::Debezium => "debezium",
        KeyFormat::MongoKafka => "mongo-kafka",
    }
}

fn key_format_of(name: &str) -> Option<KeyFormat> {
    [KeyFormat::ExtendedJson, KeyFormat::Plain, KeyFormat::Debezium, KeyFormat::MongoKafka]
        .into_iter()
        .find(|format| key_format_name(*format) == name)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use bson::{Binary, rawdoc, spec::BinarySubtype};

    use super::*;

    const DATA: &str = "8266C1F3A4000000032B0229296E04";

    fn record(position: Position) -> TokenRecord {
        TokenRecord {
            instance: "5a".to_owned(),
            run: 1,
            position,
            scope: ScopeRecord { databases: vec!["shop".to_owned()], ..ScopeRecord::default() },
            fingerprint: fingerprint(&["shop"]),
            key_format: KeyFormat::Plain,
            clean: false,
        }
    }

    #[test]
    fn a_token_comes_back_whole() {
        let type_bits = Binary { subtype: BinarySubtype::Generic, bytes: vec![0x82, 0x01] };
        let token = rawdoc! { "_data": DATA, "_typeBits": type_bits };
        let position = Position::After(ResumeToken::new(&token).unwrap());
        let record = record(position);
        let again = TokenRecord::from_json(&record.to_json()).unwrap();
        assert_eq!(again, record);
        let Position::After(again) = again.position else { panic!("the token is lost") };
        assert_eq!(again.as_raw(), token.as_ref());
        assert_eq!(again.cluster_time(), ClusterTime::new(0x66C1_F3A4, 3));
    }

    #[test]
    fn a_first_start_has_a_time_and_no_token() {
        let record = record(Position::Time(ClusterTime::new(7, 2)));
        let json: serde_json::Value = serde_json::from_slice(&record.to_json()).unwrap();
        assert_eq!(json["token"], serde_json::Value::Null);
        assert_eq!(json["clusterTime"], serde_json::json!({"$timestamp": {"t": 7, "i": 2}}));
        assert_eq!(TokenRecord::from_json(&record.to_json()).unwrap(), record);
    }

    #[test]
    fn a_token_of_another_stream_is_only_a_time() {
        let token = ResumeToken::new(&rawdoc! { "_data": DATA }).unwrap();
        let record = record(Position::After(token));
        assert_eq!(record.position_for(&fingerprint(&["shop"])), record.position);
        let time = Position::Time(ClusterTime::new(0x66C1_F3A4, 3));
        assert_eq!(record.position_for(&fingerprint(&["crm"])), time);
    }

    #[test]
    fn unknown_fields_are_left_alone_and_unknown_versions_refused() {
        let mut json: serde_json::Value =
            serde_json::from_slice(&record(Position::Time(ClusterTime::new(7, 2))).to_json()).unwrap();
        json["snapshot"] = serde_json::json!({"done": 3});
        assert!(TokenRecord::from_json(&serde_json::to_vec(&json).unwrap()).is_ok());
        json["version"] = serde_json::json!(2);
        assert_eq!(
            TokenRecord::from_json(&serde_json::to_vec(&json).unwrap()),
            Err(UnusableRecord::Version(2))
        );
    }

    #[test]
    fn topics_come_back() {
        let record =
            TopicRecord { namespace: Namespace::new("shop", "a.b"), form: Form::FullyEscaped, partitions: 3 };
        assert_eq!(TopicRecord::from_json(&record.to_json()).unwrap(), record);
    }

    #[test]
    fn fingerprints_keep_their_parts_apart() {
        assert_ne!(fingerprint(&["a", "bc"]), fingerprint(&["ab", "c"]));
        assert_eq!(fingerprint(&["a"]).len(), 32);
    }
}
