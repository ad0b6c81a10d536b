//! A scope in which nothing happens.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mongodb::bson::doc;

use crate::stage::{LIMIT, Stage};

const TOKEN_INTERVAL: Duration = Duration::from_secs(2);

/// The server answers at least once a second although nothing matched; the rest is for a busy machine. Well below the ten
/// seconds after which MongoDB writes to its oplog by itself.
const SLACK: Duration = Duration::from_secs(4);

/// Cluster time: seconds and increment.
type Time = (u32, u32);

/// Writes a document and returns when that was.
async fn write(stage: &Stage, database: &str, id: i32) -> Result<Time> {
    let insert = doc! { "insert": "other", "documents": [{ "_id": id }] };
    let reply = stage.client.database(database).run_command(insert).await?;
    let time = reply.get_timestamp("operationTime").context("a replica set says when it wrote")?;
    Ok((time.time, time.increment))
}

/// The cluster time of the committed token record.
async fn committed(stage: &Stage) -> Result<Time> {
    let record: serde_json::Value = serde_json::from_slice(&stage.last_token().await?)?;
    let time = &record["clusterTime"]["$timestamp"];
    let number = |name: &str| -> Result<u32> {
        Ok(u32::try_from(time[name].as_u64().with_context(|| format!("{name} of {record}"))?)?)
    };
    Ok((number("t")?, number("i")?))
}

/// Goal: the position of a source whose scope is idle does not fall off the oplog. Method: others write outside of the scope;
/// each time the committed position passes that write within `TOKEN_INTERVAL`, and no record comes of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_committed_position_follows_what_others_write() -> Result<()> {
    let stage = Stage::new().await?;
    // Each narrower than the one before: another scope goes on at the token's time, that of the last write outside.
    let scopes = [
        ("MONGO_DATABASES", "shop", "elsewhere"),
        ("MONGO_COLLECTIONS", "shop.orders,shop.baskets", "shop"),
        ("MONGO_COLLECTIONS", "shop.orders", "shop"),
    ];
    for (id, (setting, scope, written_to)) in (0_i32..).zip(scopes) {
        let environment = stage.environment().set("TOKEN_INTERVAL", format!("{}s", TOKEN_INTERVAL.as_secs()));
        let mut source = stage.started(environment.set(setting, scope)).await?;
        stage.insert("shop.orders", id..id + 1).await?;
        stage.records("atlas.shop.orders", usize::try_from(id + 1)?).await?;
        for round in 0..3 {
            let written = write(&stage, written_to, id * 10 + round).await?;
            let since = Instant::now();
            pipeline_tests::wait::until(&format!("{scope}: a token past {written:?}"), LIMIT, || async {
                Ok((committed(&stage).await? >= written).then_some(()))
            })
            .await?;
            let took = since.elapsed();
            assert!(took < TOKEN_INTERVAL + SLACK, "{scope}: the position moved after {took:?}");
        }
        source.stop(LIMIT).await?;
    }
    let topics = stage.reader.topics("atlas.").await?;
    assert!(topics.iter().all(|topic| !topic.contains("other")), "{topics:?}");
    assert_eq!(stage.records("atlas.shop.orders", scopes.len()).await?.len(), scopes.len());
    Ok(())
}
