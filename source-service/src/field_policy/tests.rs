//! Promise: what the walk writes of an event is what the transcoder writes of an event that was hidden slowly, over a tree, by
//! following lists of paths name by name; and no planted value is in it.

#![expect(clippy::unwrap_used, reason = "tests")]

use bson::{Bson, DateTime, Decimal128, Document, RawDocumentBuf, Timestamp, bson, doc, oid::ObjectId};
use hmac::{Hmac, KeyInit as _, Mac as _};
use proptest::prelude::*;
use sha2::Sha256;

use super::{Action, FieldPolicy, HashKey, PolicyError};
use crate::envelope::{EventContext, EventError, EventProfile, EventTranscoder, JsonDialect, KeyFormat};

const KEY: &str = "0123456789abcdef0123456789abcdef";
const CONTEXT: EventContext<'_> =
    EventContext { processed_at_ms: 0, snapshot: false, transaction_count: None, looked_up: None };

/// What is left of each path that is followed, and what happens at its end.
type Paths = Vec<(Vec<String>, Action)>;

enum Outcome {
    Followed(Paths),
    /// After so many names.
    Hidden(Action, usize),
}

fn member(paths: &Paths, name: &str) -> Paths {
    let follows = paths.iter().filter(|(path, _)| path[0] == name || path[0] == "*");
    follows.map(|(path, action)| (path[1..].to_vec(), *action)).collect()
}

fn item(paths: &Paths, index: &str) -> Paths {
    [paths.clone(), member(paths, index)].concat()
}

fn ended(paths: &Paths) -> Option<Action> {
    paths.iter().filter(|(path, _)| path.is_empty()).map(|(_, action)| *action).max()
}

fn follow(paths: &Paths, text: &str) -> Outcome {
    let mut paths = paths.clone();
    for (number, name) in text.split('.').enumerate() {
        let is_index = number > 0 && !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
        paths = if is_index { item(&paths, name) } else { member(&paths, name) };
        if let Some(action) = ended(&paths) {
            return Outcome::Hidden(action, number + 1);
        }
    }
    Outcome::Followed(paths)
}

fn shown(action: Action, value: &Bson) -> Option<Bson> {
    match action {
        Action::Drop => None,
        Action::Mask => Some("***".into()),
        Action::Hash => Some(hash(value).into()),
    }
}

fn below(paths: &Paths, value: &Bson) -> Bson {
    match value {
        Bson::Document(document) => Bson::Document(hidden(paths, document)),
        Bson::Array(items) => {
            let items = items.iter().enumerate().filter_map(|(index, value)| {
                let next = item(paths, &index.to_string());
                match ended(&next) {
                    Some(action) => shown(action, value),
                    None => Some(below(&next, value)),
                }
            });
            Bson::Array(items.collect())
        }
        other => other.clone(),
    }
}

fn hidden(paths: &Paths, document: &Document) -> Document {
    let members = document.iter().filter_map(|(name, value)| {
        let value = match follow(paths, name) {
            Outcome::Followed(paths) => below(&paths, value),
            Outcome::Hidden(Action::Drop, _) => return None,
            Outcome::Hidden(action, names) if names == name.split('.').count() => shown(action, value)?,
            Outcome::Hidden(..) => "***".into(),
        };
        Some((name.clone(), value))
    });
    members.collect()
}

fn hidden_update(paths: &Paths, update: &Document) -> Document {
    let whole = |path: &str, names: usize| names == path.split('.').count();
    let stays = |path: &str| match follow(paths, path) {
        Outcome::Followed(_) => true,
        Outcome::Hidden(action, names) => action != Action::Drop && whole(path, names),
    };
    let mut updated = Document::new();
    for (path, value) in update.get_document("updatedFields").unwrap() {
        let (path, value) = match follow(paths, path) {
            Outcome::Followed(paths) => (path.clone(), below(&paths, value)),
            Outcome::Hidden(Action::Drop, _) => continue,
            Outcome::Hidden(action, names) if whole(path, names) => {
                (path.clone(), shown(action, value).unwrap())
            }
            Outcome::Hidden(_, names) => {
                let parent = path.split('.').take(names).collect::<Vec<_>>().join(".");
                if updated.contains_key(&parent) {
                    continue;
                }
                (parent, "***".into())
            }
        };
        updated.insert(path, value);
    }
    let removed = update.get_array("removedFields").unwrap();
    let removed: Vec<Bson> = removed.iter().filter(|path| stays(path.as_str().unwrap())).cloned().collect();
    let truncated = update.get_array("truncatedArrays").unwrap();
    let truncated: Vec<Bson> = truncated
        .iter()
        .filter(|array| {
            let field = array.as_document().unwrap().get_str("field").unwrap();
            matches!(follow(paths, field), Outcome::Followed(_))
        })
        .cloned()
        .collect();
    let apart = update.get_document("disambiguatedPaths").unwrap();
    let apart: Document = apart
        .iter()
        .filter(|(path, _)| stays(path))
        .map(|(path, names)| (path.clone(), names.clone()))
        .collect();
    doc! {
        "updatedFields": updated, "removedFields": removed, "truncatedArrays": truncated, "disambiguatedPaths": apart
    }
}

fn hmac(content: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap();
    mac.update(content);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(value: &Bson) -> String {
    hmac(&form(value, None))
}

/// By the table in `hash`.
fn form(value: &Bson, inside: Option<&str>) -> Vec<u8> {
    let frame = |letter: u8| -> Vec<u8> {
        let mut start = vec![letter];
        if let Some(name) = inside {
            start.extend(name.as_bytes());
            start.push(0);
        }
        start
    };
    let sized = |letter: u8, content: &[u8]| {
        let mut form = frame(letter);
        if inside.is_some() {
            form.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        }
        form.extend(content);
        form
    };
    match value {
        Bson::String(text) | Bson::Symbol(text) => sized(b's', text.as_bytes()),
        Bson::Int32(number) => sized(b'n', number.to_string().as_bytes()),
        Bson::Int64(number) => sized(b'n', number.to_string().as_bytes()),
        Bson::Double(number) => sized(b'n', double(*number).as_bytes()),
        Bson::Decimal128(number) => sized(b'n', decimal(&number.to_string()).unwrap().as_bytes()),
        Bson::ObjectId(id) => sized(b'o', &id.bytes()),
        Bson::DateTime(date) => sized(b'd', date.timestamp_millis().to_string().as_bytes()),
        Bson::Boolean(true) => sized(b't', b""),
        Bson::Boolean(false) => sized(b'f', b""),
        Bson::Null => sized(b'z', b""),
        Bson::Document(document) => {
            let members = document.iter().flat_map(|(name, value)| form(value, Some(name)));
            frame(b'{').into_iter().chain(members).chain([0]).collect()
        }
        Bson::Array(items) => {
            let items = items.iter().flat_map(|value| form(value, Some("")));
            frame(b'[').into_iter().chain(items).chain([0]).collect()
        }
        other => panic!("{other} is not made here"),
    }
}

/// Every double is a finite decimal fraction, which the standard library writes whole.
fn double(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    decimal(&format!("{number:.1100}")).unwrap_or_else(|| format!("x{:016x}", number.to_bits()))
}

/// The shortest of the two ways to write it; `None` with more than 34 digits.
fn decimal(text: &str) -> Option<String> {
    if text.contains(['N', 'I']) {
        return Some(text.to_owned());
    }
    let (text, exponent) = text.split_once('E').unwrap_or((text, "0"));
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |text| ("-", text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let exponent: i64 = exponent.parse::<i64>().unwrap() - i64::try_from(fraction.len()).unwrap();
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let short = digits.trim_end_matches('0');
    let exponent = exponent + i64::try_from(digits.len() - short.len()).unwrap();
    let length = i64::try_from(short.len()).unwrap();
    match (short, exponent) {
        ("", _) => Some("0".to_owned()),
        (_, 0..) if length + exponent <= 34 => {
            Some(format!("{sign}{short}{}", "0".repeat(usize::try_from(exponent).unwrap())))
        }
        _ if length > 34 => None,
        _ => Some(format!("{sign}{short}E{exponent}")),
    }
}

fn names(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(of).prop_map(ToOwned::to_owned)
}

fn any_path() -> impl Strategy<Value = String> {
    (names(&["a", "b", "c", "0"]), prop::collection::vec(names(&["a", "b", "0", "1", "*"]), 0..3))
        .prop_map(|(first, others)| [vec![first], others].concat().join("."))
}

fn any_rules() -> impl Strategy<Value = Vec<(String, Action)>> {
    prop::collection::vec((any_path(), prop::sample::select(&Action::ALL[..])), 1..5)
}

fn any_value() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(Bson::Int32),
        (-3_i64..3).prop_map(Bson::Int64),
        any::<f64>().prop_map(Bson::Double),
        (-9_i32..9).prop_map(|number| Bson::Double(f64::from(number) / 4.0)),
        "[a-z\u{e9}]{0,6}".prop_map(Bson::String),
        Just(Bson::Null),
        any::<bool>().prop_map(Bson::Boolean),
        any::<[u8; 12]>().prop_map(|id| Bson::ObjectId(ObjectId::from_bytes(id))),
        any::<i64>().prop_map(|ms| Bson::DateTime(DateTime::from_millis(ms))),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            document_of(inner.clone()).prop_map(Bson::Document),
            prop::collection::vec(inner, 0..4).prop_map(Bson::Array),
        ]
    })
}

fn document_of(value: impl Strategy<Value = Bson> + 'static) -> impl Strategy<Value = Document> {
    let name = names(&["a", "b", "c", "0", "1", "", "x", "a.b", "a.0", "b.0.a", "*"]);
    prop::collection::vec((name, value), 0..6).prop_map(Document::from_iter)
}

fn any_document() -> impl Strategy<Value = Document> {
    document_of(any_value())
}

/// Of an update, or of a removed field.
fn any_place() -> impl Strategy<Value = String> {
    prop::collection::vec(names(&["a", "b", "c", "0", "1", "x"]), 1..5).prop_map(|names| names.join("."))
}

fn any_update() -> impl Strategy<Value = Document> {
    let places = || prop::collection::vec(any_place(), 0..4);
    let updated = prop::collection::vec((any_place(), any_value()), 0..6).prop_map(|fields| {
        // MongoDB refuses an update of a field and of a part of it.
        let mut updated = Document::new();
        for (path, value) in fields {
            let inside = |one: &str, other: &str| one.starts_with(&format!("{other}."));
            if !updated.keys().any(|other| inside(&path, other) || inside(other, &path)) {
                updated.insert(path, value);
            }
        }
        updated
    });
    (updated, places(), places(), places()).prop_map(|(updated, removed, truncated, apart)| {
        let truncated: Vec<Bson> =
            truncated.into_iter().map(|field| bson!({ "field": field, "newSize": 2 })).collect();
        let apart: Document = apart
            .into_iter()
            .map(|path| (path.clone(), Bson::Array(path.split('.').map(Bson::from).collect())))
            .collect();
        doc! {
            "updatedFields": updated, "removedFields": removed, "truncatedArrays": truncated, "disambiguatedPaths": apart
        }
    })
}

fn policy_of(rules: &[(String, Action)]) -> FieldPolicy {
    let texts = rules.iter().map(|(path, action)| {
        format!("[[rule]]\nnamespace = \"sh*.*\"\npath = \"{path}\"\naction = \"{}\"\n", action.as_str())
    });
    FieldPolicy::parse(&texts.collect::<String>()).unwrap().with_key(Some(HashKey::new(KEY).unwrap()))
}

fn event(members: Document) -> Document {
    let mut event = doc! {
        "_id": { "_data": "82AB" },
        "operationType": "update",
        "clusterTime": Timestamp { time: 7, increment: 1 },
        "ns": { "db": "shop", "coll": "orders" },
        "documentKey": { "_id": 1 },
    };
    event.extend(members);
    event
}

fn json(event: &Document, dialect: JsonDialect, policy: Option<FieldPolicy>) -> Result<String, EventError> {
    let mut transcoder = EventTranscoder::new("s", dialect, KeyFormat::ExtendedJson).hiding(policy);
    let bytes = RawDocumentBuf::try_from(event).unwrap();
    let record = transcoder.transcode(bytes.as_bytes(), &CONTEXT)?;
    Ok(String::from_utf8(record.value.to_vec()).unwrap())
}

fn in_profile(event: &Document, profile: EventProfile, policy: Option<FieldPolicy>) -> String {
    let key_format =
        if profile == EventProfile::Debezium { KeyFormat::Debezium } else { KeyFormat::MongoKafka };
    let mut transcoder = EventTranscoder::new("s", JsonDialect::Relaxed, key_format)
        .as_profile(profile, "atlas")
        .hiding(policy);
    let bytes = RawDocumentBuf::try_from(event).unwrap();
    let record = transcoder.transcode(bytes.as_bytes(), &CONTEXT).unwrap();
    String::from_utf8(record.value.to_vec()).unwrap()
}

fn split(rules: &[(String, Action)]) -> Paths {
    rules.iter().map(|(path, action)| (path.split('.').map(ToOwned::to_owned).collect(), *action)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn an_event_is_hidden_as_the_slow_way_has_it(
        rules in any_rules(),
        document in any_document(),
        before in any_document(),
        update in any_update(),
        dialect in prop::sample::select(&[JsonDialect::Relaxed, JsonDialect::Canonical, JsonDialect::Plain][..]),
    ) {
        let members = doc! {
            "fullDocument": document.clone(), "updateDescription": update.clone(), "fullDocumentBeforeChange": before.clone()
        };
        let paths = split(&rules);
        let expected = doc! {
            "fullDocument": hidden(&paths, &document),
            "updateDescription": hidden_update(&paths, &update),
            "fullDocumentBeforeChange": hidden(&paths, &before),
        };
        let found = json(&event(members.clone()), dialect, Some(policy_of(&rules))).unwrap();
        prop_assert_eq!(found, json(&event(expected.clone()), dialect, None).unwrap());
        for profile in [EventProfile::Debezium, EventProfile::MongoKafka] {
            let found = in_profile(&event(members.clone()), profile, Some(policy_of(&rules)));
            prop_assert_eq!(found, in_profile(&event(expected.clone()), profile, None));
        }
        // Another collection is not concerned.
        let mut elsewhere = event(members);
        elsewhere.insert("ns", doc! { "db": "crm", "coll": "orders" });
        let found = json(&elsewhere, dialect, Some(policy_of(&rules))).unwrap();
        prop_assert_eq!(found, json(&elsewhere, dialect, None).unwrap());
    }

    /// Whatever is under a hidden path is not in the line, wherever it was put.
    #[test]
    fn a_planted_value_is_nowhere(
        rules in any_rules(),
        document in any_document(),
        steps in prop::collection::vec((any::<bool>(), names(&["a", "x"])), 0..4),
        number in any::<prop::sample::Index>(),
    ) {
        // The value under a rule's path, through arrays and below.
        let (path, _) = &rules[number.index(rules.len())];
        let mut planted: Bson = "PLANTED".into();
        for (_, name) in &steps {
            planted = bson!({ name.as_str(): planted });
        }
        let mut update_path = Vec::new();
        for (place, name) in path.split('.').rev().enumerate() {
            let name = if name == "*" { "any" } else { name };
            planted = bson!({ name: planted });
            update_path.insert(0, name.to_owned());
            if steps.get(place).is_some_and(|(array, _)| *array) && place + 1 < path.split('.').count() {
                planted = Bson::Array(vec![planted]);
                update_path.insert(0, "0".to_owned());
            }
        }
        let mut document = document;
        document.extend(planted.as_document().unwrap().clone());
        let below = update_path.join(".") + &steps.iter().map(|(_, name)| format!(".{name}")).collect::<String>();
        let update = doc! { "updatedFields": { below: "PLANTED" }, "removedFields": [], "truncatedArrays": [] };
        let members = doc! {
            "fullDocument": document.clone(), "updateDescription": update, "fullDocumentBeforeChange": document
        };
        let found = json(&event(members), JsonDialect::Relaxed, Some(policy_of(&rules))).unwrap();
        prop_assert!(!found.contains("PLANTED"), "{}", found);
    }

    /// Nothing in an event that cannot be read is trusted, and nothing panics.
    #[test]
    fn damaged_events_never_panic(
        rules in any_rules(),
        document in any_document(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = RawDocumentBuf::try_from(&event(doc! { "fullDocument": document })).unwrap().into_bytes();
        for (index, byte) in changes {
            let place = index.index(bytes.len());
            bytes[place] = byte;
        }
        let mut transcoder = EventTranscoder::new("s", JsonDialect::Plain, KeyFormat::Plain).hiding(Some(policy_of(&rules)));
        let refused = match transcoder.transcode(&bytes, &CONTEXT) {
            Ok(record) => {
                prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(record.value).is_ok());
                return Ok(());
            }
            Err(error) => error,
        };
        if let EventError::Unreadable(_) = refused {
            prop_assert!(transcoder.may_hide_in(&bytes, &refused));
        }
    }
}

/// As `docs/privacy.md` shows it.
#[test]
fn each_action_has_its_form() {
    let rules = [
        ("email", Action::Hash),
        ("cards.number", Action::Mask),
        ("notes", Action::Drop),
        ("tags.*", Action::Hash),
    ];
    let rules: Vec<_> = rules.map(|(path, action)| (path.to_owned(), action)).to_vec();
    let document = doc! {
        "email": "ann@example.com", "cards": [{ "number": "4111", "kind": "visa" }], "notes": ["x"], "tags": ["a", "b"]
    };
    let email = hmac(b"sann@example.com");
    assert_eq!(email, "a8ab2fa34ea90df29aae01903db0b7bbda2767f816e7910b11178b1f3bfe5c42");
    let found =
        json(&event(doc! { "fullDocument": document }), JsonDialect::Relaxed, Some(policy_of(&rules)))
            .unwrap();
    let expected = format!(
        r#""fullDocument":{{"email":"{email}","cards":[{{"number":"***","kind":"visa"}}],"tags":["{}","{}"]}}"#,
        hmac(b"sa"),
        hmac(b"sb")
    );
    assert!(found.contains(&expected), "{found}");
}

#[test]
fn equal_values_have_equal_hashes_and_others_do_not() {
    let decimal = |text: &str| Bson::Decimal128(text.parse::<Decimal128>().unwrap());
    let classes: Vec<Vec<Bson>> = vec![
        vec![5.into(), 5_i64.into(), 5.0.into(), decimal("5"), decimal("5.00"), decimal("0.5E+1")],
        vec![100.into(), 100.0.into(), decimal("1E+2")],
        vec![0.into(), (-0.0).into(), decimal("0"), decimal("-0.00"), decimal("0E+30")],
        vec![0.5.into(), decimal("0.5"), decimal("0.50")],
        vec![0.1.into()],
        vec![decimal("0.1")],
        vec![(-5).into(), (-5.0).into(), decimal("-5")],
        vec![1e22.into(), decimal("1E+22")],
        vec![decimal("1E+40"), decimal("10E+39")],
        vec![1e300.into()],
        vec![f64::MIN_POSITIVE.into()],
        vec![i64::MAX.into(), decimal("9223372036854775807")],
        vec![9_223_372_036_854_775_807_f64.into(), decimal("9223372036854775808")],
        vec![f64::NAN.into(), (-f64::NAN).into(), decimal("NaN")],
        vec![f64::INFINITY.into(), decimal("Infinity")],
        vec![f64::NEG_INFINITY.into(), decimal("-Infinity")],
        vec!["5".into(), Bson::Symbol("5".to_owned())],
        vec![Bson::Null],
        vec![Bson::Undefined],
        vec![true.into()],
        vec![DateTime::from_millis(5).into()],
        vec![bson!([5]), bson!([5.0])],
        vec![bson!({ "0": 5 })],
        vec![bson!([[5]])],
        vec![bson!({ "a": "b", "c": 1 })],
        vec![bson!({ "c": 1, "a": "b" })],
        vec![bson!({ "a": "b\0c", "c": 1 })],
        vec![bson!([]), bson!([])],
        vec![bson!({})],
        vec!["".into()],
        vec![bson!(["a", "b"])],
        vec![bson!(["ab"])],
    ];
    let key = HashKey::new(KEY).unwrap();
    let mut seen = std::collections::HashMap::new();
    for (number, class) in classes.iter().enumerate() {
        for value in class {
            let raw = RawDocumentBuf::try_from(&doc! { "v": value.clone() }).unwrap();
            let mut reader = crate::transcode::Reader::of_document(raw.as_bytes()).unwrap();
            let element = reader.element().unwrap().unwrap();
            let hash = key.of(element.kind, element.value).unwrap();
            assert_eq!(*seen.entry(hash).or_insert(number), number, "{value}");
        }
    }
    assert_eq!(seen.len(), classes.len());
}

#[test]
fn a_key_that_is_hidden_stops_the_source() {
    let rules = [("region".to_owned(), Action::Hash), ("address.zip".to_owned(), Action::Mask)];
    for key in [
        doc! { "region": "eu", "_id": 1 },
        doc! { "address": { "zip": "1" }, "_id": 1 },
        doc! { "address.zip": 1, "_id": 1 },
    ] {
        let field = key.keys().next().unwrap().clone();
        let error = json(&event(doc! { "documentKey": key }), JsonDialect::Relaxed, Some(policy_of(&rules)))
            .unwrap_err();
        assert_eq!(error, EventError::HiddenKey { namespace: "shop.orders".to_owned(), field });
    }
    let fine = event(doc! { "documentKey": { "address": "x", "_id": { "region": 1 } } });
    assert!(json(&fine, JsonDialect::Relaxed, Some(policy_of(&rules))).is_ok());
}

/// An index's filter and a validator may quote a value.
#[test]
fn definitions_quote_no_values() {
    let mut event = event(doc! {
        "operationDescription": {
            "indexes": [{ "key": { "email": 1 }, "name": "email_1", "partialFilterExpression": { "email": "PLANTED" } }],
            "validator": { "email": "PLANTED" },
        },
        "stateBeforeChange": { "collectionOptions": { "validator": { "email": "PLANTED" }, "capped": true } },
    });
    event.insert("operationType", "createIndexes");
    event.remove("documentKey");
    let rules = [("email".to_owned(), Action::Mask)];
    let found = json(&event, JsonDialect::Relaxed, Some(policy_of(&rules))).unwrap();
    let expected = r#""operationDescription":{"indexes":[{"key":{"email":1},"name":"email_1","partialFilterExpression":"***"}],"validator":"***"},"stateBeforeChange":{"collectionOptions":{"validator":"***","capped":true}}"#;
    assert!(found.contains(expected), "{found}");
    assert!(json(&event, JsonDialect::Relaxed, None).unwrap().contains("PLANTED"));
}

#[test]
fn every_mistake_in_the_file_is_named_with_its_rule_and_line() {
    let text = r#"
# Wrong in many ways.
[[rule]]
namespace = "shop.orders"
path = ["_id", "a..b", "*.x", "te*", "$email", "fine"]
action = "encrypt"

[[rule]]
namespace = ["shop", "admin.x", "crm.*"]
path = 7
acton = "mask"
"#;
    let refused = FieldPolicy::parse(text).unwrap_err().to_string();
    for said in [
        "rule 1 (line 3) has the path \"_id\", which is part of the record's key",
        "rule 1 (line 3) has the path \"a..b\", which has an empty name",
        "rule 1 (line 3) has the path \"*.x\", which begins with *",
        "rule 1 (line 3) has the path \"te*\", which has a * beside",
        "rule 1 (line 3) has the path \"$email\", which begins with $",
        "rule 1 (line 3) has the action \"encrypt\"",
        "rule 2 (line 8) has the namespace \"shop\"",
        "rule 2 (line 8) has the namespace \"admin.x\"",
        "rule 2 (line 8) has a path that is no text",
        "rule 2 (line 8) has no action",
        "rule 2 (line 8) has acton, which is none of",
    ] {
        assert!(refused.contains(said), "{said} is missing in {refused}");
    }
    for (text, said) in [
        ("", "it has none"),
        ("[[rule]]\nnamespace = \"a.b", "line 2: "),
        ("rules = 1", "line 1: unknown field `rules`"),
        ("[rule]\nnamespace = \"a.b\"", "line 1: "),
    ] {
        match FieldPolicy::parse(text) {
            Err(PolicyError::NoPolicy(reason)) => assert!(reason.contains(said), "{text}: {reason}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}
