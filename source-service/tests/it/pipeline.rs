//! The user's own stages: what they compute arrives, and those that would cost the position or an event are refused.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use mongodb::bson::{Document, doc};
use pipeline_tests::{json::Json, kafka_reader::KafkaRecord, service::Environment};
use tempfile::TempDir;

use crate::stage::{LIMIT, Stage, repeated};

const TOPIC: &str = "atlas.shop.orders";

/// A stage, and files for its source.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Result<Self> {
        Ok(Self { folder: TempDir::new()? })
    }

    fn write(&self, text: &str) -> Result<PathBuf> {
        let path = self.folder.path().join("pipeline.json");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    fn environment(&self, stage: &Stage, text: &str) -> Result<Environment> {
        let path = self.write(text)?;
        Ok(stage.environment().set("MONGO_COLLECTIONS", "shop.orders").set("PIPELINE_FILE", path.display()))
    }
}

fn value(record: &KafkaRecord) -> Json {
    Json::parse(record.value.as_deref().unwrap()).unwrap()
}

fn text<'a>(value: &'a Json, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Json::as_text)
}

fn names(value: &Json) -> Vec<&str> {
    match value {
        Json::Object(members) => members.iter().map(|(name, _)| name.as_str()).collect(),
        other => panic!("{other:?} is no object"),
    }
}

/// Classification, severity and routing, as `docs/scope-and-filter.md` has them.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_pipeline_computes_reaches_the_envelope() -> Result<()> {
    let (stage, files) = (Stage::new().await?, Files::new()?);
    let pipeline =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/pipelines/classify.json"))?;
    let mut source = stage.started(files.environment(&stage, &pipeline)?).await?;
    let orders = stage.client.database("shop").collection::<Document>("orders");
    orders.insert_one(doc! { "_id": 1, "total": 1500, "card": "4111111111111111", "status": "new" }).await?;
    orders.insert_one(doc! { "_id": 2, "total": 10, "status": "new" }).await?;
    orders.update_one(doc! { "_id": 2 }, doc! { "$set": { "status": "cancelled" } }).await?;
    orders.delete_one(doc! { "_id": 1 }).await?;
    let records = stage.records(TOPIC, 4).await?;
    assert_eq!((records.len(), repeated(&records).len()), (4, 0));

    let of = |id: &str, operation| {
        let mut records = records.iter().filter(|record| record.key.as_deref() == Some(id.as_bytes()));
        value(records.find(|record| record.header("operation-type") == Some(operation)).unwrap())
    };
    let insert = of("1", "insert");
    assert_eq!(
        names(&insert),
        [
            "_meta",
            "documentKey",
            "fullDocument",
            "updateDescription",
            "fullDocumentBeforeChange",
            "collectionUUID",
            "eventType",
            "severity",
            "isHighValue",
            "route"
        ]
    );
    assert_eq!(
        (text(&insert, "eventType"), text(&insert, "severity"), text(&insert, "route")),
        (Some("order-placed"), Some("high"), Some("shop-high"))
    );
    assert_eq!(insert.get("isHighValue"), Some(&Json::Bool(true)));
    // Narrowed on the server: the field is not in Kafka.
    assert!(
        !records
            .iter()
            .any(|record| String::from_utf8_lossy(record.value.as_deref().unwrap()).contains("4111"))
    );
    let update = of("2", "update");
    assert_eq!(
        (text(&update, "eventType"), text(&update, "severity")),
        (Some("order-cancelled"), Some("low"))
    );
    let delete = of("1", "delete");
    assert_eq!(
        (text(&delete, "eventType"), text(&delete, "route")),
        (Some("order-deleted"), Some("shop-low"))
    );
    assert_eq!(delete.get("fullDocument"), Some(&Json::Null));
    // What happens to the collection goes through the same stages, and is not taken apart by them.
    let control = stage.records("atlas.control", 1).await?;
    assert_eq!(control[0].header("operation-type"), Some("create"));
    source.stop(LIMIT).await
}

/// Each filter with the ids of the documents whose changes it lets through.
#[tokio::test(flavor = "multi_thread")]
async fn filters_of_every_usual_shape_select() -> Result<()> {
    let (stage, files) = (Stage::new().await?, Files::new()?);
    for (number, (filter, expected)) in [
        (r#"{"operationType": "insert"}"#, vec!["insert 1", "insert 2"]),
        (r#"{"operationType": {"$in": ["update", "delete"]}}"#, vec!["update 1", "update 2", "delete 2"]),
        (r#"{"fullDocument.total": {"$gte": 1000}}"#, vec!["insert 1", "update 1"]),
        (r#"{"updateDescription.updatedFields.status": {"$exists": true}}"#, vec!["update 1"]),
        (
            r#"{"$or": [{"operationType": "delete"}, {"fullDocument.total": {"$lt": 1000}}]}"#,
            vec!["insert 2", "delete 2"],
        ),
        (r#"{"fullDocument.region": {"$in": ["eu", "us"]}}"#, vec!["insert 1", "update 1"]),
        (r#"{"$expr": {"$eq": ["$fullDocument.region", "eu"]}}"#, vec!["insert 1", "update 1"]),
    ]
    .into_iter()
    .enumerate()
    {
        // A collection each: a first start takes in the change at the very time it begins at, which may be one of the
        // round before.
        let (prefix, name) = (format!("f{number}"), format!("orders{number}"));
        let orders = stage.client.database("shop").collection::<Document>(&name);
        let environment = files.environment(&stage, &format!(r#"[{{"$match": {filter}}}]"#))?;
        let environment = environment.set("MONGO_COLLECTIONS", format!("shop.{name}"));
        let environment = environment.set("TOPIC_PREFIX", &prefix).set("SOURCE_ID", &prefix);
        let mut source = stage.started(environment).await?;
        orders.insert_one(doc! { "_id": 1, "total": 1000, "region": "eu" }).await?;
        orders.insert_one(doc! { "_id": 2, "total": 999, "region": "asia" }).await?;
        orders.update_one(doc! { "_id": 1 }, doc! { "$set": { "status": "paid" } }).await?;
        orders.update_one(doc! { "_id": 2 }, doc! { "$unset": { "total": 1 } }).await?;
        orders.delete_one(doc! { "_id": 2 }).await?;
        // The first is left until its update has been looked up.
        let topic = format!("{prefix}.shop.{name}");
        let records = stage.records(&topic, expected.len()).await?;
        orders.delete_one(doc! { "_id": 1 }).await?;
        source.stop(LIMIT).await?;
        let found: Vec<String> = records
            .iter()
            .map(|record| {
                let key = String::from_utf8_lossy(record.key.as_deref().unwrap()).into_owned();
                format!("{} {key}", record.header("operation-type").unwrap())
            })
            .filter(|change| change != "delete 1")
            .collect();
        let sorted = |mut changes: Vec<String>| {
            changes.sort();
            changes
        };
        assert_eq!(sorted(found), sorted(expected.into_iter().map(ToOwned::to_owned).collect()), "{filter}");
    }
    Ok(())
}

/// Before the stream opens, and before the position is touched.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_cannot_do_is_refused_at_the_start() -> Result<()> {
    let (stage, files) = (Stage::new().await?, Files::new()?);
    let mut source = stage.started(stage.environment().set("MONGO_COLLECTIONS", "shop.orders")).await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.records(TOPIC, 5).await?;
    source.stop(LIMIT).await?;
    let before = stage.last_token().await?;
    for (pipeline, says) in [
        // By their form.
        (r#"[{"$project": {"_id": 0}}]"#, "stage 1 ($project) drops _id"),
        (r#"[{"$match": {}}, {"$group": {"_id": 1}}]"#, "stage 2 ($group) is none of"),
        (r#"[{"$set": {"_meta": 1}}]"#, "stage 1 ($set) computes _meta"),
        (r#"[{"$match": {}"#, "a JSON array of stages"),
        // By what the server says of them.
        (
            r#"[{"$match": {"a": {"$bigger": 1}}}]"#,
            "stage 1 ($match) is refused by MongoDB: unknown operator: $bigger",
        ),
        (r#"[{"$match": {}}, {"$set": {"x": {"$foo": 1}}}]"#, "stage 2 ($set) is refused by MongoDB"),
        (r#"[{"$set": {"x": {"$divide": [1, 0]}}}]"#, "stage 1 ($set) is refused by MongoDB"),
        // By what they make of an event.
        (r#"[{"$set": {"x": {"$toString": "$_id"}}}]"#, "stage 1 ($set) fails for an event of type insert: "),
        (
            r#"[{"$match": {"fullDocument.a": 1}}, {"$set": {"x": {"$toString": "$_id"}}}]"#,
            "stage 2 ($set) fails for an event of type insert: ",
        ),
        (r#"[{"$set": {"n": {"$size": "$fullDocument.lines"}}}]"#, "fails for an event of type delete: "),
        (
            r#"[{"$match": {}}, {"$replaceWith": {"$mergeObjects": ["$$ROOT", "$fullDocument"]}}]"#,
            "stage 2 ($replaceWith) alters _id, the resume token: without it nobody can say where the stream is (seen for an event of type insert)",
        ),
        (
            r#"[{"$replaceWith": {"$mergeObjects": ["$$ROOT", {"_kafka": 1}]}}]"#,
            "stage 1 ($replaceWith) computes _kafka",
        ),
        (
            r#"[{"$redact": {"$cond": [{"$eq": ["$db", "shop"]}, "$$PRUNE", "$$DESCEND"]}}]"#,
            "stage 1 ($redact) drops ns",
        ),
    ] {
        let mut source = stage.start(files.environment(&stage, pipeline)?)?;
        let code = source.exit_code(LIMIT).await?;
        let log = source.log_text()?;
        assert_eq!(code, 78, "{pipeline}: {log}");
        let last =
            log.rfind("PIPELINE_FILE").map(|place| log[place..].replace("\\\"", "\"")).unwrap_or_default();
        assert!(last.contains(says), "{pipeline}: {last}");
    }
    assert_eq!(stage.last_token().await?, before);

    stage.insert("shop.orders", 5..8).await?;
    let fine = r#"[{"$set": {"n": {"$size": {"$ifNull": ["$fullDocument.lines", []]}}}}]"#;
    let mut source = stage.started(files.environment(&stage, fine)?).await?;
    let records = stage.records(TOPIC, 8).await?;
    assert_eq!((records.len(), repeated(&records).len()), (8, 0));
    source.stop(LIMIT).await
}

/// A stage that fails on a real event: the source stops there with what it was, skips nothing, and quotes no document.
#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_fails_on_an_event_stops_the_source_there() -> Result<()> {
    let (stage, files) = (Stage::new().await?, Files::new()?);
    let orders = stage.client.database("shop").collection::<Document>("orders");
    for (round, (failing, expression)) in [
        // Conversion has a code of its own; the others are known by their failing twice.
        (doc! { "qty": "planted-value" }, r#"{"$toInt": "$fullDocument.qty"}"#),
        (doc! { "qty": 0, "secret": "planted-value" }, r#"{"$divide": [1, "$fullDocument.qty"]}"#),
        (doc! { "qty": "planted-value" }, r#"{"$multiply": [1, "$fullDocument.qty"]}"#),
    ]
    .into_iter()
    .enumerate()
    {
        let round = i32::try_from(round)? * 10;
        let pipeline = format!(r#"[{{"$set": {{"computed": {expression}}}}}]"#);
        let mut source = stage.started(files.environment(&stage, &pipeline)?).await?;
        orders.insert_one(doc! { "_id": round, "qty": 5 }).await?;
        let before = stage.records(TOPIC, usize::try_from(round)? + 1).await?.len();
        orders.insert_one(failing).await?;
        orders.insert_one(doc! { "_id": round + 2, "qty": 5 }).await?;
        let code = source.exit_code(LIMIT).await?;
        let log = source.log_text()?;
        assert_eq!(code, 78, "{log}");
        assert!(
            log.contains("a stage of PIPELINE_FILE fails on an event")
                && log.contains("Position: behind the event"),
            "{log}"
        );
        assert!(!log.contains("planted-value"), "{log}");
        assert_eq!(stage.records(TOPIC, before).await?.len(), before);

        let mut source = stage.started(stage.environment().set("MONGO_COLLECTIONS", "shop.orders")).await?;
        let records = stage.records(TOPIC, before + 2).await?;
        assert_eq!((records.len(), repeated(&records).len()), (before + 2, 0));
        stage.insert("shop.orders", round + 3..round + 10).await?;
        stage.records(TOPIC, before + 9).await?;
        source.stop(LIMIT).await?;
    }
    Ok(())
}

/// A server without `$documents` opens the stream untried; an altered `_id` is then a mistake in the settings, not a lost position.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_try_a_pipeline_is_not_asked_to() -> Result<()> {
    let (stage, files) = (Stage::new().await?, Files::new()?);
    stage.fail("aggregate", 40324, 1).await?;
    let altering = r#"[{"$replaceWith": {"$mergeObjects": ["$$ROOT", "$fullDocument"]}}]"#;
    let mut source = stage.started(files.environment(&stage, altering)?).await?;
    assert!(source.log_text()?.contains("PIPELINE_FILE cannot be tried here beforehand"));
    stage.insert("shop.orders", 0..1).await?;
    assert_eq!(source.exit_code(LIMIT).await?, 78);
    let log = source.log_text()?;
    assert!(log.contains("the pipeline alters _id, which is the resume token"), "{log}");
    Ok(())
}

/// Another pipeline is another stream: it goes on at the token's time, and nothing comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_pipeline_goes_on_at_the_tokens_time() -> Result<()> {
    let (stage, files) = (Stage::new().await?, Files::new()?);
    let orders = stage.client.database("shop").collection::<Document>("orders");
    let mut source =
        stage.started(files.environment(&stage, r#"[{"$match": {"operationType": "insert"}}]"#)?).await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.records(TOPIC, 5).await?;
    source.kill9()?;
    orders.update_one(doc! { "_id": 1 }, doc! { "$set": { "v": 1 } }).await?;

    let mut source = stage.started(files.environment(&stage, r#"[{"$set": {"kind": "x"}}]"#)?).await?;
    assert!(source.log_text()?.contains("the stream is opened at the token's time"));
    stage.insert("shop.orders", 5..6).await?;
    let records = stage.records(TOPIC, 7).await?;
    assert_eq!((records.len(), repeated(&records).len()), (7, 0));
    let update = records.iter().find(|record| record.header("operation-type") == Some("update"));
    assert_eq!(text(&value(update.context("no update")?), "kind"), Some("x"));
    source.stop(LIMIT).await
}

/// A filter also takes the events that end a stream; the server closes it all the same, and it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_hides_the_invalidate_loses_nothing() -> Result<()> {
    let (stage, files) = (Stage::new().await?, Files::new()?);
    let mut source =
        stage.started(files.environment(&stage, r#"[{"$match": {"operationType": "insert"}}]"#)?).await?;
    for round in 1..=3 {
        stage.insert("shop.orders", round * 10..round * 10 + 5).await?;
        stage.client.database("shop").collection::<Document>("orders").drop().await?;
    }
    stage.insert("shop.orders", 50..55).await?;
    let records = stage.records(TOPIC, 20).await?;
    assert_eq!((records.len(), repeated(&records).len()), (20, 0));
    source.assert_running()?;
    source.stop(LIMIT).await
}
