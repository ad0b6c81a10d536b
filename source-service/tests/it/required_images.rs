//! Images that are required, and collections that keep none.

use anyhow::Result;
use mongodb::bson::doc;

use crate::stage::{LIMIT, Stage};

/// The command that is printed does what it says; until then nothing is published and nothing is changed.
#[tokio::test(flavor = "multi_thread")]
async fn required_images_that_are_not_kept_are_refused_at_start() -> Result<()> {
    let stage = Stage::new().await?;
    let shop = stage.client.database("shop");
    let images = doc! { "changeStreamPreAndPostImages": { "enabled": true } };
    shop.run_command(doc! { "create": "kept", "changeStreamPreAndPostImages": { "enabled": true } }).await?;
    stage.insert("shop.orders", 0..1).await?;
    stage.insert("shop.parcels", 0..1).await?;
    stage.insert("crm.people", 0..1).await?;
    for setting in ["FULL_DOCUMENT", "FULL_DOCUMENT_BEFORE"] {
        let environment = || stage.environment().set("MONGO_DATABASES", "shop").set(setting, "required");
        let mut source = stage.start(environment())?;
        assert_eq!(source.exit_code(LIMIT).await?, 78, "{}", source.log_text()?);
        let log = source.log_text()?;
        for coll in ["orders", "parcels"] {
            assert!(
                log.contains(&format!("collMod: \\\"{coll}\\\""))
                    || log.contains(&format!("collMod: \"{coll}\"")),
                "{log}"
            );
        }
        assert!(!log.contains("people") && !log.contains("kept"), "{log}");
    }
    // Nobody made a topic or turned anything on.
    assert!(stage.reader.topics("atlas").await?.is_empty());
    let listed = shop.run_command(doc! { "listCollections": 1, "filter": { "name": "orders" } }).await?;
    let first = listed.get_document("cursor")?.get_array("firstBatch")?[0].as_document().cloned();
    assert!(first.is_some_and(|found| found.get_document("options").is_ok_and(|options| options.is_empty())));

    for coll in ["orders", "parcels"] {
        let mut command = doc! { "collMod": coll };
        command.extend(images.clone());
        shop.run_command(command).await?;
    }
    let required = stage.environment().set("MONGO_DATABASES", "shop").set("FULL_DOCUMENT_BEFORE", "required");
    let mut source = stage.started(required).await?;
    shop.collection::<mongodb::bson::Document>("orders")
        .update_one(doc! { "_id": 0 }, doc! { "$set": { "v": 1 } })
        .await?;
    let records = stage.records("atlas.shop.orders", 1).await?;
    let value: serde_json::Value = serde_json::from_slice(records[0].value.as_deref().unwrap_or_default())?;
    assert_eq!(value["fullDocumentBeforeChange"]["v"], 0);
    source.stop(LIMIT).await
}
