//! One change event of MongoDB becomes one record: key, value and what headers and routing need.
//!
//! ```text
//!  raw event ──► Members (one walk: where each member lies) ──► value   one line, members in the fixed order
//!                                                           ├─► key     the document's `_id`, or the namespace
//!                                                           └─► operation, namespace, times, event id
//! ```
//!
//! The server sends an event's members in any order and leaves out what does not apply; the envelope always
//! has the same names in the same order, with `null` for what is absent (DESIGN "Wire format"). What the
//! envelope does not name (`to`, `operationDescription`, `collectionUUID`, members computed by a pipeline)
//! follows verbatim under its own name. The exception is `_id`, the resume token, of which `_meta.eventId` is
//! the identifying part.
//!
//! With `VALUE_FORMAT=avro` the value is put together from the pieces of that line ([`avro`]).
//!
//! All buffers are reused: in the steady state an event costs no allocation. What a large event made them grow
//! to is given back with the next one.

mod avro;
mod key;
mod members;
mod operation;
mod profile;
#[cfg(test)]
mod tests;

use shared::cluster_time::ClusterTime;

pub use avro::ValueFormat;
use avro::{AvroEnvelope, Places};
pub use key::KeyFormat;
use members::Members;
pub use members::{EventNamespace, Transaction, collection, raw_namespace, resume_token, transaction};
pub use operation::Operation;
pub use profile::EventProfile;
use profile::{DebeziumEnvelope, write_debezium_key, write_mongo_kafka, write_mongo_kafka_key};

use crate::{
    field_policy::{CollectionVeils, FieldPolicy, HiddenCounts, Veil},
    transactions::operation_index,
    transcode::{
        Canonical, Dialect, ElementKind, IsoInstant, MalformedBson, Plain, Relaxed, Writer, write_text,
    },
};

/// The room that is kept for the next value, in bytes. MongoDB's largest event, 16 MiB of BSON, may need several
/// times as much JSON: one such event must not hold that memory for good.
const KEPT_BYTES: usize = 1024 * 1024;

/// Why an event has no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Its bytes are damaged: a dead letter.
    #[error("the event is not readable BSON")]
    Unreadable(#[from] MalformedBson),
    /// A member that routing, key or position need is missing, or is not what MongoDB sends: a dead letter,
    /// and most likely the doing of a pipeline.
    #[error("the event has no usable `{member}`")]
    Incomplete { member: &'static str },
    /// A field of the document's key is hidden by a field policy, and keys are published as they are: the policy has
    /// to be changed.
    #[error(
        "FIELD_POLICY_FILE hides {field}, which is part of the key of documents in {namespace}: keys identify \
         documents and are published as they are. Take {field} out of the rules for {namespace}, or the collection \
         out of the scope"
    )]
    HiddenKey { namespace: String, field: String },
    /// A member is named as one that only the envelope or the sink may write, or comes twice: the pipeline
    /// has to be changed.
    #[error("the event's member `{name}` has a name that is taken")]
    NameClash { name: String },
}

/// The JSON of documents in the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JsonDialect {
    /// Extended JSON v2, relaxed.
    #[default]
    Relaxed,
    /// Extended JSON v2, canonical.
    Canonical,
    /// Bare values.
    Plain,
}

/// What was found when an update's document was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundDocument<'a> {
    /// A whole BSON document.
    Found(&'a [u8]),
    /// It has been deleted since.
    Gone,
}

/// What is said about an event that it does not say itself.
#[derive(Clone, Copy, Debug)]
pub struct EventContext<'a> {
    /// Our clock, in milliseconds since 1970.
    pub processed_at_ms: i64,
    /// Whether the event is a row of a snapshot.
    pub snapshot: bool,
    /// How many events its MongoDB transaction has, as far as it is of one and that is known.
    pub transaction_count: Option<u32>,
    /// The event's `fullDocument`, if the source looked it up.
    pub looked_up: Option<FoundDocument<'a>>,
}

/// A record, in the transcoder's buffers and in the event.
#[derive(Clone, Copy, Debug)]
pub struct EventRecord<'a> {
    /// The envelope: one line of UTF-8 JSON without its line break, or Avro in Confluent's wire format.
    pub value: &'a [u8],
    /// The document's `_id`, or the namespace (`db.coll` or `db`, empty if there is none) of an event that is
    /// not about a document.
    pub key: &'a [u8],
    /// Whether the event is about one document: it then belongs to the collection's topic, else to the
    /// control topic.
    pub is_document_change: bool,
    pub operation: Operation<'a>,
    /// `None` for `invalidate`.
    pub namespace: Option<EventNamespace<'a>>,
    pub cluster_time: ClusterTime,
    /// `_data` of the resume token: unique in a stream, and sorts as the stream does.
    pub event_id: &'a str,
    /// The whole resume token, a BSON document.
    pub resume_token: &'a [u8],
    /// The server's wall clock, in milliseconds since 1970; servers before 6.0 do not send it.
    pub wall_time_ms: Option<i64>,
    /// Whether the event is part of a multi-document transaction.
    pub in_transaction: bool,
    pub snapshot: bool,
    /// How many texts held invalid UTF-8, which became U+FFFD.
    pub repaired_texts: u32,
    /// How many fields the policy hid.
    pub hidden: HiddenCounts,
}

/// Makes records of events; owns the buffers that they lie in.
#[derive(Debug)]
pub struct EventTranscoder {
    dialect: JsonDialect,
    key_format: KeyFormat,
    /// `,"source":"…","snapshot":`, the same in every value of this source.
    source_member: Vec<u8>,
    /// Without a field policy, nothing is hidden.
    veils: Option<CollectionVeils>,
    further: Vec<members::Span>,
    value: Vec<u8>,
    places: Places,
    key: Vec<u8>,
    /// `None` with `VALUE_FORMAT=json`.
    avro: Option<AvroEnvelope>,
    profile: EventProfile,
    debezium: DebeziumEnvelope,
    /// A key before it is quoted.
    key_text: Vec<u8>,
}

impl EventTranscoder {
    /// For the source with this id, without its run: `_meta.source` names who, the `source` header also which
    /// run.
    pub fn new(source_id: &str, dialect: JsonDialect, key_format: KeyFormat) -> Self {
        let mut source_member = b",\"source\":".to_vec();
        write_text(source_id.as_bytes(), &mut source_member);
        source_member.extend_from_slice(b",\"snapshot\":");
        Self {
            dialect,
            key_format,
            source_member,
            veils: None,
            further: Vec::new(),
            value: Vec::new(),
            places: Places::default(),
            key: Vec::new(),
            avro: None,
            profile: EventProfile::Atlas,
            debezium: DebeziumEnvelope::new(""),
            key_text: Vec::new(),
        }
    }

    /// Writes records of documents as that connector does from now on; `prefix` is the topics'. The key's format has to be the profile's.
    #[must_use]
    pub fn as_profile(mut self, profile: EventProfile, prefix: &str) -> Self {
        self.profile = profile;
        self.debezium = DebeziumEnvelope::new(prefix);
        self
    }

    /// Hides what this policy says, in every record from now on.
    #[must_use]
    pub fn hiding(mut self, policy: Option<FieldPolicy>) -> Self {
        self.veils = policy.map(CollectionVeils::new);
        self
    }

    /// Whether the bytes of an event that was refused may hold something that is hidden. What cannot be read may hold anything.
    pub fn may_hide_in(&mut self, event: &[u8], error: &EventError) -> bool {
        let Some(veils) = &mut self.veils else { return false };
        match members::namespace(event) {
            Some(namespace) if !matches!(error, EventError::Unreadable(_)) => veils.of(&namespace).is_some(),
            _ => true,
        }
    }

    /// Writes values in this format from now on. `source_id` is the one that it was made for.
    #[must_use]
    pub fn in_format(mut self, format: ValueFormat, source_id: &str) -> Self {
        self.avro = match format {
            ValueFormat::Json => None,
            ValueFormat::Avro(id) => Some(AvroEnvelope::new(id, source_id)),
        };
        self
    }

    /// The record of `event`, a whole raw BSON document (`RawDocument::as_bytes`). It lies in this
    /// transcoder's buffers until the next call.
    ///
    /// # Errors
    /// See [`EventError`]. The next event is not affected.
    pub fn transcode<'a>(
        &'a mut self,
        event: &'a [u8],
        context: &EventContext<'a>,
    ) -> Result<EventRecord<'a>, EventError> {
        let mut members = Members::read(event, &mut self.further)?;
        match context.looked_up {
            Some(FoundDocument::Found(bytes)) => members.set_full_document(bytes),
            Some(FoundDocument::Gone) | None => {}
        }
        let is_document_change = self.write_key(&members)?;
        let (repaired_texts, hidden) = match self.dialect {
            _ if is_document_change && self.profile != EventProfile::Atlas => {
                self.write_profile(event, &members, context)?
            }
            JsonDialect::Relaxed => self.write_value::<Relaxed>(event, &members, context)?,
            JsonDialect::Canonical => self.write_value::<Canonical>(event, &members, context)?,
            JsonDialect::Plain => self.write_value::<Plain>(event, &members, context)?,
        };
        let value = match &mut self.avro {
            Some(avro) => avro.write(&self.value, &self.places, &members, context),
            None => &self.value,
        };
        Ok(EventRecord {
            value,
            key: &self.key,
            is_document_change,
            operation: members.operation,
            namespace: members.namespace,
            cluster_time: members.cluster_time,
            event_id: members.event_id,
            resume_token: members.resume_token,
            wall_time_ms: members.wall_time_ms(),
            in_transaction: members.is_in_transaction(),
            snapshot: context.snapshot,
            repaired_texts,
            hidden,
        })
    }

    /// Returns whether the key is a document's.
    fn write_key(&mut self, members: &Members<'_>) -> Result<bool, EventError> {
        self.key.clear();
        if let Some(id) = members.document_id()? {
            match (self.key_format, members.document_key) {
                (KeyFormat::Debezium, _) => write_debezium_key(id, &mut self.key_text, &mut self.key)?,
                (KeyFormat::MongoKafka, Some(key)) => write_mongo_kafka_key(key, &mut self.key)?,
                _ => key::write(id, self.key_format, &mut self.key)?,
            }
            return Ok(true);
        }
        if let Some(namespace) = &members.namespace {
            self.key.extend_from_slice(namespace.db.as_bytes());
            if let Some(coll) = namespace.coll {
                self.key.push(b'.');
                self.key.extend_from_slice(coll.as_bytes());
            }
        }
        Ok(false)
    }

    fn write_profile(
        &mut self,
        event: &[u8],
        members: &Members<'_>,
        context: &EventContext<'_>,
    ) -> Result<(u32, HiddenCounts), EventError> {
        let mut veil = veil_of(&mut self.veils, members)?;
        self.value.clear();
        self.value.shrink_to(KEPT_BYTES);
        let repaired = match self.profile {
            EventProfile::MongoKafka => {
                write_mongo_kafka(event, members, context, veil.as_mut(), &mut self.value)?
            }
            EventProfile::Debezium | EventProfile::Atlas => {
                self.debezium.write(members, context, veil.as_mut(), &mut self.value)?
            }
        };
        Ok((repaired, veil.map_or_else(HiddenCounts::default, |veil| veil.hidden())))
    }

    fn write_value<D: Dialect>(
        &mut self,
        event: &[u8],
        members: &Members<'_>,
        context: &EventContext<'_>,
    ) -> Result<(u32, HiddenCounts), EventError> {
        let mut veil = veil_of(&mut self.veils, members)?;
        self.value.clear();
        self.value.shrink_to(KEPT_BYTES);
        let places = &mut self.places;
        places.further.clear();
        let mut writer = Writer::<D>::new(&mut self.value);

        writer.raw(b"{\"_meta\":{\"eventId\":");
        writer.text(members.event_id.as_bytes());
        writer.raw(b",\"operationType\":");
        writer.text(members.operation.name().as_bytes());
        writer.raw(b",\"ns\":");
        match &members.namespace {
            Some(namespace) => writer.document(namespace.raw)?,
            None => writer.raw(b"null"),
        }
        writer.raw(b",\"clusterTime\":");
        writer.value(ElementKind::Timestamp, &members.cluster_time_bytes())?;
        writer.raw(b",\"wallTime\":");
        optional(&mut writer, members.wall_time)?;
        writer.raw(b",\"lsid\":");
        places.lsid.start = writer.len();
        optional(&mut writer, members.lsid)?;
        places.lsid.end = writer.len();
        writer.raw(b",\"txnNumber\":");
        optional(&mut writer, members.txn_number)?;
        writer.raw(&self.source_member);
        writer.raw(if context.snapshot { b"true" } else { b"false" });
        writer.raw(b",\"processedAt\":");
        match IsoInstant::from_millis(context.processed_at_ms) {
            Some(instant) => writer.text(instant.as_bytes()),
            // A clock outside 1970 to 9999 says nothing about when this was.
            None => writer.raw(b"null"),
        }

        writer.raw(b"},\"documentKey\":");
        places.document_key = writer.len();
        optional(&mut writer, members.document_key)?;
        writer.raw(b",\"fullDocument\":");
        places.full_document = writer.len();
        document(&mut writer, members.full_document, veil.as_mut())?;
        writer.raw(b",\"updateDescription\":");
        places.update_description = writer.len();
        match (members.update_description, &mut veil) {
            (Some(value), Some(veil)) => veil.update_description(value.kind, value.bytes, &mut writer)?,
            (value, _) => optional(&mut writer, value)?,
        }
        writer.raw(b",\"fullDocumentBeforeChange\":");
        places.before_change = writer.len();
        document(&mut writer, members.full_document_before_change, veil.as_mut())?;
        places.end = writer.len();
        for span in &self.further {
            let member = span.element(event)?;
            writer.raw(b",");
            let name = writer.len();
            writer.text(member.name);
            writer.raw(b":");
            let value = writer.len();
            match &mut veil {
                Some(veil) if DEFINITIONS.contains(&member.name) => {
                    veil.definition(member.kind, member.value, &mut writer)?;
                }
                _ => writer.value(member.kind, member.value)?,
            }
            places.further.push((name, value, writer.len()));
        }
        if members.is_in_transaction() {
            let name = writer.len() + ",".len();
            write_transaction(&mut writer, members.event_id, context.transaction_count);
            places.further.push((name, name + "\"transaction\":".len(), writer.len()));
        }
        writer.raw(b"}");
        Ok((writer.repaired_texts(), veil.map_or_else(HiddenCounts::default, |veil| veil.hidden())))
    }
}

/// The rules for the event's collection, if there are any.
///
/// # Errors
/// If they hide a part of the document's key.
fn veil_of<'v>(
    veils: &'v mut Option<CollectionVeils>,
    members: &Members<'_>,
) -> Result<Option<Veil<'v>>, EventError> {
    let veil = match (veils, &members.namespace) {
        (Some(veils), Some(namespace)) => veils.of(namespace),
        _ => None,
    };
    if let (Some(veil), Some(key)) = (&veil, members.document_key)
        && let Some(field) = veil.hidden_in_key(key.bytes)?
    {
        return Err(hidden_key(members.namespace, field));
    }
    Ok(veil)
}

/// Members of events about a collection: its options and indexes, now and before.
const DEFINITIONS: [&[u8]; 2] = [b"operationDescription", b"stateBeforeChange"];

fn hidden_key(namespace: Option<EventNamespace<'_>>, field: &[u8]) -> EventError {
    let namespace =
        namespace.map(|namespace| format!("{}.{}", namespace.db, namespace.coll.unwrap_or_default()));
    EventError::HiddenKey {
        namespace: namespace.unwrap_or_default(),
        field: String::from_utf8_lossy(field).into_owned(),
    }
}

fn document<D: Dialect>(
    writer: &mut Writer<'_, D>,
    member: Option<members::Value<'_>>,
    veil: Option<&mut Veil<'_>>,
) -> Result<(), MalformedBson> {
    match (member, veil) {
        (Some(value), Some(veil)) => veil.document(value.kind, value.bytes, writer),
        (member, _) => optional(writer, member),
    }
}

fn write_transaction<D: Dialect>(writer: &mut Writer<'_, D>, event_id: &str, count: Option<u32>) {
    writer.raw(b",\"transaction\":{\"index\":");
    writer.count(operation_index(event_id));
    writer.raw(b",\"count\":");
    writer.count(count);
    writer.raw(b"}");
}

fn optional<D: Dialect>(
    writer: &mut Writer<'_, D>,
    member: Option<members::Value<'_>>,
) -> Result<(), MalformedBson> {
    match member {
        Some(value) => writer.value(value.kind, value.bytes),
        None => {
            writer.raw(b"null");
            Ok(())
        }
    }
}
