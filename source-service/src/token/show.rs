//! `token show`: the committed position, and whether these settings would resume it.

use serde_json::json;
use shared::{exit::Stop, source_watermark::ScopeRecord};

use super::{
    Answer, decode,
    report::{Facts, age_seconds, instant, line, moment},
    stored::TokenTopic,
};
use crate::{
    recovery::{Remembered, Written},
    settings::TokenShowSettings,
    status::rfc3339,
    token_record::{Position, TokenRecord, key_format_name},
};

pub(super) fn run(settings: &TokenShowSettings, json: bool) -> Result<Answer, Stop> {
    let topic = TokenTopic::open(&settings.kafka, &settings.names, &settings.source_id)?;
    let remembered = topic.read()?;
    let shown = Shown {
        source_id: &settings.source_id,
        topic: &topic.name,
        remembered: &remembered,
        fingerprint: settings.stream.fingerprint(),
    };
    Ok(if json { line(&shown.as_json()) } else { shown.facts().to_string() }.into())
}

struct Shown<'a> {
    source_id: &'a str,
    topic: &'a str,
    remembered: &'a Remembered,
    /// Of these settings.
    fingerprint: String,
}

impl Shown<'_> {
    fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        facts.add("source", self.source_id);
        let Some(record) = &self.remembered.token else {
            facts.add("position", format!("none: there is no token record in {}", self.topic));
            return facts;
        };
        facts.add("position", moment(record.position.cluster_time()));
        match &record.position {
            Position::Time(_) => facts.add("token", "none: events at that time and after it"),
            Position::After(token) => {
                facts.add("token", token.to_extended_json().to_string());
                facts.add("kind", decode::kind(token));
            }
        }
        facts.add("run", record.run.to_string());
        facts.add("written by", format!("instance {}", record.instance));
        if let Some(Written { offset, at_ms }) = self.remembered.written {
            let at = at_ms.and_then(instant).unwrap_or_default();
            facts.add("written at", format!("{at}, offset {offset} of {}", self.topic));
        }
        facts.add("ended", ended(record));
        facts.add("key format", key_format_name(record.key_format));
        facts.add("scope", scope_text(&record.scope));
        facts.add("fingerprint", fingerprint_text(record, &self.fingerprint));
        for (topic, place) in &self.remembered.topics {
            facts.add("topics", format!("{topic}  {} ({} partitions)", place.namespace, place.partitions));
        }
        facts
    }

    fn as_json(&self) -> serde_json::Value {
        let topics = self.remembered.topics.iter().map(|(topic, place)| {
            json!({
                "topic": topic,
                "db": place.namespace.db,
                "coll": place.namespace.coll,
                "partitions": place.partitions,
            })
        });
        let mut json = json!({
            "sourceId": self.source_id,
            "topic": self.topic,
            "topics": topics.collect::<Vec<_>>(),
        });
        if let Some(record) = &self.remembered.token {
            let time = record.position.cluster_time();
            json["instance"] = json!(record.instance);
            json["run"] = json!(record.run);
            json["clusterTime"] = json!({ "$timestamp": { "t": time.seconds, "i": time.increment } });
            json["time"] = json!(rfc3339(time));
            json["ageSeconds"] = json!(age_seconds(time));
            json["clean"] = json!(record.clean);
            json["keyFormat"] = json!(key_format_name(record.key_format));
            json["scope"] = json!(record.scope);
            json["fingerprint"] = json!(record.fingerprint);
            json["fingerprintOfTheseSettings"] = json!(self.fingerprint);
        }
        json["token"] = match self.remembered.token.as_ref().map(|record| &record.position) {
            Some(Position::After(token)) => token.to_extended_json(),
            Some(Position::Time(_)) | None => serde_json::Value::Null,
        };
        if let Some(written) = self.remembered.written {
            json["offset"] = json!(written.offset);
            json["writtenAt"] = json!(written.at_ms.and_then(instant));
        }
        json
    }
}

fn ended(record: &TokenRecord) -> &'static str {
    if record.clean {
        "in order: nothing is in flight"
    } else {
        "not (yet) in order: it runs, or it was killed; the next start looks at what is really committed"
    }
}

/// What the stored fingerprint means for a start with these settings.
pub(super) fn fingerprint_text(record: &TokenRecord, fingerprint: &str) -> String {
    if record.fingerprint == fingerprint {
        format!("{fingerprint}: that of these settings; a start resumes the token")
    } else {
        format!(
            "{}: these settings have {fingerprint}, because scope or options differ; a start would open the stream at the token's \
             cluster time, and leave out what is committed already",
            record.fingerprint
        )
    }
}

fn scope_text(scope: &ScopeRecord) -> String {
    let mut parts: Vec<String> = scope.databases.iter().map(|database| format!("{database}.*")).collect();
    parts.extend(scope.collections.iter().cloned());
    let mut text = if parts.is_empty() { "deployment".to_owned() } else { parts.join(", ") };
    if !scope.excludes.is_empty() {
        text = format!("{text}, without {}", scope.excludes.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use bson::rawdoc;

    use super::*;
    use crate::{
        envelope::KeyFormat,
        start_from::parse_token,
        token_record::{ResumeToken, fingerprint},
    };

    fn remembered() -> Remembered {
        let token = ResumeToken::new(&rawdoc! { "_data": "8266C1F3A4000000032B0229296E04" }).unwrap();
        Remembered {
            token: Some(TokenRecord {
                instance: "5a".to_owned(),
                run: 2,
                position: Position::After(token),
                scope: ScopeRecord { databases: vec!["shop".to_owned()], ..ScopeRecord::default() },
                fingerprint: fingerprint(&["shop"]),
                key_format: KeyFormat::Plain,
                clean: false,
            }),
            written: Some(Written { offset: 7, at_ms: Some(1_755_900_000_123) }),
            ..Remembered::default()
        }
    }

    fn shown<'a>(remembered: &'a Remembered, parts: &[&str]) -> Shown<'a> {
        Shown { source_id: "default", topic: "atlas.t", remembered, fingerprint: fingerprint(parts) }
    }

    #[test]
    fn people_see_what_a_start_would_do() {
        let remembered = remembered();
        let same = shown(&remembered, &["shop"]).facts().to_string();
        assert!(same.contains("that of these settings") && same.contains("scope        shop.*\n"), "{same}");
        assert!(same.contains("written at   2025-08-22T22:00:00.123Z, offset 7 of atlas.t\n"), "{same}");
        let other = shown(&remembered, &["crm"]).facts().to_string();
        assert!(other.contains("would open the stream at the token's cluster time"), "{other}");
        let none = shown(&Remembered::default(), &["shop"]).facts().to_string();
        assert!(none.contains("none: there is no token record in atlas.t"), "{none}");
    }

    /// So that a position can be kept in a file and given back.
    #[test]
    fn the_json_is_taken_as_a_token() {
        let remembered = remembered();
        let json = shown(&remembered, &["shop"]).as_json();
        assert_eq!((&json["run"], &json["offset"], &json["clean"]), (&json!(2), &json!(7), &json!(false)));
        let Some(Position::After(token)) = remembered.token.map(|record| record.position) else {
            panic!("no token")
        };
        assert_eq!(parse_token(&json.to_string()), Ok(token));
    }
}
