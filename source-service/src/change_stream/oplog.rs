//! How far back MongoDB's oplog reaches: what lies before its first entry can never be read again.
//!
//! That a server opens a stream at an old time proves nothing: it does so as long as its oplog still holds the entry with which the
//! replica set was initiated, whatever the time (seen on 6.0.5). The first entry itself is the answer; not everybody may read it,
//! and behind `mongos` nobody can.

use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc};
use mongodb::Client;
use shared::cluster_time::ClusterTime;

use super::ChangeStream;
use crate::{metrics::StreamMetrics, stream_error};

/// It is one look-up at the start of a collection.
const LIMIT: Duration = Duration::from_secs(5);

/// The oldest change that can still be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OplogStart {
    At(ClusterTime),
    /// Why it cannot be told, for people.
    Unreadable(String),
}

impl ChangeStream {
    /// Asks for the first entry of the oplog, in one attempt.
    pub fn oplog_start(&self) -> OplogStart {
        let answer = self.ask(async {
            Ok(match tokio::time::timeout(LIMIT, first_entry(&self.client)).await {
                Ok(Ok(Some(time))) => OplogStart::At(time),
                Ok(Ok(None)) => OplogStart::Unreadable("local.oplog.rs has no entry to be seen".to_owned()),
                Ok(Err(error)) => OplogStart::Unreadable(stream_error::short(&error)),
                Err(_elapsed) => OplogStart::Unreadable("MongoDB did not answer in time".to_owned()),
            })
        });
        answer.unwrap_or_else(|stop| OplogStart::Unreadable(stop.message))
    }
}

/// Between two looks for the metric.
const INTERVAL: Duration = Duration::from_mins(1);

/// Keeps the metric of the oplog's beginning, where it may be read.
pub(super) async fn watch_start(client: Client, metrics: StreamMetrics) {
    loop {
        if let Ok(Ok(Some(time))) = tokio::time::timeout(LIMIT, first_entry(&client)).await {
            metrics.oplog_start(time);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn first_entry(client: &Client) -> mongodb::error::Result<Option<ClusterTime>> {
    let oplog = client.database("local").collection::<RawDocumentBuf>("oplog.rs");
    let first = oplog.find_one(Document::new()).sort(doc! { "$natural": 1 }).projection(doc! { "ts": 1 });
    let Some(first) = first.await? else { return Ok(None) };
    Ok(first.get_timestamp("ts").ok().map(|ts| ClusterTime::new(ts.time, ts.increment)))
}
