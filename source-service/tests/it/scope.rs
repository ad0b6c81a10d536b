//! The scope on a server: its filter accepts what the scope says, is pushed down to the oplog, and nothing else is published.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use mongodb::{
    Client,
    bson::{Bson, Document, Timestamp, doc},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestError, TestRunner},
};
use source_service::scope::{
    Item, Scope, Target, filter,
    operations::{Operations, parse_operation},
    parse_collection, parse_database, parse_exclude,
};

use crate::{
    servers::Lent,
    stage::{LIMIT, Stage, repeated},
};

/// What is special in a regular expression, dots, another alphabet, and names that begin alike.
const DATABASES: [&str; 4] = ["shop", "shop_eu", "s+op", "crm"];
const COLLECTIONS: [&str; 8] = ["a", "ab", "a.b", "a.b.c", "(a|b)*", "[ab]?", "ü\\d", "tmp_1"];
/// Of renames.
const RENAMED: [(&str, &str); 3] = [("a", "new.a"), ("ab", "tmp_2"), ("tmp_1", "b")];

fn now(reply: &Document) -> Result<Timestamp> {
    reply.get_timestamp("operationTime").context("no operationTime")
}

/// One of everything that can happen, in every collection of every database.
async fn history(client: &Client) -> Result<Timestamp> {
    let begin = now(&client.database("admin").run_command(doc! { "ping": 1 }).await?)?;
    for db in DATABASES {
        let database = client.database(db);
        for coll in COLLECTIONS {
            let collection = database.collection::<Document>(coll);
            collection.insert_one(doc! { "_id": 1 }).await?;
            collection.update_one(doc! { "_id": 1 }, doc! { "$set": { "v": 1 } }).await?;
            collection.replace_one(doc! { "_id": 1 }, doc! { "v": 2 }).await?;
            database
                .run_command(doc! { "createIndexes": coll, "indexes": [{ "key": { "v": 1 }, "name": "v" }] })
                .await?;
            database.run_command(doc! { "collMod": coll, "index": { "name": "v", "hidden": true } }).await?;
            database.run_command(doc! { "dropIndexes": coll, "index": "v" }).await?;
            collection.delete_one(doc! { "_id": 1 }).await?;
        }
        let mut session = client.start_session().await?;
        session.start_transaction().await?;
        for coll in COLLECTIONS {
            let collection = database.collection::<Document>(coll);
            collection.insert_one(doc! { "_id": 2 }).session(&mut session).await?;
        }
        session.commit_transaction().await?;
        for (from, to) in RENAMED {
            let rename = doc! { "renameCollection": format!("{db}.{from}"), "to": format!("{db}.{to}") };
            client.database("admin").run_command(rename).await?;
        }
        database.collection::<Document>("a.b").drop().await?;
        database.drop().await?;
    }
    Ok(Timestamp { increment: begin.increment + 1, ..begin })
}

/// All events from a time on. The first reply goes on to the oplog's end.
async fn events(
    client: &Client,
    target: &Target,
    from: Timestamp,
    filter: Option<Document>,
) -> Result<Vec<Document>> {
    let mut stage = doc! { "startAtOperationTime": from, "showExpandedEvents": true };
    let (db, of) = match target {
        Target::Deployment => {
            stage.insert("allChangesForCluster", true);
            ("admin", Bson::Int32(1))
        }
        Target::Database(db) => (db.as_str(), Bson::Int32(1)),
        Target::Collection(name) => (name.db.as_str(), Bson::from(name.coll.as_str())),
    };
    let mut pipeline = vec![doc! { "$changeStream": stage }];
    pipeline.extend(filter);
    let command = doc! { "aggregate": of, "pipeline": pipeline, "cursor": { "batchSize": 100_000 } };
    let reply = client.database(db).run_command(command).await?;
    let batch = reply.get_document("cursor")?.get_array("firstBatch")?;
    Ok(batch.iter().filter_map(Bson::as_document).cloned().collect())
}

fn name<'a>(event: &'a Document, member: &str) -> (Option<&'a str>, Option<&'a str>) {
    let name = event.get_document(member).ok();
    let part = |part| name.and_then(|name| name.get_str(part).ok());
    (part("db"), part("coll"))
}

/// What the scope, without a server, says of an event.
fn wanted(scope: &Scope, operations: &Operations, event: &Document) -> bool {
    let operation = operation(event);
    let in_scope = |member| match name(event, member) {
        (Some(db), Some(coll)) => scope.contains(db, coll),
        (Some(db), None) => scope.touches(db),
        _ => false,
    };
    operations.has(operation) && (in_scope("ns") || operation == "rename" && in_scope("to"))
}

fn operation(event: &Document) -> &str {
    event.get_str("operationType").unwrap()
}

fn id(event: &Document) -> String {
    event.get_document("_id").and_then(|id| id.get_str("_data")).unwrap().to_owned()
}

/// A pattern that has to do with the names: one of them, with characters replaced by wildcards.
fn pattern(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    let name = prop::sample::select(names);
    (name, prop::collection::vec(0..10_u8, 8), any::<bool>()).prop_map(|(name, dice, exact)| {
        if exact {
            return name.to_owned();
        }
        let mut pattern = String::new();
        for (c, dice) in name.chars().zip(dice.iter().cycle()) {
            match dice {
                0 => pattern.push('*'),
                1 => pattern.push('?'),
                2 => {
                    pattern.push('*');
                    break;
                }
                _ => pattern.push(c),
            }
        }
        pattern
    })
}

fn collection_pattern() -> impl Strategy<Value = String> {
    (pattern(&DATABASES), pattern(&COLLECTIONS)).prop_map(|(db, coll)| format!("{db}.{coll}"))
}

fn few<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(strategy, 0..3)
}

fn settings() -> impl Strategy<Value = (Vec<String>, Vec<String>, Vec<String>, Vec<&'static str>)> {
    let excludes = few(prop_oneof![pattern(&DATABASES), collection_pattern()]);
    let operations = prop::sample::subsequence(vec!["insert", "update", "replace", "delete"], 1..=4);
    (few(pattern(&DATABASES)), few(collection_pattern()), excludes, operations)
}

fn items(texts: &[String], parse: fn(&str) -> Result<Item, shared::settings::Expected>) -> Vec<Item> {
    texts.iter().map(|text| parse(text).unwrap()).collect()
}

/// The narrowest stream with its filter gives exactly what a stream over everything gives and the scope accepts.
#[tokio::test(flavor = "multi_thread")]
async fn the_filter_accepts_exactly_the_scope() -> Result<()> {
    let servers = Lent::empty().await?;
    let client = servers.mongod.client().await?;
    let from = history(&client).await?;
    let all = events(&client, &Target::Deployment, from, None).await?;
    let operations: BTreeSet<&str> = all.iter().map(operation).collect();
    let expected = [
        "create",
        "createIndexes",
        "delete",
        "drop",
        "dropDatabase",
        "dropIndexes",
        "insert",
        "modify",
        "rename",
        "replace",
        "update",
    ];
    assert_eq!(operations.into_iter().collect::<Vec<_>>(), expected);

    let runtime = tokio::runtime::Handle::current();
    let property = move || {
        let mut runner =
            TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
        runner.run(&settings(), |(databases, collections, excludes, wanted_operations)| {
            let included =
                [items(&databases, parse_database), items(&collections, parse_collection)].concat();
            let Ok(scope) = Scope::new(included, items(&excludes, parse_exclude)) else { return Ok(()) };
            let operations = Operations::only(&wanted_operations);
            let filter = filter::stage(&scope, &operations);
            let target = scope.target();
            let found = runtime
                .block_on(events(&client, &target, from, filter.clone()))
                .map_err(|error| TestCaseError::fail(format!("{scope}, {filter:?}: {error:#}")))?;
            // It only ends a narrow stream.
            let found: Vec<String> =
                found.iter().filter(|event| operation(event) != "invalidate").map(id).collect();
            let mut expected: Vec<&Document> =
                all.iter().filter(|event| wanted(&scope, &operations, event)).collect();
            let ends = |event: &&Document| matches!(operation(event), "drop" | "rename");
            if let (Target::Collection(_), Some(end)) = (&target, expected.iter().position(ends)) {
                expected.truncate(end + 1);
            }
            let expected: Vec<String> = expected.into_iter().map(id).collect();
            prop_assert_eq!(found, expected, "{} {}", scope, filter.unwrap_or_default());
            Ok(())
        })
    };
    match tokio::task::spawn_blocking(property).await? {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, input)) => anyhow::bail!("{reason}\nwith {input:?}"),
        Err(TestError::Abort(reason)) => anyhow::bail!("{reason}"),
    }
}

/// The part of the plan that reads the oplog: what it throws away never becomes an event.
async fn oplog_scan(client: &Client, scope: &Scope, operations: &Operations) -> Result<String> {
    let mut pipeline =
        vec![doc! { "$changeStream": { "allChangesForCluster": true, "showExpandedEvents": true } }];
    pipeline.extend(filter::stage(scope, operations));
    let aggregate = doc! { "aggregate": 1, "pipeline": pipeline, "cursor": {} };
    let explain = doc! { "explain": aggregate, "verbosity": "queryPlanner" };
    let plan = client.database("admin").run_command(explain).await?;
    let stages = plan.get_array("stages")?;
    let cursor = stages.first().and_then(|stage| stage.as_document()?.get_document("$cursor").ok());
    let mut stage =
        cursor.context("no $cursor")?.get_document("queryPlanner")?.get_document("winningPlan")?;
    while let Ok(input) = stage.get_document("inputStage") {
        stage = input;
    }
    assert_eq!(stage.get_str("stage")?, "COLLSCAN", "{plan}");
    Ok(stage.get_document("filter")?.to_string())
}

/// What cannot be pushed down is looked at once per oplog entry of the whole deployment, as an event that was made for it.
#[tokio::test(flavor = "multi_thread")]
async fn the_filter_is_part_of_the_oplog_scan() -> Result<()> {
    let servers = Lent::empty().await?;
    let client = servers.mongod.client().await?;
    client.database("any").collection("any").insert_one(doc! {}).await?;
    let scope = |collections: &str, excludes: &str| {
        let list = |text: &str| {
            text.split(',').filter(|item| !item.is_empty()).map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        Scope::new(items(&list(collections), parse_collection), items(&list(excludes), parse_exclude))
            .unwrap()
    };
    let all = Operations::default();
    let plain = oplog_scan(&client, &scope("", ""), &all).await?;
    for (collections, excludes, parts) in [
        // By equality, in the oplog's own form of a name.
        ("shop.orders,crm.people", "", vec![r"\.orders$", r"^shop\.", r"\.people$", r#""shop.$cmd""#]),
        ("shop.or*,crm.people", "", vec![r"\A(?:or.*)\z", r"^shop\."]),
        ("", "crm,shop.tmp_*", vec![r"\A(?:tmp_.*)\z", r"^crm\."]),
    ] {
        let scan = oplog_scan(&client, &scope(collections, excludes), &all).await?;
        for part in parts {
            assert!(
                scan.contains(part) && !plain.contains(part),
                "{collections} without {excludes}: no {part} in {scan}"
            );
        }
    }
    let inserts = Operations::only(&[parse_operation("insert").unwrap()]);
    let scan = oplog_scan(&client, &scope("", ""), &inserts).await?;
    assert!(scan.contains(r#""op": { "$eq": "d" }"#) && !plain.contains(r#""op": { "$eq": "d" }"#), "{scan}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_excluded_is_not_published() -> Result<()> {
    let stage = Stage::new().await?;
    let environment = stage
        .environment()
        .set("MONGO_DATABASES", "shop,eu_*")
        .set("MONGO_COLLECTIONS", "crm.people*")
        .set("MONGO_EXCLUDE", "shop.tmp_*,eu_test,*.audit");
    let mut source = stage.started(environment).await?;
    for name in [
        "shop.tmp_1",
        "eu_test.a",
        "crm.audit",
        "crm.orders",
        "eu_de.audit",
        "hr.people",
        "shop.orders",
        "eu_de.a",
        "crm.people_2",
    ] {
        stage.insert(name, 0..3).await?;
    }
    for topic in ["atlas.shop.orders", "atlas.eu_de.a", "atlas.crm.people_2"] {
        assert_eq!(stage.records(topic, 3).await?.len(), 3);
    }
    let topics = stage.reader.topics("atlas.").await?;
    let data = topics.iter().filter(|topic| topic.matches('.').count() > 1).map(String::as_str);
    assert_eq!(data.collect::<Vec<_>>(), ["atlas.crm.people_2", "atlas.eu_de.a", "atlas.shop.orders"]);
    // A rename brings a collection into scope, and says so.
    let admin = stage.client.database("admin");
    admin.run_command(doc! { "renameCollection": "crm.orders", "to": "crm.people_old" }).await?;
    stage.insert("crm.people_old", 5..6).await?;
    assert_eq!(stage.records("atlas.crm.people_old", 1).await?.len(), 1);
    let control = stage.records("atlas.control", 4).await?;
    let said: Vec<_> = control
        .iter()
        .map(|record| (record.header("operation-type").unwrap(), record.header("collection").unwrap()))
        .collect();
    assert_eq!(said, [("create", "orders"), ("create", "a"), ("create", "people_2"), ("rename", "orders")]);
    source.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_that_are_left_out_are_not_published_and_definitions_are() -> Result<()> {
    let stage = Stage::new().await?;
    let environment =
        stage.environment().set("MONGO_COLLECTIONS", "shop.orders").set("OPERATIONS", "insert,delete");
    let mut source = stage.started(environment).await?;
    let orders = stage.client.database("shop").collection::<Document>("orders");
    stage.insert("shop.orders", 0..3).await?;
    orders.update_many(doc! {}, doc! { "$set": { "v": 1 } }).await?;
    orders.replace_one(doc! { "_id": 1 }, doc! { "v": 2 }).await?;
    orders.delete_one(doc! { "_id": 2 }).await?;
    orders.drop().await?;
    stage.insert("shop.orders", 3..4).await?;
    let records = stage.records("atlas.shop.orders", 5).await?;
    assert_eq!((records.len(), repeated(&records).len()), (5, 0));
    let count = |operation| {
        records.iter().filter(|record| record.header("operation-type") == Some(operation)).count()
    };
    assert_eq!((count("insert"), count("delete")), (4, 1));
    let control = stage.records("atlas.control", 4).await?;
    let operations: Vec<&str> = control.iter().filter_map(|record| record.header("operation-type")).collect();
    assert_eq!(operations, ["create", "drop", "invalidate", "create"]);
    source.stop(LIMIT).await
}
