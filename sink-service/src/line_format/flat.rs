//! A value as a flat line. Nothing is kept between two lines and nothing is allocated: parts of the value are found as they stand and copied.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Appends a JSON object, which was found valid, as a flat line without its last brace and without `_kafka`; whether it has members.
pub(crate) fn write_flat(object: &str, to: &mut Vec<u8>) -> bool {
    let begin = to.len();
    if Event::of(object).is_some_and(|event| event.write(object, to).is_some()) {
        return true;
    }
    // No event, or one that another program made.
    to.truncate(begin);
    match Members::of(object) {
        Some(members) if !members.has_kept_name => {
            to.extend_from_slice(&object.as_bytes()[..object.len() - 1]);
            members.span.is_some()
        }
        _ => {
            push(to, "{\"_document\":", object);
            true
        }
    }
}

/// Whether a member of a document would be taken for one that the event brings along. In any case, because columns of most readers have none; a name
/// with an escape counts as kept, so that names need not be read.
fn is_kept(quoted: &str) -> bool {
    let name = &quoted.as_bytes()[1..quoted.len() - 1];
    let begins = |with: &[u8]| name.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with));
    let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
    let is_kept = name.first() == Some(&b'_')
        && (begins(b"_meta_")
            || begins(b"_event_")
            || is(b"_document")
            || is(b"_documentKey")
            || is(b"_fullDocument")
            || is(b"_updateDescription")
            || is(b"_fullDocumentBeforeChange")
            || is(b"_kafka"));
    is_kept || memchr::memchr(b'\\', name).is_some()
}

/// An event's parts, as they stand in it.
#[derive(Default)]
struct Event<'a> {
    meta: &'a str,
    key: Option<&'a str>,
    /// `None`: `null`.
    document: Option<Members<'a>>,
    update: Option<&'a str>,
    before: Option<&'a str>,
    others: Others<'a>,
}

/// So many of an event's further members are kept while it is walked; only one that has more is walked again.
const OTHERS_MAX: usize = 8;

/// Members without a place of their own.
#[derive(Default)]
struct Others<'a> {
    found: [(&'a str, &'a str); OTHERS_MAX],
    count: usize,
}

impl<'a> Others<'a> {
    fn add(&mut self, name: &'a str, value: &'a str) {
        if let Some(slot) = self.found.get_mut(self.count) {
            *slot = (name, value);
        }
        self.count += 1;
    }

    /// All of them, if there was room.
    fn all(&self) -> Option<&[(&'a str, &'a str)]> {
        self.found.get(..self.count)
    }
}

impl<'a> Event<'a> {
    /// `None` if it is no event of ours: `_meta` and `fullDocument` are there, the latter an object or `null`, and no part is there twice.
    fn of(object: &'a str) -> Option<Self> {
        serde_json::Deserializer::from_str(object).deserialize_map(EventVisitor).ok().flatten()
    }

    /// `None` if `_meta` cannot be lifted; then the half of it was written.
    fn write(&self, object: &str, to: &mut Vec<u8>) -> Option<()> {
        let of_key = match (&self.document, self.key) {
            (None, Some(key)) => Members::of(key),
            _ => None,
        };
        to.push(b'{');
        if let Some(Members { span: Some((first, last)), has_kept_name }) =
            self.document.as_ref().or(of_key.as_ref())
        {
            let members = from_to(object, first, last);
            if *has_kept_name {
                push(to, "\"_document\":{", members);
                to.push(b'}');
            } else {
                to.extend_from_slice(members.as_bytes());
            }
            to.push(b',');
        }
        lift_meta(self.meta, to)?;
        if let Some(key) = self.key {
            push(to, ",\"_documentKey\":", key);
        }
        if self.document.is_none() {
            to.extend_from_slice(b",\"_fullDocument\":null");
        }
        if let Some(update) = self.update {
            push(to, ",\"_updateDescription\":", update);
        }
        if let Some(before) = self.before {
            push(to, ",\"_fullDocumentBeforeChange\":", before);
        }
        let mut push_other = |name: &str, value| {
            push(to, ",\"_event_", &name[1..]);
            push(to, ":", value);
        };
        match self.others.all() {
            Some(others) => others.iter().for_each(|(name, value)| push_other(name, value)),
            None => each_member(object, |name, value| {
                if !is_part(name) {
                    push_other(name, value);
                }
                Some(())
            })?,
        }
        Some(())
    }
}

/// A member that has its own place; its name is quoted.
fn is_part(name: &str) -> bool {
    matches!(
        name,
        r#""_meta""#
            | r#""documentKey""#
            | r#""fullDocument""#
            | r#""updateDescription""#
            | r#""fullDocumentBeforeChange""#
    )
}

/// `_meta_` before each name, `ns` as `_meta_db` and `_meta_coll`.
fn lift_meta(meta: &str, to: &mut Vec<u8>) -> Option<()> {
    let mut is_first = true;
    each_member(meta, |name, value| {
        // These would be taken for parts of the namespace.
        if matches!(name, r#""db""# | r#""coll""#) || name.contains('\\') {
            return None;
        }
        if !std::mem::take(&mut is_first) {
            to.push(b',');
        }
        if name == r#""ns""#
            && let Some((db, coll)) = namespace(value)
        {
            push(to, "\"_meta_db\":", db);
            push(to, ",\"_meta_coll\":", coll);
        } else {
            push(to, "\"_meta_", &name[1..]);
            push(to, ":", value);
        }
        Some(())
    })?;
    (!is_first).then_some(())
}

/// Exactly `{"db":…,"coll":…}`.
fn namespace(value: &str) -> Option<(&str, &str)> {
    let (mut db, mut coll) = (None, None);
    each_member(value, |name, value| {
        match (name, db, coll) {
            (r#""db""#, None, None) => db = Some(value),
            (r#""coll""#, Some(_), None) => coll = Some(value),
            _ => return None,
        }
        Some(())
    })?;
    db.zip(coll)
}

fn push(to: &mut Vec<u8>, name: &str, value: &str) {
    to.extend_from_slice(name.as_bytes());
    to.extend_from_slice(value.as_bytes());
}

/// What stands from the begin of one part of a text to the end of another.
pub(super) fn from_to<'a>(text: &'a str, first: &str, last: &str) -> &'a str {
    let at = |part: &str| part.as_ptr().addr() - text.as_ptr().addr();
    &text[at(first)..at(last) + last.len()]
}

/// The members of an object, not looked into.
struct Members<'a> {
    /// The first one's name and the last one's value; `None` if there are none.
    span: Option<(&'a str, &'a str)>,
    has_kept_name: bool,
}

impl<'a> Members<'a> {
    /// `None` if it is no object.
    fn of(value: &'a str) -> Option<Self> {
        MembersOrNull.deserialize(&mut serde_json::Deserializer::from_str(value)).ok().flatten()
    }
}

/// `None` for `null`; fails at anything else that is no object.
struct MembersOrNull;

impl<'de> DeserializeSeed<'de> for MembersOrNull {
    type Value = Option<Members<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MembersOrNull {
    type Value = Option<Members<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or null")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members { span: None, has_kept_name: false };
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            let first = members.span.map_or(name.get(), |(first, _)| first);
            members.span = Some((first, value.get()));
            members.has_kept_name |= is_kept(name.get());
        }
        Ok(Some(members))
    }
}

struct EventVisitor;

impl<'de> Visitor<'de> for EventVisitor {
    type Value = Option<Event<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut event = Event::default();
        let (mut has_meta, mut has_document) = (false, false);
        while let Some(name) = map.next_key::<&RawValue>()? {
            let slot = match name.get() {
                r#""fullDocument""# if !has_document => {
                    has_document = true;
                    event.document = map.next_value_seed(MembersOrNull)?;
                    continue;
                }
                r#""_meta""# if !has_meta => {
                    has_meta = true;
                    event.meta = map.next_value::<&RawValue>()?.get();
                    continue;
                }
                r#""documentKey""# => &mut event.key,
                r#""updateDescription""# => &mut event.update,
                r#""fullDocumentBeforeChange""# => &mut event.before,
                r#""fullDocument""# | r#""_meta""# => return Err(A::Error::custom("twice")),
                _ => {
                    event.others.add(name.get(), map.next_value::<&RawValue>()?.get());
                    continue;
                }
            };
            if slot.replace(map.next_value::<&RawValue>()?.get()).is_some() {
                return Err(A::Error::custom("twice"));
            }
        }
        Ok((has_meta && has_document).then_some(event))
    }
}

/// Hands out the members of an object one by one, names with their quotes; `None` if it is none, or if `each` ends it.
pub(crate) fn each_member<'a>(
    object: &'a str,
    each: impl FnMut(&'a str, &'a str) -> Option<()>,
) -> Option<()> {
    struct Each<F>(F);

    impl<'de, F: FnMut(&'de str, &'de str) -> Option<()>> Visitor<'de> for Each<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                self.0(name.get(), value.get()).ok_or_else(|| A::Error::custom("ended"))?;
            }
            Ok(())
        }
    }

    serde_json::Deserializer::from_str(object).deserialize_map(Each(each)).ok()
}
