//! What a flat line must be, by the record that it was made of: docs/lake/files.md, read a second time. Written apart from the code that writes lines.

/// A member of an object; the name with its quotes.
type Member<'a> = (&'a [u8], &'a [u8]);

const PARTS: [&[u8]; 5] = [
    b"\"_meta\"",
    b"\"documentKey\"",
    b"\"fullDocument\"",
    b"\"updateDescription\"",
    b"\"fullDocumentBeforeChange\"",
];

/// Names that no document at the top level may have, and what others may not begin with; in lower case.
const KEPT: [&[u8]; 6] = [
    b"_document",
    b"_documentkey",
    b"_fulldocument",
    b"_updatedescription",
    b"_fulldocumentbeforechange",
    b"_kafka",
];
const KEPT_BEGINS: [&[u8]; 2] = [b"_meta_", b"_event_"];

/// The line without its last brace, and whether a comma follows. `object` is a JSON object.
pub(crate) fn flat(object: &[u8]) -> (Vec<u8>, bool) {
    let Some(value) = members(object) else { return (object.to_vec(), true) };
    match event(object, &value) {
        Some(columns) => {
            let mut line = b"{".to_vec();
            line.extend(columns.join(&b','));
            (line, true)
        }
        None if value.iter().any(|(name, _)| is_kept(name)) => ([b"{\"_document\":", object].concat(), true),
        None => (object[..object.len() - 1].to_vec(), !value.is_empty()),
    }
}

/// Everything of an event, column by column; `None` if it is no event.
fn event(object: &[u8], value: &[Member<'_>]) -> Option<Vec<Vec<u8>>> {
    let mut parts = [None; PARTS.len()];
    for (name, part) in value {
        if let Some(place) = PARTS.iter().position(|each| each == name) {
            if parts[place].is_some() {
                return None;
            }
            parts[place] = Some(*part);
        }
    }
    let [Some(meta), key, Some(document), update, before] = parts else { return None };
    let document = match document {
        b"null" => None,
        object => Some(members(object)?),
    };
    let meta = meta_columns(&members(meta)?)?;

    let of_key = || members(key?);
    let top = document.clone().or_else(of_key).unwrap_or_default();
    let mut columns = Vec::new();
    if let (Some((first, _)), Some((_, last))) = (top.first(), top.last()) {
        let at = |part: &[u8]| part.as_ptr().addr() - object.as_ptr().addr();
        let body = &object[at(first)..at(last) + last.len()];
        columns.push(match top.iter().any(|(name, _)| is_kept(name)) {
            true => [b"\"_document\":{", body, b"}"].concat(),
            false => body.to_vec(),
        });
    }
    columns.extend(meta);
    let null: Option<&[u8]> = document.is_none().then_some(b"null");
    for (name, part) in [
        ("_documentKey", key),
        ("_fullDocument", null),
        ("_updateDescription", update),
        ("_fullDocumentBeforeChange", before),
    ] {
        columns.extend(part.map(|part| [format!("\"{name}\":").as_bytes(), part].concat()));
    }
    let others = value.iter().filter(|(name, _)| !PARTS.contains(name));
    columns.extend(others.map(|(name, part)| prefixed(b"_event_", name, part)));
    Some(columns)
}

fn meta_columns(meta: &[Member<'_>]) -> Option<Vec<Vec<u8>>> {
    let clashes = |name: &[u8]| name == b"\"db\"" || name == b"\"coll\"" || name.contains(&b'\\');
    if meta.is_empty() || meta.iter().any(|(name, _)| clashes(name)) {
        return None;
    }
    let mut columns = Vec::new();
    for (name, part) in meta {
        let namespace = if *name == b"\"ns\"" { members(part) } else { None };
        match namespace.as_deref() {
            Some([(b"\"db\"", db), (b"\"coll\"", coll)]) => {
                columns.push(prefixed(b"_meta_", b"\"db\"", db));
                columns.push(prefixed(b"_meta_", b"\"coll\"", coll));
            }
            _ => columns.push(prefixed(b"_meta_", name, part)),
        }
    }
    Some(columns)
}

fn prefixed(prefix: &[u8], name: &[u8], value: &[u8]) -> Vec<u8> {
    [b"\"", prefix, &name[1..], b":", value].concat()
}

fn is_kept(name: &[u8]) -> bool {
    let lower = name[1..name.len() - 1].to_ascii_lowercase();
    lower.contains(&b'\\')
        || KEPT.contains(&lower.as_slice())
        || KEPT_BEGINS.iter().any(|begin| lower.starts_with(begin))
}

/// The members of a text that is valid JSON, as they stand; `None` if it is no object.
fn members(text: &[u8]) -> Option<Vec<Member<'_>>> {
    let mut rest = text.trim_ascii().strip_prefix(b"{")?.trim_ascii_start();
    let mut members = Vec::new();
    while rest.first() != Some(&b'}') {
        let (name, after) = rest.split_at_checked(value_len(rest)?)?;
        rest = after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let (value, after) = rest.split_at_checked(value_len(rest)?)?;
        members.push((name, value));
        rest = after.trim_ascii_start();
        if let Some(next) = rest.strip_prefix(b",") {
            rest = next.trim_ascii_start();
        }
    }
    Some(members)
}

/// Bytes of the value that a text begins with.
fn value_len(text: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        match text.get(at)? {
            b'"' => {
                at += 1;
                while *text.get(at)? != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'{' | b'[' => {
                depth += 1;
                at += 1;
                continue;
            }
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            // A number, a name, or what stands between values.
            _ if depth == 0 => {
                let is_end =
                    |byte: &u8| matches!(byte, b',' | b'}' | b']' | b':') || byte.is_ascii_whitespace();
                return text.iter().position(is_end).or(Some(text.len()));
            }
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}
