//! `token decode`: what a token says without any server.

use std::io::Read as _;

use serde_json::json;
use shared::{
    exit::{ExitCode, Stop},
    settings::Expected,
};

use super::{
    Answer,
    args::DecodeRequest,
    report::{Facts, age_seconds, line, moment},
};
use crate::{start_from::parse_token, status::rfc3339, token_record::ResumeToken};

/// After the time: version 1 or 2, then the kind of token. Of MongoDB's `resume_token.cpp`.
const EVENT: [&str; 2] = ["2B022C0100", "2B042C0100"];
const HIGH_WATER_MARK: [&str; 2] = ["2B0229", "2B0429"];
/// Digits of the time.
const TIME_DIGITS: usize = 18;

pub(super) fn run(request: &DecodeRequest) -> Result<Answer, Stop> {
    let text = match request.token.as_str() {
        "-" => from_stdin()?,
        text => text.to_owned(),
    };
    let token = parse_token(&text).map_err(|expected| {
        let expected = match expected {
            Expected::AsDeclared => "a resume token".into(),
            Expected::Exactly(expected) => expected,
        };
        Stop::new(ExitCode::Usage, format!("this is no resume token: expected {expected}"))
    })?;
    Ok(if request.json { line(&as_json(&token)) } else { facts(&token).to_string() }.into())
}

fn from_stdin() -> Result<String, Stop> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(1 << 20).read_to_string(&mut text);
    read.map_err(|error| Stop::new(ExitCode::Usage, format!("standard input cannot be read: {error}")))?;
    Ok(text)
}

fn facts(token: &ResumeToken) -> Facts {
    let mut facts = Facts::default();
    facts.add("cluster time", moment(token.cluster_time()));
    facts.add("kind", kind(token));
    facts.add("type bits", if has_type_bits(token) { "yes" } else { "no" });
    facts
}

fn as_json(token: &ResumeToken) -> serde_json::Value {
    let time = token.cluster_time();
    json!({
        "clusterTime": { "$timestamp": { "t": time.seconds, "i": time.increment } },
        "time": rfc3339(time),
        "ageSeconds": age_seconds(time),
        "kind": kind(token),
        "token": token.to_extended_json(),
    })
}

pub(super) fn kind(token: &ResumeToken) -> &'static str {
    let data = token.as_raw().get_str("_data").unwrap_or_default().to_ascii_uppercase();
    let rest = data.get(TIME_DIGITS..).unwrap_or_default();
    let is = |prefixes: [&str; 2]| prefixes.iter().any(|prefix| rest.starts_with(prefix));
    if is(EVENT) {
        "event"
    } else if is(HIGH_WATER_MARK) {
        "high-water mark"
    } else {
        "unknown"
    }
}

fn has_type_bits(token: &ResumeToken) -> bool {
    token.as_raw().get("_typeBits").is_ok_and(|bits| bits.is_some())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const MARK: &str = "8266C1F3A4000000032B0229296E04";
    const EVENT_OF_6: &str = "8266C1F3A4000000032B022C0100296E5A1004A7C1F0D2E3B44A5C9D8E7F60123456784652";

    #[test]
    fn a_token_is_taken_apart_without_a_server() {
        let request = |token: &str, json| DecodeRequest { token: token.to_owned(), json };
        let text = run(&request(MARK, false)).unwrap().text;
        assert!(text.starts_with("cluster time  2024-08-18T13:14:12Z (1723986852.3), "), "{text}");
        assert!(text.contains("kind          high-water mark\n"), "{text}");

        let text = run(&request(&format!(r#"{{"_data":"{EVENT_OF_6}"}}"#), true)).unwrap().text;
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["kind"], "event");
        assert_eq!(json["clusterTime"], json!({ "$timestamp": { "t": 0x66C1_F3A4_u32, "i": 3 } }));
        assert_eq!(json["token"], json!({ "_data": EVENT_OF_6 }));

        let refused = run(&request("nonsense", false)).map(|answer| answer.text).unwrap_err();
        assert_eq!(refused.code, ExitCode::Usage);
    }
}
