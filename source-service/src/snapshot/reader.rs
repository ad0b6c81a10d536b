//! Reads chunks of ranges, each range with a cursor of its own, all as of one time.

use std::{pin::Pin, time::Duration};

use bson::{Document, RawDocument, doc, raw::RawBson};
use futures::Stream as _;
use mongodb::{
    Client,
    error::{Error, ErrorKind},
    raw_batch_cursor::{RawBatch, RawBatchCursor},
};
use shared::{
    cluster_time::ClusterTime,
    exit::{ExitCode, Stop},
    namespace::Namespace,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Chunk, RangeId};
use crate::stream_error::{self, Phase, Verdict};

/// The longest that the server may work on one reply.
const REPLY_LIMIT: Duration = Duration::from_secs(20);

/// What is to be read.
#[derive(Clone, Debug)]
pub struct RangeRead {
    pub id: RangeId,
    pub namespace: Namespace,
    /// Inclusive.
    pub from: Option<RawBson>,
    /// Exclusive.
    pub to: Option<RawBson>,
    /// `from` is a row that was copied already.
    pub from_is_copied: bool,
    pub at: ClusterTime,
    /// Rows in one reply at most; the server also ends a reply at 16 MB.
    pub batch_rows: u32,
    pub filter: Document,
}

/// What a range's reader has to say. After anything but a chunk it has ended.
pub enum ReadReport {
    Chunk(Box<Chunk>),
    /// Try again later, at another time.
    Broken(RangeId, String),
    Stopped(Stop),
}

/// Reads a range until its end, an error, or `enough`.
pub async fn read_range(
    client: Client,
    read: RangeRead,
    reports: mpsc::Sender<ReadReport>,
    enough: CancellationToken,
) {
    let mut copied = read.from_is_copied.then(|| read.from.clone()).flatten();
    // With `min` and without `max` the server ends before MaxKey itself (seen on 6.0.5): that one `_id` is asked for at the end.
    let mut asks_for_max_key = read.from.is_some() && read.to.is_none();
    let mut cursor = match open(&client, &read, &bounds(&read)).await {
        Ok(cursor) => cursor,
        Err(error) => return report(&reports, judge(&error, &read)).await,
    };
    loop {
        let next = std::future::poll_fn(|context| Pin::new(&mut cursor).poll_next(context));
        let batch = match next.await {
            Some(Ok(batch)) => batch,
            Some(Err(error)) => return report(&reports, judge(&error, &read)).await,
            None => return,
        };
        let chunk = match chunk_of(&read, batch, copied.as_ref()) {
            Ok(chunk) => chunk,
            Err(what) => {
                let text = format!("a reply about {} cannot be read: {what}", read.namespace);
                return report(&reports, ReadReport::Stopped(Stop::new(ExitCode::Defect, text))).await;
            }
        };
        let mut chunk = chunk;
        let ended = chunk.is_last;
        chunk.is_last &= !asks_for_max_key;
        let is_last = chunk.is_last;
        // A reply can be so large that it has only the row which was copied before.
        if chunk.rows() > 0 || is_last {
            copied = None;
            if reports.send(ReadReport::Chunk(Box::new(chunk))).await.is_err() {
                return;
            }
        }
        if is_last || enough.is_cancelled() {
            return;
        }
        if ended {
            asks_for_max_key = false;
            cursor = match open(&client, &read, &doc! { "filter": with_max_key(&read.filter) }).await {
                Ok(cursor) => cursor,
                Err(error) => return report(&reports, judge(&error, &read)).await,
            };
        }
    }
}

async fn report(reports: &mpsc::Sender<ReadReport>, what: ReadReport) {
    // Whoever does not listen any more has an end of its own.
    drop(reports.send(what).await);
}

/// Where a range begins and ends, as options of `find`.
fn bounds(read: &RangeRead) -> Document {
    let mut options = doc! { "filter": &read.filter };
    for (name, bound) in [("min", &read.from), ("max", &read.to)] {
        let bound = bound
            .clone()
            .map(|bound| bson::Bson::try_from(bound).expect("an _id was valid BSON when it was read"));
        if let Some(bound) = bound {
            options.insert(name, doc! { "_id": bound });
        }
    }
    options
}

fn with_max_key(filter: &Document) -> Document {
    doc! { "$and": [{ "_id": bson::Bson::MaxKey }, filter] }
}

async fn open(
    client: &Client,
    read: &RangeRead,
    options: &Document,
) -> mongodb::error::Result<RawBatchCursor> {
    let limit_ms = i64::try_from(REPLY_LIMIT.as_millis()).unwrap_or(i64::MAX);
    let at = bson::Timestamp { time: read.at.seconds, increment: read.at.increment };
    let mut find = doc! {
        "find": &read.namespace.coll,
        "sort": { "_id": 1 },
        "hint": { "_id": 1 },
        "batchSize": read.batch_rows,
        "maxTimeMS": limit_ms,
        "readConcern": { "level": "snapshot", "atClusterTime": at },
    };
    find.extend(options.clone());
    let database = client.database(&read.namespace.db);
    database.run_cursor_command(find).batch_size(read.batch_rows).batch().await
}

fn chunk_of(read: &RangeRead, batch: RawBatch, copied: Option<&RawBson>) -> Result<Chunk, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let cursor = batch.as_raw_document().get_document("cursor").map_err(|error| text(&error))?;
    let is_last = cursor.get_i64("id").map_err(|error| text(&error))? == 0;
    let (mut first, mut last) = (None, None);
    for row in batch.doc_slices().map_err(|error| text(&error))? {
        let row = row.map_err(|error| text(&error))?;
        let row = row.as_document().ok_or("a row is no document")?;
        if first.is_none() {
            first = Some(row);
        }
        last = Some(row);
    }
    let copied_before = usize::from(copied.is_some() && first.map(id_of).transpose()?.as_ref() == copied);
    let last = last.map(id_of).transpose()?;
    Ok(Chunk { range: read.id, time: read.at, copied_before, last, is_last, batch })
}

fn id_of(row: &RawDocument) -> Result<RawBson, String> {
    let id = row.get("_id").map_err(|error| error.to_string())?.ok_or("a row has no _id")?;
    Ok(id.into())
}

fn judge(error: &Error, read: &RangeRead) -> ReadReport {
    // BadValue, and no plan that keeps to the hint (291): its `_id` has no index, as in very old capped collections.
    if let ErrorKind::Command(command) = error.kind.as_ref()
        && matches!(command.code, 2 | 291)
    {
        let text = format!(
            "collection {} cannot be copied in the order of its _id: {}. Leave it out of the scope, or give it an index on _id",
            read.namespace,
            stream_error::short(error)
        );
        return ReadReport::Stopped(Stop::new(ExitCode::Configuration, text));
    }
    match stream_error::classify(error, Phase::Streaming) {
        Verdict::Stop(code @ ExitCode::NotAllowed, _) => ReadReport::Stopped(Stop::new(
            code,
            format!(
                "MongoDB does not let this user read {} for the snapshot: it needs the action find on it. MongoDB says: {}",
                read.namespace,
                stream_error::short(error)
            ),
        )),
        // The stream's own fatal codes mean nothing here; SnapshotTooOld (239) and all others come right at a newer time.
        _ => ReadReport::Broken(read.id, stream_error::short(error)),
    }
}
