//! Rights that are missing: the source stops and names them; waiting gives none.

use anyhow::{Context as _, Result, bail};
use pipeline_tests::{
    kafka_writer::KafkaWriter,
    servers::{Kafka, KafkaJava, KafkaOptions},
};
use rdkafka::ClientConfig;
use shared::{
    namespace::Namespace,
    topic_name::{Form, TopicNames},
};
use source_service::{
    kafka_log::{KafkaLog, LogError},
    recovery::{self, OwnTopics},
    token_record::TopicRecord,
};

use crate::stage::{LIMIT, Stage, one_shot};

const TOPIC: &str = "atlas.shop.orders";
/// Who comes without a password; all clients of these tests.
const EVERYBODY: &str = "User:ANONYMOUS";

/// A broker that asks its access list; what the list does not name is allowed.
fn with_access_list() -> KafkaOptions {
    let properties = [
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        ("allow.everyone.if.no.acl.found", "true"),
    ];
    KafkaOptions {
        properties: properties.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ..KafkaOptions::default()
    }
}

/// Kafka's own command for its access list.
async fn access_list(kafka: &Kafka, arguments: &[&str]) -> Result<()> {
    let KafkaJava { program, arguments: java } = KafkaJava::with_heap(64)?;
    let mut command = std::process::Command::new(program);
    command
        .args(java)
        .args(["org.apache.kafka.tools.AclCommand", "--bootstrap-server", &kafka.bootstrap(), "--force"])
        .args(arguments);
    let done = tokio::task::spawn_blocking(move || command.output()).await?.context("run AclCommand")?;
    if !done.status.success() {
        bail!("AclCommand ended with {}: {}", done.status, String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_to_read_stops_the_source_and_is_named() -> Result<()> {
    let stage = Stage::with_broker(with_access_list()).await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.records(TOPIC, 5).await?;
    source.kill9()?;

    // Once a topic is in the list, what the list does not name is denied there: READ is left.
    let write_only = [
        "--allow-principal",
        EVERYBODY,
        "--operation",
        "Write",
        "--operation",
        "DescribeConfigs",
        "--topic",
        TOPIC,
    ];
    access_list(&stage.kafka, &[&["--add"][..], &write_only[..]].concat()).await?;
    let mut source = stage.start(stage.environment())?;
    assert_eq!(source.exit_code(LIMIT).await?, 77, "{}", source.log_text()?);
    let log = source.log_text()?;
    assert!(log.contains(TOPIC) && log.contains("READ and DESCRIBE on the topic"), "{log}");
    let (code, text, _) = one_shot(stage.environment(), &["check"]).await?;
    assert!(code == 77 && text.contains(&format!("READ is not granted on topic {TOPIC}")), "{text}");

    access_list(&stage.kafka, &[&["--remove"][..], &write_only[..]].concat()).await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 5..6).await?;
    assert_eq!(stage.records(TOPIC, 6).await?.len(), 6);
    source.stop(LIMIT).await
}

/// A broker leaves topics that it may not tell of out of its list. Taking such a topic for deleted would leave out its tail.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_hidden_is_not_taken_for_deleted() -> Result<()> {
    const GONE: &str = "atlas.shop.gone";
    let kafka = Kafka::start(with_access_list()).await?;
    let writer = KafkaWriter::new(kafka.bootstrap());
    writer.create_topic(TOPIC, 1, &[]).await?;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.bootstrap());
    let log = KafkaLog::new(&config, "default")?;
    let names = TopicNames::new("atlas").map_err(anyhow::Error::msg)?;
    let topics = OwnTopics { names: &names, dead_letters: "atlas.dlq" };
    let tails = |recorded: &[&str]| {
        let record =
            TopicRecord { namespace: Namespace::new("shop", "orders"), form: Form::Usual, partitions: 1 };
        let recorded = recorded.iter().map(|topic| ((*topic).to_owned(), record.clone())).collect();
        recovery::read_tails(&log, &topics, &recorded, "default/1", 0, |_| true)
    };
    // Deleted for good: a record of the topic survives it, and blocks nobody.
    assert!(tails(&[TOPIC, GONE])?.is_empty());

    let others = ["--allow-principal", "User:somebody-else", "--operation", "Read", "--topic", TOPIC];
    access_list(&kafka, &[&["--add"][..], &others[..]].concat()).await?;
    let hidden = tails(&[TOPIC, GONE]);
    assert!(
        matches!(&hidden, Err(LogError::NotAllowed { doing, .. }) if doing.contains(TOPIC)),
        "{hidden:?}"
    );
    Ok(())
}
