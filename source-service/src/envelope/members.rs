//! Where the members of an event lie: one walk over its top level, nothing copied.

use std::ops::Range;

use shared::{cluster_time::ClusterTime, wire::member};

use super::{EventError, Operation};
use crate::transcode::{Element, ElementKind, MalformedBson, Reader};

/// The value of a member, not looked into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    pub(super) kind: ElementKind,
    pub(super) bytes: &'a [u8],
}

/// Where an element lies in its event: a range, so that a list of them outlives one event.
#[derive(Clone, Debug)]
pub(super) struct Span(Range<usize>);

impl Span {
    /// The element, read again. `event` is the one that was walked.
    pub(super) fn element<'a>(&self, event: &'a [u8]) -> Result<Element<'a>, MalformedBson> {
        let bytes = event.get(self.0.clone()).ok_or(MalformedBson::Truncated)?;
        Reader::new(bytes).element()?.ok_or(MalformedBson::Truncated)
    }
}

/// The collection or database that an event is about.
#[derive(Clone, Copy, Debug)]
pub struct EventNamespace<'a> {
    /// The BSON of `ns`: equal bytes are equal namespaces, so it can be looked up without being decoded.
    pub raw: &'a [u8],
    pub db: &'a str,
    /// `None` for `dropDatabase`.
    pub coll: Option<&'a str>,
}

impl<'a> EventNamespace<'a> {
    fn read(value: Value<'a>) -> Result<Self, EventError> {
        const NS: EventError = EventError::Incomplete { member: "ns" };
        if value.kind != ElementKind::Document {
            return Err(NS);
        }
        let (mut db, mut coll) = (None, None);
        let mut reader = Reader::of_document(value.bytes)?;
        while let Some(element) = reader.element()? {
            let part = match element.name {
                b"db" => &mut db,
                b"coll" => &mut coll,
                _ => continue,
            };
            *part = Some(utf8(element.kind, element.value)?.ok_or(NS)?);
        }
        Ok(Self { raw: value.bytes, db: db.ok_or(NS)?, coll })
    }
}

/// The members of one event. A member that is `null` counts as absent.
#[derive(Debug)]
pub(super) struct Members<'a> {
    pub(super) resume_token: &'a [u8],
    pub(super) event_id: &'a str,
    pub(super) operation: Operation<'a>,
    pub(super) namespace: Option<EventNamespace<'a>>,
    pub(super) cluster_time: ClusterTime,
    pub(super) wall_time: Option<Value<'a>>,
    pub(super) lsid: Option<Value<'a>>,
    pub(super) txn_number: Option<Value<'a>>,
    pub(super) document_key: Option<Value<'a>>,
    pub(super) full_document: Option<Value<'a>>,
    pub(super) update_description: Option<Value<'a>>,
    pub(super) full_document_before_change: Option<Value<'a>>,
}

/// The members that the envelope names, by their place in it.
#[derive(Clone, Copy)]
enum Slot {
    Id,
    OperationType,
    Ns,
    ClusterTime,
    WallTime,
    Lsid,
    TxnNumber,
    DocumentKey,
    FullDocument,
    UpdateDescription,
    FullDocumentBeforeChange,
}

/// Members that only the envelope and the sink write.
const TAKEN: [&str; 3] = [member::META, member::KAFKA, member::TRANSACTION];

const SLOTS: usize = Slot::FullDocumentBeforeChange as usize + 1;

impl Slot {
    fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"_id" => Self::Id,
            b"operationType" => Self::OperationType,
            b"ns" => Self::Ns,
            b"clusterTime" => Self::ClusterTime,
            b"wallTime" => Self::WallTime,
            b"lsid" => Self::Lsid,
            b"txnNumber" => Self::TxnNumber,
            b"documentKey" => Self::DocumentKey,
            b"fullDocument" => Self::FullDocument,
            b"updateDescription" => Self::UpdateDescription,
            b"fullDocumentBeforeChange" => Self::FullDocumentBeforeChange,
            _ => return None,
        })
    }
}

impl<'a> Members<'a> {
    /// Walks the event. `further` is cleared and then names the members for which the envelope has no place.
    pub(super) fn read(event: &'a [u8], further: &mut Vec<Span>) -> Result<Self, EventError> {
        further.clear();
        let mut found: [Option<Value<'a>>; SLOTS] = [None; SLOTS];
        let mut reader = Reader::of_document(event)?;
        loop {
            let start = event.len() - reader.rest().len();
            let Some(Element { kind, name, value }) = reader.element()? else { break };
            let Some(slot) = Slot::of(name) else {
                if TAKEN.iter().any(|taken| name == taken.as_bytes()) {
                    return Err(name_clash(name));
                }
                further.push(Span(start..event.len() - reader.rest().len()));
                continue;
            };
            let place = &mut found[slot as usize];
            if place.is_some() {
                return Err(name_clash(name));
            }
            *place = Some(Value { kind, bytes: value });
        }

        let get = |slot: Slot| found[slot as usize].filter(|value| value.kind != ElementKind::Null);
        let (resume_token, event_id) = token_parts(get(Slot::Id))?;
        Ok(Self {
            resume_token,
            event_id,
            operation: operation(get(Slot::OperationType))?,
            namespace: get(Slot::Ns).map(EventNamespace::read).transpose()?,
            cluster_time: cluster_time(get(Slot::ClusterTime))?,
            wall_time: get(Slot::WallTime),
            lsid: get(Slot::Lsid),
            txn_number: get(Slot::TxnNumber),
            document_key: get(Slot::DocumentKey),
            full_document: get(Slot::FullDocument),
            update_description: get(Slot::UpdateDescription),
            full_document_before_change: get(Slot::FullDocumentBeforeChange),
        })
    }

    /// `documentKey._id`; `None` if the event is not about a document.
    pub(super) fn document_id(&self) -> Result<Option<Value<'a>>, EventError> {
        const DOCUMENT_KEY: EventError = EventError::Incomplete { member: "documentKey" };
        let Some(key) = self.document_key else {
            return if self.operation.needs_document_key() { Err(DOCUMENT_KEY) } else { Ok(None) };
        };
        if key.kind != ElementKind::Document {
            return Err(DOCUMENT_KEY);
        }
        if self.namespace.is_none_or(|namespace| namespace.coll.is_none()) {
            return Err(EventError::Incomplete { member: "ns" });
        }
        let mut reader = Reader::of_document(key.bytes)?;
        while let Some(element) = reader.element()? {
            if element.name == b"_id" {
                return Ok(Some(Value { kind: element.kind, bytes: element.value }));
            }
        }
        Err(DOCUMENT_KEY)
    }

    pub(super) fn set_full_document(&mut self, bytes: &'a [u8]) {
        self.full_document = Some(Value { kind: ElementKind::Document, bytes });
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.lsid.is_some() && self.txn_number.is_some()
    }

    pub(super) fn wall_time_ms(&self) -> Option<i64> {
        let value = self.wall_time.filter(|value| value.kind == ElementKind::DateTime)?;
        value.bytes.try_into().ok().map(i64::from_le_bytes)
    }

    /// As BSON stores a timestamp: the increment first.
    pub(super) fn cluster_time_bytes(&self) -> [u8; 8] {
        let ClusterTime { seconds, increment } = self.cluster_time;
        (u64::from(seconds) << 32 | u64::from(increment)).to_le_bytes()
    }
}

/// The BSON of an event's `ns`, without reading more of the event than needed: enough to look up a collection that is known.
pub fn raw_namespace(event: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::of_document(event).ok()?;
    while let Some(element) = reader.element().ok()? {
        if element.name == b"ns" {
            return (element.kind == ElementKind::Document).then_some(element.value);
        }
    }
    None
}

/// The MongoDB transaction that an event is of: equal ones that follow each other are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction<'a> {
    /// The BSON of `lsid`.
    pub lsid: &'a [u8],
    /// The BSON of `txnNumber`.
    pub number: &'a [u8],
}

/// `None` if the event is of no multi-document transaction.
pub fn transaction(event: &[u8]) -> Option<Transaction<'_>> {
    let (mut lsid, mut number) = (None, None);
    let mut reader = Reader::of_document(event).ok()?;
    while let Some(element) = reader.element().ok()? {
        match element.name {
            b"lsid" if element.kind != ElementKind::Null => lsid = Some(element.value),
            b"txnNumber" if element.kind != ElementKind::Null => number = Some(element.value),
            _ => {}
        }
    }
    Some(Transaction { lsid: lsid?, number: number? })
}

/// The namespace of an event, without reading more of it than needed.
pub(super) fn namespace(event: &[u8]) -> Option<EventNamespace<'_>> {
    let bytes = raw_namespace(event)?;
    EventNamespace::read(Value { kind: ElementKind::Document, bytes }).ok()
}

/// The collection to whose topic the event's record will go; `None` if it goes elsewhere, or if there can be none.
pub fn collection(event: &[u8]) -> Option<EventNamespace<'_>> {
    let members = Members::read(event, &mut Vec::new()).ok()?;
    members.document_id().ok()??;
    members.namespace
}

/// The resume token of an event and its `_data`, without reading more of the event than needed: enough to
/// tell whether the event was published before.
///
/// # Errors
/// If the event has no `_id` that is a token.
pub fn resume_token(event: &[u8]) -> Result<(&[u8], &str), EventError> {
    let mut reader = Reader::of_document(event)?;
    while let Some(element) = reader.element()? {
        if element.name == b"_id" {
            return token_parts(Some(Value { kind: element.kind, bytes: element.value }));
        }
    }
    token_parts(None)
}

fn token_parts(id: Option<Value<'_>>) -> Result<(&[u8], &str), EventError> {
    const ID: EventError = EventError::Incomplete { member: "_id" };
    let token = id.filter(|value| value.kind == ElementKind::Document).ok_or(ID)?.bytes;
    let mut reader = Reader::of_document(token)?;
    while let Some(element) = reader.element()? {
        if element.name == b"_data" {
            return Ok((token, utf8(element.kind, element.value)?.ok_or(ID)?));
        }
    }
    Err(ID)
}

fn operation(value: Option<Value<'_>>) -> Result<Operation<'_>, EventError> {
    const OPERATION: EventError = EventError::Incomplete { member: "operationType" };
    let value = value.ok_or(OPERATION)?;
    utf8(value.kind, value.bytes)?.map(Operation::from_name).ok_or(OPERATION)
}

fn cluster_time(value: Option<Value<'_>>) -> Result<ClusterTime, EventError> {
    let value = value
        .filter(|value| value.kind == ElementKind::Timestamp)
        .ok_or(EventError::Incomplete { member: "clusterTime" })?;
    let mut reader = Reader::new(value.bytes);
    let (increment, seconds) = (reader.u32()?, reader.u32()?);
    Ok(ClusterTime::new(seconds, increment))
}

/// `None` if the value is no string, or not UTF-8: names that route cannot be repaired.
fn utf8(kind: ElementKind, value: &[u8]) -> Result<Option<&str>, MalformedBson> {
    if kind != ElementKind::String {
        return Ok(None);
    }
    Ok(std::str::from_utf8(Reader::new(value).string()?).ok())
}

fn name_clash(name: &[u8]) -> EventError {
    EventError::NameClash { name: String::from_utf8_lossy(name).into_owned() }
}
