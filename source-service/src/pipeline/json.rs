//! The file: a JSON array of objects, or one object, in Extended JSON, with its names in order and none of them twice.
//!
//! A name that comes twice in an object is refused: most parsers keep the last one, and a clause of a filter would be gone unseen.

use std::fmt;

use bson::{Bson, Document, error::Error as NotExtendedJson};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

/// One object.
///
/// # Errors
/// What is wrong, and where.
pub(crate) fn document(text: &str) -> Result<Document, String> {
    let json: Json = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match json.into_bson() {
        Ok(Bson::Document(document)) => Ok(document),
        Ok(_) => Err("it is no object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// # Errors
/// What is wrong, and where.
pub(super) fn documents(text: &str) -> Result<Vec<Document>, String> {
    let json = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let Json::Array(stages) = json else { return Err("it is no array".to_owned()) };
    let stage = |(index, stage): (usize, Json)| match stage.into_bson() {
        Ok(Bson::Document(stage)) => Ok(stage),
        Ok(_) => Err(format!("stage {} is no object", index + 1)),
        Err(error) => Err(format!("stage {}: {error}", index + 1)),
    };
    stages.into_iter().enumerate().map(stage).collect()
}

/// JSON whose objects keep their order, which `serde_json`'s own do not.
#[derive(Clone)]
enum Json {
    Scalar(Value),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn into_bson(self) -> Result<Bson, NotExtendedJson> {
        match self {
            Self::Scalar(value) => Bson::try_from(value),
            Self::Array(values) => values.into_iter().map(Self::into_bson).collect(),
            Self::Object(members) => {
                // `{"$date": …}` and the like are values; `{"$match": …}` stays what it is.
                if members.first().is_some_and(|(name, _)| name.starts_with('$')) {
                    let value = Bson::try_from(Self::Object(members.clone()).into_value())?;
                    if !matches!(value, Bson::Document(_)) {
                        return Ok(value);
                    }
                }
                let members = members.into_iter().map(|(name, value)| Ok((name, value.into_bson()?)));
                Ok(Bson::Document(members.collect::<Result<Document, NotExtendedJson>>()?))
            }
        }
    }

    fn into_value(self) -> Value {
        match self {
            Self::Scalar(value) => value,
            Self::Array(values) => values.into_iter().map(Self::into_value).collect(),
            Self::Object(members) => {
                members.into_iter().map(|(name, value)| (name, value.into_value())).collect()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Scalar(Value::Null))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Scalar(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Scalar(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(Json::Scalar(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Scalar(value.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Scalar(value.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = items.next_element()? {
                    values.push(value);
                }
                Ok(Json::Array(values))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
                let mut object: Vec<(String, Json)> = Vec::new();
                while let Some((name, value)) = members.next_entry()? {
                    if object.iter().any(|(other, _)| *other == name) {
                        return Err(A::Error::custom(format!("{name:?} comes twice in one object")));
                    }
                    object.push((name, value));
                }
                Ok(Json::Object(object))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use bson::{DateTime, doc};

    use super::*;

    #[test]
    fn names_keep_their_order_and_types_are_extended_json() {
        let text = r#"[{"$match": {"z": 1, "a": {"$date": "1970-01-01T00:00:01Z"}, "m": {"$in": [1.5, 9007199254740993]}}}]"#;
        let expected = doc! { "$match": { "z": 1, "a": DateTime::from_millis(1000), "m": { "$in": [1.5, 9_007_199_254_740_993_i64] } } };
        assert_eq!(documents(text).unwrap(), [expected]);
        let operators =
            r#"[{"$match": {"name": {"$regex": "^a", "$options": "i"}, "at": {"$type": "date"}}}]"#;
        let expected =
            doc! { "$match": { "name": { "$regex": "^a", "$options": "i" }, "at": { "$type": "date" } } };
        assert_eq!(documents(operators).unwrap(), [expected]);
    }

    #[test]
    fn an_object_keeps_its_order_too() {
        let found = document(r#"{"shop.b": {"at": {"z": 1, "a": 2}}, "shop.a": {}}"#);
        assert_eq!(found, Ok(doc! { "shop.b": { "at": { "z": 1, "a": 2 } }, "shop.a": {} }));
        assert!(document("[]").is_err() && document(r#"{"a": 1, "a": 2}"#).is_err());
    }

    #[test]
    fn what_is_wrong_has_a_place() {
        for (text, wrong) in [
            ("", "EOF"),
            ("{}", "no array"),
            ("[1]", "stage 1 is no object"),
            ("[{}, {\"$match\": {\"a\": 1, \"a\": 2}}]", "\"a\" comes twice in one object at line 1 column"),
            ("[{\"$match\": {\"a\": {\"$date\": \"soon\"}}}]", "stage 1: "),
            ("[{$match: {}}]", "line 1 column 3"),
        ] {
            let error = documents(text).unwrap_err();
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }
}
