//! `token`: positions that are looked at, tried and moved.

use anyhow::Result;
use mongodb::bson::doc;
use pipeline_tests::{kafka_reader::KafkaRecord, service::Environment};
use serde_json::{Value, json};

use crate::stage::{LIMIT, Stage, one_shot, repeated};

const TOPIC: &str = "atlas.shop.orders";
const TOKENS: &str = "atlas.resume-tokens-default";

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn runs(records: &[KafkaRecord]) -> Vec<&str> {
    let mut runs: Vec<&str> = records.iter().filter_map(|record| record.header("source")).collect();
    runs.sort_unstable();
    runs
}

impl Stage {
    async fn tokens(&self) -> Result<Vec<KafkaRecord>> {
        let content = self.reader.read([TOKENS.to_owned()]).await?;
        Ok(content
            .records(TOKENS)
            .filter(|record| record.key.as_deref() == Some(b"default"))
            .cloned()
            .collect())
    }

    async fn last_record(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.last_token().await?)?)
    }

    /// A time behind all that is committed.
    async fn time_behind(&self) -> Result<String> {
        let reply = self.mongod.admin_command(doc! { "ping": 1 }).await?;
        let time = reply.get_timestamp("operationTime")?;
        Ok(format!("timestamp:{}.{}", time.time, time.increment + 1))
    }

    fn kafka_only(&self) -> Environment {
        Environment::new().set("KAFKA_BROKERS", self.kafka.bootstrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn show_says_what_is_committed_and_needs_kafka_only() -> Result<()> {
    let stage = Stage::new().await?;
    let (code, text, _) = one_shot(stage.kafka_only(), &["token", "show"]).await?;
    assert!(
        code == 0 && text.contains("none: there is no token record in atlas.resume-tokens-default"),
        "{text}"
    );

    let mut source = stage.started(stage.environment().set("MONGO_DATABASES", "shop")).await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.records(TOPIC, 5).await?;
    source.stop(LIMIT).await?;

    let (code, text, _) =
        one_shot(stage.kafka_only(), &["token", "show", "--mongo-databases", "shop", "--json"]).await?;
    let (shown, record) = (parsed(&text), stage.last_record().await?);
    assert_eq!(code, 0);
    for member in ["instance", "run", "clusterTime", "token", "scope", "fingerprint", "keyFormat", "clean"] {
        assert_eq!(shown[member], record[member], "{member}");
    }
    assert_eq!(shown["fingerprintOfTheseSettings"], record["fingerprint"]);
    assert_eq!(shown["offset"], stage.tokens().await?.last().unwrap().offset);
    assert_eq!(shown["topics"][0]["topic"], TOPIC);

    let (_, text, _) = one_shot(stage.kafka_only(), &["token", "show", "--mongo-databases", "shop"]).await?;
    assert!(
        text.contains("that of these settings") && text.contains("in order: nothing is in flight"),
        "{text}"
    );
    let (_, text, _) = one_shot(stage.kafka_only(), &["token", "show"]).await?;
    assert!(text.contains("because scope or options differ"), "{text}");

    // What it prints is a token to the other commands.
    let (code, decoded, _) =
        one_shot(Environment::new(), &["token", "decode", &shown.to_string(), "--json"]).await?;
    assert_eq!((code, &parsed(&decoded)["clusterTime"]), (0, &shown["clusterTime"]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_source_is_neither_moved_nor_disturbed() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.records(TOPIC, 5).await?;
    let (code, _, complaint) =
        one_shot(stage.environment(), &["token", "set", "--to", "now", "--yes"]).await?;
    assert_eq!(code, 75, "{complaint}");
    assert!(complaint.contains("a source with this SOURCE_ID is running"), "{complaint}");
    stage.insert("shop.orders", 5..10).await?;
    let records = stage.records(TOPIC, 10).await?;
    assert_eq!((records.len(), repeated(&records).len()), (10, 0));
    assert_eq!(source.metrics()?.sum("cdc_source_producer_recreated_total").unwrap_or(0.0), 0.0);
    assert_eq!(stage.last_record().await?["run"], 1);
    source.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_set_back_reads_again_as_a_new_run() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..5).await?;
    let middle = stage.time_behind().await?;
    stage.insert("shop.orders", 5..10).await?;
    stage.records(TOPIC, 10).await?;
    source.stop(LIMIT).await?;

    // Without --yes nothing is written.
    let before = stage.tokens().await?;
    let (code, text, _) = one_shot(stage.environment(), &["token", "set", "--to", &middle]).await?;
    assert_eq!(code, 0);
    assert!(
        text.contains("REPEAT") && text.contains("no: this only said") && text.contains("2, was 1"),
        "{text}"
    );
    assert_eq!(stage.tokens().await?.len(), before.len());

    let (code, text, _) = one_shot(stage.environment(), &["token", "set", "--to", &middle, "--yes"]).await?;
    assert!(code == 0 && text.contains("yes, offset"), "{text}");
    let record = stage.last_record().await?;
    assert_eq!((&record["run"], &record["clean"], &record["token"]), (&json!(2), &json!(true), &Value::Null));
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 10..11).await?;
    let records = stage.records(TOPIC, 16).await?;
    assert_eq!(runs(&records), [vec!["default/1"; 10], vec!["default/2"; 6]].concat());
    assert_eq!(repeated(&records).len(), 5);
    source.stop(LIMIT).await
}

/// What is left out is said in the data, once, in the transaction that leaves it out.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_set_forward_leaves_a_gap_marker() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment().set("MONGO_DATABASES", "shop")).await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.records(TOPIC, 5).await?;
    source.stop(LIMIT).await?;
    stage.insert("shop.orders", 5..10).await?;

    let from = stage.last_record().await?["clusterTime"].clone();
    let environment = || stage.environment().set("MONGO_DATABASES", "shop");
    let (code, text, _) = one_shot(environment(), &["token", "set", "--to", "now", "--yes"]).await?;
    assert!(code == 0 && text.contains("GAP"), "{text}");
    for _ in 0..2 {
        let mut source = stage.started(environment()).await?;
        source.kill9()?;
    }
    let mut source = stage.started(environment()).await?;
    stage.insert("shop.orders", 10..15).await?;
    stage.client.database("shop").collection::<mongodb::bson::Document>("orders").drop().await?;
    let records = stage.records(TOPIC, 10).await?;
    assert_eq!(runs(&records), [vec!["default/1"; 5], vec!["default/2"; 5]].concat());

    let mut control = stage.records("atlas.control", 3).await?;
    control.retain(|record| record.header("operation-type") != Some("create"));
    let operations: Vec<_> = control.iter().filter_map(|record| record.header("operation-type")).collect();
    assert_eq!(operations, ["gap", "drop"]);
    let marker: Value = serde_json::from_slice(control[0].value.as_deref().unwrap())?;
    assert_eq!(marker["gap"]["from"], from);
    assert_eq!(marker["gap"]["databases"], json!(["shop"]));
    assert_eq!(
        (marker["gap"]["reason"].as_str(), control[0].header("source")),
        (Some("position-set"), Some("default/2"))
    );
    let to = &marker["gap"]["to"]["$timestamp"];
    assert_eq!(control[0].header("cluster-time"), Some(format!("{}.{}", to["t"], to["i"]).as_str()));
    source.stop(LIMIT).await
}

/// A frozen source cannot be seen; what it does when it wakes up is harmless.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_source_is_fenced_by_a_new_position() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.records(TOPIC, 5).await?;
    source.sigstop()?;
    let (code, text, _) = one_shot(stage.environment(), &["token", "set", "--to", "now", "--yes"]).await?;
    assert!(code == 0 && text.contains("stopped: it has committed nothing for 25 s"), "{text}");
    stage.insert("shop.orders", 5..10).await?;
    source.sigcont()?;
    assert_eq!(source.exit_code(LIMIT).await?, 22);

    let mut source = stage.started(stage.environment()).await?;
    let records = stage.records(TOPIC, 10).await?;
    assert_eq!((records.len(), repeated(&records).len()), (10, 0));
    assert_eq!(runs(&records), [vec!["default/1"; 5], vec!["default/2"; 5]].concat());
    source.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_position_is_found_by_check_and_replaced_by_set() -> Result<()> {
    let stage = Stage::new().await?;
    let (code, _, complaint) =
        one_shot(stage.environment(), &["token", "set", "--to", "now", "--yes"]).await?;
    assert!(code == 78 && complaint.contains("source default has never run"), "{complaint}");

    let mut source = stage.started(stage.environment()).await?;
    let begin = stage.time_behind().await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.records(TOPIC, 5).await?;
    source.stop(LIMIT).await?;
    stage.produce(TOKENS, "default", None)?;
    let (code, text, _) = one_shot(stage.environment(), &["token", "check"]).await?;
    assert!(code == 20 && text.contains("its position is lost"), "{text}");

    let (code, text, _) = one_shot(stage.environment(), &["token", "set", "--to", &begin, "--yes"]).await?;
    assert!(
        code == 0 && text.contains("2, was 1") && text.contains("unknown: there is no token record"),
        "{text}"
    );
    let mut source = stage.started(stage.environment()).await?;
    let records = stage.records(TOPIC, 10).await?;
    assert_eq!(runs(&records), [vec!["default/1"; 5], vec!["default/2"; 5]].concat());
    source.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_a_start_would_do() -> Result<()> {
    let stage = Stage::new().await?;
    let check = |environment: Environment| async move {
        let (code, text, _) = one_shot(environment, &["token", "check", "--json"]).await?;
        let found = parsed(&text);
        assert_eq!(found["code"], code, "{text}");
        anyhow::Ok((code, found))
    };
    // Before the first start it looks at START_FROM.
    let (code, found) = check(stage.environment()).await?;
    assert_eq!((code, &found["fingerprintMatches"]), (0, &Value::Null), "{found}");
    let (code, found) = check(stage.environment().set("START_FROM", "timestamp:7")).await?;
    assert_eq!(code, 20, "{found}");

    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.records(TOPIC, 5).await?;
    // Beside a running source, which it does not disturb.
    let (code, found) = check(stage.environment()).await?;
    assert_eq!((code, &found["fingerprintMatches"]), (0, &json!(true)), "{found}");
    assert!(found["headroomSeconds"].as_i64().is_some_and(|seconds| seconds >= 0), "{found}");
    assert_eq!(source.metrics()?.sum("cdc_source_producer_recreated_total").unwrap_or(0.0), 0.0);
    source.kill9()?;

    let (code, found) = check(stage.environment().set("MONGO_DATABASES", "shop")).await?;
    assert_eq!((code, &found["fingerprintMatches"]), (0, &json!(false)), "{found}");
    let (code, found) = check(stage.environment().set("KEY_FORMAT", "plain")).await?;
    assert!(code == 78 && found["verdict"].as_str().unwrap().contains("KEY_FORMAT"), "{found}");
    stage.fail("aggregate", 286, 1).await?;
    let (code, found) = check(stage.environment()).await?;
    assert!(code == 20 && found["verdict"].as_str().unwrap().contains("MongoDB says"), "{found}");
    stage.fail("find", 13, 1).await?;
    let (code, found) = check(stage.environment()).await?;
    assert_eq!((code, &found["headroomSeconds"]), (0, &Value::Null), "{found}");

    // A token of another replica set: its time lies before this one's oplog.
    let mut record = stage.last_record().await?;
    let data = record["token"]["_data"].as_str().unwrap().to_owned();
    record["token"]["_data"] = json!(format!("8200000007{}", &data[10..]));
    stage.produce(TOKENS, "default", Some(record.to_string().as_bytes()))?;
    let (code, found) = check(stage.environment()).await?;
    assert!(code == 20 && found["verdict"].as_str().unwrap().contains("oplog begins at"), "{found}");
    Ok(())
}
