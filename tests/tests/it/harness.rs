//! The harness itself, without the product: workload and ledger agree about what MongoDB did.

use std::time::Duration;

use anyhow::{Result, ensure};
use pipeline_tests::{
    ledger::{Ledger, MARKER_COLLECTION, Scope},
    servers::{Mongod, MongodOptions},
    workload::{COLLECTIONS, Pace, Workload, WorkloadOptions},
};

const LIMIT: Duration = Duration::from_secs(60);

/// Goal: the ledger misses nothing, over a server that is killed under it. Method: every acknowledged operation of the
/// workload made at least one event, ids rise and are unique, each collection and operation occurs, and the server
/// refused nothing that the workload wanted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_sees_every_write_over_a_killed_server() -> Result<()> {
    let mut mongod = Mongod::start(MongodOptions::default()).await?;
    let client = mongod.client().await?;
    let ledger = Ledger::open(&client, Scope::Database("shop".to_owned()), "shop").await?;
    let workload = Workload::start(&client, &WorkloadOptions::new("shop").pace(Pace::Unlimited)).await?;
    workload.wait_for(1_500, LIMIT).await?;
    mongod.kill9()?;
    mongod.restart().await?;
    workload.wait_for(500, LIMIT).await?;
    let counts = workload.stop().await?;
    let expected = ledger.close(LIMIT).await?;
    eprintln!("{counts:?}, {} events: {:?}", expected.events.len(), expected.counts());

    let events = &expected.events;
    let acknowledged = usize::try_from(counts.acknowledged)?;
    // Updates and deletes of documents that are gone change nothing and make no event; a few such there always are.
    ensure!(events.len() > acknowledged * 8 / 10, "{} events of {acknowledged} operations", events.len());
    ensure!(events.windows(2).all(|pair| pair[0].id < pair[1].id), "event ids rise");
    for collection in COLLECTIONS.iter().chain([&MARKER_COLLECTION]) {
        ensure!(
            events.iter().any(|event| event.coll.as_deref() == Some(collection)),
            "no event of {collection}"
        );
    }
    for operation in ["insert", "update", "replace", "delete"] {
        ensure!(events.iter().any(|event| event.operation == operation), "no {operation}");
    }
    let truncated = |event: &&pipeline_tests::ledger::ExpectedEvent| {
        let description = event.event.get_document("updateDescription").ok();
        description
            .and_then(|all| all.get_array("truncatedArrays").ok())
            .is_some_and(|arrays| !arrays.is_empty())
    };
    ensure!(events.iter().any(|event| truncated(&event)), "no truncated array");
    ensure!(events.iter().any(|event| event.event.contains_key("txnNumber")), "no transaction");
    ensure!(events.iter().any(|event| event.event.contains_key("fullDocumentBeforeChange")), "no pre-image");
    Ok(())
}
