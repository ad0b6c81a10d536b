//! A mongod and a broker for one test at a time.
//!
//! Starting the two costs more than most tests. So a test borrows a pair, empties it, and gives it back for the next one;
//! there are as many pairs as tests run at once. What stays is MongoDB's oplog: a test that reads from its beginning asks
//! for servers of its own. So does one that needs other options.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use mongodb::bson::doc;
use pipeline_tests::{
    kafka_reader::KafkaReader,
    servers::{Kafka, KafkaOptions, Mongod, MongodOptions},
    wait,
};
use rdkafka::{ClientConfig, admin::AdminClient, client::DefaultClientContext};

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Servers {
    pub(crate) mongod: Mongod,
    pub(crate) kafka: Kafka,
}

impl Servers {
    async fn start(mongod: MongodOptions, kafka: KafkaOptions) -> Result<Self> {
        let (mongod, kafka) = tokio::try_join!(Mongod::start(mongod), Kafka::start(kafka))?;
        Ok(Self { mongod, kafka })
    }

    /// No database, no topic, no fail point.
    async fn empty(&self) -> Result<()> {
        self.mongod.admin_command(doc! { "configureFailPoint": "failCommand", "mode": "off" }).await?;
        let client = self.mongod.client().await?;
        for database in client.list_database_names().await? {
            if !["admin", "config", "local"].contains(&database.as_str()) {
                client.database(&database).drop().await?;
            }
        }
        // A source that starts now begins at the newest entry of the oplog: it must be none of these.
        self.mongod.admin_command(doc! { "appendOplogNote": 1, "data": {} }).await?;
        let reader = KafkaReader::new(self.kafka.bootstrap());
        let topics = topics(&reader).await?;
        if topics.is_empty() {
            return Ok(());
        }
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", self.kafka.bootstrap()).create()?;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        for deleted in admin.delete_topics(&names, &rdkafka::admin::AdminOptions::new()).await? {
            ensure!(deleted.is_ok(), "{deleted:?}");
        }
        wait::until("the topics are gone", LIMIT, || async {
            Ok(self::topics(&reader).await?.is_empty().then_some(()))
        })
        .await
    }
}

/// All but the broker's own.
async fn topics(reader: &KafkaReader) -> Result<Vec<String>> {
    let all = reader.topics("").await?;
    Ok(all.into_iter().filter(|topic| !topic.starts_with("__")).collect())
}

static FREE: Mutex<Vec<Servers>> = Mutex::new(Vec::new());

/// A pair that nobody else uses.
pub(crate) struct Lent {
    servers: Option<Servers>,
    goes_back: bool,
}

impl Lent {
    /// Empty but for MongoDB's oplog.
    pub(crate) async fn empty() -> Result<Self> {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let servers = match free {
            Some(servers) => {
                servers.empty().await?;
                servers
            }
            None => Servers::start(MongodOptions::default(), KafkaOptions::default()).await?,
        };
        Ok(Self { servers: Some(servers), goes_back: true })
    }

    /// New ones, which end with the test.
    pub(crate) async fn own(mongod: MongodOptions, kafka: KafkaOptions) -> Result<Self> {
        Ok(Self { servers: Some(Servers::start(mongod, kafka).await?), goes_back: false })
    }
}

impl Drop for Lent {
    /// A test that fails may leave anything behind.
    fn drop(&mut self) {
        if self.goes_back && !std::thread::panicking() {
            FREE.lock().unwrap_or_else(PoisonError::into_inner).extend(self.servers.take());
        }
    }
}

impl Deref for Lent {
    type Target = Servers;

    fn deref(&self) -> &Servers {
        self.servers.as_ref().expect("only dropping takes them")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Servers {
        self.servers.as_mut().expect("only dropping takes them")
    }
}
