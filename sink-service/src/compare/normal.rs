//! The normal form of a value: equal for two values exactly if MongoDB's value and what a line says of it are the same.
//!
//! A line in relaxed Extended JSON does not say whether an integer has 32 or 64 bits: that is no difference here. Everything else is: types,
//! the order of members, each bit of a double.
//!
//! Extended JSON cannot tell a document that a user named `{"$oid":"66c1…"}` from an ObjectId. So whatever reads like a typed value is taken for
//! one, on both sides; whatever only begins like one is a document.

use std::fmt;

use bson::{Bson, Document, JavaScriptCodeWithScope};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use sha2::{Digest as _, Sha256};

/// 128 bits of SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ValueHash([u8; 16]);

impl ValueHash {
    pub(super) fn of(value: &Bson) -> Self {
        let mut form = Vec::new();
        write(value, &mut form);
        Self::of_form(&form)
    }

    pub(super) fn of_document(document: &Document) -> Self {
        let mut form = Vec::new();
        write_settled(document, &mut form);
        Self::of_form(&form)
    }

    fn of_form(form: &[u8]) -> Self {
        let digest: [u8; 32] = Sha256::digest(form).into();
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Self(half)
    }

    /// Evenly distributed: one of `count`.
    pub(super) fn bucket(self, count: u64) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(bytes) % count
    }
}

fn write(value: &Bson, form: &mut Vec<u8>) {
    match value {
        Bson::Document(document) => write_settled(document, form),
        Bson::Array(items) => {
            form.push(b'[');
            items.iter().for_each(|item| write(item, form));
            form.push(b']');
        }
        Bson::String(text) => write_text(b's', text, form),
        Bson::Int32(number) => write_integer(i64::from(*number), form),
        Bson::Int64(number) => write_integer(*number, form),
        Bson::Double(number) => {
            // What kind of "not a number" it is, no JSON says.
            let number = if number.is_nan() { f64::NAN } else { *number };
            form.push(b'd');
            form.extend_from_slice(&number.to_bits().to_be_bytes());
        }
        Bson::JavaScriptCodeWithScope(code) => {
            write_text(b'c', &code.code, form);
            write_settled(&code.scope, form);
        }
        other => write_text(b'x', &other.clone().into_canonical_extjson().to_string(), form),
    }
}

fn write_settled(document: &Document, form: &mut Vec<u8>) {
    if !looks_typed(document) {
        return write_document(document, form);
    }
    match typed(document.iter().map(|(name, value)| (name.clone(), settled(value))).collect()) {
        Bson::Document(document) => write_document(&document, form),
        value => write(&value, form),
    }
}

/// The value with everything in it that reads like a typed value taken for one.
fn settled(value: &Bson) -> Bson {
    match value {
        Bson::Document(document) => {
            typed(document.iter().map(|(name, value)| (name.clone(), settled(value))).collect())
        }
        Bson::Array(items) => Bson::Array(items.iter().map(settled).collect()),
        other => other.clone(),
    }
}

fn looks_typed(document: &Document) -> bool {
    document.keys().next().is_some_and(|name| name.starts_with('$'))
}

/// What an object of Extended JSON stands for; its members are settled.
fn typed(document: Document) -> Bson {
    if !looks_typed(&document) {
        return Bson::Document(document);
    }
    // The only type whose content may be any document: a map would sort its members.
    if let (Some(Bson::String(code)), Some(Bson::Document(scope)), 2) =
        (document.get("$code"), document.get("$scope"), document.len())
    {
        return JavaScriptCodeWithScope { code: code.clone(), scope: scope.clone() }.into();
    }
    // Some types are spelled with a number, others with a number's own type.
    let relaxed = Bson::Document(document.clone()).into_relaxed_extjson();
    let canonical = || Bson::Document(document.clone()).into_canonical_extjson();
    match Bson::try_from(relaxed).or_else(|_| Bson::try_from(canonical())) {
        Ok(Bson::Document(_)) | Err(_) => Bson::Document(document),
        Ok(value) => value,
    }
}

/// A value, read from Extended JSON of either dialect. The `bson` crate's own reader refuses whole documents for one name like `$oid`.
#[derive(Debug)]
pub(super) struct JsonValue(pub Bson);

impl<'de> Deserialize<'de> for JsonValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor).map(Self)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Bson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Bson, E> {
        Ok(Bson::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Bson, E> {
        Ok(Bson::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Bson, E> {
        Ok(Bson::Int64(value))
    }

    /// Integers of MongoDB's have a sign: what does not fit is none.
    fn visit_u64<E>(self, value: u64) -> Result<Bson, E> {
        Ok(i64::try_from(value).map_or(Bson::Double(value as f64), Bson::Int64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Bson, E> {
        Ok(Bson::Double(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Bson, E> {
        Ok(Bson::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Bson, A::Error> {
        let mut array = Vec::new();
        while let Some(JsonValue(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Bson::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Bson, A::Error> {
        let mut document = Document::new();
        while let Some((name, JsonValue(value))) = members.next_entry::<String, _>()? {
            document.insert(name, value);
        }
        Ok(typed(document))
    }
}

fn write_document(document: &Document, form: &mut Vec<u8>) {
    form.push(b'{');
    for (name, value) in document {
        write_text(b'm', name, form);
        write(value, form);
    }
    form.push(b'}');
}

fn write_integer(number: i64, form: &mut Vec<u8>) {
    form.push(b'i');
    form.extend_from_slice(&number.to_be_bytes());
}

/// With its length, so that no text can be taken for what follows it.
fn write_text(kind: u8, text: &str, form: &mut Vec<u8>) {
    form.push(kind);
    form.extend_from_slice(&(text.len() as u64).to_be_bytes());
    form.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use bson::{DateTime, Decimal128, doc, oid::ObjectId};

    use super::*;

    fn everything() -> Document {
        doc! {
            "int": 5, "long": 5_i64, "far": i64::MAX, "whole": 5.0, "tenth": 0.1, "odd": 5e-324, "huge": 1.797_693_134_862_315_7e308,
            "nan": f64::NAN, "minus": f64::NEG_INFINITY, "zero": -0.0,
            "text": "ä\u{0}\"\\", "null": Bson::Null, "yes": true, "list": [1, [2], { "a": 3 }],
            "id": ObjectId::from_bytes([7; 12]), "at": DateTime::from_millis(1_755_900_000_123), "before": DateTime::from_millis(-1),
            "price": "12.340".parse::<Decimal128>().unwrap(),
            "bytes": bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![1; 16] },
            "pattern": bson::Regex { pattern: "a+".try_into().unwrap(), options: "im".try_into().unwrap() },
            "stamp": bson::Timestamp { time: 1, increment: 2 }, "low": Bson::MinKey, "high": Bson::MaxKey,
            "named": { "$date": { "$numberLong": 1 }, "$oid": 5 }, "meant": { "$oid": "66c1f00d66c1f00d66c1f00d" },
            "money": { "$dollar": [{ "$date": 5_i64 }] }, "ref": { "$id": 5, "$ref": "a" }, "undefined": Bson::Undefined,
            "code": bson::JavaScriptCodeWithScope { code: "x".to_owned(), scope: doc! { "n": 1 } },
        }
    }

    #[test]
    fn both_dialects_say_what_the_document_says() {
        let document = everything();
        for text in [
            Bson::from(document.clone()).into_relaxed_extjson().to_string(),
            Bson::from(document.clone()).into_canonical_extjson().to_string(),
        ] {
            // The reference sorts no members here: its map does.
            let JsonValue(Bson::Document(read)) = serde_json::from_str(&text).unwrap() else {
                panic!("{text}")
            };
            for (name, value) in &document {
                assert_eq!(ValueHash::of(value), ValueHash::of(read.get(name).unwrap()), "{name}: {text}");
            }
        }
    }

    #[test]
    fn what_differs_has_another_hash() {
        let values: Vec<Bson> = vec![
            5.into(),
            5.5.into(),
            0.0.into(),
            (-0.0).into(),
            5.0.into(),
            "5".into(),
            Bson::Null,
            doc! {}.into(),
            Bson::Array(vec![]),
            doc! { "a": 1, "b": 2 }.into(),
            doc! { "b": 2, "a": 1 }.into(),
            doc! { "a": { "b": 2 } }.into(),
            DateTime::from_millis(5).into(),
            "5".parse::<Decimal128>().unwrap().into(),
            "5.0".parse::<Decimal128>().unwrap().into(),
        ];
        for (index, a) in values.iter().enumerate() {
            for b in &values[index + 1..] {
                assert_ne!(ValueHash::of(a), ValueHash::of(b), "{a} {b}");
            }
        }
    }
}
