//! Where a stream is to begin, as people write it, and whether MongoDB can still begin there.
//!
//! `START_FROM` says it for the very first start, `token set --to` and `monitor --from` for theirs. A time is taken only if it lies
//! within the oplog: a server opens a stream at any time as long as its oplog still holds the replica set's first entry, and
//! would silently leave out what came before it.

use chrono::DateTime;
use shared::{
    cluster_time::ClusterTime,
    exit::{ExitCode, Stop},
    settings::Expected,
};

use crate::{
    change_stream::{Acceptance, ChangeStream, OplogStart, StreamOptions},
    status::rfc3339,
    token_record::{Position, ResumeToken},
};

/// `now`, `snapshot`, `timestamp:…` or `token:…`.
#[derive(Clone, Debug, PartialEq)]
pub enum StartFrom {
    /// From the time that MongoDB is at when it is asked: its newest event may be the first.
    Now,
    /// As `now`; and what is there already is copied.
    Snapshot,
    /// Events at this time and after it.
    Time(ClusterTime),
    /// Events after this token.
    Token(ResumeToken),
}

impl StartFrom {
    /// # Errors
    /// What was expected instead.
    pub fn parse(text: &str) -> Result<Self, Expected> {
        match text.split_once(':') {
            None if text == "now" => Ok(Self::Now),
            None if text == "snapshot" => Ok(Self::Snapshot),
            Some(("timestamp", time)) => parse_time(time).map(Self::Time),
            Some(("token", token)) => parse_token(token).map(Self::Token),
            _ => Err(Expected::AsDeclared),
        }
    }
}

/// An RFC 3339 instant, seconds since 1970, or a cluster time as headers and logs have it (`1755900000.3`). Within a second there is no
/// fraction, only the order of events: an instant means the whole second's first.
///
/// # Errors
/// What was expected instead.
pub fn parse_time(text: &str) -> Result<ClusterTime, Expected> {
    let expected = || {
        Expected::exactly(
            "timestamp: with an RFC 3339 instant such as 2026-11-20T08:00:00Z, or seconds since 1970, after it",
        )
    };
    // MongoDB counts from 1 within a second.
    let second = |seconds: u32| ClusterTime::new(seconds, 1);
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(second(seconds));
    }
    if let Some(time) = ClusterTime::parse(text) {
        return Ok(time);
    }
    let instant = DateTime::parse_from_rfc3339(text).map_err(|_| expected())?;
    u32::try_from(instant.timestamp()).map(second).map_err(|_| expected())
}

/// A resume token: the JSON of the whole document, `_typeBits` included, or its `_data` alone. The output of `token show --json`, a record
/// of the token topic and any other object that has the token as its member `token` are taken too.
///
/// # Errors
/// What was expected instead.
pub fn parse_token(text: &str) -> Result<ResumeToken, Expected> {
    let expected = || {
        Expected::exactly(
            "a resume token: the JSON of the whole document, as {\"_data\":\"82…\"}, or the hexadecimal digits of its _data",
        )
    };
    let text = text.trim();
    let mut json = if text.starts_with('{') {
        let mut json: serde_json::Value = serde_json::from_str(text).map_err(|_| expected())?;
        match json.get_mut("token").map(serde_json::Value::take) {
            Some(token) => token,
            None => json,
        }
    } else {
        serde_json::json!({ "_data": text })
    };
    let data = json.get("_data").and_then(serde_json::Value::as_str).unwrap_or_default();
    if data.len() % 2 != 0 || !data.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(expected());
    }
    // As MongoDB writes it: event ids are compared as text with those of its events.
    let data = data.to_ascii_uppercase();
    json["_data"] = data.into();
    ResumeToken::from_extended_json(json).ok_or_else(expected)
}

/// A position that MongoDB can begin at, and what of that nobody could check.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub position: Position,
    /// Sentences for people.
    pub unchecked: Vec<String>,
}

/// Turns a choice into a position, and asks MongoDB whether it has it.
///
/// # Errors
/// [`ExitCode::PositionLost`] if the oplog does not reach back to it, [`ExitCode::Configuration`] if it lies in the future;
/// else why MongoDB cannot be asked.
pub fn choose(stream: &ChangeStream, options: &StreamOptions, from: &StartFrom) -> Result<Chosen, Stop> {
    let now = stream.server_time()?;
    let position = match from {
        StartFrom::Now | StartFrom::Snapshot => {
            return Ok(Chosen { position: Position::Time(now), unchecked: Vec::new() });
        }
        StartFrom::Time(time) => Position::Time(*time),
        StartFrom::Token(token) => Position::After(token.clone()),
    };
    let time = position.cluster_time();
    if time > now {
        return Err(Stop::new(
            ExitCode::Configuration,
            format!(
                "{} ({time}) is in the future: MongoDB is at {} ({now}). A stream that began there would leave out what happens until then",
                rfc3339(time),
                rfc3339(now)
            ),
        ));
    }
    let mut unchecked = Vec::new();
    match stream.oplog_start() {
        OplogStart::At(first) => within_oplog(time, first)?,
        OplogStart::Unreadable(why) => unchecked.push(format!(
            "whether the oplog reaches back to {} cannot be told, because its first entry cannot be read ({why}). \
             MongoDB refuses a time before its oplog only once the oplog has rolled over: look at the oplog's window yourself",
            rfc3339(time)
        )),
    }
    if stream.probe(options, &position)? == Acceptance::Searching {
        unchecked.push(
            "MongoDB did not refuse the position, and was still looking for the first event from there"
                .into(),
        );
    }
    Ok(Chosen { position, unchecked })
}

/// Whether changes at this time can still be read: before the first entry there is nothing, whatever the server says to a start there.
///
/// # Errors
/// [`ExitCode::PositionLost`].
pub fn within_oplog(time: ClusterTime, first: ClusterTime) -> Result<(), Stop> {
    if time >= first {
        return Ok(());
    }
    Err(Stop::new(
        ExitCode::PositionLost,
        format!(
            "MongoDB's oplog begins at {} ({first}): changes from {} ({time}) until then cannot be read any more, and leaving them out would be a silent gap. \
             The earliest possible begin is timestamp:{first}",
            rfc3339(first),
            rfc3339(time)
        ),
    ))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const DATA: &str = "8266C1F3A4000000032B0229296E04";
    const TIME: ClusterTime = ClusterTime::new(0x66C1_F3A4, 3);

    fn token_of(text: &str) -> ResumeToken {
        match StartFrom::parse(text).unwrap() {
            StartFrom::Token(token) => token,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn times_have_three_forms() {
        for (text, time) in [
            ("timestamp:1724511140", ClusterTime::new(1_724_511_140, 1)),
            ("timestamp:1724511140.3", ClusterTime::new(1_724_511_140, 3)),
            ("timestamp:2024-08-24T14:52:20Z", ClusterTime::new(1_724_511_140, 1)),
            ("timestamp:2024-08-24T16:52:20.999+02:00", ClusterTime::new(1_724_511_140, 1)),
        ] {
            assert_eq!(StartFrom::parse(text), Ok(StartFrom::Time(time)), "{text}");
        }
        assert_eq!(StartFrom::parse("now"), Ok(StartFrom::Now));
    }

    #[test]
    fn a_token_is_taken_whole_or_as_its_data() {
        assert_eq!(token_of(&format!("token:{DATA}")).cluster_time(), TIME);
        assert_eq!(token_of(&format!("token:{}", DATA.to_lowercase())), token_of(&format!("token:{DATA}")));
        let whole =
            format!(r#"{{"_data":"{DATA}","_typeBits":{{"$binary":{{"base64":"ggE=","subType":"00"}}}}}}"#);
        let token = token_of(&format!("token:{whole}"));
        assert_eq!(token.as_raw().get_binary("_typeBits").unwrap().bytes, [0x82, 1]);
        // As `token show --json` prints it.
        assert_eq!(token_of(&format!(r#"token:{{"run":1,"token":{whole}}}"#)), token);
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "later",
            "timestamp:",
            "timestamp:yesterday",
            "timestamp:-5",
            "timestamp:99999999999",
            "timestamp:2024-08-24",
            "token:",
            "token:82",
            "token:8266C1F3A4000000032B0229296E0",
            "token:zz66C1F3A4000000032B0229296E04",
            "token:{}",
            r#"token:{"_data":7}"#,
            r#"token:{"token":null}"#,
        ] {
            assert!(StartFrom::parse(text).is_err(), "{text}");
        }
        assert_eq!(StartFrom::parse("snapshot"), Ok(StartFrom::Snapshot));
    }

    #[test]
    fn a_time_before_the_oplog_is_a_lost_position() {
        let first = ClusterTime::new(100, 2);
        assert!(within_oplog(first, first).is_ok());
        let stop = within_oplog(ClusterTime::new(100, 1), first).unwrap_err();
        assert_eq!(stop.code, ExitCode::PositionLost);
        assert!(stop.message.contains("timestamp:100.2"), "{stop}");
    }
}
