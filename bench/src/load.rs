//! The events: insert-only orders, about 0.5 KB each as change events.

use std::time::Duration;

use anyhow::{Context, Result};
use mongodb::{
    Client,
    bson::{DateTime, Document, Timestamp, doc},
};
use tokio::{task::JoinSet, time::Instant};

pub(crate) const DATABASE: &str = "bench";
const COLLECTION: &str = "orders";
const WRITERS: u64 = 4;
const GROUP: u64 = 1000;

/// A document of about 250 B; the event around it has about as much again.
fn order(number: u64) -> Document {
    let number = i64::try_from(number).expect("a count of orders fits");
    doc! {
        "customer": format!("customer-{}", number % 10_007),
        "placed": DateTime::now(),
        "status": "paid",
        "total": 19.99 + f64::from(u16::try_from(number % 500).expect("below 500")),
        "items": [
            { "sku": format!("sku-{}", number % 997), "quantity": 1 + number % 3, "price": 9.99 },
            { "sku": format!("sku-{}", number % 499), "quantity": 2, "price": 4.5 },
        ],
        "note": "leave at the door",
    }
}

/// Inserts `count` orders as fast as the server takes them.
///
/// # Errors
/// The server's.
pub(crate) async fn insert_all(client: &Client, count: u64) -> Result<()> {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let client = client.clone();
        writers.spawn(async move {
            let groups = (0..count).step_by(usize::try_from(GROUP).expect("small")).enumerate();
            for (index, start) in groups {
                if index as u64 % WRITERS == writer {
                    let documents: Vec<Document> = (start..count.min(start + GROUP)).map(order).collect();
                    insert(&client, documents).await?;
                }
            }
            Ok::<(), anyhow::Error>(())
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.context("a writer's task")??;
    }
    Ok(())
}

/// Inserts one order at a time at a steady rate; how many there were.
///
/// # Errors
/// The server's.
pub(crate) async fn insert_steadily(client: &Client, rate: u64, span: Duration) -> Result<u64> {
    const STEADY_WRITERS: u64 = 8;
    let (start, count) = (Instant::now(), rate * span.as_secs());
    let mut writers = JoinSet::new();
    for writer in 0..STEADY_WRITERS {
        let client = client.clone();
        writers.spawn(async move {
            for number in (writer..count).step_by(8) {
                tokio::time::sleep_until(start + Duration::from_micros(number * 1_000_000 / rate)).await;
                insert(&client, vec![order(number)]).await?;
            }
            Ok::<(), anyhow::Error>(())
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.context("a writer's task")??;
    }
    Ok(count)
}

/// Makes the collection's topic exist before anything is timed, and returns the place in the oplog behind it.
///
/// # Errors
/// The server's.
pub(crate) async fn first_order(client: &Client) -> Result<Timestamp> {
    insert(client, vec![order(0)]).await?;
    let reply =
        client.database("admin").run_command(doc! { "hello": 1 }).await.context("ask for the time")?;
    let time = reply.get_timestamp("operationTime").context("the server tells no operationTime")?;
    Ok(Timestamp { increment: time.increment + 1, ..time })
}

async fn insert(client: &Client, documents: Vec<Document>) -> Result<()> {
    let orders = client.database(DATABASE).collection::<Document>(COLLECTION);
    orders.insert_many(documents).await.context("insert orders").map(|_inserted| ())
}
