//! A collection of MongoDB's, as it is read here: by everybody's right to read it, from the primary, what a majority has.

use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf, doc};
use futures::TryStreamExt as _;
use mongodb::{
    Client, Collection,
    error::{Error, ErrorKind},
    options::{ClientOptions, ReadConcern, ReadPreference, SelectionCriteria},
};
use shared::{
    cluster_time::ClusterTime,
    exit::{ExitCode, Stop},
    namespace::Namespace,
    settings::Secret,
};

/// `_id`s in one question.
const IDS_AT_ONCE: usize = 500;

const CONTACT_LIMIT: Duration = Duration::from_secs(10);

/// The driver's own words about a URI may quote it, and with it a password: they are not repeated.
pub(super) async fn connect(uri: &Secret) -> Result<Client, Stop> {
    let unusable = || {
        let expected = "expected mongodb://host:port/?replicaSet=name or mongodb+srv://host that DNS knows";
        Stop::new(ExitCode::Configuration, format!("MONGO_URI cannot be used: {expected}"))
    };
    let mut options = ClientOptions::parse(uri.expose()).await.map_err(|_| unusable())?;
    options.app_name.get_or_insert_with(|| "atlas-lake-compare".to_owned());
    options.server_selection_timeout.get_or_insert(CONTACT_LIMIT);
    options.connect_timeout.get_or_insert(CONTACT_LIMIT);
    // What was acknowledged to be in the majority, of the one server whose clock is asked afterwards.
    options.read_concern = Some(ReadConcern::majority());
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    Client::with_options(options).map_err(|_| unusable())
}

pub(super) struct MongoSide {
    client: Client,
    collection: Collection<RawDocumentBuf>,
}

impl MongoSide {
    pub(super) fn new(client: &Client, namespace: &Namespace) -> Self {
        let collection = client.database(&namespace.db).collection(&namespace.coll);
        Self { client: client.clone(), collection }
    }

    /// About how many documents there are.
    pub(super) async fn estimate(&self) -> Result<u64, Stop> {
        self.collection.estimated_document_count().await.map_err(|error| stop_of(&error))
    }

    /// Every document once, unless it changes its place meanwhile. What does not decode is told as `None`.
    pub(super) async fn scan(&self, mut each: impl FnMut(Option<Document>)) -> Result<(), Stop> {
        let failed = |error: Error| stop_of(&error);
        let mut cursor = self.collection.find(doc! {}).await.map_err(failed)?;
        while let Some(document) = cursor.try_next().await.map_err(failed)? {
            each(Document::try_from(document).ok());
        }
        Ok(())
    }

    /// The documents with these `_id`s.
    pub(super) async fn find(&self, ids: &[Bson], mut each: impl FnMut(Document)) -> Result<(), Stop> {
        let failed = |error: Error| stop_of(&error);
        for ids in ids.chunks(IDS_AT_ONCE) {
            let filter = doc! { "_id": { "$in": ids } };
            let mut cursor = self.collection.find(filter).await.map_err(failed)?;
            while let Some(document) = cursor.try_next().await.map_err(failed)? {
                if let Ok(document) = Document::try_from(document) {
                    each(document);
                }
            }
        }
        Ok(())
    }

    /// A time that nothing read so far lies behind.
    pub(super) async fn time(&self) -> Result<ClusterTime, Stop> {
        let admin = self.client.database("admin");
        let reply = admin.run_command(doc! { "ping": 1 }).await.map_err(|error| stop_of(&error))?;
        let time = reply.get_timestamp("operationTime").map_err(|_| {
            let what = "MongoDB tells no time: expected a replica set or a sharded cluster in MONGO_URI";
            Stop::new(ExitCode::Configuration, what)
        })?;
        Ok(ClusterTime::new(time.time, time.increment))
    }
}

fn stop_of(error: &Error) -> Stop {
    match error.kind.as_ref() {
        ErrorKind::Command(command) if command.code == 13 => {
            let what = format!("MongoDB does not let this user read: {}", command.message);
            Stop::new(ExitCode::NotAllowed, what)
        }
        ErrorKind::Authentication { .. } => {
            Stop::new(ExitCode::NotAllowed, "MongoDB does not accept user and password in MONGO_URI")
        }
        ErrorKind::Command(command) => {
            Stop::new(ExitCode::Unreachable, format!("MongoDB: {} ({})", command.message, command.code_name))
        }
        _ => Stop::new(
            ExitCode::Unreachable,
            "MongoDB does not answer: check MONGO_URI, the network and TLS, then type the command again",
        ),
    }
}
