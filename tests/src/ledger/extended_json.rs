//! Whether a JSON text is the relaxed Extended JSON v2 of a BSON value.
//!
//! The comparison runs the other way round than the product's transcoder: it never writes JSON, it asks of each JSON
//! value whether it means this BSON value. So there is no text format that both could get wrong in the same way, and
//! freedom that the specification leaves (digits of a fraction, form of a double) is left to the product.
//! Source: <https://github.com/mongodb/specifications/blob/master/source/extended-json/extended-json.md>.
//!
//! The `bson` crate's own `into_relaxed_extjson` is only used in the unit test, as a second opinion: it writes dates
//! after the year 9999 as that year's last instant.

use bson::{Binary, Bson, Document, Timestamp, spec::BinarySubtype};
use chrono::DateTime;

use crate::json::Json;

/// The last millisecond of the year 9999: later dates, and those before 1970, are written as numbers.
const LAST_ISO_MS: i64 = 253_402_300_799_999;

/// `None` if `json` means `bson`; else where it does not, as a path and what was expected.
pub fn difference(json: &Json, bson: &Bson) -> Option<String> {
    compare(json, bson, &mut String::new()).err()
}

/// The same for a document that is given as such.
pub fn document_difference(json: &Json, document: &Document) -> Option<String> {
    compare_document(json, document, &mut String::new()).err()
}

type Compared = Result<(), String>;

fn compare(json: &Json, bson: &Bson, path: &mut String) -> Compared {
    let same = match bson {
        Bson::Document(document) => return compare_document(json, document, path),
        Bson::Array(array) => return compare_array(json, array, path),
        Bson::JavaScriptCodeWithScope(code) => {
            let text = json.get("$code").and_then(Json::as_text);
            if text != Some(&code.code) {
                return Err(mismatch(json, bson, path));
            }
            return compare_document(json.get("$scope").unwrap_or(&Json::Null), &code.scope, path);
        }
        Bson::Null => *json == Json::Null,
        Bson::Boolean(value) => *json == Json::Bool(*value),
        Bson::String(text) => json.as_text() == Some(text),
        Bson::Int32(number) => json.as_i64() == Some(i64::from(*number)),
        Bson::Int64(number) => json.as_i64() == Some(*number),
        Bson::Double(number) => is_double(json, *number),
        Bson::ObjectId(id) => json.only("$oid").and_then(Json::as_text) == Some(&id.to_hex()),
        Bson::DateTime(date) => is_date(json, date.timestamp_millis()),
        Bson::Decimal128(number) => {
            json.only("$numberDecimal").and_then(Json::as_text) == Some(&number.to_string())
        }
        Bson::Timestamp(time) => is_timestamp(json, *time),
        Bson::Binary(binary) => is_binary(json, binary),
        Bson::RegularExpression(regex) => json.only("$regularExpression").is_some_and(|parts| {
            parts.get("pattern").and_then(Json::as_text) == Some(regex.pattern.as_str())
                && parts.get("options").and_then(Json::as_text) == Some(regex.options.as_str())
        }),
        Bson::JavaScriptCode(code) => json.only("$code").and_then(Json::as_text) == Some(code),
        Bson::Symbol(text) => json.only("$symbol").and_then(Json::as_text) == Some(text),
        Bson::MinKey => json.only("$minKey").and_then(Json::as_i64) == Some(1),
        Bson::MaxKey => json.only("$maxKey").and_then(Json::as_i64) == Some(1),
        Bson::Undefined => json.only("$undefined") == Some(&Json::Bool(true)),
        // Its fields are private to the bson crate; the type is deprecated and the workload has none.
        Bson::DbPointer(_) => json.only("$dbPointer").is_some(),
    };
    if same { Ok(()) } else { Err(mismatch(json, bson, path)) }
}

fn compare_document(json: &Json, document: &Document, path: &mut String) -> Compared {
    let Json::Object(members) = json else {
        return Err(format!("{path}: expected a document, found {}", short(json)));
    };
    let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    let expected: Vec<&str> = document.keys().map(String::as_str).collect();
    if names != expected {
        return Err(format!("{path}: expected the members {expected:?}, found {names:?}"));
    }
    members
        .iter()
        .zip(document)
        .try_for_each(|((_, json), (name, bson))| below(path, name, |path| compare(json, bson, path)))
}

fn compare_array(json: &Json, array: &[Bson], path: &mut String) -> Compared {
    let Json::Array(values) = json else {
        return Err(format!("{path}: expected an array, found {}", short(json)));
    };
    if values.len() != array.len() {
        return Err(format!("{path}: expected {} elements, found {}", array.len(), values.len()));
    }
    let pairs = values.iter().zip(array).enumerate();
    pairs.into_iter().try_for_each(|(index, (json, bson))| {
        below(path, &index.to_string(), |path| compare(json, bson, path))
    })
}

/// Runs `step` with the path one level deeper.
fn below(path: &mut String, name: &str, step: impl FnOnce(&mut String) -> Compared) -> Compared {
    let length = path.len();
    path.push('/');
    path.push_str(name);
    let result = step(path);
    path.truncate(length);
    result
}

/// Finite doubles are numbers with a point or an exponent, so that a reader can tell them from integers; the others have
/// a wrapper in the relaxed form too.
fn is_double(json: &Json, number: f64) -> bool {
    if number.is_finite() {
        return matches!(json, Json::Number(digits)
            if digits.contains(['.', 'e', 'E'])
                && digits.parse::<f64>().is_ok_and(|parsed| parsed.to_bits() == number.to_bits()));
    }
    let name = if number.is_nan() {
        "NaN"
    } else if number > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    };
    json.only("$numberDouble").and_then(Json::as_text) == Some(name)
}

fn is_date(json: &Json, millis: i64) -> bool {
    let Some(date) = json.only("$date") else { return false };
    if (0..=LAST_ISO_MS).contains(&millis) {
        let parsed = date.as_text().filter(|text| text.ends_with('Z')).map(DateTime::parse_from_rfc3339);
        return matches!(parsed, Some(Ok(parsed)) if parsed.timestamp_millis() == millis);
    }
    date.only("$numberLong").and_then(Json::as_text) == Some(&millis.to_string())
}

/// `{"$timestamp": {"t": …, "i": …}}`.
pub(crate) fn is_timestamp(json: &Json, time: Timestamp) -> bool {
    json.only("$timestamp").is_some_and(|parts| {
        parts.get("t").and_then(Json::as_i64) == Some(i64::from(time.time))
            && parts.get("i").and_then(Json::as_i64) == Some(i64::from(time.increment))
    })
}

fn is_binary(json: &Json, binary: &Binary) -> bool {
    json.only("$binary").is_some_and(|parts| {
        let subtype = u8::from(binary.subtype);
        let told = parts.get("subType").and_then(Json::as_text);
        let told = told.and_then(|text| u8::from_str_radix(text, 16).ok());
        let bytes = parts.get("base64").and_then(Json::as_text);
        told == Some(subtype) && bytes == Some(&azure_core::base64::encode(&binary.bytes))
    })
}

fn mismatch(json: &Json, bson: &Bson, path: &str) -> String {
    let place = if path.is_empty() { "/" } else { path };
    let binary_old = matches!(bson, Bson::Binary(Binary { subtype: BinarySubtype::BinaryOld, .. }));
    let note = if binary_old { " (binary subtype 2)" } else { "" };
    format!("{place}: expected {}{note}, found {}", cut(&format!("{bson:?}")), short(json))
}

fn short(json: &Json) -> String {
    cut(&format!("{json:?}"))
}

/// Details are for people: a megabyte of text helps nobody.
fn cut(text: &str) -> String {
    const SHOWN: usize = 160;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use bson::{Decimal128, JavaScriptCodeWithScope, Regex, cstr, doc, oid::ObjectId};

    use super::*;

    fn every_type() -> Vec<Bson> {
        let binary = |subtype| Bson::Binary(Binary { subtype, bytes: vec![0, 1, 254, 255] });
        vec![
            Bson::Double(1.0),
            Bson::Double(-0.0),
            Bson::Double(1e300),
            Bson::Double(0.1 + 0.2),
            Bson::Double(f64::NAN),
            Bson::Double(f64::INFINITY),
            Bson::Double(f64::NEG_INFINITY),
            Bson::String("\u{0}\u{1f}\"\\/\u{2028}😀".to_owned()),
            Bson::Document(doc! { "": 1, "$c": { "d": [1, [2], {}] }, "a.b": 2 }),
            Bson::Array(vec![]),
            Bson::Boolean(true),
            Bson::Null,
            Bson::RegularExpression(Regex { pattern: cstr!("^a/b").into(), options: cstr!("im").into() }),
            Bson::JavaScriptCode("f()".to_owned()),
            Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
                code: "g".to_owned(),
                scope: doc! { "x": 1 },
            }),
            Bson::Int32(i32::MIN),
            Bson::Int64(i64::MAX),
            Bson::Timestamp(Timestamp { time: u32::MAX, increment: 7 }),
            binary(BinarySubtype::Generic),
            binary(BinarySubtype::UserDefined(0x80)),
            Bson::ObjectId(ObjectId::from_bytes([7; 12])),
            Bson::DateTime(bson::DateTime::from_millis(0)),
            Bson::DateTime(bson::DateTime::from_millis(1_234_567_890_120)),
            Bson::DateTime(bson::DateTime::from_millis(-1)),
            Bson::Symbol("s".to_owned()),
            Bson::Decimal128("-1.50E+7".parse::<Decimal128>().unwrap()),
            Bson::Undefined,
            Bson::MaxKey,
            Bson::MinKey,
        ]
    }

    #[test]
    fn every_type_agrees_with_the_bson_crates_own_text() {
        for bson in every_type() {
            let text = bson.clone().into_relaxed_extjson().to_string();
            let json = Json::parse(text.as_bytes()).unwrap();
            assert_eq!(difference(&json, &bson), None, "{text}");
        }
    }

    #[test]
    fn no_type_is_taken_for_another() {
        let all = every_type();
        for (left, bson) in all.iter().enumerate() {
            for (right, other) in all.iter().enumerate() {
                let json = Json::parse(other.clone().into_relaxed_extjson().to_string().as_bytes()).unwrap();
                assert_eq!(difference(&json, bson).is_none(), left == right, "{bson:?} and {other:?}");
            }
        }
    }

    #[test]
    fn dates_beyond_the_calendar_are_numbers() {
        for millis in [LAST_ISO_MS + 1, i64::MAX, i64::MIN] {
            let date = Bson::DateTime(bson::DateTime::from_millis(millis));
            let json =
                Json::parse(format!(r#"{{"$date":{{"$numberLong":"{millis}"}}}}"#).as_bytes()).unwrap();
            assert_eq!(difference(&json, &date), None);
        }
        let clamped = Json::parse(br#"{"$date":"9999-12-31T23:59:59.999Z"}"#).unwrap();
        assert!(
            difference(&clamped, &Bson::DateTime(bson::DateTime::from_millis(LAST_ISO_MS + 1))).is_some()
        );
    }

    #[test]
    fn the_place_of_a_difference_is_named() {
        let json = Json::parse(br#"{"a":{"b":[1,2]}}"#).unwrap();
        let found = document_difference(&json, &doc! { "a": { "b": [1, 3] } }).unwrap();
        assert!(found.starts_with("/a/b/1:"), "{found}");
        // The order of members is part of a document.
        let json = Json::parse(br#"{"b":1,"a":1}"#).unwrap();
        assert!(document_difference(&json, &doc! { "a": 1, "b": 1 }).is_some());
    }
}
