//! Reads MongoDB's change stream: raw server replies, one at a time, in order, without ever skipping one.
//!
//! ```text
//!   pump ── Open { position, epoch } ──▶ reader: open ─▶ reply ─▶ reply ─▶ …        (own thread, current-thread runtime)
//!        ◀── StreamEvent { epoch } ──── channel of one, so one reply is read ahead
//! ```
//!
//! The reader opens the stream again by itself when the server, the network or an election broke it, from the token of the last reply
//! that it handed over. The pump does not notice. When the pump itself has to go back, it sends another `Open`; replies of the
//! former epoch that are still on their way are void.
//!
//! Replies are raw because typed events cost the client seven times more. `startAfter` is used always, never `resumeAfter`: it alone
//! goes on behind an `invalidate`.

mod fragments;
mod images;
mod lookup;
mod open;
mod oplog;
mod probe;
mod reader;
mod reply;
pub mod rights;
mod server;
mod shard_keys;
mod snapshot_side;
mod standstill;

use std::{thread, time::Duration};

use bson::{Bson, Document, doc};
use mongodb::{Client, error::ErrorKind, options::ClientOptions};
use shared::{
    backoff::Backoff,
    cluster_time::ClusterTime,
    exit::{ExitCode, Stop},
    namespace::Namespace,
};
use tokio::{
    runtime::{Handle, Runtime},
    sync::{mpsc, oneshot, watch},
};

pub(crate) use self::reply::unreadable;
pub use self::{
    images::turn_images_on,
    oplog::OplogStart,
    probe::Acceptance,
    reply::Reply,
    server::{ServerFacts, ServerKind, WIRE_OF_4_2, WIRE_OF_5_0, WIRE_OF_6_0},
};
use self::{open::Opener, reader::Reader};
use crate::{
    metrics::StreamMetrics,
    pipeline::{
        Pipeline,
        proof::{Outcome, Trial},
    },
    scope::{Scope, Target, operations::Operations},
    status::Status,
    stream_error::{self, Phase, Verdict},
    token_record::{self, Position},
};

/// How long the first contact may take before the process ends with "dependency unreachable".
pub const FIRST_CONTACT_LIMIT: Duration = Duration::from_secs(60);
/// How long the server waits for an event before it answers with an empty reply, whose token keeps the position young.
const AWAIT_TIME: Duration = Duration::from_secs(1);
/// While an answer is waited for, the outside is looked at so often.
const LOOK_AROUND: Duration = Duration::from_millis(200);

/// What the stream carries.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    pub scope: Scope,
    pub operations: Operations,
    /// The user's own stages.
    pub pipeline: Option<Pipeline>,
    pub full_document: FullDocument,
    pub full_document_before: FullDocumentBefore,
    pub oversize: Oversize,
}

impl StreamOptions {
    /// Whether an event without an image that was asked for ends the stream.
    pub fn requires_images(&self) -> bool {
        self.full_document == FullDocument::Required
            || self.full_document_before == FullDocumentBefore::Required
    }

    /// Whether images are asked for that only some collections keep.
    pub fn asks_for_images(&self) -> bool {
        self.requires_images()
            || self.full_document == FullDocument::WhenAvailable
            || self.full_document_before == FullDocumentBefore::WhenAvailable
    }

    /// Of all that decides which events the stream has, and in which form: a token of another stream may not resume this one.
    pub fn fingerprint(&self) -> String {
        let scope = serde_json::to_string(&self.scope.record()).expect("the record has only strings as keys");
        token_record::fingerprint(&[
            &scope,
            &self.operations.to_string(),
            &self.pipeline.as_ref().map(Pipeline::text).unwrap_or_default(),
            &format!("{:?}", self.full_document),
            &format!("{:?}", self.full_document_before),
        ])
    }
}

/// `OVERSIZE`: what becomes of an event that is larger than MongoDB can send or a topic takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Oversize {
    /// Exit code 78, with everything before it published.
    Stop,
    /// It is published without what makes it large, and says so.
    Stub,
}

/// `FULL_DOCUMENT`: what an update event carries beside the change itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "camelCase")]
pub enum FullDocument {
    Default,
    UpdateLookup,
    /// As `updateLookup`, but by us: together for all updates of a reply.
    BatchedLookup,
    WhenAvailable,
    Required,
}

impl FullDocument {
    const fn mode(self) -> Option<&'static str> {
        match self {
            Self::Default | Self::BatchedLookup => None,
            Self::UpdateLookup => Some("updateLookup"),
            Self::WhenAvailable => Some("whenAvailable"),
            Self::Required => Some("required"),
        }
    }
}

/// `FULL_DOCUMENT_BEFORE`: the document as it was, where the collection keeps pre-images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "camelCase")]
pub enum FullDocumentBefore {
    Off,
    WhenAvailable,
    Required,
}

impl FullDocumentBefore {
    const fn mode(self) -> Option<&'static str> {
        match self {
            Self::Off => None,
            Self::WhenAvailable => Some("whenAvailable"),
            Self::Required => Some("required"),
        }
    }
}

/// Counts the pump's recoveries: what was read for an older one is void.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(u64);

impl Epoch {
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What the reader reports.
pub struct StreamEvent {
    pub epoch: Epoch,
    /// An error ends the reader's work until it is told to open again.
    pub reply: Result<Reply, Stop>,
}

#[derive(Clone, Debug)]
struct Open {
    epoch: Epoch,
    position: Position,
}

/// The pump's end of the reader. Dropping it ends the reader's thread.
pub struct ChangeStream {
    client: Client,
    status: Status,
    runtime: Handle,
    /// Says whether to go on waiting for an answer.
    while_waiting: Box<dyn Fn() -> bool>,
    commands: watch::Sender<Option<Open>>,
    events: mpsc::Receiver<StreamEvent>,
}

impl ChangeStream {
    /// Starts the reader's thread; no server is contacted yet, but for DNS.
    ///
    /// # Errors
    /// [`ExitCode::Configuration`] if the URI cannot be used; [`ExitCode::Unreachable`] if its host is not found as long as a start
    /// waits; [`ExitCode::Temporary`] without threads.
    pub fn start(
        uri: &str,
        options: StreamOptions,
        status: Status,
        metrics: StreamMetrics,
    ) -> Result<Self, Stop> {
        let (command_sender, commands) = watch::channel(None);
        let (event_sender, events) = mpsc::channel(1);
        let (ready_sender, ready) = oneshot::channel();
        let (uri, reader_status) = (uri.to_owned(), status.clone());
        thread::Builder::new()
            .name("change-stream".into())
            .spawn(move || {
                let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        let stop = Stop::new(
                            ExitCode::Temporary,
                            format!("no runtime for the change stream: {error}"),
                        );
                        // The other end waits for exactly this.
                        drop(ready_sender.send(Err(stop)));
                        return;
                    }
                };
                let client = match connect(&runtime, &uri, FIRST_CONTACT_LIMIT) {
                    Ok(client) => client,
                    Err(stop) => {
                        drop(ready_sender.send(Err(stop)));
                        return;
                    }
                };
                drop(ready_sender.send(Ok((client.clone(), runtime.handle().clone()))));
                let opener = Opener::new(client, options);
                let reader = Reader::new(opener, reader_status, metrics, event_sender);
                runtime.block_on(reader.run(commands));
            })
            .map_err(|error| {
                Stop::new(ExitCode::Temporary, format!("no thread for the change stream: {error}"))
            })?;
        let (client, runtime) = ready
            .blocking_recv()
            .map_err(|_| Stop::new(ExitCode::Defect, "the change stream's thread ended at its start"))??;
        Ok(Self {
            client,
            status,
            runtime,
            while_waiting: Box::new(|| true),
            commands: command_sender,
            events,
        })
    }

    /// Has this called several times a second while a question waits for MongoDB's answer: it says whether to go on waiting.
    pub fn while_waiting(&mut self, go_on: impl Fn() -> bool + 'static) {
        self.while_waiting = Box::new(go_on);
    }

    /// Blocks until the answer is there. [`ExitCode::Drained`] if nobody wants it any more.
    fn ask<T>(&self, question: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
        self.runtime.block_on(async {
            tokio::pin!(question);
            loop {
                match tokio::time::timeout(LOOK_AROUND, &mut question).await {
                    Ok(answer) => return answer,
                    Err(_elapsed) if (self.while_waiting)() => {}
                    Err(_elapsed) => {
                        let text = "asked to stop while MongoDB was asked where to begin";
                        return Err(Stop::new(ExitCode::Drained, text));
                    }
                }
            }
        })
    }

    /// Opens the stream at this position, instead of where it is.
    pub fn open(&self, epoch: Epoch, position: Position) {
        // The reader is gone only when the process ends.
        self.commands.send_replace(Some(Open { epoch, position }));
    }

    /// The next report of this epoch; `None` after `limit`.
    pub async fn next(&mut self, epoch: Epoch, limit: Duration) -> Option<Result<Reply, Stop>> {
        let newest = async {
            loop {
                let Some(event) = self.events.recv().await else {
                    let text = "the thread that reads the change stream has ended";
                    return Some(Err(Stop::new(ExitCode::Defect, text)));
                };
                if event.epoch == epoch {
                    return Some(event.reply);
                }
            }
        };
        tokio::time::timeout(limit, newest).await.ok().flatten()
    }

    /// The time that the server is at, waiting for it as long as a start may.
    ///
    /// # Errors
    /// What no waiting heals, or [`ExitCode::Unreachable`].
    pub fn server_time(&self) -> Result<ClusterTime, Stop> {
        let admin = self.client.database("admin");
        let reply = self.ask_patiently(async || admin.run_command(doc! { "ping": 1 }).await)?;
        operation_time(&reply)
    }

    /// Tries the user's stages on events of our own, before any position is touched.
    ///
    /// # Errors
    /// [`ExitCode::Configuration`] if they cannot do; what no waiting heals; [`ExitCode::Unreachable`].
    pub fn prove_pipeline(&self, options: &StreamOptions) -> Result<(), Stop> {
        let Some(pipeline) = &options.pipeline else { return Ok(()) };
        let trial = Trial {
            database: match options.scope.target() {
                Target::Deployment => "admin".to_owned(),
                Target::Database(name) | Target::Collection(Namespace { db: name, .. }) => name,
            },
            namespace: options.scope.example(),
            looked_up: options.full_document != FullDocument::Default,
            before: options.full_document_before != FullDocumentBefore::Off,
        };
        match self.ask_patiently(async || pipeline.prove(&self.client, &trial).await)? {
            Outcome::Passed { doubts } => {
                for doubt in doubts {
                    tracing::warn!(
                        doubt,
                        "PIPELINE_FILE was tried on an event of our own: on a real one this would stop the source"
                    );
                }
                tracing::info!(
                    stages = pipeline.stages().len(),
                    "PIPELINE_FILE was tried on events of our own"
                );
                Ok(())
            }
            Outcome::NotTried(cause) => {
                tracing::info!(
                    cause,
                    "PIPELINE_FILE cannot be tried here beforehand: a stage that fails stops the source when it does"
                );
                Ok(())
            }
            Outcome::Refused(reason) => Err(Stop::new(
                ExitCode::Configuration,
                format!("PIPELINE_FILE cannot be used: {reason}. The position was not touched"),
            )),
        }
    }

    /// Asks the server, waiting for it as long as a start may.
    fn ask_patiently<T>(
        &self,
        mut question: impl AsyncFnMut() -> mongodb::error::Result<T>,
    ) -> Result<T, Stop> {
        self.ask(async {
            let attempts = async {
                let mut backoff = Backoff::default();
                loop {
                    let error = match question().await {
                        Ok(answer) => return Ok(answer),
                        Err(error) => error,
                    };
                    match stream_error::classify(&error, Phase::Opening) {
                        Verdict::Stop(code, advice) => {
                            return Err(Stop::new(code, stream_error::stop_text(advice, &error, "none yet")));
                        }
                        Verdict::Reopen(_) | Verdict::Oversize => {
                            let delay = backoff.next_delay();
                            let cause = stream_error::short(&error);
                            self.status.stream_down(&cause);
                            tracing::warn!(
                                attempt = backoff.attempts(),
                                ?delay,
                                cause,
                                "MongoDB does not answer yet"
                            );
                            tokio::time::sleep(delay).await;
                        }
                    }
                }
            };
            let answer = tokio::time::timeout(FIRST_CONTACT_LIMIT, attempts).await;
            answer.unwrap_or_else(|_| Err(unreachable_at_start("it did not answer")))
        })
    }
}

fn operation_time(reply: &Document) -> Result<ClusterTime, Stop> {
    match reply.get("operationTime") {
        Some(Bson::Timestamp(time)) => Ok(ClusterTime::new(time.time, time.increment)),
        // A server alone has no cluster time.
        _ => Err(Stop::new(
            ExitCode::Configuration,
            "change streams need a replica set or a sharded cluster; this server is neither. \
             Start mongod with --replSet and run rs.initiate() once",
        )),
    }
}

fn unreachable_at_start(cause: &str) -> Stop {
    Stop::new(
        ExitCode::Unreachable,
        format!(
            "MongoDB cannot be reached within {} s: check MONGO_URI, the network and TLS. Cause: {cause}",
            FIRST_CONTACT_LIMIT.as_secs()
        ),
    )
}

/// The driver's own words are not repeated: they may quote the URI, and with it a password.
fn connect(runtime: &Runtime, uri: &str, limit: Duration) -> Result<Client, Stop> {
    runtime.block_on(async {
        let resolved = tokio::time::timeout(limit, resolve(uri)).await;
        let mut options =
            resolved.unwrap_or_else(|_elapsed| Err(unreachable_at_start("DNS does not know its address")))?;
        options.app_name.get_or_insert_with(|| "atlas-lake-source".to_owned());
        // An election must be waited out by our back-off, which is seen, rather than silently by the driver for half a minute.
        options.server_selection_timeout.get_or_insert(Duration::from_secs(5));
        options.connect_timeout.get_or_insert(Duration::from_secs(5));
        Client::with_options(options).map_err(|_| unusable_uri())
    })
}

/// Parses the URI. One that begins with `mongodb+srv` is looked up in DNS for it, which is waited for as for any server.
async fn resolve(uri: &str) -> Result<ClientOptions, Stop> {
    let mut backoff = Backoff::default();
    loop {
        let cause = match ClientOptions::parse(uri).await {
            Ok(options) => return Ok(options),
            Err(error) => match error.kind.as_ref() {
                ErrorKind::DnsResolve { .. } => "DNS does not know its address".to_owned(),
                ErrorKind::Io(error) => format!("DNS cannot be asked: {}", error.kind()),
                _ => return Err(unusable_uri()),
            },
        };
        let delay = backoff.next_delay();
        tracing::warn!(attempt = backoff.attempts(), ?delay, cause, "MongoDB is not found yet");
        tokio::time::sleep(delay).await;
    }
}

fn unusable_uri() -> Stop {
    Stop::new(
        ExitCode::Configuration,
        "MONGO_URI cannot be used: expected mongodb://host:port/?replicaSet=name or mongodb+srv://host",
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn stop_of(uri: &str) -> Stop {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        connect(&runtime, uri, Duration::from_millis(1500)).unwrap_err()
    }

    /// `.invalid` is in no DNS (RFC 6761), whether or not there is one to be asked.
    #[test]
    fn an_address_that_dns_does_not_know_is_waited_for() {
        let begun = std::time::Instant::now();
        let stop = stop_of("mongodb+srv://ada:planted-secret@cluster.atlas-lake.invalid/?retryReads=true");
        assert_eq!(stop.code, ExitCode::Unreachable, "{stop}");
        assert!(begun.elapsed() >= Duration::from_millis(1500), "given up at once");
        assert!(!stop.message.contains("planted-secret") && stop.message.contains("DNS"), "{stop}");
    }

    #[test]
    fn a_malformed_uri_is_a_mistake_at_once() {
        for uri in [
            "localhost:27017",
            "mongodb://",
            "mongodb://ada:planted-secret@host:port",
            "mongodb+srv://ada:planted-secret@cluster.example.net:27017",
            "mongodb://ada:planted-secret@host/?tls=true&tlsCAFile=/planted/no/such/file",
        ] {
            let stop = stop_of(uri);
            assert_eq!(stop.code, ExitCode::Configuration, "{uri}: {stop}");
            assert!(!stop.message.contains("planted"), "{stop}");
        }
    }
}
