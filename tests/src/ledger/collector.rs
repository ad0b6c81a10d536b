//! Collects all events of a scope through the driver's own change stream, over restarts of the server.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bson::{Document, RawDocumentBuf, doc, oid::ObjectId};
use mongodb::{
    Client,
    change_stream::{ChangeStream, event::ResumeToken},
    options::{
        ChangeStreamOptions, FullDocumentBeforeChangeType, FullDocumentType, ReadConcern, WriteConcern,
    },
};
use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    task::JoinHandle,
    time::timeout,
};

use super::{Expected, ExpectedEvent};
use crate::wait;

/// Where the last write of a run goes: the ledger knows then that it has seen all.
pub const MARKER_COLLECTION: &str = "ledger-marker";

/// How long the server waits for an event before it answers "none": bounds how late the marker is heard of.
const AWAIT: Duration = Duration::from_millis(200);

/// A server that was killed is back long before.
const REOPEN_LIMIT: Duration = Duration::from_secs(60);

/// What is watched. It must be the scope of the source that is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Deployment,
    Database(String),
}

/// A running collector. It sees every change that is made after [`Ledger::open`] has returned.
#[derive(Debug)]
pub struct Ledger {
    client: Client,
    collector: JoinHandle<Result<Expected>>,
    /// Tells the collector by which document it knows the end.
    marker: oneshot::Sender<ObjectId>,
    database: String,
}

impl Ledger {
    /// Opens the stream. `database` receives the marker and must be in the scope.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn open(client: &Client, scope: Scope, database: &str) -> Result<Self> {
        let client = client.clone();
        let stream = watch(&client, &scope, None).await.context("open the ledger's change stream")?;
        let (marker, wanted) = oneshot::channel();
        let collector = tokio::spawn(collect(client.clone(), scope, stream, wanted));
        Ok(Self { client, collector, marker, database: database.to_owned() })
    }

    /// Writes the marker and waits until the stream has come to it. The marker is an event like any other and in the
    /// result too, so that the product's way can be waited for by it.
    ///
    /// # Errors
    /// If the marker cannot be written or does not come within `limit`.
    pub async fn close(self, limit: Duration) -> Result<Expected> {
        let id = ObjectId::new();
        let collection = self.client.database(&self.database).collection::<Document>(MARKER_COLLECTION);
        // The server may be on its way up again; the same `_id` makes the repetition harmless.
        wait::until("the ledger's marker is written", limit, || async {
            let written = collection
                .replace_one(doc! { "_id": id }, doc! { "_id": id })
                .upsert(true)
                .write_concern(WriteConcern::majority())
                .await;
            Ok(written.ok())
        })
        .await?;
        // If the collector has failed, its own error is the one to report.
        let told = self.marker.send(id);
        let collected =
            timeout(limit, self.collector).await.context("the ledger's stream did not come to the marker")?;
        let expected = collected.context("the ledger's task")??;
        told.ok().context("the ledger ended before its marker was written")?;
        Ok(expected)
    }
}

async fn collect(
    client: Client,
    scope: Scope,
    mut stream: ChangeStream<RawDocumentBuf>,
    mut wanted: oneshot::Receiver<ObjectId>,
) -> Result<Expected> {
    let mut expected = Expected::default();
    let mut marker: Option<ObjectId> = None;
    loop {
        if marker.is_none() {
            match wanted.try_recv() {
                Ok(id) => {
                    marker = Some(id);
                    // The event may have come before the word of it.
                    if expected.events.iter().any(|event| event.document_id().as_object_id() == marker) {
                        return Ok(expected);
                    }
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Closed) => bail!("the ledger was dropped without being closed"),
            }
        }
        // Raced against nothing: an answer that is dropped half-read would lose events.
        match stream.next_if_any().await {
            Ok(Some(raw)) => {
                let event = ExpectedEvent::decode(&raw)?;
                let is_last = marker.is_some() && event.document_id().as_object_id() == marker;
                expected.events.push(event);
                if is_last {
                    return Ok(expected);
                }
            }
            Ok(None) if stream.is_alive() => {}
            // The driver resumes once by itself; a server that is down for longer ends its stream.
            Ok(None) | Err(_) => {
                let token = stream.resume_token();
                stream = reopen(&client, &scope, token).await?;
            }
        }
    }
}

/// Opens the stream again where it ended. `startAfter` also works after an `invalidate`.
async fn reopen(
    client: &Client,
    scope: &Scope,
    token: Option<ResumeToken>,
) -> Result<ChangeStream<RawDocumentBuf>> {
    // The server gives a token before the first event too: without one, events would be missed.
    let token = token.context("the ledger's change stream ended before it had a resume token")?;
    wait::until("the ledger's change stream opens again", REOPEN_LIMIT, || {
        let token = token.clone();
        async { Ok(watch(client, scope, Some(token)).await.ok()) }
    })
    .await
}

async fn watch(
    client: &Client,
    scope: &Scope,
    start_after: Option<ResumeToken>,
) -> mongodb::error::Result<ChangeStream<RawDocumentBuf>> {
    let mut options = ChangeStreamOptions::default();
    options.start_after = start_after;
    options.full_document = Some(FullDocumentType::UpdateLookup);
    options.full_document_before_change = Some(FullDocumentBeforeChangeType::WhenAvailable);
    options.max_await_time = Some(AWAIT);
    options.read_concern = Some(ReadConcern::majority());
    let stream = match scope {
        Scope::Deployment => client.watch().with_options(options).await?,
        Scope::Database(name) => client.database(name).watch().with_options(options).await?,
    };
    Ok(stream.with_type())
}
