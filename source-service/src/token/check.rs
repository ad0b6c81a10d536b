//! `token check`: would a start with these settings go on from the committed position? Asked of MongoDB by opening the very stream.

use serde_json::json;
use shared::{
    cluster_time::ClusterTime,
    exit::{ExitCode, Stop},
};

use super::{
    Answer,
    report::{Facts, age_seconds, line, moment, span},
    show::fingerprint_text,
    stored::{TokenTopic, log_stop},
};
use crate::{
    change_stream::{Acceptance, ChangeStream, OplogStart},
    metrics::StreamMetrics,
    recovery::{self, OwnTopics, Remembered},
    settings::SourceSettings,
    start_from,
    status::{Status, rfc3339},
    token_record::{Position, TokenRecord, key_format_name},
};

pub(super) fn run(settings: &SourceSettings, json: bool) -> Result<Answer, Stop> {
    let topic = TokenTopic::open(&settings.kafka, &settings.names, &settings.source_id)?;
    let stream = ChangeStream::start(
        settings.mongo_uri.expose(),
        settings.stream.clone(),
        Status::default(),
        StreamMetrics::default(),
    )?;
    let findings = look(settings, &stream, &topic, &topic.read()?)?;
    let code = findings.verdict.as_ref().map_or_else(|stop| stop.code, |_| ExitCode::Drained);
    let text = if json { line(&findings.as_json(&settings.source_id)) } else { findings.facts().to_string() };
    Ok(Answer { text, code })
}

/// Asks MongoDB about the position that is committed, or that a first start would begin at.
pub(crate) fn look(
    settings: &SourceSettings,
    stream: &ChangeStream,
    topic: &TokenTopic,
    remembered: &Remembered,
) -> Result<Findings, Stop> {
    match &remembered.token {
        Some(record) => stored_position(settings, stream, record),
        None => first_position(settings, stream, topic),
    }
}

/// What was found, whatever the verdict: a refusal is an answer too.
pub(crate) struct Findings {
    /// `None` if it was lost.
    position: Option<Position>,
    pub(crate) now: ClusterTime,
    pub(crate) oplog: OplogStart,
    /// What the fingerprint means, and whether it is that of these settings. `None` at a first start.
    fingerprint: Option<(String, bool)>,
    pub(crate) verdict: Result<Acceptance, Stop>,
    pub(crate) unchecked: Vec<String>,
}

fn stored_position(
    settings: &SourceSettings,
    stream: &ChangeStream,
    record: &TokenRecord,
) -> Result<Findings, Stop> {
    let now = stream.server_time()?;
    let oplog = stream.oplog_start();
    let fingerprint = settings.stream.fingerprint();
    let position = record.position_for(&fingerprint);
    Ok(Findings {
        verdict: judge(settings, stream, record, &position, &oplog),
        fingerprint: Some((fingerprint_text(record, &fingerprint), record.fingerprint == fingerprint)),
        position: Some(position),
        now,
        oplog,
        unchecked: Vec::new(),
    })
}

/// The same questions as a start asks, in the same order.
fn judge(
    settings: &SourceSettings,
    stream: &ChangeStream,
    record: &TokenRecord,
    position: &Position,
    oplog: &OplogStart,
) -> Result<Acceptance, Stop> {
    if record.key_format != settings.form.key_format && !record.clean {
        return Err(Stop::new(
            ExitCode::Configuration,
            format!(
                "The keys' format is {}, but was {} when the source last ran, and it did not end in order: KEY_FORMAT or EVENT_PROFILE has changed since",
                key_format_name(settings.form.key_format),
                key_format_name(record.key_format)
            ),
        ));
    }
    if let OplogStart::At(first) = oplog {
        start_from::within_oplog(position.cluster_time(), *first)?;
    }
    stream.probe(&settings.stream, position)
}

/// Without a token record a start would be the first one, unless the source has written before.
fn first_position(
    settings: &SourceSettings,
    stream: &ChangeStream,
    topic: &TokenTopic,
) -> Result<Findings, Stop> {
    let now = stream.server_time()?;
    let oplog = stream.oplog_start();
    let own = OwnTopics { names: &settings.names, dead_letters: &settings.dead_letters };
    let written = recovery::own_record_without_token(&topic.log, &own, &settings.source_id, |_| true);
    let (position, verdict, unchecked) = match written.map_err(|error| log_stop(&error))? {
        Some(place) => {
            let text = format!(
                "there is no token record in {}, but the source has written to {}: its position is lost. `token set` gives it a new one",
                topic.name, place.topic
            );
            (None, Err(Stop::new(ExitCode::PositionLost, text)), Vec::new())
        }
        None => match start_from::choose(stream, &settings.stream, &settings.start_from) {
            Ok(chosen) => (Some(chosen.position), Ok(Acceptance::Opened), chosen.unchecked),
            Err(stop) => (None, Err(stop), Vec::new()),
        },
    };
    Ok(Findings { position, now, oplog, fingerprint: None, verdict, unchecked })
}

impl Findings {
    pub(crate) fn is_first_start(&self) -> bool {
        self.fingerprint.is_none()
    }

    pub(crate) fn time(&self) -> Option<ClusterTime> {
        self.position.as_ref().map(Position::cluster_time)
    }

    /// How much the oplog may still lose before the position is lost, in seconds of its own time.
    pub(crate) fn headroom_seconds(&self) -> Option<i64> {
        match (self.time(), &self.oplog) {
            (Some(time), OplogStart::At(first)) => Some(i64::from(time.seconds) - i64::from(first.seconds)),
            _ => None,
        }
    }

    fn verdict_text(&self) -> String {
        match &self.verdict {
            Ok(Acceptance::Opened) => "OK: a start would begin there".to_owned(),
            Ok(Acceptance::Searching) => {
                "OK so far: MongoDB did not refuse, and was still looking for the first event from there"
                    .to_owned()
            }
            Err(stop) => format!("REFUSED: a start would end with {}. {stop}", stop.code),
        }
    }

    fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        match (self.time(), &self.fingerprint) {
            (Some(time), Some(_)) => facts.add("position", moment(time)),
            (Some(time), None) => {
                facts.add("position", format!("none yet: a first start would begin at {}", moment(time)));
            }
            (None, _) => facts.add("position", "none"),
        }
        if let Some(Position::Time(_)) = self.position {
            facts.add("token", "none: the stream would be opened at that time");
        }
        facts.add("MongoDB", moment(self.now));
        match &self.oplog {
            OplogStart::At(first) => facts.add("oplog", format!("reaches back to {}", moment(*first))),
            OplogStart::Unreadable(why) => {
                facts.add(
                    "oplog",
                    format!("its first entry cannot be read, so the headroom is not known: {why}"),
                );
            }
        }
        match self.headroom_seconds() {
            Some(headroom @ 0..) => {
                facts.add("headroom", format!("{} of oplog before the position", span(headroom)))
            }
            Some(missing) => facts.add("headroom", format!("none: {} are missing", span(-missing))),
            None => {}
        }
        if let Some((text, _)) = &self.fingerprint {
            facts.add("fingerprint", text.as_str());
        }
        for unchecked in &self.unchecked {
            facts.add("unchecked", unchecked.as_str());
        }
        facts.add("verdict", self.verdict_text());
        facts
    }

    fn as_json(&self, source_id: &str) -> serde_json::Value {
        let timestamp =
            |time: ClusterTime| json!({ "$timestamp": { "t": time.seconds, "i": time.increment } });
        let oplog = match &self.oplog {
            OplogStart::At(first) => Some(*first),
            OplogStart::Unreadable(_) => None,
        };
        json!({
            "sourceId": source_id,
            "ok": self.verdict.is_ok(),
            "code": self.verdict.as_ref().map_or_else(|stop| stop.code, |_| ExitCode::Drained).number(),
            "verdict": self.verdict_text(),
            "clusterTime": self.time().map(timestamp),
            "time": self.time().map(rfc3339),
            "ageSeconds": self.time().map(age_seconds),
            "oplogStart": oplog.map(rfc3339),
            "headroomSeconds": self.headroom_seconds(),
            "fingerprintMatches": self.fingerprint.as_ref().map(|(_, matches)| matches),
            "unchecked": self.unchecked,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(oplog: OplogStart, verdict: Result<Acceptance, Stop>) -> Findings {
        Findings {
            position: Some(Position::Time(ClusterTime::new(1_000, 2))),
            now: ClusterTime::new(1_010, 1),
            oplog,
            fingerprint: Some(("same".to_owned(), true)),
            verdict,
            unchecked: Vec::new(),
        }
    }

    #[test]
    fn headroom_is_the_oplog_before_the_position() {
        let good = findings(OplogStart::At(ClusterTime::new(400, 1)), Ok(Acceptance::Opened));
        let text = good.facts().to_string();
        assert!(
            text.contains(
                "headroom     10m of oplog before the position
"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "verdict      OK: a start would begin there
"
            ),
            "{text}"
        );
        let json = good.as_json("orders");
        assert_eq!((&json["headroomSeconds"], &json["code"]), (&json!(600), &json!(0)));
    }

    #[test]
    fn a_refusal_is_shown_with_what_was_found() {
        let stop = Stop::new(ExitCode::PositionLost, "it is gone");
        let lost = findings(OplogStart::At(ClusterTime::new(1_060, 1)), Err(stop));
        let text = lost.facts().to_string();
        assert!(text.contains("none: 1m are missing"), "{text}");
        assert!(text.contains("REFUSED: a start would end with 20 (position lost). it is gone"), "{text}");
        let hidden = findings(OplogStart::Unreadable("Unauthorized".into()), Ok(Acceptance::Opened));
        assert_eq!(hidden.as_json("orders")["headroomSeconds"], serde_json::Value::Null);
        assert!(hidden.facts().to_string().contains("not known: Unauthorized"));
    }
}
