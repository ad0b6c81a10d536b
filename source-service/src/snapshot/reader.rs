//! Reads chunks of ranges, each range with a cursor of its own, all as of one time.

use std::{pin::Pin, time::Duration};

use bson::{Bson, Document, RawDocument, RawDocumentBuf, cstr, doc, raw::RawBson};
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

use super::{Chunk, RangeId, RowForm};
use crate::{
    pipeline::Pipeline,
    stream_error::{self, Phase, Verdict},
};

/// The longest that the server may work on one reply.
const REPLY_LIMIT: Duration = Duration::from_secs(20);
/// A server that has not answered by then hangs, or is behind a black hole: it would have ended the work by itself.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

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
    /// The user's own stages: what they do to events, they do to rows.
    pub pipeline: Option<Pipeline>,
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
    let mut asks_for_max_key = read.pipeline.is_none() && read.from.is_some() && read.to.is_none();
    let opening = async {
        match &read.pipeline {
            None => open(&client, &read, &bounds(&read)).await,
            Some(pipeline) => open_events(&client, &read, pipeline).await,
        }
    };
    let mut cursor = match answer(&read, opening).await {
        Ok(cursor) => cursor,
        Err(broken) => return report(&reports, broken).await,
    };
    loop {
        let next = std::future::poll_fn(|context| Pin::new(&mut cursor).poll_next(context));
        let batch = match answer(&read, async { next.await.transpose() }).await {
            Ok(Some(batch)) => batch,
            Ok(None) => return,
            Err(broken) => return report(&reports, broken).await,
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
            let options = doc! { "filter": with_max_key(&read.filter) };
            cursor = match answer(&read, open(&client, &read, &options)).await {
                Ok(cursor) => cursor,
                Err(broken) => return report(&reports, broken).await,
            };
        }
    }
}

/// What the server answers within [`SILENCE_LIMIT`].
async fn answer<T>(
    read: &RangeRead,
    question: impl Future<Output = mongodb::error::Result<T>>,
) -> Result<T, ReadReport> {
    match tokio::time::timeout(SILENCE_LIMIT, question).await {
        Ok(answer) => answer.map_err(|error| judge(&error, read)),
        Err(_elapsed) => Err(ReadReport::Broken(read.id, "MongoDB is silent".to_owned())),
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
        let bound =
            bound.clone().map(|bound| Bson::try_from(bound).expect("an _id was valid BSON when it was read"));
        if let Some(bound) = bound {
            options.insert(name, doc! { "_id": bound });
        }
    }
    options
}

fn with_max_key(filter: &Document) -> Document {
    doc! { "$and": [{ "_id": Bson::MaxKey }, filter] }
}

async fn open(
    client: &Client,
    read: &RangeRead,
    options: &Document,
) -> mongodb::error::Result<RawBatchCursor> {
    let mut find = doc! {
        "find": &read.namespace.coll,
        "sort": { "_id": 1 },
        "batchSize": read.batch_rows,
    };
    find.extend(options.clone());
    run(client, read, find).await
}

/// The rows as insert events that have passed the user's stages, on the server: it alone knows what they mean.
async fn open_events(
    client: &Client,
    read: &RangeRead,
    pipeline: &Pipeline,
) -> mongodb::error::Result<RawBatchCursor> {
    let mut stages = Vec::new();
    // `min` and `max` are options of `find` only. Comparisons of expressions follow BSON's order over all types too, and use the index.
    let after = if read.from_is_copied { "$gt" } else { "$gte" };
    let bounds = [(after, &read.from), ("$lt", &read.to)].into_iter().filter_map(|(operator, bound)| {
        let bound = Bson::try_from(bound.clone()?).expect("an _id was valid BSON when it was read");
        Some(Bson::from(doc! { operator: ["$_id", { "$literal": bound }] }))
    });
    let bounds: Vec<Bson> = bounds.collect();
    if !bounds.is_empty() {
        stages.push(doc! { "$match": { "$expr": { "$and": bounds } } });
    }
    stages.push(doc! { "$match": &read.filter });
    stages.push(doc! { "$sort": { "_id": 1 } });
    let Namespace { db, coll } = &read.namespace;
    stages.push(doc! { "$replaceWith": {
        // Its place; the row's own is put there when its number is known.
        "_id": { "_data": "snapshot" },
        "operationType": "insert",
        "clusterTime": timestamp(read.at),
        "ns": { "db": { "$literal": db }, "coll": { "$literal": coll } },
        "documentKey": { "_id": "$_id" },
        "fullDocument": "$$ROOT",
    } });
    stages.extend_from_slice(pipeline.stages());
    let aggregate = doc! {
        "aggregate": coll,
        "pipeline": stages,
        "cursor": { "batchSize": read.batch_rows },
    };
    run(client, read, aggregate).await
}

async fn run(
    client: &Client,
    read: &RangeRead,
    mut command: Document,
) -> mongodb::error::Result<RawBatchCursor> {
    let limit_ms = i64::try_from(REPLY_LIMIT.as_millis()).unwrap_or(i64::MAX);
    command.insert("hint", doc! { "_id": 1 });
    command.insert("maxTimeMS", limit_ms);
    command.insert("readConcern", doc! { "level": "snapshot", "atClusterTime": timestamp(read.at) });
    let database = client.database(&read.namespace.db);
    database.run_cursor_command(command).batch_size(read.batch_rows).batch().await
}

const fn timestamp(time: ClusterTime) -> bson::Timestamp {
    bson::Timestamp { time: time.seconds, increment: time.increment }
}

fn chunk_of(read: &RangeRead, batch: RawBatch, copied: Option<&RawBson>) -> Result<Chunk, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let cursor = batch.as_raw_document().get_document("cursor").map_err(|error| text(&error))?;
    let is_last = cursor.get_i64("id").map_err(|error| text(&error))? == 0;
    let form = if read.pipeline.is_some() { RowForm::Event } else { RowForm::Document };
    let id = |row| id_of(row, form);
    let (mut first, mut last) = (None, None);
    for row in batch.doc_slices().map_err(|error| text(&error))? {
        let row = row.map_err(|error| text(&error))?;
        let row = row.as_document().ok_or("a row is no document")?;
        if first.is_none() {
            first = Some(row);
        }
        last = Some(row);
    }
    let first = first.map(id).transpose()?;
    let copied_before =
        usize::from(first.zip(copied.cloned()).is_some_and(|(first, copied)| same(first, copied)));
    let last = last.map(id).transpose()?;
    Ok(Chunk { range: read.id, time: read.at, form, copied_before, last, is_last, batch })
}

/// By their bytes: as a number, NaN is not equal to itself.
fn same(one: RawBson, other: RawBson) -> bool {
    let bytes = |id| {
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("_id"), id);
        document.into_bytes()
    };
    bytes(one) == bytes(other)
}

fn id_of(row: &RawDocument, form: RowForm) -> Result<RawBson, String> {
    let row = match form {
        RowForm::Document => row,
        RowForm::Event => row.get_document("documentKey").map_err(|error| error.to_string())?,
    };
    let id = row.get("_id").map_err(|error| error.to_string())?.ok_or("a row has no _id")?;
    Ok(id.into())
}

fn judge(error: &Error, read: &RangeRead) -> ReadReport {
    // BadValue, and no plan that keeps to the hint (291): its `_id` has no index, as in very old capped collections.
    if let ErrorKind::Command(command) = error.kind.as_ref()
        && (command.code == 291 || command.code == 2 && read.pipeline.is_none())
    {
        let text = format!(
            "collection {} cannot be copied in the order of its _id: {}. Leave it out of the scope, or give it an index on _id",
            read.namespace,
            stream_error::short(error)
        );
        return ReadReport::Stopped(Stop::new(ExitCode::Configuration, text));
    }
    // It would fail again and again, on the same row.
    if read.pipeline.is_some() && stream_error::code_of_a_stage(error).is_some() {
        let text = format!(
            "a stage of PIPELINE_FILE fails on a row of {}: nothing was skipped, and the snapshot waits there. Change the stage so that it takes every              row, which is an event of type insert without wallTime, and start again. MongoDB says: {}",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_same_if_its_bytes_are() {
        assert!(same(RawBson::Double(f64::NAN), RawBson::Double(f64::NAN)));
        assert!(!same(RawBson::Int32(1), RawBson::Int64(1)));
    }
}
