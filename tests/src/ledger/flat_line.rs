//! What a flat line must say, by the record's value: docs/lake/files.md "Flat lines", member by member.

use crate::json::Json;

type Members = Vec<(String, Json)>;

/// The members of the line before `_kafka`. The judge's JSON keeps order, repeated members and digits; what is left to the product are blanks and how
/// a character is escaped.
pub(super) fn members(value: &Json) -> Option<Members> {
    let Json::Object(own) = value else { return None };
    if let Some(flat) = of_event(own) {
        return Some(flat);
    }
    Some(if own.iter().any(|(name, _)| is_kept(name)) {
        vec![("_document".to_owned(), value.clone())]
    } else {
        own.clone()
    })
}

/// `None` if it is no event.
fn of_event(own: &Members) -> Option<Members> {
    let part = |name: &str| own.iter().find(|(own, _)| own == name).map(|(_, value)| value);
    let (Json::Object(meta), document) = (part("_meta")?, part("fullDocument")?) else { return None };
    if meta.is_empty() || meta.iter().any(|(name, _)| name == "db" || name == "coll") {
        return None;
    }
    let (top, is_missing) = match document {
        Json::Object(members) => (members.clone(), false),
        Json::Null => match part("documentKey") {
            Some(Json::Object(key)) => (key.clone(), true),
            _ => (Vec::new(), true),
        },
        _ => return None,
    };
    let mut flat = if top.iter().any(|(name, _)| is_kept(name)) {
        vec![("_document".to_owned(), Json::Object(top))]
    } else {
        top
    };
    for (name, value) in meta {
        match value {
            Json::Object(parts) if name == "ns" && parts.iter().map(|(name, _)| name).eq(["db", "coll"]) => {
                flat.extend(parts.iter().map(|(name, value)| (format!("_meta_{name}"), value.clone())));
            }
            _ => flat.push((format!("_meta_{name}"), value.clone())),
        }
    }
    let lifted = ["documentKey", "fullDocument", "updateDescription", "fullDocumentBeforeChange"];
    for name in lifted.into_iter().filter(|name| *name != "fullDocument" || is_missing) {
        flat.extend(part(name).map(|value| (format!("_{name}"), value.clone())));
    }
    let others = own.iter().filter(|(name, _)| name != "_meta" && !lifted.contains(&name.as_str()));
    flat.extend(others.map(|(name, value)| (format!("_event_{name}"), value.clone())));
    Some(flat)
}

/// A name that stands for something else in a flat line. The source escapes quotes, backslashes and control characters, and nothing else.
fn is_kept(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let others =
        ["document", "documentkey", "fulldocument", "updatedescription", "fulldocumentbeforechange", "kafka"];
    lower.starts_with("_meta_")
        || lower.starts_with("_event_")
        || lower.strip_prefix('_').is_some_and(|rest| others.contains(&rest))
        || name.chars().any(|character| matches!(character, '"' | '\\' | '\0'..='\x1f'))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn flat(value: &str) -> Json {
        Json::Object(members(&Json::parse(value.as_bytes()).unwrap()).unwrap())
    }

    #[test]
    fn a_line_says_every_part_in_its_place() {
        let meta = r#""_meta":{"operationType":"update","ns":{"db":"a","coll":"b"}},"documentKey":{"_id":7}"#;
        let lifted =
            r#""_meta_operationType":"update","_meta_db":"a","_meta_coll":"b","_documentKey":{"_id":7}"#;
        for (value, line) in [
            (
                format!(r#"{{{meta},"fullDocument":{{"_id":7,"n":1.10}},"extra":[1]}}"#),
                format!(r#"{{"_id":7,"n":1.10,{lifted},"_event_extra":[1]}}"#),
            ),
            (
                format!(r#"{{{meta},"fullDocument":null,"updateDescription":null}}"#),
                format!(r#"{{"_id":7,{lifted},"_fullDocument":null,"_updateDescription":null}}"#),
            ),
            (
                format!(r#"{{{meta},"fullDocument":{{"_Meta_x":1}}}}"#),
                format!(r#"{{"_document":{{"_Meta_x":1}},{lifted}}}"#),
            ),
            (r#"{"_event_x":1}"#.to_owned(), r#"{"_document":{"_event_x":1}}"#.to_owned()),
            (r#"{"op":"c"}"#.to_owned(), r#"{"op":"c"}"#.to_owned()),
        ] {
            assert_eq!(flat(&value), Json::parse(line.as_bytes()).unwrap(), "{value}");
        }
    }
}
