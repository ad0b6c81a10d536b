//! Topics that are there already, and topics that change.

use std::collections::BTreeMap;

use anyhow::Result;
use rdkafka::{
    ClientConfig,
    admin::{
        AdminClient, AdminOptions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
    },
    client::DefaultClientContext,
};

use crate::stage::{LIMIT, Stage};

const TOPIC: &str = "atlas.shop.orders";

fn admin(stage: &Stage) -> Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", stage.kafka.bootstrap()).create()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_breaks_a_promise_is_refused() -> Result<()> {
    let stage = Stage::new().await?;
    let compacted = NewTopic::new(TOPIC, 3, TopicReplication::Fixed(1))
        .set("cleanup.policy", "compact")
        .set("max.message.bytes", "16777216");
    for result in admin(&stage)?.create_topics([&compacted], &AdminOptions::new()).await? {
        result.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
    }
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..1).await?;
    assert_eq!(source.exit_code(LIMIT).await?, 78);
    let log = source.log_text()?;
    assert!(log.contains("cleanup.policy") && log.contains("compact") && log.contains(TOPIC), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_would_expire_at_once_are_refused() -> Result<()> {
    let stage = Stage::new().await?;
    let short = NewTopic::new(TOPIC, 3, TopicReplication::Fixed(1))
        .set("retention.ms", "1000")
        .set("max.message.bytes", "16777216");
    for result in admin(&stage)?.create_topics([&short], &AdminOptions::new()).await? {
        result.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
    }
    let mut source = stage.started(stage.environment()).await?;
    source.stop(LIMIT).await?;
    stage.insert("shop.orders", 0..1).await?;
    pipeline_tests::wait::until("the event gets old", LIMIT, || async {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let hello = stage.mongod.admin_command(mongodb::bson::doc! { "hello": 1 }).await?;
        let written =
            u64::from(hello.get_document("lastWrite")?.get_document("opTime")?.get_timestamp("ts")?.time);
        Ok((now > written + 2).then_some(()))
    })
    .await?;
    let mut source = stage.start(stage.environment())?;
    assert_eq!(source.exit_code(LIMIT).await?, 78);
    assert!(source.log_text()?.contains("retention.ms"));
    Ok(())
}

/// A file gives one collection's topic another shape, and holds one that is there against it.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_gives_single_topics_settings_of_their_own() -> Result<()> {
    let stage = Stage::new().await?;
    let file = stage.file(
        "topics.toml",
        b"[\"shop.*\"]\nretention = \"2d\"\n\n[\"shop.orders\"]\npartitions = 5\nmax_message_bytes = \"2MiB\"\n",
    )?;
    let environment = || stage.environment().set("TOPICS_FILE", file.display());
    let mut source = stage.started(environment()).await?;
    for collection in ["shop.orders", "shop.parcels", "crm.people"] {
        stage.insert(collection, 0..1).await?;
        stage.records(&format!("atlas.{collection}"), 1).await?;
    }
    source.stop(LIMIT).await?;

    let topics = ["atlas.shop.orders", "atlas.shop.parcels", "atlas.crm.people"];
    let content = stage.reader.read(topics.map(str::to_owned)).await?;
    let partitions = topics.map(|topic| content.topics[topic].len());
    assert_eq!(partitions, [5, 3, 3]);
    let resources = topics.map(ResourceSpecifier::Topic);
    let mut found = BTreeMap::new();
    for resource in admin(&stage)?.describe_configs(&resources, &AdminOptions::new()).await? {
        let resource = resource.map_err(|code| anyhow::anyhow!("{code}"))?;
        let OwnedResourceSpecifier::Topic(name) = &resource.specifier else { continue };
        let value = |name: &str| {
            let entry = resource.entries.iter().find(|entry| entry.name == name);
            entry.and_then(|entry| entry.value.clone()).unwrap_or_default()
        };
        found.insert(name.clone(), (value("retention.ms"), value("max.message.bytes")));
    }
    let days = |days: u64| (days * 86_400_000).to_string();
    let mib = |mib: u64| (mib << 20).to_string();
    // An exact name does not take from the pattern beside it.
    assert_eq!(found["atlas.shop.orders"], (days(14), mib(2)));
    assert_eq!(found["atlas.shop.parcels"], (days(2), mib(16)));
    assert_eq!(found["atlas.crm.people"], (days(14), mib(16)));

    // Held against a file that wants more, it is refused, and the place that says so is named.
    let more = stage.file("more.toml", b"# more\n[\"shop.orders\"]\npartitions = 12\n")?;
    let mut source = stage.started(stage.environment().set("TOPICS_FILE", more.display())).await?;
    stage.insert("shop.orders", 1..2).await?;
    assert_eq!(source.exit_code(LIMIT).await?, 78);
    let log = source.log_text()?;
    assert!(
        log.contains("it has 5 partitions, expected 12") && log.contains("line 2 of TOPICS_FILE"),
        "{log}"
    );
    Ok(())
}
