//! The roles of `deploy/mongodb`: enough for the source, and nothing in them that it could do without.

use anyhow::{Context as _, Result};
use mongodb::bson::{Bson, Document, doc};
use pipeline_tests::{
    paths,
    servers::MongodOptions,
    service::{Environment, Service},
};

use crate::stage::{LIMIT, Stage, one_shot};

const PASSWORD: &str = "least-of-all";
const OPLOG: &str = "oplog-start.json";

/// What is read, and the shipped roles for it.
struct Scope {
    name: &'static str,
    setting: Option<(&'static str, &'static str)>,
    watch: &'static str,
    list: &'static str,
}

const SCOPES: [Scope; 3] = [
    Scope { name: "deployment", setting: None, watch: "watch-deployment.json", list: "list-deployment.json" },
    Scope {
        name: "database",
        setting: Some(("MONGO_DATABASES", "shop")),
        watch: "watch-database.json",
        list: "list-database.json",
    },
    Scope {
        name: "collection",
        setting: Some(("MONGO_COLLECTIONS", "shop.orders")),
        watch: "watch-collection.json",
        list: "list-database.json",
    },
];

impl Scope {
    /// A source of this scope, as this user, beside those of other tests' steps.
    fn environment(&self, stage: &Stage, user: &str) -> Environment {
        let uri = stage.mongod.uri_of(user, PASSWORD);
        let environment =
            stage.environment().set("MONGO_URI", uri).set("SOURCE_ID", user).set("TOPIC_PREFIX", user);
        match self.setting {
            Some((name, value)) => environment.set(name, value),
            None => environment,
        }
    }
}

/// The command in a shipped file.
fn shipped(file: &str) -> Result<Document> {
    let path = paths::repository().join("deploy/mongodb").join(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let json: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    Ok(Document::try_from(json)?)
}

async fn make_role(stage: &Stage, command: Document) -> Result<()> {
    stage.mongod.admin_command(command).await?;
    Ok(())
}

async fn make_user(stage: &Stage, user: &str, roles: &[String]) -> Result<()> {
    let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
    stage.mongod.admin_command(doc! { "createUser": user, "pwd": PASSWORD, "roles": roles }).await?;
    Ok(())
}

/// The role's name in a file, which is made with the first user that wants it.
async fn roles_of(stage: &Stage, files: &[&str]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for file in files {
        let command = shipped(file)?;
        let name = command.get_str("createRole")?.to_owned();
        let found = stage.mongod.admin_command(doc! { "rolesInfo": &name }).await?;
        if found.get_array("roles")?.is_empty() {
            make_role(stage, command).await?;
        }
        names.push(name);
    }
    Ok(names)
}

/// A file's role under another name, without one of its actions.
async fn role_without(stage: &Stage, file: &str, action: &str, name: &str) -> Result<String> {
    let mut command = shipped(file)?;
    command.insert("createRole", name);
    let privileges = command.get_array_mut("privileges")?;
    for privilege in privileges.iter_mut() {
        let privilege = privilege.as_document_mut().context("a privilege is a document")?;
        privilege.get_array_mut("actions")?.retain(|granted| *granted != Bson::from(action));
    }
    // MongoDB takes no privilege without an action.
    let has_any = |privilege: &Bson| {
        let actions = privilege.as_document().and_then(|privilege| privilege.get_array("actions").ok());
        actions.is_some_and(|actions| !actions.is_empty())
    };
    privileges.retain(has_any);
    make_role(stage, command).await?;
    Ok(name.to_owned())
}

fn actions(file: &str) -> Result<Vec<String>> {
    let command = shipped(file)?;
    let mut actions = Vec::new();
    for privilege in command.get_array("privileges")? {
        let privilege = privilege.as_document().context("a privilege is a document")?;
        let granted = privilege.get_array("actions")?.iter();
        actions.extend(granted.filter_map(|action| Some(action.as_str()?.to_owned())));
    }
    Ok(actions)
}

async fn with_access_control() -> Result<Stage> {
    let options = MongodOptions { auth: true, ..MongodOptions::default() };
    let stage = Stage::with_mongod(options).await?;
    stage.insert("shop.orders", 0..3).await?;
    Ok(stage)
}

async fn refused(stage: &Stage, environment: Environment) -> Result<String> {
    let mut source: Service = stage.start(environment)?;
    assert_eq!(source.exit_code(LIMIT).await?, 77, "{}", source.log_text()?);
    source.log_text()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_roles_are_enough() -> Result<()> {
    let stage = with_access_control().await?;
    let pipeline = stage.file("pipeline.json", br#"[{"$addFields": {"kind": "order"}}]"#)?;
    let pipeline = pipeline.display().to_string();
    let mut inserted = 100;
    for scope in &SCOPES {
        // The stream alone; with a pipeline that is tried; with documents that are looked up; with the snapshot; with the check of
        // required images; and where the oplog's start is read.
        for (case, files, setting) in [
            ("watch", vec![scope.watch], None),
            ("pipeline", vec![scope.watch], Some(("PIPELINE_FILE", pipeline.as_str()))),
            ("lookup", vec![scope.watch], Some(("FULL_DOCUMENT", "batchedLookup"))),
            ("snapshot", vec![scope.watch, scope.list], Some(("START_FROM", "snapshot"))),
            ("images", vec![scope.watch, scope.list], Some(("FULL_DOCUMENT_BEFORE", "required"))),
            ("oplog", vec![scope.watch, OPLOG], Some(("START_FROM", "timestamp"))),
        ] {
            let user = format!("{}-{case}", scope.name);
            make_user(&stage, &user, &roles_of(&stage, &files).await?).await?;
            let mut environment = scope.environment(&stage, &user);
            match setting {
                Some((name, "timestamp")) => {
                    let ping = stage.mongod.admin_command(doc! { "ping": 1 }).await?;
                    let now = ping.get_timestamp("operationTime")?;
                    environment = environment.set(name, format!("timestamp:{}.{}", now.time, now.increment));
                }
                Some((name, "required")) => {
                    let images =
                        doc! { "collMod": "orders", "changeStreamPreAndPostImages": { "enabled": true } };
                    stage.client.database("shop").run_command(images).await?;
                    environment = environment.set(name, "required");
                }
                Some((name, value)) => environment = environment.set(name, value),
                None => {}
            }
            let copied = if case == "snapshot" { usize::try_from(inserted - 100 + 3)? } else { 0 };
            let mut source = stage.started(environment).await.with_context(|| user.clone())?;
            stage.insert("shop.orders", inserted..inserted + 1).await?;
            inserted += 1;
            let topic = format!("{user}.shop.orders");
            assert_eq!(stage.records(&topic, copied + 1).await?.len(), copied + 1, "{user}");
            if case == "lookup" {
                let orders = stage.client.database("shop").collection::<Document>("orders");
                orders.update_one(doc! { "_id": inserted - 1 }, doc! { "$set": { "v": 7 } }).await?;
                let records = stage.records(&topic, 2).await?;
                let values = records.iter().filter_map(|record| record.value.as_deref());
                let values: Vec<serde_json::Value> =
                    values.map(serde_json::from_slice).collect::<Result<_, _>>()?;
                assert!(values.iter().any(|value| value["fullDocument"]["v"] == 7), "{user}");
            }
            if case == "oplog" {
                assert!(!source.log_text()?.contains("could not be checked"), "{}", source.log_text()?);
            }
            source.stop(LIMIT).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_one_action_the_source_stops_and_names_it() -> Result<()> {
    let stage = with_access_control().await?;
    for scope in &SCOPES {
        for action in actions(scope.watch)? {
            let user = format!("{}-no-{}", scope.name, action.to_lowercase());
            let role = role_without(&stage, scope.watch, &action, &format!("{user}-role")).await?;
            make_user(&stage, &user, &[role]).await?;
            let log = refused(&stage, scope.environment(&stage, &user)).await?;
            assert!(log.contains(&format!("User {user}@admin lacks: {action} on")), "{log}");
            let (code, text, _) = one_shot(scope.environment(&stage, &user), &["check"]).await?;
            assert!(code == 77 && text.contains(&format!("lacks: {action} on")), "{text}");
        }
        for action in actions(scope.list)? {
            let user = format!("{}-no-{}", scope.name, action.to_lowercase());
            let role = role_without(&stage, scope.list, &action, &format!("{user}-role")).await?;
            let roles = [roles_of(&stage, &[scope.watch]).await?, vec![role]].concat();
            make_user(&stage, &user, &roles).await?;
            for (name, value) in [("START_FROM", "snapshot"), ("FULL_DOCUMENT", "required")] {
                let environment = scope.environment(&stage, &user).set(name, value);
                let log = refused(&stage, environment).await?;
                assert!(log.contains(&format!("User {user}@admin lacks: {action} on")), "{name}: {log}");
            }
        }
    }
    // A right that nothing stops without: it is said what could not be looked at.
    let scope = &SCOPES[1];
    make_user(&stage, "no-oplog", &roles_of(&stage, &[scope.watch]).await?).await?;
    let ping = stage.mongod.admin_command(doc! { "ping": 1 }).await?;
    let now = ping.get_timestamp("operationTime")?;
    let start = format!("timestamp:{}.{}", now.time, now.increment);
    let (code, text, _) = one_shot(scope.environment(&stage, "no-oplog"), &["check"]).await?;
    assert!(code == 0 && text.contains("grant find on local.oplog.rs"), "{text}");
    let mut source = stage.started(scope.environment(&stage, "no-oplog").set("START_FROM", start)).await?;
    assert!(source.log_text()?.contains("START_FROM could not be checked whole"), "{}", source.log_text()?);
    source.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_stops_the_source() -> Result<()> {
    let stage = with_access_control().await?;
    let uri = stage.mongod.uri_of("nobody", "planted-secret");
    let log = refused(&stage, stage.environment().set("MONGO_URI", uri)).await?;
    assert!(log.contains("its password be right") && !log.contains("planted-secret"), "{log}");
    Ok(())
}
