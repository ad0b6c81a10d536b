//! `FIELD_POLICY_FILE` and `FIELD_POLICY_KEY`, held against the stream that they are for.

use std::path::Path;

use shared::settings::{Expected, Reader};

use super::table::{FIELD_POLICY_FILE, FIELD_POLICY_KEY, PIPELINE_FILE};
use crate::{
    change_stream::StreamOptions,
    field_policy::{FieldPolicy, HashKey},
};

/// The outer `None` if a mistake was recorded.
pub(super) fn read_field_policy(
    reader: &mut Reader,
    stream: Option<&StreamOptions>,
) -> Option<Option<FieldPolicy>> {
    let key = if reader.is_given(&FIELD_POLICY_KEY) {
        reader
            .parsed(&FIELD_POLICY_KEY, |text| HashKey::new(text).map_err(|_| Expected::AsDeclared))
            .map(Some)
    } else {
        Some(None)
    };
    if !reader.is_given(&FIELD_POLICY_FILE) {
        if reader.is_given(&FIELD_POLICY_KEY) {
            reader.warn("FIELD_POLICY_KEY is not used without FIELD_POLICY_FILE");
        }
        return key.map(|_| None);
    }
    let read =
        |path: &str| FieldPolicy::read(Path::new(path)).map_err(|error| Expected::exactly(error.to_string()));
    let policy = reader.parsed(&FIELD_POLICY_FILE, read)?;
    if let (Some(rule), Some(None)) = (policy.hashing_rule(), &key) {
        reader.refuse(
            &FIELD_POLICY_KEY,
            format!("{}, because {rule} of FIELD_POLICY_FILE hashes", FIELD_POLICY_KEY.expects),
        );
        return None;
    }
    if let Some(stream) = stream {
        for warning in policy.warnings(&stream.scope) {
            reader.warn(format!("FIELD_POLICY_FILE: {warning}"));
        }
        let reading = stream.pipeline.as_ref().map(|pipeline| policy.read_by(pipeline)).unwrap_or_default();
        if !reading.is_empty() {
            reader.refuse(
                &PIPELINE_FILE,
                format!(
                    "stages that leave alone what FIELD_POLICY_FILE hides, because what they make of it would not be hidden: {}",
                    reading.join("; ")
                ),
            );
            return None;
        }
    }
    Some(Some(policy.with_key(key?)))
}
