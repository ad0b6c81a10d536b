//! Kafka: the brokers, the source's own topics, and what its user may do with them.

use std::num::NonZeroU32;

use shared::{
    check::{CONTACT_LIMIT, TopicRights, topic_rights},
    exit::{ExitCode, Stop},
    kafka_client,
    kafka_ffi::KafkaRight,
    kafka_topics::TopicAdmin,
};
use tokio::runtime::Runtime;

use super::{Report, Step};
use crate::{
    broker_check::{self, BrokerReport},
    publisher::Delivery,
    recovery::Remembered,
    settings::{BrokerCheck, SourceSettings},
    token::stored::TokenTopic,
    topics::{self, Kind, TopicError, TopicSettings},
};

/// All that the source does with a topic. DESCRIBE comes with the others.
const RIGHTS: [KafkaRight; 3] = [KafkaRight::Read, KafkaRight::Write, KafkaRight::DescribeConfigs];

/// The clients.
pub(super) struct Kafka {
    pub(super) tokens: TokenTopic,
    pub(super) admin: TopicAdmin,
    pub(super) runtime: Runtime,
}

impl Kafka {
    pub(super) fn connect(settings: &SourceSettings, report: &mut Report) -> Result<Self, Stop> {
        let brokers = kafka_client::connect_check(&settings.kafka, CONTACT_LIMIT)?;
        let config = settings.kafka.client_config("atlas-check");
        let refused = |error: rdkafka::error::KafkaError| {
            let text = format!("the Kafka client refuses its configuration: {error}; see KAFKA_OPTIONS");
            Stop::new(ExitCode::Configuration, text)
        };
        let no_runtime =
            |error: std::io::Error| Stop::new(ExitCode::Temporary, format!("no runtime: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let kafka = Self {
            tokens: TokenTopic::new(&settings.kafka, &settings.names, &settings.source_id)?,
            admin: TopicAdmin::new(&config, CONTACT_LIMIT).map_err(refused)?,
            runtime: runtime.map_err(no_runtime)?,
        };
        let (count, protocol) = (brokers.len(), settings.kafka.protocol());
        report.ok("Kafka", format!("{} answers ({protocol}), {count} broker(s)", settings.kafka.bootstrap()));
        Ok(kafka)
    }

    /// Brokers, own topics, and the position. `None` if that cannot be read.
    pub(super) fn look(&self, settings: &SourceSettings, report: &mut Report) -> Option<Remembered> {
        self.brokers(settings, report);
        let own = [
            (self.tokens.name.clone(), Kind::Tokens),
            (settings.dead_letters.clone(), Kind::DeadLetters),
            (settings.names.control(), Kind::Control),
        ];
        let there: Vec<String> = own
            .into_iter()
            .filter_map(|(name, kind)| {
                self.topic(&settings.topics.of_kind(kind), &name, kind, Step::OwnTopics, report)
            })
            .collect();
        self.rights(&there, Step::OwnTopics, report);
        if settings.delivery == Delivery::ExactlyOnce {
            report.unknown(
            "transactional id",
            format!("whether WRITE on atlas-source-{} is granted cannot be asked without taking it from a running source", settings.source_id),
            ["kafka/acls-source.conf has the line".to_owned()],
        );
        }
        match self.tokens.read() {
            Ok(remembered) => Some(remembered),
            Err(stop) => {
                report.stop(Step::Token, "token record", &stop);
                None
            }
        }
    }

    fn brokers(&self, settings: &SourceSettings, report: &mut Report) {
        const WHAT: &str = "transactions";
        if settings.delivery == Delivery::AtLeastOnce {
            report.warning(
                WHAT,
                "DELIVERY=at-least-once: none are used, and after a crash events come again",
                [],
            );
            return;
        }
        if settings.broker_check == BrokerCheck::Skip {
            let found = "BROKER_CHECK=skip: nobody checks that the brokers can keep exactly-once";
            report.warning(WHAT, found, []);
            return;
        }
        match self.runtime.block_on(broker_check::check(&self.admin)) {
            Ok(BrokerReport::Able) => report.ok(WHAT, "every broker verifies them"),
            Ok(BrokerReport::Unknown(error)) => report.unknown(WHAT, error.to_string(), []),
            Err(stop) => report.stop(Step::Brokers, WHAT, &stop),
        }
    }

    /// One topic, by its name. Returns the name if the topic is there.
    fn topic(
        &self,
        settings: &TopicSettings,
        name: &str,
        kind: Kind,
        step: Step,
        report: &mut Report,
    ) -> Option<String> {
        let what = format!("topic {name}");
        match self.review(settings, name, kind) {
            Ok(None) => {
                report.ok(what, "is not there: the start makes it (CREATE)");
                None
            }
            Ok(Some((_, review))) => {
                if review.refused.is_empty() && review.harmless.is_empty() {
                    report.ok(what, "is as it has to be");
                } else if review.refused.is_empty() {
                    report.warning(what, "differs from the settings", review.harmless);
                } else {
                    let code = (step, ExitCode::Configuration);
                    report.missing(code, what, "would break a promise", review.refused);
                }
                Some(name.to_owned())
            }
            Err(error) => {
                failed(report, step, what, error);
                Some(name.to_owned())
            }
        }
    }

    /// A topic held against the settings; `None` if it is not there.
    pub(super) fn review(
        &self,
        settings: &TopicSettings,
        name: &str,
        kind: Kind,
    ) -> Result<Option<(NonZeroU32, topics::Review)>, TopicError> {
        let Some(found) = topics::partition_count(self.tokens.log.client(), name)? else { return Ok(None) };
        let review = topics::review(&self.admin, settings, name, kind, found);
        Ok(Some((found, self.runtime.block_on(review)?.0)))
    }

    /// What the user may do with topics that are there.
    pub(super) fn rights(&self, names: &[String], step: Step, report: &mut Report) {
        let rights = TopicRights { wanted: &RIGHTS, acls: "kafka/acls-source.conf" };
        let answer = topic_rights(&self.admin, names, &rights, step, report, |report, what, error| {
            failed(report, step, what, error.into());
        });
        if let Err(error) = self.runtime.block_on(answer) {
            failed(report, step, "rights on topics".to_owned(), error.into());
        }
    }
}

pub(super) fn failed(report: &mut Report, step: Step, what: String, error: TopicError) {
    match error {
        TopicError::Stop(stop) => report.stop(step, what, &stop),
        TopicError::Unavailable(text) => report.unknown(what, text, []),
    }
}
