//! Topics and records made by a test itself: what no source of ours would ever write.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    error::RDKafkaErrorCode,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};

use crate::wait;

const LIMIT: Duration = Duration::from_secs(30);

/// A record as a test wants it.
#[derive(Clone, Debug, Default)]
pub struct NewRecord {
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    /// Milliseconds since 1970; `None` is now.
    pub timestamp_ms: Option<i64>,
}

impl NewRecord {
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Committed,
    Aborted,
}

/// Writes to one broker.
#[derive(Clone, Debug)]
pub struct KafkaWriter {
    bootstrap: String,
}

impl KafkaWriter {
    pub fn new(bootstrap: impl Into<String>) -> Self {
        Self { bootstrap: bootstrap.into() }
    }

    /// Makes a topic. One that is still being deleted under the same name is waited for.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn create_topic(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let admin = self.admin()?;
        wait::until(&format!("topic {topic} is made"), LIMIT, || async {
            let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
            for (name, value) in settings {
                new = new.set(name, value);
            }
            let made = admin.create_topics([&new], &AdminOptions::new()).await.context("ask for a topic")?;
            match made.first().context("no answer for the topic")? {
                Ok(_) => Ok(Some(())),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(None),
                Err((_, code)) => bail!("make topic {topic}: {code}"),
            }
        })
        .await
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn delete_topic(&self, topic: &str) -> Result<()> {
        let deleted = self
            .admin()?
            .delete_topics(&[topic], &AdminOptions::new())
            .await
            .context("ask for a deletion")?;
        match deleted.first().context("no answer for the topic")? {
            Ok(_) => Ok(()),
            Err((_, code)) => bail!("delete topic {topic}: {code}"),
        }
    }

    /// Makes a partition's log begin at `offset`, as retention does in time.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn delete_records(&self, topic: &str, partition: i32, offset: i64) -> Result<()> {
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(topic, partition, Offset::Offset(offset)).context("an offset")?;
        let done = self.admin()?.delete_records(&before, &AdminOptions::new()).await;
        for each in done.context("ask for a deletion")?.elements() {
            each.error().with_context(|| format!("delete records of {topic}"))?;
        }
        Ok(())
    }

    /// Sets one of a topic's settings; all others go back to the broker's defaults.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn set_topic_setting(&self, topic: &str, name: &str, value: &str) -> Result<()> {
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
        let done =
            self.admin()?.alter_configs([&change], &AdminOptions::new()).await.context("ask for a change")?;
        match done.first().context("no answer for the topic")? {
            Ok(_) => Ok(()),
            Err((_, code)) => bail!("set {name} of topic {topic}: {code}"),
        }
    }

    /// Appends records to a partition in one transaction, as a source does: its marker lies behind them.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn send(&self, topic: &str, partition: i32, records: Vec<NewRecord>) -> Result<()> {
        self.send_compressed("none", topic, partition, records).await
    }

    /// As [`Self::send`], compressed by a codec that librdkafka names so.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn send_compressed(
        &self,
        codec: &'static str,
        topic: &str,
        partition: i32,
        records: Vec<NewRecord>,
    ) -> Result<()> {
        let records = records.into_iter().map(|record| (partition, record)).collect();
        self.transaction(codec, format!("tests-{topic}-{partition}"), topic, records, Outcome::Committed)
            .await
    }

    /// Appends records to many partitions in one transaction: each of them gets a marker. In order within a partition.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn send_to_partitions(&self, topic: &str, records: Vec<(i32, NewRecord)>) -> Result<()> {
        self.transaction("none", format!("tests-{topic}"), topic, records, Outcome::Committed).await
    }

    /// Appends records to a partition in a transaction that is aborted: they and its marker are in the log, and nobody is handed them.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn send_aborted(&self, topic: &str, partition: i32, records: Vec<NewRecord>) -> Result<()> {
        let records = records.into_iter().map(|record| (partition, record)).collect();
        self.transaction("none", format!("tests-{topic}-{partition}"), topic, records, Outcome::Aborted).await
    }

    async fn transaction(
        &self,
        codec: &'static str,
        transactional_id: String,
        topic: &str,
        records: Vec<(i32, NewRecord)>,
        outcome: Outcome,
    ) -> Result<()> {
        let (writer, topic) = (self.clone(), topic.to_owned());
        let sent = tokio::task::spawn_blocking(move || {
            writer.transaction_blocking(codec, &transactional_id, &topic, &records, outcome)
        });
        sent.await.context("a Kafka writer's thread")?
    }

    fn transaction_blocking(
        &self,
        codec: &str,
        transactional_id: &str,
        topic: &str,
        records: &[(i32, NewRecord)],
        outcome: Outcome,
    ) -> Result<()> {
        let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("transactional.id", transactional_id)
            .set("compression.type", codec)
            // Of a record before compression; what it may have after it is the topic's to say.
            .set("message.max.bytes", "134217728")
            .create()
            .context("make a Kafka producer")?;
        producer.init_transactions(LIMIT).context("init_transactions")?;
        producer.begin_transaction().context("begin_transaction")?;
        for (partition, record) in records {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &record.headers {
                headers = headers.insert(Header { key, value: Some(value) });
            }
            let mut new = BaseRecord::<[u8], [u8]>::to(topic).partition(*partition).headers(headers);
            new.key = record.key.as_deref();
            new.payload = record.value.as_deref();
            new.timestamp = record.timestamp_ms;
            producer.send(new).map_err(|(error, _)| error).context("send a record")?;
        }
        match outcome {
            Outcome::Committed => producer.commit_transaction(LIMIT).context("commit_transaction"),
            Outcome::Aborted => {
                // What was not sent yet would never be in the log.
                producer.flush(LIMIT).context("flush")?;
                producer.abort_transaction(LIMIT).context("abort_transaction")
            }
        }
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        ClientConfig::new().set("bootstrap.servers", &self.bootstrap).create().context("make a Kafka client")
    }
}
