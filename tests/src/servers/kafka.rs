//! A real Apache Kafka 4.1 broker, KRaft, broker and controller in one process.

mod log_cut;

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};

use super::{KafkaJava, ServerProcess, is_a_server_process};
use crate::{folders, paths, ports::free_port};

/// How the broker is started; the default suits most tests.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// `-Xmx` in megabytes. 96 is enough for 100,000 records of 1 KB in transactions; at 40 the broker dies.
    pub heap_mb: u32,
    /// Further broker properties; they come last and so win over the defaults.
    pub properties: Vec<(String, String)>,
    /// Names and passwords. If there are any, they come in by a second door ([`Kafka::bootstrap_of_users`], SASL PLAIN), and may do
    /// nothing until the access list says so; who comes by the first door has no name and may do everything.
    pub users: Vec<(String, String)>,
    /// Kafka's id of the cluster, 22 characters of URL-safe base64; `None` is the one that all brokers of tests have.
    pub cluster_id: Option<String>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self { heap_mb: 128, properties: Vec::new(), users: Vec::new(), cluster_id: None }
    }
}

/// A running broker.
#[derive(Debug)]
pub struct Kafka {
    server: ServerProcess,
    port: u16,
    users_port: Option<u16>,
}

is_a_server_process!(Kafka);

impl Kafka {
    /// Takes an empty log folder, starts the broker and waits until it answers a metadata request.
    ///
    /// # Errors
    /// If it was not fetched, ends early, or does not answer within the limit.
    pub async fn start(options: KafkaOptions) -> Result<Self> {
        let (port, controller_port) = (free_port()?, free_port()?);
        let folder = folders::new("atlas-kafka-")?;
        let users_port = if options.users.is_empty() { None } else { Some(free_port()?) };
        let properties = properties(port, controller_port, users_port, &options)?;
        fs::write(folder.path().join("server.properties"), properties)
            .context("write the broker's settings")?;
        fs::write(folder.path().join("log4j2.properties"), LOGGING)
            .context("write the broker's log settings")?;

        copy_formatted(&folder.path().join(LOGS))?;
        if let Some(id) = &options.cluster_id {
            rename_cluster(&folder.path().join(LOGS), id)?;
        }

        let KafkaJava { program, mut arguments } = KafkaJava::with_heap(options.heap_mb)?;
        arguments.extend(
            ["-Dlog4j2.configurationFile=log4j2.properties", "kafka.Kafka", "server.properties"]
                .map(str::to_owned),
        );
        let server = ServerProcess::start("kafka", program, arguments, folder)?;
        let mut broker = Self { server, port, users_port };
        broker.wait_until_it_answers().await?;
        Ok(broker)
    }

    /// `host:port` for clients.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `host:port` for clients with a name and a password; `None` without [`KafkaOptions::users`].
    pub fn bootstrap_of_users(&self) -> Option<String> {
        Some(format!("127.0.0.1:{}", self.users_port?))
    }

    /// Starts again on the same port and data, after a kill or a stop, and waits until it answers.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.server.start_again()?;
        self.wait_until_it_answers().await
    }

    /// Cuts a partition's log in front of the first batch that begins at `offset` or behind it, as if the broker's disk had been restored from a
    /// backup. Only while the broker is down; what else lies on the disk of that partition is made anew by its next start.
    ///
    /// # Errors
    /// If the log has no such batch, or cannot be written.
    pub fn cut_log(&self, topic: &str, partition: i32, offset: i64) -> Result<()> {
        log_cut::cut(&self.server.folder().join(LOGS), topic, partition, offset)
    }

    async fn wait_until_it_answers(&mut self) -> Result<()> {
        // One client for all looks: a new one per look would leave its threads running for a while.
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.bootstrap())
            .set("reconnect.backoff.max.ms", "200")
            // The broker is not there yet: "connection refused" is no news.
            .set("log_level", "0")
            .create()
            .context("make a Kafka client")?;
        let client = std::sync::Arc::new(client);
        self.server
            .wait_until_ready(|| {
                let client = client.clone();
                async move {
                    let asked = tokio::task::spawn_blocking(move || {
                        client
                            .fetch_metadata(None, Duration::from_millis(500))
                            .is_ok_and(|all| !all.brokers().is_empty())
                    });
                    asked.await.unwrap_or(false)
                }
            })
            .await
    }
}

/// Where the broker's log folder is, in its own.
const LOGS: &str = "logs";

/// The folder that `kafka.tools.StorageTool format` left when the servers were fetched. It knows no port and no topic.
fn copy_formatted(logs: &Path) -> Result<()> {
    let formatted = paths::fetched("kafka-start/formatted", "")?;
    fs::create_dir(logs).context("make the broker's log folder")?;
    for file in fs::read_dir(&formatted).context("read the formatted folder")? {
        let file = file.context("read the formatted folder")?;
        fs::copy(file.path(), logs.join(file.file_name())).context("copy the formatted folder")?;
    }
    Ok(())
}

/// Before the first start: nothing else says which cluster the folder is of.
fn rename_cluster(logs: &Path, id: &str) -> Result<()> {
    let path = logs.join("meta.properties");
    let text = fs::read_to_string(&path).context("read meta.properties")?;
    let lines = text.lines().map(|line| match line.split_once('=') {
        Some(("cluster.id", _)) => format!("cluster.id={id}\n"),
        _ => format!("{line}\n"),
    });
    fs::write(&path, lines.collect::<String>()).context("write meta.properties")
}

/// Small everything: one machine, one broker, a heap that would not hold the log cleaner's default buffer of 128 MB.
fn properties(
    port: u16,
    controller_port: u16,
    users_port: Option<u16>,
    options: &KafkaOptions,
) -> Result<String> {
    let fixed = [
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", "1".to_owned()),
        ("controller.quorum.voters", format!("1@127.0.0.1:{controller_port}")),
        ("listeners", format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}")),
        ("advertised.listeners", format!("PLAINTEXT://127.0.0.1:{port}")),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned()),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("log.dirs", LOGS.to_owned()),
        // A topic that a test forgot to make is a mistake that must show.
        ("auto.create.topics.enable", "false".to_owned()),
        ("num.network.threads", "1".to_owned()),
        ("num.io.threads", "2".to_owned()),
        ("background.threads", "2".to_owned()),
        ("num.recovery.threads.per.data.dir", "1".to_owned()),
        ("offsets.topic.num.partitions", "1".to_owned()),
        ("offsets.topic.replication.factor", "1".to_owned()),
        ("transaction.state.log.num.partitions", "1".to_owned()),
        ("transaction.state.log.replication.factor", "1".to_owned()),
        ("transaction.state.log.min.isr", "1".to_owned()),
        ("share.coordinator.state.topic.num.partitions", "1".to_owned()),
        ("share.coordinator.state.topic.replication.factor", "1".to_owned()),
        ("share.coordinator.state.topic.min.isr", "1".to_owned()),
        // A transaction past its timeout is found within a second, not ten.
        ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "1000".to_owned()),
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
        // The shortest session that the product's tests ask for.
        ("group.min.session.timeout.ms", "2000".to_owned()),
        // The same for groups whose partitions the broker assigns.
        ("group.consumer.min.session.timeout.ms", "2000".to_owned()),
        ("group.consumer.session.timeout.ms", "6000".to_owned()),
        ("group.consumer.min.heartbeat.interval.ms", "500".to_owned()),
        ("group.consumer.heartbeat.interval.ms", "1000".to_owned()),
        ("log.cleaner.dedupe.buffer.size", "2097152".to_owned()),
        // Of 10 MB, which is the default, the kernel reads zeros ahead for each partition.
        ("log.index.size.max.bytes", "262144".to_owned()),
        ("log.retention.check.interval.ms", "1000".to_owned()),
        ("log.segment.delete.delay.ms", "1000".to_owned()),
        ("log.initial.task.delay.ms", "1000".to_owned()),
        ("controlled.shutdown.enable", "false".to_owned()),
    ];
    let doors = users_port.map(|users_port| door_of_users(port, controller_port, users_port, &options.users));
    let doors = doors.into_iter().flatten();
    let own = options.properties.iter().map(|(name, value)| (name.as_str(), value.clone()));
    let mut text = String::new();
    for (name, value) in fixed.into_iter().chain(doors).chain(own) {
        writeln!(text, "{name}={value}").context("write a property")?;
    }
    Ok(text)
}

/// The second door, and an access list for those who come in by it.
fn door_of_users(
    port: u16,
    controller_port: u16,
    users_port: u16,
    users: &[(String, String)],
) -> Vec<(&'static str, String)> {
    let known: String = users.iter().map(|(name, password)| format!(" user_{name}=\"{password}\"")).collect();
    let open = format!("PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{users_port}");
    vec![
        ("listeners", format!("{open},CONTROLLER://127.0.0.1:{controller_port}")),
        ("advertised.listeners", open),
        (
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned(),
        ),
        ("sasl.enabled.mechanisms", "PLAIN".to_owned()),
        (
            "listener.name.sasl_plaintext.plain.sasl.jaas.config",
            format!("org.apache.kafka.common.security.plain.PlainLoginModule required{known};"),
        ),
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned()),
        ("super.users", "User:ANONYMOUS".to_owned()),
        ("allow.everyone.if.no.acl.found", "false".to_owned()),
    ]
}

/// What goes wrong belongs into the log whose tail an error shows, the rest does not.
const LOGGING: &str = "\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.kafka.name = kafka.server.KafkaRaftServer
logger.kafka.level = info
";
