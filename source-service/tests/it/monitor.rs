//! `monitor`: what is shown of known events, from topics and from the change stream.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use mongodb::bson::{Document, doc, oid::ObjectId};
use pipeline_tests::{process::Signal, service::Environment, wait};
use serde_json::{Value, json};

use crate::stage::{LIMIT, OneShot, Stage, one_shot};

/// Everything that was ever published.
const ALL: [&str; 4] = ["monitor", "--from", "earliest", "--until-end"];
const OID: &str = "66c1a0b2c3d4e5f60718293a";

impl Stage {
    /// Only what a reader of topics needs.
    fn topics_only(&self) -> Environment {
        Environment::new().set("KAFKA_BROKERS", self.kafka.bootstrap())
    }

    /// One of each, and a transaction; returns when all is published.
    async fn play(&self) -> Result<()> {
        let shop = self.client.database("shop");
        let orders = shop.collection::<Document>("orders");
        let id = ObjectId::parse_str(OID)?;
        orders
            .insert_one(doc! { "_id": id, "status": "open", "note": "planted", "items": (0..100).collect::<Vec<i32>>() })
            .await?;
        let update = doc! { "$set": { "status": "paid", "updatedBy": "ann" }, "$unset": { "note": "" } };
        orders.update_one(doc! { "_id": id }, update).await?;
        let cut = vec![doc! { "$set": { "items": { "$slice": ["$items", 90] } } }];
        orders.update_one(doc! { "_id": id }, cut).await?;
        orders.replace_one(doc! { "_id": id }, doc! { "status": "sent" }).await?;
        orders.delete_one(doc! { "_id": id }).await?;
        self.insert("shop.items", 0..3).await?;
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        orders.insert_one(doc! { "_id": "sku-9", "n": 1 }).session(&mut session).await?;
        orders.insert_one(doc! { "_id": "sku-10", "n": 1 }).session(&mut session).await?;
        session.commit_transaction().await?;
        shop.collection::<Document>("items").drop().await?;
        self.records("atlas.shop.orders", 7).await?;
        self.records("atlas.shop.items", 3).await?;
        self.records("atlas.control", 3).await?;
        Ok(())
    }
}

fn json_lines(text: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(parse).collect()
}

fn by_operation(lines: &[Value]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in lines {
        *counts.entry(line["_meta"]["operationType"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    counts
}

/// The line of a document's operation, after its time.
fn line_of<'a>(text: &'a str, operation: &str, key: &str) -> &'a str {
    let found = text.lines().find(|line| line[25..].starts_with(operation) && line.contains(key));
    &found.unwrap_or_else(|| panic!("no {operation} of {key} in {text}"))[25..]
}

#[tokio::test(flavor = "multi_thread")]
async fn events_become_lines_that_say_what_changed() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.play().await?;

    let (code, text, summary) = one_shot(stage.topics_only(), &ALL).await?;
    assert_eq!((code, text.lines().count()), (0, 13), "{text}{summary}");
    assert_eq!(
        line_of(&text, "insert", OID),
        format!("insert   shop.orders  {OID}  _id, items, note, status")
    );
    assert_eq!(
        line_of(&text, "update", OID),
        format!("update   shop.orders  {OID}  status, updatedBy, -note")
    );
    assert!(text.contains(&format!("update   shop.orders  {OID}  items[..90]")), "{text}");
    assert_eq!(line_of(&text, "replace", OID), format!("replace  shop.orders  {OID}  _id, status"));
    assert_eq!(line_of(&text, "delete", OID), format!("delete   shop.orders  {OID}"));
    assert!(line_of(&text, "insert", "sku-9 ").contains("  txn "), "{text}");
    assert_eq!(line_of(&text, "drop", "shop.items"), "drop     shop.items");
    // In a pipe: no colour, no status, and no value of a document.
    assert!(!text.contains('\u{1b}') && !text.contains("planted") && !text.contains("paid"), "{text}");
    assert!(summary.starts_with("13 events in ") && !summary.contains('\u{1b}'), "{summary}");
    let orders = summary.lines().find(|line| line.contains("shop.orders")).context("no row")?;
    let cells: Vec<&str> = orders.split_whitespace().collect();
    assert_eq!(cells, ["shop.orders", "3", "2", "1", "1", "1", "8"]);

    let (_, coloured, _) =
        one_shot(stage.topics_only(), &[&ALL[..], &["--color", "always"]].concat()).await?;
    assert!(coloured.contains("\u{1b}[32minsert\u{1b}[0m"), "{coloured}");
    source.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_the_envelope_and_filters_filter() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.play().await?;
    let show = |more: &'static [&'static str]| {
        let line = [&ALL[..], &["--json"], more].concat();
        let environment = stage.topics_only();
        async move {
            let (code, text, complaint) = one_shot(environment, &line).await?;
            anyhow::ensure!(code == 0, "{line:?}: {complaint}");
            anyhow::Ok(json_lines(&text))
        }
    };
    let all = show(&[]).await?;
    assert_eq!(all.len(), 13);
    let published = stage.records("atlas.shop.orders", 7).await?;
    for record in &published {
        let place = json!({
            "topic": &*record.topic, "partition": record.partition, "offset": record.offset, "timestamp": record.timestamp_ms,
        });
        let mut line =
            all.iter().find(|line| line["_kafka"] == place).context("a record has no line")?.clone();
        line.as_object_mut().unwrap().remove("_kafka");
        assert_eq!(line, serde_json::from_slice::<Value>(record.value.as_deref().unwrap())?);
    }

    let count = |lines: Vec<Value>| by_operation(&lines).into_iter().collect::<Vec<_>>();
    let pair = |operation: &str, count| (operation.to_owned(), count);
    assert_eq!(
        count(show(&["--ns", "shop.items"]).await?),
        [pair("create", 1), pair("drop", 1), pair("insert", 3)]
    );
    assert_eq!(
        count(show(&["--ns", "*.or*", "--op", "delete,replace"]).await?),
        [pair("delete", 1), pair("replace", 1)]
    );
    assert_eq!(
        count(show(&["--key", OID]).await?),
        [pair("delete", 1), pair("insert", 1), pair("replace", 1), pair("update", 2)]
    );
    assert_eq!(count(show(&["--key", "\"sku-9\""]).await?), [pair("insert", 1)]);
    assert_eq!(count(show(&["--topic", "atlas.control"]).await?), [pair("create", 2), pair("drop", 1)]);
    let line = ["monitor", "--from", "timestamp:2099-01-01T00:00:00Z", "--until-end", "--json"];
    let (code, text, _) = one_shot(stage.topics_only(), &line).await?;
    assert_eq!((code, text.as_str()), (0, ""));
    let (code, _, complaint) =
        one_shot(stage.topics_only(), &["monitor", "--topic", "atlas.no.such"]).await?;
    assert!(code == 78 && complaint.contains("no topic atlas.no.such"), "{complaint}");
    source.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_says_who_changed_what() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.play().await?;

    let audit = |more: &'static [&'static str]| {
        let line = [&ALL[..], &["--audit"], more].concat();
        let environment = stage.topics_only();
        async move {
            let (code, text, complaint) = one_shot(environment, &line).await?;
            anyhow::ensure!(code == 0, "{line:?}: {complaint}");
            anyhow::Ok(text)
        }
    };
    let text = audit(&[]).await?;
    let key = format!(r#"shop.orders  {{"_id":{{"$oid":"{OID}"}}}}"#);
    assert!(text.contains(&format!("update   {key}  status, updatedBy, -note\n")), "{text}");
    assert!(text.contains(&format!("update   {key}  items[..90]\n")), "{text}");
    assert!(!text.contains("planted") && !text.contains("paid") && !text.contains("ann"), "{text}");
    let sessions: Vec<&str> =
        text.lines().filter_map(|line| line.split_once("  txn ")).map(|(_, txn)| txn).collect();
    assert!(sessions.len() == 2 && sessions[0] == sessions[1], "{text}");

    let text = audit(&["--values", "--by", "updatedBy"]).await?;
    assert!(text.contains(r#"status="paid", updatedBy="ann", -note"#), "{text}");

    let lines = json_lines(&audit(&["--json", "--by", "status"]).await?);
    let update = lines.iter().find(|line| line["operationType"] == "update").context("no update")?;
    assert_eq!(update["documentKey"], json!({ "_id": { "$oid": OID } }));
    assert_eq!(
        update["fields"],
        json!({ "updated": ["status", "updatedBy"], "removed": ["note"], "truncated": [] })
    );
    assert!(
        update["clusterTime"].as_str().is_some_and(|time| time.contains('.'))
            && update.get("values").is_none()
    );
    // The document as it is when the event is read: the source looks it up.
    assert!(update.get("by").is_some(), "{update}");
    source.stop(LIMIT).await
}

/// Without Kafka, the same events, and no position anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn the_change_stream_is_shown_without_kafka() -> Result<()> {
    let stage = Stage::own().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.play().await?;
    source.stop(LIMIT).await?;
    let tokens = stage.last_token().await?;

    let mongo_only =
        || Environment::new().set("MONGO_URI", stage.mongod.uri()).set("MONGO_DATABASES", "shop");
    let line = ["monitor", "--stream", "--from", "earliest", "--until-end", "--json"];
    let (code, text, complaint) = one_shot(mongo_only(), &line).await?;
    assert_eq!(code, 0, "{complaint}");
    let streamed = json_lines(&text);
    assert_eq!(streamed.len(), 13, "{text}");
    let (_, text, _) = one_shot(stage.topics_only(), &[&ALL[..], &["--json"]].concat()).await?;
    let id = |line: &Value| line["_meta"]["eventId"].as_str().unwrap_or_default().to_owned();
    let ids = |lines: &[Value]| lines.iter().map(id).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(by_operation(&streamed), by_operation(&json_lines(&text)));
    assert_eq!(ids(&streamed).len(), 13);
    assert!(streamed.iter().all(|line| line.get("_kafka").is_none()));

    let token = id(&streamed[11]);
    let from = format!("token:{token}");
    let line = ["monitor", "--stream", "--from", &from, "--until-end", "--json"];
    let (_, text, _) = one_shot(mongo_only(), &line).await?;
    assert_eq!(json_lines(&text).iter().map(id).collect::<Vec<_>>(), [id(&streamed[12])]);

    let (code, _, complaint) = one_shot(Environment::new(), &["monitor", "--stream"]).await?;
    assert!(code == 78 && complaint.contains("MONGO_URI") && !complaint.contains("KAFKA"), "{complaint}");
    assert_eq!(stage.last_token().await?, tokens);
    Ok(())
}

/// It follows: what comes while it runs, of collections that come while it runs too; and ends in order.
#[tokio::test(flavor = "multi_thread")]
async fn news_are_shown_as_they_come_until_a_signal() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..3).await?;
    stage.records("atlas.shop.orders", 3).await?;
    let topics = OneShot::start(stage.topics_only(), &["monitor", "--json"])?;
    let mongo = Environment::new().set("MONGO_URI", stage.mongod.uri());
    let stream = OneShot::start(mongo, &["monitor", "--stream", "--json"])?;
    // Each is there once it shows one of these; the first ones may have come too early for it.
    let mut id = 100;
    for monitor in [&topics, &stream] {
        wait::until("the monitor shows news", LIMIT, || {
            let next = id;
            id += 1;
            let stage = &stage;
            async move {
                stage.insert("shop.orders", next..next + 1).await?;
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                Ok((!monitor.stdout().is_empty()).then_some(()))
            }
        })
        .await?;
    }
    stage.insert("shop.brandnew", 0..5).await?;
    for monitor in [&topics, &stream] {
        wait::until("the monitor shows a new collection", LIMIT, || async {
            Ok((monitor.stdout().matches(r#""ns":{"db":"shop","coll":"brandnew"}"#).count() == 6)
                .then_some(()))
        })
        .await?;
    }
    for mut monitor in [topics, stream] {
        monitor.signal(Signal::Term)?;
        let (code, text, summary) = monitor.end().await?;
        let lines = json_lines(&text);
        assert_eq!(code, 0, "{summary}");
        assert!(lines.iter().filter(|line| line["_meta"]["operationType"] != "create").all(|line| {
            line["documentKey"]["_id"]
                .as_i64()
                .is_some_and(|id| id >= 100 || line["_meta"]["ns"]["coll"] == "brandnew")
        }));
        assert!(
            summary.contains(&format!("{} events in ", lines.len())) && summary.contains("shop.brandnew"),
            "{summary}"
        );
    }
    source.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_is_no_mistake() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..500).await?;
    stage.records("atlas.shop.orders", 500).await?;
    let line = "\"$0\" monitor --from earliest --until-end --json | head -n 1; echo ${PIPESTATUS[0]}";
    let (code, text, complaint) = stage.shell(line).await?;
    assert_eq!((code, text.lines().count(), text.lines().last()), (0, 2, Some("0")), "{complaint}");
    assert!(!complaint.contains("panic") && !complaint.to_lowercase().contains("broken pipe"), "{complaint}");
    // An end by the clock, where nothing is left to come.
    let (code, text, summary) = one_shot(stage.topics_only(), &["monitor", "--duration", "1s"]).await?;
    assert!(code == 0 && text.is_empty() && summary.starts_with("0 events in 1."), "{text}{summary}");
    source.stop(LIMIT).await
}
