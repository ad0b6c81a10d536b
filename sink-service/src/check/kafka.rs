//! Kafka: the brokers, the group, the topics that the group would read, and the one for what cannot be written.

use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use shared::{
    backoff::Backoff,
    check::{CONTACT_LIMIT, TopicRights, topic_rights},
    exit::{ExitCode, Stop},
    kafka_client,
    kafka_ffi::KafkaRight,
    kafka_topics::{AdminError, TopicAdmin},
    namespace::Namespace,
    topic_name::{DataTopic, Form},
};

use super::{Report, SCHEMA_CHECK, Step, chains};
use crate::{
    dead_letter_topic::letter_bytes,
    kafka_log::KafkaLog,
    lake_layout::OpenLake,
    publish::{ChainLook, judge_topic},
    settings::SinkSettings,
    topic_reader::TopicReader,
};

/// Topics that are described one by one in the report; there may be thousands.
pub(super) const NAMED_MAX: usize = 20;

/// The first question about a group makes a new cluster set its group coordinators up; one question was seen to take ten seconds then.
const COORDINATOR_LIMIT: Duration = Duration::from_secs(30);

const ACLS: &str = "kafka/acls-sink.conf";

/// The clients.
pub(super) struct Kafka {
    admin: TopicAdmin,
    reader: TopicReader,
    log: KafkaLog,
}

impl Kafka {
    pub(super) fn connect(settings: &SinkSettings, report: &mut Report) -> Result<Self, Stop> {
        let brokers = kafka_client::connect_check(&settings.kafka, CONTACT_LIMIT)?;
        let config = settings.kafka.client_config("atlas-check");
        let refused = |error: KafkaError| {
            let text = format!("the Kafka client refuses its configuration: {error}; see KAFKA_OPTIONS");
            Stop::new(ExitCode::Configuration, text)
        };
        let kafka = Self {
            admin: TopicAdmin::new(&config, CONTACT_LIMIT).map_err(refused)?,
            reader: TopicReader::new(&config, &settings.group).map_err(refused)?,
            log: KafkaLog::new(&config, &settings.group).map_err(refused)?,
        };
        let (count, protocol) = (brokers.len(), settings.kafka.protocol());
        report.ok("Kafka", format!("{} answers ({protocol}), {count} broker(s)", settings.kafka.bootstrap()));
        Ok(kafka)
    }

    /// `lake`: if it can be read.
    pub(super) async fn look(&self, settings: &SinkSettings, lake: Option<&OpenLake>, report: &mut Report) {
        self.group(&settings.group, report).await;
        let all = match self.reader.topics() {
            Ok(all) => all,
            Err(error) => return report.unknown("topics", error.to_string(), []),
        };
        let data = self.data_topics(settings, &all, report).await;
        schemas(settings, &all, report);
        self.control_topic(settings, &all, report).await;
        if let Some(lake) = lake {
            chains::look(ChainLook { lake, log: &self.log }, settings, &all, report).await;
        }
        self.token_topics(settings, &all, report).await;
        self.dead_letters(settings, &all, &data, report).await;
    }

    /// Nobody joins it.
    async fn group(&self, group: &str, report: &mut Report) {
        let what = "right on the group";
        match self.group_rights(group).await {
            Ok(Some(allowed)) if allowed.contains(&KafkaRight::Read) => {
                report.ok(what, format!("READ on consumer group {group}"));
            }
            Ok(Some(_)) => {
                let found = format!("READ is not granted on consumer group {group}");
                report.missing((Step::Group, ExitCode::NotAllowed), what, found, [acls_line()]);
            }
            Ok(None) => report.unknown(what, "the broker does not say", []),
            Err(error) => failed(report, Step::Group, what.to_owned(), &error),
        }
    }

    /// Asks again for as long as a new cluster may set its coordinators up.
    async fn group_rights(&self, group: &str) -> Result<Option<Vec<KafkaRight>>, AdminError> {
        let deadline = Instant::now() + COORDINATOR_LIMIT;
        let mut backoff = Backoff::default();
        loop {
            let answer = self.admin.group_rights(group).await;
            let pause = backoff.next_delay();
            if !matches!(answer, Err(AdminError::Unavailable { .. })) || Instant::now() + pause >= deadline {
                return answer;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Those that the group would read, and what keeps it from reading them. Returns their names.
    async fn data_topics(
        &self,
        settings: &SinkSettings,
        all: &[(String, i32)],
        report: &mut Report,
    ) -> Vec<String> {
        const WHAT: &str = "data topics";
        let control = settings.names.control();
        let taken: Vec<&(String, i32)> =
            all.iter().filter(|(topic, _)| *topic != control && settings.topics.takes(topic)).collect();
        let names: Vec<String> = taken.iter().map(|(topic, _)| topic.clone()).collect();
        let prefix = settings.names.prefix();
        if names.is_empty() {
            let found =
                format!("none under {prefix}. that this user may see: a sink waits for the first one");
            let to_do = "check TOPIC_PREFIX, SINK_TOPICS and SINK_EXCLUDE, or start the source first; a topic \
                         without the right to describe it is not seen";
            report.warning(WHAT, found, [to_do.to_owned()]);
            return names;
        }
        let partitions: i64 = taken.iter().map(|(_, partitions)| i64::from(*partitions)).sum();
        let shown = names.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if names.len() > 3 { ", …" } else { "" };
        report.ok(WHAT, format!("{} with {partitions} partition(s): {shown}{more}", names.len()));
        for missing in settings.topics.without_topic(&names) {
            let found = format!("SINK_TOPICS names {missing}, and there is no such topic yet");
            report.warning(WHAT, found, []);
        }
        self.readable(&names, report).await;
        names
    }

    /// What happened to collections and databases, which is archived beside their changes.
    async fn control_topic(&self, settings: &SinkSettings, all: &[(String, i32)], report: &mut Report) {
        let name = settings.names.control();
        let what = format!("topic {name}");
        if !settings.topics.takes(&name) {
            let found = "SINK_EXCLUDE leaves it out: the lake does not say which collections were dropped";
            return report.ok(what, found);
        }
        if !all.iter().any(|(topic, _)| *topic == name) {
            let tokens = settings.names.resume_tokens("");
            if !all.iter().any(|(topic, _)| topic.starts_with(&tokens)) {
                return report.ok(what, "is not there: a source makes it");
            }
            let found = "is not there although a source is, or this user may not describe it: the lake does not say which collections were dropped";
            let to_do = format!("grant READ and DESCRIBE_CONFIGS on it; {}", acls_line());
            return report.warning(what, found, [to_do]);
        }
        report.ok(what, "is there, and archived in _control/");
        self.readable(&[name], report).await;
    }

    async fn readable(&self, names: &[String], report: &mut Report) {
        self.configurations(names, report).await;
        let wanted = [KafkaRight::Read, KafkaRight::DescribeConfigs];
        self.rights(names, &wanted, Step::DataTopics, report).await;
    }

    /// What a topic must not be: compacted, or with records that no client can read.
    async fn configurations(&self, names: &[String], report: &mut Report) {
        const WHAT: &str = "topics' configuration";
        let asked: Vec<&str> = names.iter().map(String::as_str).collect();
        let answers = match self.admin.topic_configs(&asked).await {
            Ok(answers) => answers,
            Err(error) => return failed(report, Step::DataTopics, WHAT.to_owned(), &error),
        };
        let (mut fine, mut refused) = (0, 0);
        for (topic, answer) in answers {
            match answer.map(|configs| judge_topic(&topic, &configs)) {
                Ok(Ok(())) => fine += 1,
                Ok(Err(halt)) => {
                    refused += 1;
                    if refused <= NAMED_MAX {
                        report.stop(Step::DataTopics, format!("topic {topic}"), &halt.to_stop());
                    }
                }
                // Deleted meanwhile.
                Err(AdminError::UnknownTopic { .. }) => {}
                Err(error) => failed(report, Step::DataTopics, format!("topic {topic}"), &error),
            }
        }
        if refused > NAMED_MAX {
            let found = format!("{} more are refused in the same way", refused - NAMED_MAX);
            report.missing((Step::DataTopics, ExitCode::Configuration), WHAT, found, []);
        }
        if fine > 0 {
            report.ok(WHAT, format!("{fine} delete by age or size, and have records that can be read"));
        }
    }

    /// Where sources say how far they are: hours close by it.
    async fn token_topics(&self, settings: &SinkSettings, all: &[(String, i32)], report: &mut Report) {
        let prefix = settings.names.resume_tokens("");
        let names: Vec<String> =
            all.iter().map(|(topic, _)| topic.clone()).filter(|topic| topic.starts_with(&prefix)).collect();
        if names.is_empty() {
            let found = format!("no topic {prefix}*: without it hours close by HOUR_GRACE alone");
            let clock = settings.names.clock();
            let to_do =
                format!("with a source of ours, grant READ on it; without one, CREATE and WRITE on {clock}");
            report.warning("sources", found, [to_do]);
            if all.iter().any(|(topic, _)| *topic == clock) {
                self.rights(&[clock], &[KafkaRight::Write], Step::DataTopics, report).await;
            }
            return;
        }
        let sources: Vec<&str> = names.iter().filter_map(|topic| topic.strip_prefix(&prefix)).collect();
        report.ok("sources", format!("{} say how far they are: {}", sources.len(), sources.join(", ")));
        self.rights(&names, &[KafkaRight::Read], Step::DataTopics, report).await;
    }

    async fn dead_letters(
        &self,
        settings: &SinkSettings,
        all: &[(String, i32)],
        data: &[String],
        report: &mut Report,
    ) {
        let name = &settings.dead_letters;
        let what = format!("topic {name}");
        if !all.iter().any(|(topic, _)| topic == name) {
            report.ok(what, "is not there: the first dead letter makes it (CREATE)");
            let found = format!("whether CREATE on topic {name} is granted cannot be asked");
            return report.unknown("right to make topics", found, [acls_line()]);
        }
        let both: Vec<&str> = data.iter().chain([name]).map(String::as_str).collect();
        match self.admin.topic_configs(&both).await {
            Ok(mut configs) => {
                let limit = |answer: Result<shared::kafka_topics::Configs, AdminError>| {
                    answer.ok()?.get("max.message.bytes")?.parse::<u64>().ok()
                };
                let letters = configs.remove(name).and_then(limit);
                let largest = configs.into_values().filter_map(limit).max();
                let needed = letter_bytes(largest, settings.topic_message_bytes);
                match letters {
                    Some(bytes) if bytes < needed => {
                        let found = format!(
                            "takes letters of up to {bytes} bytes: the largest records would stop the sink"
                        );
                        let to_do = format!("set its max.message.bytes to {needed}");
                        report.warning(what, found, [to_do]);
                    }
                    Some(_) => report.ok(what, "is there, and takes the largest record"),
                    None => report.unknown(what, "is there; its configuration is not told", []),
                }
            }
            Err(error) => failed(report, Step::DeadLetters, what, &error),
        }
        let name = std::slice::from_ref(name);
        self.rights(name, &[KafkaRight::Write], Step::DeadLetters, report).await;
    }

    async fn rights(&self, names: &[String], wanted: &[KafkaRight], step: Step, report: &mut Report) {
        let rights = TopicRights { wanted, acls: ACLS };
        let answer = topic_rights(&self.admin, names, &rights, step, report, |report, what, error| {
            failed(report, step, what, &error);
        });
        if let Err(error) = answer.await {
            failed(report, step, "rights on topics".to_owned(), &error);
        }
    }
}

/// One with a slip in its name checks nothing, and looks like that of a collection which is yet to come.
fn schemas(settings: &SinkSettings, all: &[(String, i32)], report: &mut Report) {
    let names = &settings.names;
    let is_of = |topic: &str, namespace: &Namespace| match names.decode(topic) {
        Some(DataTopic::Named(found)) => found == *namespace,
        Some(DataTopic::Cut) => {
            [Form::Usual, Form::FullyEscaped].into_iter().any(|form| names.data(namespace, form) == topic)
        }
        None => false,
    };
    let without: Vec<String> = settings
        .schema_checks
        .collections()
        .filter(|namespace| !all.iter().any(|(topic, _)| is_of(topic, namespace)))
        .map(ToString::to_string)
        .collect();
    if without.is_empty() {
        return;
    }
    let shown = without.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if without.len() > NAMED_MAX { ", …" } else { "" };
    let found = format!("no topic is of {shown}{more}: nothing is held against the schema");
    let to_do = "look at the file's name, unless the collection is yet to come";
    report.warning(SCHEMA_CHECK, found, [to_do.to_owned()]);
}

fn acls_line() -> String {
    format!("{ACLS} has the line")
}

fn failed(report: &mut Report, step: Step, what: String, error: &AdminError) {
    match error {
        AdminError::NotAllowed { .. } => {
            report.missing((step, ExitCode::NotAllowed), what, error.to_string(), [acls_line()]);
        }
        AdminError::Refused { .. } => {
            report.missing((step, ExitCode::Configuration), what, error.to_string(), []);
        }
        AdminError::Unavailable { .. } | AdminError::UnknownTopic { .. } => {
            report.unknown(what, error.to_string(), []);
        }
    }
}
