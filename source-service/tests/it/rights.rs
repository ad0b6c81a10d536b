//! Rights that are missing: the source stops and names them; waiting gives none.

use anyhow::{Context as _, Result, bail};
use pipeline_tests::{paths, servers::KafkaOptions};

use crate::stage::{LIMIT, Stage};

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
async fn access_list(stage: &Stage, arguments: &[&str]) -> Result<()> {
    let java = paths::fetched("jre/bin/java", "")?;
    let jars = paths::fetched("kafka/libs", "")?.join("*");
    let mut command = std::process::Command::new(java);
    command
        .args(["-Xmx64m", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(jars)
        .args([
            "org.apache.kafka.tools.AclCommand",
            "--bootstrap-server",
            &stage.kafka.bootstrap(),
            "--force",
        ])
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
    access_list(&stage, &[&["--add"][..], &write_only[..]].concat()).await?;
    let mut source = stage.start(stage.environment())?;
    assert_eq!(source.exit_code(LIMIT).await?, 77, "{}", source.log_text()?);
    let log = source.log_text()?;
    assert!(log.contains(TOPIC) && log.contains("READ and DESCRIBE on the topic"), "{log}");

    access_list(&stage, &[&["--remove"][..], &write_only[..]].concat()).await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 5..6).await?;
    assert_eq!(stage.records(TOPIC, 6).await?.len(), 6);
    source.stop(LIMIT).await
}
