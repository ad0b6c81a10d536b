//! `check`: says what a start would end with, and changes nothing.

use anyhow::{Context as _, Result};
use mongodb::bson::doc;
use pipeline_tests::{servers::MongodOptions, service::Environment};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};
use serde_json::Value;

use crate::stage::{LIMIT, Stage, one_shot};

/// The exit code, which the answer repeats, and the answer.
async fn check(environment: Environment) -> Result<(i32, Value)> {
    let (code, text, complaint) = one_shot(environment, &["check", "--json"]).await?;
    let answer: Value = serde_json::from_str(&text).with_context(|| format!("{code}: {text}{complaint}"))?;
    assert_eq!(answer["code"], code, "{answer:#}");
    Ok((code, answer))
}

fn findings<'a>(answer: &'a Value, state: &str) -> Vec<&'a str> {
    let all = answer["findings"].as_array().into_iter().flatten();
    all.filter(|finding| finding["state"] == state).filter_map(|finding| finding["what"].as_str()).collect()
}

fn text_of(answer: &Value, what: &str) -> String {
    let all = answer["findings"].as_array().into_iter().flatten();
    all.filter(|finding| finding["what"] == what).map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_needs_is_looked_at_and_nothing_is_changed() -> Result<()> {
    let stage = Stage::new().await?;
    let images = doc! { "create": "orders", "changeStreamPreAndPostImages": { "enabled": true } };
    stage.client.database("shop").run_command(images).await?;
    stage.insert("shop.orders", 0..3).await?;
    let environment = || stage.environment().set("MONGO_DATABASES", "shop").set("START_FROM", "snapshot");

    let (code, answer) = check(environment()).await?;
    assert_eq!((code, &answer["verdict"]), (0, &Value::from("a start would go on")), "{answer:#}");
    assert!(findings(&answer, "missing").is_empty() && findings(&answer, "warning").is_empty(), "{answer:#}");
    for what in [
        "Kafka",
        "transactions",
        "MongoDB",
        "MongoDB version",
        "right to watch",
        "oplog",
        "images",
        "snapshot",
    ] {
        assert!(findings(&answer, "ok").contains(&what), "{what}: {answer:#}");
    }
    assert!(text_of(&answer, "position").contains("a first start would begin at"), "{answer:#}");
    // What nobody can ask is not called fine.
    assert_eq!(findings(&answer, "unknown"), ["transactional id", "right to make topics"], "{answer:#}");
    assert!(stage.reader.topics("").await?.iter().all(|topic| topic.starts_with("__")), "a topic was made");

    // Beside a source that runs: it is not disturbed, and its own position is looked at.
    let mut source = stage.started(environment()).await?;
    stage.records("atlas.shop.orders", 3).await?;
    let (code, answer) = check(environment()).await?;
    assert_eq!(code, 0, "{answer:#}");
    assert!(text_of(&answer, "topics of collections").contains("1 are as they have to be"), "{answer:#}");
    assert!(text_of(&answer, "oplog").contains("the position has"), "{answer:#}");
    assert_eq!(source.metrics()?.sum("cdc_source_producer_recreated_total").unwrap_or(0.0), 0.0);
    source.stop(LIMIT).await?;

    let (code, text, _) = one_shot(environment(), &["check"]).await?;
    assert_eq!(code, 0);
    assert!(text.contains("ok       right to watch") && !text.contains('\u{1b}'), "{text}");
    assert!(text.trim_end().ends_with("0 missing: a start would go on"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reason_has_the_code_that_a_start_would_end_with() -> Result<()> {
    let stage = Stage::new().await?;
    stage.insert("shop.orders", 0..3).await?;
    let environment = || stage.environment().set("MONGO_DATABASES", "shop");

    // Images: named with the command; a start goes on unless they are required.
    let (code, answer) = check(environment()).await?;
    assert_eq!((code, findings(&answer, "warning")), (0, vec!["images"]), "{answer:#}");
    let (code, answer) = check(environment().set("FULL_DOCUMENT", "required")).await?;
    assert_eq!((code, findings(&answer, "missing")), (78, vec!["images"]), "{answer:#}");
    assert!(text_of(&answer, "images").contains("collMod: \\\"orders\\\""), "{answer:#}");

    // Nobody answers; the other side is looked at all the same.
    let (code, answer) = check(environment().set("KAFKA_BROKERS", "127.0.0.1:1")).await?;
    assert_eq!((code, findings(&answer, "missing")), (69, vec!["Kafka"]), "{answer:#}");
    assert!(findings(&answer, "ok").contains(&"right to watch"), "{answer:#}");
    let away = "mongodb://127.0.0.1:1/?replicaSet=rs0&serverSelectionTimeoutMS=500";
    let (code, answer) = check(environment().set("MONGO_URI", away)).await?;
    assert_eq!((code, findings(&answer, "missing")), (69, vec!["MongoDB"]), "{answer:#}");

    // A topic that the source would refuse.
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", stage.kafka.bootstrap()).create()?;
    let compacted = NewTopic::new("atlas.shop.orders", 3, TopicReplication::Fixed(1))
        .set("cleanup.policy", "compact")
        .set("max.message.bytes", "16777216");
    for result in admin.create_topics([&compacted], &AdminOptions::new()).await? {
        result.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
    }
    let (code, answer) = check(environment()).await?;
    assert_eq!((code, findings(&answer, "missing")), (78, vec!["topic atlas.shop.orders"]), "{answer:#}");
    assert!(answer.to_string().contains("compaction removes changes"), "{answer:#}");

    // A position that is lost comes before that: a start would not get as far. It was committed with a scope without that topic.
    let mut source = stage.started(stage.environment().set("MONGO_DATABASES", "crm")).await?;
    source.stop(LIMIT).await?;
    stage.fail("aggregate", 286, 1).await?;
    let (code, answer) = check(environment()).await?;
    assert_eq!(code, 20, "{answer:#}");
    assert!(findings(&answer, "missing").contains(&"position"), "{answer:#}");
    assert!(findings(&answer, "ok").contains(&"right to watch"), "{answer:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_alone_is_told() -> Result<()> {
    let options = MongodOptions { replica_set: false, ..MongodOptions::default() };
    let stage = Stage::with_mongod(options).await?;
    let uri = format!("mongodb://127.0.0.1:{}/", stage.mongod.port());
    let (code, answer) = check(stage.environment().set("MONGO_URI", uri)).await?;
    assert_eq!((code, findings(&answer, "missing")), (78, vec!["MongoDB"]), "{answer:#}");
    assert!(
        answer.to_string().contains("needs a replica set")
            || answer.to_string().contains("need a replica set")
    );
    Ok(())
}

/// Two collections whose usual topics Kafka takes for one.
#[tokio::test(flavor = "multi_thread")]
async fn both_forms_of_a_name_are_told_where_kafka_would_mix_them_up() -> Result<()> {
    let stage = Stage::new().await?;
    stage.insert("shop.eu_orders", 0..1).await?;
    stage.insert("shop_eu.orders", 0..1).await?;
    let (code, answer) = check(stage.environment()).await?;
    assert_eq!(code, 0, "{answer:#}");
    let told = text_of(&answer, "topic of shop_eu.orders");
    assert!(told.contains("atlas.shop-x5feu.orders") && told.contains("atlas.shop_eu.orders"), "{answer:#}");
    Ok(())
}
