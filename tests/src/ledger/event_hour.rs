//! The hour a record belongs to, by DESIGN's layout 1, written a second time from its text.

use chrono::{DateTime, TimeZone, Utc};

use crate::{json::Json, kafka_reader::KafkaRecord};

const FIRST_MS: i64 = 0;
/// The last millisecond of the year 9999.
const LAST_MS: i64 = 253_402_300_799_999;

/// An hour's folder below its collection's, as `strftime` has it, unless a lake is laid out otherwise.
pub(super) const HIVE: &str = "year=%Y/month=%m/day=%d/hour=%H";

/// That of a record. `value` is its parsed value, if it is JSON.
pub(super) fn folder(record: &KafkaRecord, value: Option<&Json>, format: &str) -> String {
    let value = value.filter(|value| matches!(value, Json::Object(_)));
    let millis = record
        .header("cluster-time")
        .and_then(cluster_time_ms)
        .or_else(|| value?.get("_meta")?.get("clusterTime").and_then(timestamp_ms).filter(is_within))
        .or_else(|| value?.get("_meta")?.get("wallTime").and_then(date_ms).filter(is_within))
        .or_else(|| value?.get("documentKey")?.get("_id").and_then(object_id_ms))
        .or_else(|| value?.get("fullDocument")?.get("_id").and_then(object_id_ms))
        .or(record.timestamp_ms.filter(is_within))
        .unwrap_or(0);
    let time = Utc.timestamp_millis_opt(millis).single().unwrap_or(DateTime::UNIX_EPOCH);
    time.format(format).to_string()
}

fn is_within(millis: &i64) -> bool {
    (FIRST_MS..=LAST_MS).contains(millis)
}

/// `<seconds>.<increment>`.
fn cluster_time_ms(text: &str) -> Option<i64> {
    let (seconds, increment) = text.split_once('.')?;
    increment.parse::<u32>().ok()?;
    seconds.parse::<u32>().ok().map(|seconds| i64::from(seconds) * 1000)
}

fn timestamp_ms(json: &Json) -> Option<i64> {
    let seconds = json.only("$timestamp")?.get("t")?.as_i64()?;
    u32::try_from(seconds).ok().map(|seconds| i64::from(seconds) * 1000)
}

fn date_ms(json: &Json) -> Option<i64> {
    let date = json.only("$date")?;
    match date.as_text() {
        Some(text) => DateTime::parse_from_rfc3339(text).ok().map(|date| date.timestamp_millis()),
        None => date.only("$numberLong")?.as_text()?.parse().ok(),
    }
}

/// The first four bytes of an ObjectId are its seconds.
fn object_id_ms(json: &Json) -> Option<i64> {
    let hex = json.only("$oid")?.as_text().filter(|hex| hex.len() == 24 && hex.is_ascii())?;
    u32::from_str_radix(&hex[..8], 16).ok().map(|seconds| i64::from(seconds) * 1000)
}
