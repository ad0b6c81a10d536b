//! The harness itself: each server serves, and after `kill -9` it serves again on the same port with the same data.

use std::time::Duration;

use anyhow::Result;
use mongodb::bson::{Document, doc};
use pipeline_tests::{
    http,
    servers::{Azurite, AzuriteStorage, Kafka, KafkaOptions, Mongod, MongodOptions, azurite::ACCOUNT},
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mongod_keeps_its_data_over_kill_nine() -> Result<()> {
    let mut mongod = Mongod::start(MongodOptions::default()).await?;
    let client = mongod.client().await?;
    let collection = client.database("shop").collection::<Document>("orders");
    collection.insert_one(doc! { "_id": 1 }).await?;
    mongod.kill9()?;
    mongod.restart().await?;
    assert_eq!(collection.find_one(doc! {}).await?, Some(doc! { "_id": 1 }));
    // Fail points are what the error tests of the source rest on.
    mongod.admin_command(doc! { "configureFailPoint": "failCommand", "mode": "off" }).await?;
    mongod.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_keeps_its_topics_over_kill_nine() -> Result<()> {
    let mut kafka = Kafka::start(KafkaOptions::default()).await?;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create()?;
    let topic = NewTopic::new("kept", 3, TopicReplication::Fixed(1));
    let made = admin.create_topics([&topic], &AdminOptions::new()).await?;
    assert!(made.iter().all(std::result::Result::is_ok), "{made:?}");
    kafka.kill9()?;
    kafka.restart().await?;
    let metadata = admin.inner().fetch_metadata(Some("kept"), Duration::from_secs(10))?;
    assert_eq!(metadata.topics()[0].partitions().len(), 3);
    kafka.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite_refuses_the_unsigned_and_comes_back() -> Result<()> {
    let mut azurite = Azurite::start(AzuriteStorage::Folder).await?;
    let path = format!("/{ACCOUNT}?comp=list");
    assert_eq!(http::get(azurite.port(), &path)?.status, 403);
    azurite.stop().await?;
    azurite.restart().await?;
    assert_eq!(http::get(azurite.port(), &path)?.status, 403);
    Ok(())
}
