//! Field policies: a planted value appears nowhere behind the source, and what is hidden is told alike wherever it stands.

use anyhow::{Context as _, Result, ensure};
use mongodb::bson::{Document, doc};
use pipeline_tests::{
    kafka_reader::KafkaRecord,
    service::{Environment, Service},
};
use serde_json::{Value, json};

use crate::{
    snapshot::wait_for_copy,
    stage::{LIMIT, Stage, one_shot, repeated},
};

const TOPIC: &str = "atlas.shop.customers";
/// In every value and every name that may not be seen.
const PLANTED: &str = "plant-";

const KEY: &str = "0123456789abcdef0123456789abcdef";
/// `printf 's%s' plant-ann@example.com | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef`
const ANN: &str = "1c5eab4b960d687b0a8ecd4e9dd9b5d286992717ae431c62bce2c7141c322b06";
/// The same of `plant-new@example.com`.
const NEW: &str = "81b014c112808d6aef66ac3afcd9f20c18fe81efa4e4dc5665cef3d87bb31d88";

const POLICY: &str = r#"
[[rule]]
namespace = "shop.cust*"
path = ["email", "previous.email"]
action = "hash"

[[rule]]
namespace = "shop.customers"
path = ["cards.number", "contacts"]
action = "mask"

[[rule]]
namespace = ["crm.people", "*.customers"]
path = ["notes", "profile.*.ssn"]
action = "drop"
"#;

fn customer(id: i32) -> Document {
    let notes: Vec<String> = (0..40).map(|number| format!("plant-note-{number}")).collect();
    doc! {
        "_id": id,
        "email": "plant-ann@example.com",
        "previous": [{ "email": "plant-old@example.com", "until": 2020 }],
        "cards": [{ "number": "plant-4111", "kind": "visa" }, [{ "number": { "digits": "plant-4222" } }]],
        "contacts": { "plant-name": { "phone": "plant-0170" } },
        "notes": notes,
        "profile": { "home": { "ssn": "plant-ssn", "city": "Ulm" } },
        "tier": "gold",
    }
}

impl Stage {
    /// A source with the policy, for what is in `shop`.
    fn hiding(&self, policy: &str) -> Result<Environment> {
        let file = self.file("policy.toml", policy.as_bytes())?;
        Ok(self
            .environment()
            .set("MONGO_DATABASES", "shop")
            .set("FIELD_POLICY_FILE", file.display())
            .set("FIELD_POLICY_KEY", KEY))
    }

    /// Every kind of change that says something of a field.
    async fn change_customers(&self) -> Result<()> {
        let shop = self.client.database("shop");
        let customers = shop.collection::<Document>("customers");
        customers.insert_one(customer(100)).await?;
        let mut updates = vec![
            doc! { "$set": { "email": "plant-new@example.com", "tier": "silver" } },
            doc! { "$set": { "cards.0.number": "plant-5555" } },
            doc! { "$set": { "cards.2": { "number": "plant-6666", "kind": "amex" } } },
            doc! { "$set": { "contacts.plant-other.phone": "plant-0171", "contacts.plant-third": "plant-0172" } },
            doc! { "$unset": { "contacts.plant-name": 1, "tier": 1 } },
            doc! { "$set": { "profile.home": { "ssn": "plant-ssn-2", "city": "Bonn" } } },
            doc! { "$set": { "profile.work": { "ssn": "plant-ssn-3" }, "profile.home.ssn": "plant-ssn-4" } },
            doc! { "$push": { "notes": "plant-note-last" } },
            doc! { "$set": { "previous.0.email": "plant-older@example.com" } },
        ];
        for update in updates.drain(..) {
            customers.update_one(doc! { "_id": 100 }, update).await?;
        }
        let cut = vec![doc! { "$set": { "notes": { "$slice": ["$notes", 30] } } }];
        customers.update_one(doc! { "_id": 100 }, cut).await?;
        customers.replace_one(doc! { "_id": 100 }, customer(100)).await?;
        customers.delete_one(doc! { "_id": 100 }).await?;
        // What is said of a collection may quote values too.
        let filter = doc! { "email": "plant-ann@example.com" };
        shop.run_command(doc! { "createIndexes": "customers", "indexes": [
            { "key": { "email": 1 }, "name": "email_1", "partialFilterExpression": filter },
        ] })
        .await?;
        let validator = doc! { "email": { "$ne": "plant-banned@example.com" } };
        shop.run_command(doc! { "collMod": "customers", "validator": validator }).await?;
        Ok(())
    }

    /// All that is in Kafka, in the log, and on the admin port.
    async fn nothing_planted(&self, source: &Service) -> Result<()> {
        let content = self.reader.read_prefix("").await?;
        // MongoDB's tokens are hexadecimal, and those of definitions hold the definition: they cannot be changed.
        let hex: String = PLANTED.bytes().map(|byte| format!("{byte:02X}")).collect();
        let definitions = |topic: &str| topic == "atlas.control" || topic.starts_with("atlas.resume-tokens");
        for record in content.topics.values().flat_map(|parts| parts.values()).flat_map(|part| &part.records)
        {
            let headers = record.headers.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_slice()]);
            let parts = [record.key.as_deref(), record.value.as_deref()].into_iter().flatten().chain(headers);
            for part in parts {
                let text = String::from_utf8_lossy(part);
                ensure!(!text.contains(PLANTED), "in {}: {text}", record.topic);
                let in_hex = !definitions(&record.topic) && text.to_uppercase().contains(&hex);
                ensure!(!in_hex, "in hexadecimal in {}: {text}", record.topic);
            }
        }
        let log = source.log_text()?;
        ensure!(!log.contains(PLANTED) && !log.contains(KEY), "{log}");
        Ok(())
    }
}

fn value(record: &KafkaRecord) -> Result<Value> {
    Ok(serde_json::from_slice(record.value.as_deref().context("a tombstone")?)?)
}

/// The profiles write by the same policy: rows, changes with both images, and what an update says.
#[tokio::test(flavor = "multi_thread")]
async fn a_planted_value_is_nowhere_in_a_profile() -> Result<()> {
    for profile in ["debezium", "mongo-kafka"] {
        let stage = Stage::own().await?;
        let shop = stage.client.database("shop");
        shop.run_command(doc! { "create": "customers", "changeStreamPreAndPostImages": { "enabled": true } })
            .await?;
        shop.collection::<Document>("customers").insert_many((0..20).map(customer)).await?;
        stage.insert("crm.other", 0..1).await?;
        let environment = stage.hiding(POLICY)?.set("START_FROM", "snapshot").set("EVENT_PROFILE", profile);
        let source = stage.started(environment).await?;
        wait_for_copy(&source).await?;
        stage.change_customers().await?;
        let tombstones = usize::from(profile == "debezium");
        let records = stage.records(TOPIC, 33 + tombstones).await?;
        stage.records("atlas.control", 2).await?;
        stage.nothing_planted(&source).await?;
        // Nothing is hidden that need not be.
        let shown = records.iter().filter_map(|record| record.value.as_deref()).map(String::from_utf8_lossy);
        ensure!(shown.filter(|value| value.contains("Bonn")).count() > 1, "{profile}: too much is hidden");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_value_is_nowhere() -> Result<()> {
    let stage = Stage::own().await?;
    let shop = stage.client.database("shop");
    shop.run_command(doc! { "create": "customers", "changeStreamPreAndPostImages": { "enabled": true } })
        .await?;
    shop.collection::<Document>("customers").insert_many((0..20).map(customer)).await?;

    // The source's first position holds the newest write, whatever it is.
    stage.insert("crm.other", 0..1).await?;

    // A snapshot, then changes.
    let mut source = stage.started(stage.hiding(POLICY)?.set("START_FROM", "snapshot")).await?;
    wait_for_copy(&source).await?;
    stage.change_customers().await?;
    let records = stage.records(TOPIC, 33).await?;
    stage.records("atlas.control", 2).await?;
    stage.nothing_planted(&source).await?;
    what_is_hidden_is_told_alike(&records)?;
    let metrics = source.metrics()?;
    for action in ["hash", "mask", "drop"] {
        let hidden = metrics.sum_where("cdc_source_fields_hidden_total", &format!("action=\"{action}\""));
        assert!(hidden.is_some_and(|hidden| hidden > 20.0), "{action}: {hidden:?}");
    }
    assert!(!metrics.text().contains(PLANTED) && !source.status()?.contains(PLANTED));

    // Another policy is not another stream: nothing comes again, and what comes next follows it.
    source.kill9()?;
    let more =
        format!("{POLICY}\n[[rule]]\nnamespace = \"shop.customers\"\npath = \"tier\"\naction = \"drop\"\n");
    let mut source = stage.started(stage.hiding(&more)?).await?;
    shop.collection::<Document>("customers").insert_one(customer(101)).await?;
    let records = stage.records(TOPIC, 34).await?;
    assert_eq!((records.len(), repeated(&records).len()), (34, 0));
    let newest = records.iter().find(|record| record.key.as_deref() == Some(b"101")).context("no 101")?;
    assert_eq!(value(newest)?["fullDocument"].get("tier"), None);
    assert!(!source.log_text()?.contains("opened at the token's time"));
    source.stop(LIMIT).await?;

    // An event that no record can be made of. The server is not asked beforehand what the pipeline makes of it.
    stage.fail("aggregate", 40324, 1).await?;
    let odd = stage.file(
        "odd.json",
        br#"[{"$replaceWith": {"$mergeObjects": ["$$ROOT", {"documentKey":
            {"$cond": [{"$eq": ["$fullDocument.tier", "odd"]}, 1, "$documentKey"]}}]}}]"#,
    )?;
    let mut source = stage.started(stage.hiding(POLICY)?.set("PIPELINE_FILE", odd.display())).await?;
    let mut document = customer(102);
    document.insert("tier", "odd");
    shop.collection::<Document>("customers").insert_one(document).await?;
    let letters = stage.records("atlas.dlq", 1).await?;
    let kept = Document::from_reader(letters[0].value.as_deref().context("no content")?)?;
    assert_eq!(letters[0].header("dlq-reason"), Some("incomplete-event"));
    assert_eq!(kept.get_document("_id")?.get_str("_data").ok(), letters[0].header("event-id"));
    assert_eq!(kept.keys().collect::<Vec<_>>(), ["_id", "withheldBytes"]);
    stage.nothing_planted(&source).await?;
    source.stop(LIMIT).await?;

    // The server quotes the value that it stumbles over.
    let failing = stage.file(
        "failing.json",
        br#"[{"$match": {"$expr": {"$gt": [{"$toInt": "$fullDocument.email"}, 0]}}}]"#,
    )?;
    let mut source = stage.start(stage.hiding(POLICY)?.set("PIPELINE_FILE", failing.display()))?;
    shop.collection::<Document>("customers").insert_one(customer(103)).await?;
    assert_eq!(source.exit_code(LIMIT).await?, 78);
    assert!(source.log_text()?.contains("a stage of PIPELINE_FILE fails on an event"));
    stage.nothing_planted(&source).await?;

    // The monitor shows what would be published; without a policy, that is everything.
    let monitor = ["monitor", "--stream", "--json", "--from", "earliest", "--until-end"];
    let (code, shown, said) = one_shot(stage.hiding(POLICY)?, &monitor).await?;
    assert_eq!((code, shown.contains(PLANTED), said.contains(PLANTED)), (0, false, false), "{said}");
    assert!(shown.contains(ANN), "{shown}");
    let (code, shown, said) = one_shot(stage.environment().set("MONGO_DATABASES", "shop"), &monitor).await?;
    assert_eq!((code, shown.contains(PLANTED)), (0, true), "{said}");
    for planted in
        ["plant-4222", "plant-0171", "plant-ssn-4", "plant-note-last", "plant-banned", "plant-old@"]
    {
        assert!(shown.contains(planted), "{planted} was not there to be hidden");
    }
    Ok(())
}

/// In a row of the snapshot, a new document, its pre-image, and the paths of updates.
fn what_is_hidden_is_told_alike(records: &[KafkaRecord]) -> Result<()> {
    let row = records.iter().find(|record| record.header("snapshot").is_some()).context("no row")?;
    let hidden = json!({
        "_id": value(row)?["fullDocument"]["_id"],
        "email": ANN,
        "previous": [{ "email": value(row)?["fullDocument"]["previous"][0]["email"], "until": 2020 }],
        "cards": [{ "number": "***", "kind": "visa" }, [{ "number": "***" }]],
        "contacts": "***",
        "profile": { "home": { "city": "Ulm" } },
        "tier": "gold",
    });
    assert_eq!(value(row)?["fullDocument"], hidden);

    let mut events: Vec<Value> = Vec::new();
    for record in records.iter().filter(|record| record.key.as_deref() == Some(b"100")) {
        events.push(value(record)?);
    }
    let of = |operation: &'static str| {
        events.iter().filter(move |event| event["_meta"]["operationType"] == operation)
    };
    for document in [
        &of("insert").next().context("no insert")?["fullDocument"],
        &of("update").next().context("no update")?["fullDocumentBeforeChange"],
        &of("replace").next().context("no replace")?["fullDocument"],
        &of("delete").next().context("no delete")?["fullDocumentBeforeChange"],
    ] {
        let mut expected = hidden.clone();
        expected["_id"] = json!(100);
        assert_eq!(*document, expected);
    }
    let expected = [
        (json!({ "email": NEW, "tier": "silver" }), json!([])),
        (json!({ "cards.0.number": "***" }), json!([])),
        (json!({ "cards.2": { "number": "***", "kind": "amex" } }), json!([])),
        (json!({ "contacts": "***" }), json!([])),
        (json!({}), json!(["tier"])),
        (json!({ "profile.home": { "city": "Bonn" } }), json!([])),
        (json!({ "profile.work": {} }), json!([])),
        (json!({}), json!([])),
    ];
    for (event, (updated, removed)) in of("update").zip(&expected) {
        let description = &event["updateDescription"];
        assert_eq!((&description["updatedFields"], &description["removedFields"]), (updated, removed));
    }
    let updates: Vec<&Value> = of("update").collect();
    assert_eq!(updates.len(), 10);
    let older = &updates[8]["updateDescription"]["updatedFields"]["previous.0.email"];
    assert_eq!(older.as_str().map(str::len), Some(64));
    // That a dropped array was cut is not said.
    assert_eq!(updates[9]["updateDescription"]["truncatedArrays"], json!([]));
    Ok(())
}

/// The source cannot hide what identifies a document. `config.collections` is what a sharded cluster has; here it is written by the test.
#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_shard_key_is_refused_at_the_start() -> Result<()> {
    let stage = Stage::own().await?;
    let collections = stage.client.database("config").collection::<Document>("collections");
    collections.insert_one(doc! { "_id": "shop.customers", "key": { "email": 1 }, "unique": false }).await?;
    let mut source = stage.start(stage.hiding(POLICY)?)?;
    assert_eq!(source.exit_code(LIMIT).await?, 78);
    let log = source.log_text()?;
    let said = "rule 1 (line 2) hides email of shop.customers, a field of its shard key";
    assert!(log.contains(said) && log.contains("The position was not touched"), "{log}");
    assert!(stage.reader.topics("atlas").await?.is_empty());

    // Who may not read it is told so, and goes on.
    stage.fail("find", 13, 1).await?;
    let mut source = stage.started(stage.hiding(POLICY)?).await?;
    assert!(source.log_text()?.contains("shard keys cannot be read from config.collections"));
    source.stop(LIMIT).await
}
