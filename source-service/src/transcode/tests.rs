//! Promise: what the bson crate makes of a document, slowly and through a tree, is what the walk writes, byte
//! for byte; and no bytes make it panic.
//!
//! The crate differs from the specification or from our choices in these points, each of which has its own
//! test: dates after 9999 (it writes a clamped date and loses the value), the number of digits of a fraction,
//! the sign of NaN, and canonical doubles (it writes all digits, and no type for subnormal ones).

#![expect(clippy::unwrap_used, reason = "tests")]

use bson::{
    Binary, Bson, DateTime, DbPointer, Decimal128, Document, JavaScriptCodeWithScope, RawDocument,
    RawDocumentBuf, Regex, Timestamp, doc, oid::ObjectId, raw::cstr, spec::BinarySubtype,
};
use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{Canonical, Dialect, MAX_DEPTH, MalformedBson, Plain, Relaxed, write_document};

const LAST_MS: i64 = 253_402_300_799_999;
const BREAKS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Relaxed,
    Canonical,
    Plain,
}

fn bytes_of(document: &Document) -> Vec<u8> {
    RawDocumentBuf::try_from(document).unwrap().into_bytes()
}

fn json_of<D: Dialect>(bytes: &[u8]) -> Result<String, MalformedBson> {
    let mut out = Vec::new();
    write_document::<D>(bytes, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

/// Members in their order; leaves as the crate converts them, but for the listed differences.
fn reference(value: &Bson, mode: Mode) -> String {
    match value {
        Bson::Document(document) => {
            let members = document
                .iter()
                .map(|(name, value)| format!("{}:{}", string_reference(name), reference(value, mode)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Bson::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| reference(item, mode)).collect();
            format!("[{}]", items.join(","))
        }
        Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code, scope }) => {
            let scope = reference(&Bson::Document(scope.clone()), mode);
            format!("{{\"$code\":{},\"$scope\":{scope}}}", string_reference(code))
        }
        Bson::String(text) => string_reference(text),
        Bson::DateTime(date) if mode == Mode::Plain => {
            string_reference(&plain_date_reference(date.timestamp_millis()))
        }
        Bson::DateTime(date) => date_reference(date.timestamp_millis(), mode),
        Bson::Int64(number) if mode == Mode::Plain && number.unsigned_abs() > 1 << 53 => {
            format!("\"{number}\"")
        }
        Bson::Double(number) if mode == Mode::Plain && number.is_nan() => "\"NaN\"".to_owned(),
        Bson::Double(number) if mode == Mode::Plain && number.is_infinite() => {
            format!("\"{}Infinity\"", if *number < 0.0 { "-" } else { "" })
        }
        Bson::ObjectId(id) if mode == Mode::Plain => format!("\"{}\"", id.to_hex()),
        Bson::Decimal128(decimal) if mode == Mode::Plain => format!("\"{decimal}\""),
        Bson::Binary(binary) if mode == Mode::Plain => {
            let json = ordered(&value.clone().into_canonical_extjson());
            assert!(json.contains(&format!("\"subType\":\"{:02x}\"", u8::from(binary.subtype))));
            let base64 = json.strip_prefix("{\"$binary\":{\"base64\":").unwrap();
            base64.split_once(',').unwrap().0.to_owned()
        }
        Bson::Symbol(text) if mode == Mode::Plain => string_reference(text),
        Bson::DbPointer(_) if mode == Mode::Plain => {
            let json = ordered(&value.clone().into_relaxed_extjson());
            json.replace("{\"$oid\":", "").replace("\"}}}", "\"}}")
        }
        Bson::Double(number) if number.is_nan() => "{\"$numberDouble\":\"NaN\"}".to_owned(),
        Bson::Double(number) if number.is_finite() && mode == Mode::Canonical => {
            format!("{{\"$numberDouble\":\"{}\"}}", Value::from(*number))
        }
        leaf if mode == Mode::Canonical => ordered(&leaf.clone().into_canonical_extjson()),
        leaf => ordered(&leaf.clone().into_relaxed_extjson()),
    }
}

fn string_reference(text: &str) -> String {
    let json = serde_json::to_string(text).unwrap();
    json.replace('\u{85}', "\\u0085").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// By chrono; beyond its years by moving whole cycles of the calendar.
fn plain_date_reference(ms: i64) -> String {
    const CYCLE_MS: i64 = 146_097 * 86_400_000;
    let cycles = ms.div_euclid(CYCLE_MS);
    let time = chrono::DateTime::from_timestamp_millis(ms.rem_euclid(CYCLE_MS)).unwrap();
    let year = i64::from(chrono::Datelike::year(&time)) + cycles * 400;
    let year = if (0..=9999).contains(&year) { format!("{year:04}") } else { format!("{year:+07}") };
    format!("{year}{}", time.format("-%m-%dT%H:%M:%S%.3fZ"))
}

fn date_reference(ms: i64, mode: Mode) -> String {
    if mode == Mode::Canonical || !(0..=LAST_MS).contains(&ms) {
        return format!("{{\"$date\":{{\"$numberLong\":\"{ms}\"}}}}");
    }
    let text = DateTime::from_millis(ms).try_to_rfc3339_string().unwrap();
    let (seconds, fraction) = text.trim_end_matches('Z').split_once('.').unwrap_or((&text[..19], ""));
    format!("{{\"$date\":\"{seconds}.{fraction:0<3}Z\"}}")
}

/// The crate's value as text, its members in the order of the specification (`Value` sorts them).
fn ordered(value: &Value) -> String {
    const ORDER: [&str; 8] = ["$ref", "$id", "t", "i", "pattern", "options", "base64", "subType"];
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| ORDER.iter().position(|known| known == name));
            let members: Vec<_> = members
                .into_iter()
                .map(|(name, value)| format!("{}:{}", string_reference(name), ordered(value)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Value::String(text) => string_reference(text),
        other => other.to_string(),
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z ]{0,40}",
        any::<String>(),
        "[\u{0}-\u{1f}\"\\\\/\u{7f}-\u{a0}é\u{2026}-\u{202a}日😀a]{0,24}",
    ]
}

fn any_name() -> impl Strategy<Value = String> {
    any_text().prop_map(|text| text.replace('\0', "$"))
}

fn any_leaf() -> impl Strategy<Value = Bson> {
    let time = prop_oneof![0..=LAST_MS, (0..=LAST_MS / 1000).prop_map(|s| s * 1000), any::<i64>()];
    let regex = (any_name(), "[a-z]{0,12}").prop_map(|(pattern, options)| Regex {
        pattern: pattern.try_into().unwrap(),
        options: options.try_into().unwrap(),
    });
    // The crate's `DbPointer` cannot be built, only read.
    let pointer = (any_text(), any::<[u8; 12]>()).prop_map(|(namespace, id)| {
        let id = serde_json::json!({"$oid": ObjectId::from_bytes(id).to_hex()});
        Bson::try_from(serde_json::json!({"$dbPointer": {"$ref": namespace, "$id": id}})).unwrap()
    });
    let binary = (any::<u8>(), prop::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(subtype, bytes)| Binary { subtype: BinarySubtype::from(subtype), bytes });
    prop_oneof![
        any::<f64>().prop_map(Bson::Double),
        any::<u64>().prop_map(|bits| Bson::Double(f64::from_bits(bits))),
        any::<i32>().prop_map(|number| Bson::Double(f64::from(number))),
        any_text().prop_map(Bson::String),
        any::<bool>().prop_map(Bson::Boolean),
        Just(Bson::Null),
        regex.prop_map(Bson::RegularExpression),
        any_text().prop_map(Bson::JavaScriptCode),
        any::<i32>().prop_map(Bson::Int32),
        any::<i64>().prop_map(Bson::Int64),
        any::<(u32, u32)>().prop_map(|(time, increment)| Bson::Timestamp(Timestamp { time, increment })),
        binary.prop_map(Bson::Binary),
        any::<[u8; 12]>().prop_map(|id| Bson::ObjectId(ObjectId::from_bytes(id))),
        time.prop_map(|ms| Bson::DateTime(DateTime::from_millis(ms))),
        any_text().prop_map(Bson::Symbol),
        any::<[u8; 16]>().prop_map(|bytes| Bson::Decimal128(Decimal128::from_bytes(bytes))),
        prop_oneof![Just(Bson::Undefined), Just(Bson::MinKey), Just(Bson::MaxKey)],
        pointer,
    ]
}

fn any_document() -> impl Strategy<Value = Document> {
    let value = any_leaf().prop_recursive(4, 40, 6, |inner| {
        let members = prop::collection::vec((any_name(), inner.clone()), 0..6);
        let document = members.prop_map(Document::from_iter).boxed();
        prop_oneof![
            document.clone().prop_map(Bson::Document),
            prop::collection::vec(inner, 0..6).prop_map(Bson::Array),
            (any_text(), document).prop_map(|(code, scope)| {
                Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code, scope })
            }),
        ]
    });
    prop::collection::vec((any_name(), value), 0..8).prop_map(Document::from_iter)
}

proptest! {
    #[test]
    fn any_document_is_written_as_the_crate_has_it(document in any_document()) {
        let bytes = bytes_of(&document);
        let document = Bson::Document(document);
        prop_assert_eq!(json_of::<Relaxed>(&bytes).unwrap(), reference(&document, Mode::Relaxed));
        prop_assert_eq!(json_of::<Canonical>(&bytes).unwrap(), reference(&document, Mode::Canonical));
        prop_assert_eq!(json_of::<Plain>(&bytes).unwrap(), reference(&document, Mode::Plain));
    }

    /// What the crate can still read is accepted; what is accepted is one line of JSON; what is refused
    /// leaves no trace.
    #[test]
    fn damaged_bytes_never_panic(
        document in any_document(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = bytes_of(&document);
        for (index, byte) in changes {
            let place = index.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let mut out = b"before".to_vec();
        match write_document::<Relaxed>(&bytes, &mut out) {
            Ok(_) => {
                let line = std::str::from_utf8(&out[b"before".len()..]).unwrap();
                prop_assert!(serde_json::from_str::<IgnoredAny>(line).is_ok(), "{}", line);
                // No reader takes a part of it for a line.
                prop_assert_eq!(line.lines().count(), 1);
                let breaks = |c: char| c < ' ' || BREAKS.contains(&c);
                prop_assert!(!line.contains(breaks), "{}", line);
            }
            Err(error) => {
                prop_assert_eq!(&out, b"before");
                let raw = RawDocument::from_bytes(&bytes).ok();
                let readable = raw.and_then(|raw| Document::try_from(raw).ok());
                prop_assert!(readable.is_none(), "refused with {:?}: {:?}", error, readable);
            }
        }
    }

    #[test]
    fn any_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let length = i32::try_from(bytes.len()).unwrap().to_le_bytes();
        if let Some(frame) = bytes.first_chunk_mut() {
            *frame = length;
        }
        let refused_or_json = json_of::<Canonical>(&bytes)
            .map_or(true, |line| serde_json::from_str::<IgnoredAny>(&line).is_ok());
        prop_assert!(refused_or_json);
    }

    #[test]
    fn canonical_doubles_read_back_to_the_same_bits(bits in any::<u64>()) {
        let number = f64::from_bits(bits);
        let line = json_of::<Canonical>(&bytes_of(&doc! {"n": number})).unwrap();
        let text = line.strip_prefix("{\"n\":{\"$numberDouble\":\"").unwrap().strip_suffix("\"}}").unwrap();
        let back: f64 = text.parse().unwrap();
        prop_assert!(back.to_bits() == bits || number.is_nan() && back.is_nan(), "{}", text);
    }
}

/// The table of DESIGN's dialects: one value of each type.
#[test]
fn each_type_has_its_form() {
    let id = ObjectId::parse_str("66c10000000000000000abcd").unwrap();
    let pointer: DbPointer = match Bson::try_from(
        serde_json::json!({"$dbPointer": {"$ref": "db.c", "$id": {"$oid": id.to_hex()}}}),
    ) {
        Ok(Bson::DbPointer(pointer)) => pointer,
        other => panic!("{other:?}"),
    };
    let table: [(Bson, &str, &str); 25] = [
        (5_i32.into(), "5", r#"{"$numberInt":"5"}"#),
        (i64::MIN.into(), "-9223372036854775808", r#"{"$numberLong":"-9223372036854775808"}"#),
        (1.0.into(), "1.0", r#"{"$numberDouble":"1.0"}"#),
        ((-0.0).into(), "-0.0", r#"{"$numberDouble":"-0.0"}"#),
        (5e-324.into(), "5e-324", r#"{"$numberDouble":"5e-324"}"#),
        (f64::NAN.into(), r#"{"$numberDouble":"NaN"}"#, r#"{"$numberDouble":"NaN"}"#),
        ((-f64::NAN).into(), r#"{"$numberDouble":"NaN"}"#, r#"{"$numberDouble":"NaN"}"#),
        (f64::NEG_INFINITY.into(), r#"{"$numberDouble":"-Infinity"}"#, r#"{"$numberDouble":"-Infinity"}"#),
        (
            DateTime::from_millis(0).into(),
            r#"{"$date":"1970-01-01T00:00:00.000Z"}"#,
            r#"{"$date":{"$numberLong":"0"}}"#,
        ),
        (
            DateTime::from_millis(120).into(),
            r#"{"$date":"1970-01-01T00:00:00.120Z"}"#,
            r#"{"$date":{"$numberLong":"120"}}"#,
        ),
        (
            DateTime::from_millis(-1).into(),
            r#"{"$date":{"$numberLong":"-1"}}"#,
            r#"{"$date":{"$numberLong":"-1"}}"#,
        ),
        (
            DateTime::from_millis(LAST_MS + 1).into(),
            r#"{"$date":{"$numberLong":"253402300800000"}}"#,
            r#"{"$date":{"$numberLong":"253402300800000"}}"#,
        ),
        (
            "1.20".parse::<Decimal128>().unwrap().into(),
            r#"{"$numberDecimal":"1.20"}"#,
            r#"{"$numberDecimal":"1.20"}"#,
        ),
        (id.into(), r#"{"$oid":"66c10000000000000000abcd"}"#, r#"{"$oid":"66c10000000000000000abcd"}"#),
        (
            Binary { subtype: BinarySubtype::Uuid, bytes: vec![1; 16] }.into(),
            r#"{"$binary":{"base64":"AQEBAQEBAQEBAQEBAQEBAQ==","subType":"04"}}"#,
            r#"{"$binary":{"base64":"AQEBAQEBAQEBAQEBAQEBAQ==","subType":"04"}}"#,
        ),
        (
            Binary { subtype: BinarySubtype::BinaryOld, bytes: vec![255, 255] }.into(),
            r#"{"$binary":{"base64":"//8=","subType":"02"}}"#,
            r#"{"$binary":{"base64":"//8=","subType":"02"}}"#,
        ),
        (
            Regex {
                pattern: "a/\"b".to_owned().try_into().unwrap(),
                options: "xi".to_owned().try_into().unwrap(),
            }
            .into(),
            r#"{"$regularExpression":{"pattern":"a/\"b","options":"ix"}}"#,
            r#"{"$regularExpression":{"pattern":"a/\"b","options":"ix"}}"#,
        ),
        (Bson::JavaScriptCode("f()".into()), r#"{"$code":"f()"}"#, r#"{"$code":"f()"}"#),
        (
            Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: "f".into(), scope: doc! {"a": 1} }),
            r#"{"$code":"f","$scope":{"a":1}}"#,
            r#"{"$code":"f","$scope":{"a":{"$numberInt":"1"}}}"#,
        ),
        (Bson::Symbol("s".into()), r#"{"$symbol":"s"}"#, r#"{"$symbol":"s"}"#),
        (
            Bson::DbPointer(pointer),
            r#"{"$dbPointer":{"$ref":"db.c","$id":{"$oid":"66c10000000000000000abcd"}}}"#,
            r#"{"$dbPointer":{"$ref":"db.c","$id":{"$oid":"66c10000000000000000abcd"}}}"#,
        ),
        (
            Timestamp { time: u32::MAX, increment: 2 }.into(),
            r#"{"$timestamp":{"t":4294967295,"i":2}}"#,
            r#"{"$timestamp":{"t":4294967295,"i":2}}"#,
        ),
        (Bson::MinKey, r#"{"$minKey":1}"#, r#"{"$minKey":1}"#),
        (Bson::MaxKey, r#"{"$maxKey":1}"#, r#"{"$maxKey":1}"#),
        (Bson::Undefined, r#"{"$undefined":true}"#, r#"{"$undefined":true}"#),
    ];
    for (value, relaxed, canonical) in table {
        let bytes = bytes_of(&doc! {"v": value});
        assert_eq!(json_of::<Relaxed>(&bytes).unwrap(), format!("{{\"v\":{relaxed}}}"));
        assert_eq!(json_of::<Canonical>(&bytes).unwrap(), format!("{{\"v\":{canonical}}}"));
    }
}

/// The table of `docs/values.md`. Types that are not here are as relaxed has them.
#[test]
fn plain_values_are_bare() {
    let id = ObjectId::parse_str("66c10000000000000000abcd").unwrap();
    let binary = |subtype| Binary { subtype, bytes: vec![1, 2, 3] };
    let exact_max = 1_i64 << 53;
    let table: [(Bson, &str); 22] = [
        (5_i32.into(), "5"),
        (exact_max.into(), "9007199254740992"),
        ((-exact_max).into(), "-9007199254740992"),
        ((exact_max + 1).into(), "\"9007199254740993\""),
        (i64::MIN.into(), "\"-9223372036854775808\""),
        (1.0.into(), "1.0"),
        ((-0.0).into(), "-0.0"),
        (f64::NAN.into(), "\"NaN\""),
        (f64::INFINITY.into(), "\"Infinity\""),
        (f64::NEG_INFINITY.into(), "\"-Infinity\""),
        ("1.20".parse::<Decimal128>().unwrap().into(), "\"1.20\""),
        ("NaN".parse::<Decimal128>().unwrap().into(), "\"NaN\""),
        (DateTime::from_millis(120).into(), "\"1970-01-01T00:00:00.120Z\""),
        (DateTime::from_millis(-1).into(), "\"1969-12-31T23:59:59.999Z\""),
        (DateTime::from_millis(LAST_MS + 1).into(), "\"+010000-01-01T00:00:00.000Z\""),
        (id.into(), "\"66c10000000000000000abcd\""),
        (binary(BinarySubtype::Generic).into(), "\"AQID\""),
        (binary(BinarySubtype::BinaryOld).into(), "\"AQID\""),
        (Bson::Symbol("s".into()), "\"s\""),
        (true.into(), "true"),
        (Timestamp { time: 7, increment: 2 }.into(), r#"{"$timestamp":{"t":7,"i":2}}"#),
        (Bson::MinKey, r#"{"$minKey":1}"#),
    ];
    for (value, plain) in table {
        let bytes = bytes_of(&doc! {"v": [value]});
        assert_eq!(json_of::<Plain>(&bytes).unwrap(), format!("{{\"v\":[{plain}]}}"));
    }
}

/// Names with dots, dollars and quotes, empty names and empty values, and the lengths around one word of the
/// scan.
#[test]
fn names_and_texts_of_every_length_are_whole() {
    let mut document = doc! {"": "", "a.b": {}, "$set": [], "q\"\\\n": Bson::Null};
    for length in 0..40 {
        let text = "abcdefghijklmnopqrstuvwxyz0123456789-_.:,;"[..length].to_owned();
        document.insert(format!("{text}#"), text.clone());
        for special in ['"', '\n', 'é', '\u{2028}', '\u{85}', '😀'] {
            document.insert(format!("{text}{special}"), format!("{text}{special}{text}"));
        }
    }
    let json = json_of::<Relaxed>(&bytes_of(&document)).unwrap();
    assert_eq!(json, reference(&Bson::Document(document), Mode::Relaxed));
}

#[test]
fn duplicate_names_stay_duplicate() {
    let mut raw = RawDocumentBuf::new();
    raw.append(cstr!("a"), 1);
    raw.append(cstr!("a"), 2);
    assert_eq!(json_of::<Relaxed>(raw.as_bytes()).unwrap(), r#"{"a":1,"a":2}"#);
}

#[test]
fn invalid_utf8_is_replaced_and_counted() {
    let mut bytes = bytes_of(&doc! {"name": "val?e", "k?y": 1, "fine": "ü"});
    for byte in &mut bytes {
        if *byte == b'?' {
            *byte = 0xC3;
        }
    }
    let mut out = Vec::new();
    let repaired = write_document::<Relaxed>(&bytes, &mut out).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "{\"name\":\"val\u{FFFD}e\",\"k\u{FFFD}y\":1,\"fine\":\"ü\"}"
    );
    assert_eq!(repaired, 2);
}

fn nested(levels: usize) -> Vec<u8> {
    let mut document = RawDocumentBuf::new();
    for level in 1..levels {
        let mut outer = RawDocumentBuf::new();
        if level % 2 == 0 {
            outer.append(cstr!("d"), document);
        } else {
            let mut array = bson::RawArrayBuf::new();
            array.push(document);
            outer.append(cstr!("a"), array);
        }
        document = outer;
    }
    document.into_bytes()
}

#[test]
fn deep_documents_are_written_and_too_deep_ones_refused() {
    assert!(json_of::<Relaxed>(&nested(133)).is_ok());
    assert_eq!(json_of::<Relaxed>(&nested(MAX_DEPTH * 4)), Err(MalformedBson::TooDeep));

    let levels = |count: usize| {
        let mut document = RawDocumentBuf::new();
        for _ in 1..count {
            let mut outer = RawDocumentBuf::new();
            outer.append(cstr!("d"), document);
            document = outer;
        }
        json_of::<Relaxed>(document.as_bytes())
    };
    assert!(levels(MAX_DEPTH).is_ok());
    assert_eq!(levels(MAX_DEPTH + 1), Err(MalformedBson::TooDeep));
}

#[test]
fn each_damage_has_its_error() {
    let cases: [(&[u8], MalformedBson); 13] = [
        (b"", MalformedBson::Truncated),
        (b"\x04\0\0\0", MalformedBson::Length(4)),
        (b"\x06\0\0\0\0", MalformedBson::Length(6)),
        (b"\xff\xff\xff\xff\0", MalformedBson::Length(-1)),
        (b"\x05\0\0\0\x01", MalformedBson::Unterminated),
        (b"\x06\0\0\0\0\0", MalformedBson::TrailingBytes),
        (b"\x08\0\0\0\x20a\0\0", MalformedBson::UnknownType(0x20)),
        (b"\x09\0\0\0\x08a\0\x02\0", MalformedBson::Boolean(2)),
        (b"\x09\0\0\0\x10a\0\x02\0", MalformedBson::Truncated),
        (b"\x0d\0\0\0\x02a\0\0\0\0\0\0\0", MalformedBson::Length(0)),
        (b"\x0d\0\0\0\x02a\0\xff\xff\xff\x7f\0\0", MalformedBson::Length(i32::MAX)),
        (b"\x0d\0\0\0\x02a\0\x01\0\0\0x\0", MalformedBson::Unterminated),
        (b"\x0d\0\0\0\x03a\0\x04\0\0\0\0\0", MalformedBson::Length(4)),
    ];
    for (bytes, expected) in cases {
        assert_eq!(json_of::<Relaxed>(bytes), Err(expected), "{bytes:?}");
    }
}
