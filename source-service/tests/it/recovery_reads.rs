//! What recovery finds in topics that others write to as well: on a real broker, without MongoDB.

use anyhow::Result;
use pipeline_tests::{
    kafka_writer::{KafkaWriter, NewRecord},
    servers::{Kafka, KafkaOptions},
};
use rdkafka::ClientConfig;
use shared::topic_name::TopicNames;
use source_service::{
    kafka_log::KafkaLog,
    recovery::{self, OwnTopics},
};

const DATA: &str = "atlas.shop.orders";
const DEAD_LETTERS: &str = "atlas.dlq";
const OWN: &str = "default/1";

struct Broker {
    /// Dropping it ends it.
    _server: Kafka,
    writer: KafkaWriter,
    log: KafkaLog,
    names: TopicNames,
}

impl Broker {
    async fn start() -> Result<Self> {
        let server = Kafka::start(KafkaOptions::default()).await?;
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", server.bootstrap());
        let log = KafkaLog::new(&config, "default")?;
        let writer = KafkaWriter::new(server.bootstrap());
        let names = TopicNames::new("atlas").map_err(anyhow::Error::msg)?;
        Ok(Self { _server: server, writer, log, names })
    }

    fn topics(&self) -> OwnTopics<'_> {
        OwnTopics { names: &self.names, dead_letters: DEAD_LETTERS }
    }
}

fn record(source: &str, event_id: &str) -> NewRecord {
    NewRecord::new("{}").header("source", source).header("event-id", event_id)
}

/// A letter of the sink carries the headers of the record that it keeps; the source did not write it.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_of_a_sink_is_no_own_record() -> Result<()> {
    let broker = Broker::start().await?;
    broker.writer.create_topic(DEAD_LETTERS, 1, &[]).await?;
    let kept = |event_id: &str| record(OWN, event_id).header("dlq-original-topic", DATA);
    broker.writer.send(DEAD_LETTERS, 0, vec![kept("82C")]).await?;
    let found = recovery::own_record_without_token(&broker.log, &broker.topics(), "default", |_| true)?;
    assert_eq!(found, None);

    // An own letter before one of the sink's that is about a later event.
    broker.writer.send(DEAD_LETTERS, 0, vec![record(OWN, "82A").header("dlq-stage", "transcode")]).await?;
    broker.writer.send(DEAD_LETTERS, 0, vec![kept("82D")]).await?;
    let tails = recovery::read_tails(&broker.log, &broker.topics(), OWN, 0, |_| true)?;
    assert!(tails.holds(DEAD_LETTERS, 0, "82A") && !tails.holds(DEAD_LETTERS, 0, "82B"), "{tails:?}");
    let found = recovery::own_record_without_token(&broker.log, &broker.topics(), "default", |_| true)?;
    assert_eq!(found.map(|place| place.topic).as_deref(), Some(DEAD_LETTERS));
    Ok(())
}
