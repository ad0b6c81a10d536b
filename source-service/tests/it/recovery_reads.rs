//! What recovery finds in topics that others write to as well: on a real broker, without MongoDB.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use pipeline_tests::kafka_writer::{KafkaWriter, NewRecord};
use rdkafka::ClientConfig;
use shared::{
    namespace::Namespace,
    topic_name::{Form, TopicNames},
};
use source_service::{
    kafka_log::{KafkaLog, LogError, Range},
    recovery::{self, Busy, OwnTopics, Tails},
    token_record::TopicRecord,
};

use crate::servers::Lent;

const DATA: &str = "atlas.shop.orders";
const DEAD_LETTERS: &str = "atlas.dlq";
const OWN: &str = "default/1";

struct Broker {
    /// Dropping them gives them back.
    _servers: Lent,
    writer: KafkaWriter,
    log: KafkaLog,
    names: TopicNames,
}

impl Broker {
    async fn start() -> Result<Self> {
        let servers = Lent::empty().await?;
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers.kafka.bootstrap());
        let log = KafkaLog::new(&config, "default")?;
        let writer = KafkaWriter::new(servers.kafka.bootstrap());
        let names = TopicNames::new("atlas").map_err(anyhow::Error::msg)?;
        Ok(Self { _servers: servers, writer, log, names })
    }

    fn topics(&self) -> OwnTopics<'_> {
        OwnTopics { names: &self.names, dead_letters: DEAD_LETTERS }
    }

    /// The tails, and the topics that were read for them.
    fn tails(&self, recorded: &BTreeMap<String, TopicRecord>) -> Result<(Tails, BTreeSet<String>)> {
        let mut read = BTreeSet::new();
        let tails = recovery::read_tails(&self.log, &self.topics(), recorded, OWN, 0, |busy| {
            if let Busy::Reading { topic, .. } = busy {
                read.insert(topic.to_owned());
            }
            true
        })?;
        Ok((tails, read))
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
    let (tails, _) = broker.tails(&BTreeMap::new())?;
    assert!(tails.holds(DEAD_LETTERS, 0, "82A") && !tails.holds(DEAD_LETTERS, 0, "82B"), "{tails:?}");
    let found = recovery::own_record_without_token(&broker.log, &broker.topics(), "default", |_| true)?;
    assert_eq!(found.map(|place| place.topic).as_deref(), Some(DEAD_LETTERS));
    Ok(())
}

/// Other sources may have filled the topics under the prefix: reading them is no silence, and can be ended.
#[tokio::test(flavor = "multi_thread")]
async fn reading_much_shows_progress_and_sees_the_stop() -> Result<()> {
    const RECORDS: i64 = 60_000;
    let broker = Broker::start().await?;
    broker.writer.create_topic(DATA, 1, &[]).await?;
    let others = (0..RECORDS).map(|_| record("other/1", "82A")).collect();
    broker.writer.send(DATA, 0, others).await?;

    let (mut left, mut taken) = (Vec::new(), 0);
    let all = Range { partition: 0, from: 0, to: RECORDS };
    broker.log.read(
        DATA,
        &[all],
        |_| taken += 1,
        |offsets| {
            left.push(offsets);
            true
        },
    )?;
    assert_eq!(taken, RECORDS);
    assert!(left.len() >= 5 && left.is_sorted_by(|before, after| before > after), "{left:?}");

    taken = 0;
    let stopped = broker.log.read(DATA, &[all], |_| taken += 1, |_| false);
    assert!(matches!(stopped, Err(LogError::Interrupted)) && taken < RECORDS / 2, "{stopped:?}, {taken}");

    // The search without a token, asked to stop in the middle of its largest window.
    let mut shown = Vec::new();
    let stopped = recovery::own_record_without_token(&broker.log, &broker.topics(), "default", |busy| {
        shown.push(busy.to_string());
        shown.len() < 6
    });
    assert!(matches!(stopped, Err(LogError::Interrupted)), "{stopped:?}");
    assert_eq!(shown[0], format!("reading {DATA}, at most {} offsets left", RECORDS + 1));
    Ok(())
}

/// What another source has written since our token does not make a start longer.
#[tokio::test(flavor = "multi_thread")]
async fn only_topics_that_may_hold_own_records_are_read() -> Result<()> {
    const OTHERS: &str = "atlas.shop.others";
    let broker = Broker::start().await?;
    for topic in [DATA, OTHERS, DEAD_LETTERS, "atlas.control"] {
        broker.writer.create_topic(topic, 1, &[]).await?;
        broker.writer.send(topic, 0, vec![record(OWN, "82A"), record("other/1", "82B")]).await?;
    }
    let place = TopicRecord { namespace: Namespace::new("shop", "orders"), form: Form::Usual, partitions: 1 };
    let recorded = BTreeMap::from([(DATA.to_owned(), place)]);
    let (tails, read) = broker.tails(&recorded)?;
    assert_eq!(read, [DATA, DEAD_LETTERS, "atlas.control"].map(str::to_owned).into());
    assert_eq!(tails.len(), 3);
    assert!(tails.holds("atlas.control", 0, "82A") && !tails.holds(OTHERS, 0, "82A"), "{tails:?}");

    // A token that was put back by hand, without the topics beside it.
    let (tails, _) = broker.tails(&BTreeMap::new())?;
    assert!(tails.len() == 4 && tails.holds(OTHERS, 0, "82A"), "{tails:?}");
    Ok(())
}
