//! One writer and its steps.

use bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::{
    Client, ClientSession, Collection,
    error::{Error, ErrorKind, WriteFailure},
};
use rand::{RngExt, rngs::StdRng};

use super::{COLLECTIONS, durable, values};

/// What became of one step.
#[derive(Debug)]
pub(super) enum Outcome {
    Acknowledged,
    Unknown,
    Duplicate,
    Refused(anyhow::Error),
}

/// A document that this writer made: collection and `_id`.
type Live = (usize, Bson);

/// Writes to documents of its own: `_id`s that could meet another writer's (`null`, booleans) end as duplicates.
#[derive(Debug)]
pub(super) struct Writer {
    client: Client,
    database: String,
    random: StdRng,
    live: Vec<Live>,
    serial: i64,
}

/// Beyond this, inserts make room by deleting, so that updates keep meeting each document often.
const LIVE_MAX: usize = 150;

impl Writer {
    pub(super) fn new(client: Client, database: String, number: u32, random: StdRng) -> Self {
        // Far apart, so that numbers of two writers never meet.
        let serial = (i64::from(number) + 1) * 100_000_000;
        Self { client, database, random, live: Vec::new(), serial }
    }

    /// One operation, chosen by the seed.
    pub(super) async fn step(&mut self) -> Outcome {
        let result = match self.random.random_range(0..100_u32) {
            _ if self.live.len() < 5 => self.insert().await,
            0..=29 => self.insert().await,
            30..=64 => self.update().await,
            65..=76 => self.replace().await,
            77..=91 => self.delete().await,
            _ => self.transaction().await,
        };
        match result {
            Ok(()) => Outcome::Acknowledged,
            Err(error) => classify(error),
        }
    }

    async fn insert(&mut self) -> mongodb::error::Result<()> {
        if self.live.len() >= LIVE_MAX {
            return self.delete().await;
        }
        let (live, document) = self.new_document();
        let collection = self.collection(live.0);
        // Kept before the answer: without one it may be there, and updates of what is not there change nothing.
        self.live.push(live);
        let inserted = collection.insert_one(document).await;
        if inserted.as_ref().is_err_and(is_duplicate) {
            self.live.pop();
        }
        inserted.map(|_| ())
    }

    async fn update(&mut self) -> mongodb::error::Result<()> {
        let (_, (collection, id)) = self.pick();
        let collection = self.collection(collection);
        let filter = doc! { "_id": id };
        if self.random.random_ratio(1, 6) {
            collection.update_one(filter, self.pipeline()).await?;
        } else {
            collection.update_one(filter, self.operators()).await?;
        }
        Ok(())
    }

    /// Update operators: set, unset, and each kind of change of an array.
    fn operators(&mut self) -> Document {
        let field = format!("f{}", self.random.random_range(0..20_u32));
        match self.random.random_range(0..7_u32) {
            0 => doc! { "$unset": { field: 1 }, "$set": { "n": self.random.random::<i32>() } },
            // `$each`: a document whose first name begins with a dollar would be taken for modifiers.
            1 => doc! { "$push": { "list": { "$each": [values::value(&mut self.random, 1)] } } },
            2 => doc! { "$pop": { "list": 1 }, "$set": { "n": self.random.random::<i64>() } },
            3 => {
                doc! { "$set": { "list.0": values::value(&mut self.random, 2), "inner.x": self.random.random::<f64>() } }
            }
            4 => doc! { "$inc": { "counter": 1_i64 } },
            _ => {
                doc! { "$set": { field: values::value(&mut self.random, 3), "n": self.random.random::<i64>() } }
            }
        }
    }

    /// Pipelines make what operators cannot: a cut array (`truncatedArrays`) and a field with a dot in its name.
    fn pipeline(&mut self) -> Vec<Document> {
        let number = self.random.random::<i64>();
        if self.random.random() {
            let list =
                doc! { "$cond": [{ "$isArray": "$list" }, { "$slice": ["$list", 2] }, [1, 2, 3, 4, 5]] };
            vec![doc! { "$set": { "list": list, "n": number } }]
        } else {
            let set = doc! { "field": "with.dot", "input": "$$ROOT", "value": number };
            vec![doc! { "$replaceWith": { "$setField": set } }]
        }
    }

    async fn replace(&mut self) -> mongodb::error::Result<()> {
        let (_, (collection, id)) = self.pick();
        let document = raw(&values::document(&mut self.random, id.clone()));
        self.collection(collection).replace_one(doc! { "_id": id }, document).await.map(|_| ())
    }

    async fn delete(&mut self) -> mongodb::error::Result<()> {
        let (index, (collection, id)) = self.pick();
        let deleted = self.collection(collection).delete_one(doc! { "_id": id }).await;
        if deleted.is_ok() {
            self.live.swap_remove(index);
        }
        deleted.map(|_| ())
    }

    /// Two to five changes that happen together or not at all.
    async fn transaction(&mut self) -> mongodb::error::Result<()> {
        let mut session = self.client.start_session().await?;
        session.start_transaction().write_concern(durable()).await?;
        match self.changes(&mut session).await {
            Ok(inserted) => {
                // May have been committed when the answer is lost: its documents are kept.
                self.live.extend(inserted);
                session.commit_transaction().await
            }
            Err(error) => {
                // The server ends what cannot be aborted now; the first error is the one that counts.
                drop(session.abort_transaction().await);
                Err(error)
            }
        }
    }

    async fn changes(&mut self, session: &mut ClientSession) -> mongodb::error::Result<Vec<Live>> {
        let mut inserted = Vec::new();
        for _ in 0..self.random.random_range(2..6_u32) {
            if self.random.random() {
                let (live, document) = self.new_document();
                // Null and booleans may be there already, and a duplicate would end the whole transaction.
                if matches!(live.1, Bson::Null | Bson::Boolean(_)) {
                    continue;
                }
                self.plain_collection(live.0).insert_one(document).session(&mut *session).await?;
                inserted.push(live);
            } else {
                let (_, (collection, id)) = self.pick();
                let update = self.operators();
                let collection = self.plain_collection(collection);
                collection.update_one(doc! { "_id": id }, update).session(&mut *session).await?;
            }
        }
        Ok(inserted)
    }

    fn new_document(&mut self) -> (Live, RawDocumentBuf) {
        self.serial += 1;
        let id = values::id(&mut self.random, self.serial);
        let collection = self.random.random_range(0..COLLECTIONS.len());
        let document = raw(&values::document(&mut self.random, id.clone()));
        ((collection, id), document)
    }

    fn pick(&mut self) -> (usize, Live) {
        let index = self.random.random_range(0..self.live.len());
        (index, self.live[index].clone())
    }

    /// Raw documents: serde would take a member that is called `$oid` for an ObjectId.
    fn collection(&self, index: usize) -> Collection<RawDocumentBuf> {
        let options = mongodb::options::CollectionOptions::builder().write_concern(durable()).build();
        self.client.database(&self.database).collection_with_options(COLLECTIONS[index], options)
    }

    /// Inside a transaction the write concern is the transaction's.
    fn plain_collection(&self, index: usize) -> Collection<RawDocumentBuf> {
        self.client.database(&self.database).collection(COLLECTIONS[index])
    }
}

fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).expect("no name in it has a zero byte")
}

fn is_duplicate(error: &Error) -> bool {
    const DUPLICATE_KEY: i32 = 11_000;
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.code == DUPLICATE_KEY,
        ErrorKind::Command(error) => error.code == DUPLICATE_KEY,
        _ => false,
    }
}

/// A server on its way down or up answers with errors too; they have labels. Everything else that is an answer is a no.
fn classify(error: Error) -> Outcome {
    if is_duplicate(&error) {
        return Outcome::Duplicate;
    }
    let passes = ["RetryableWriteError", "TransientTransactionError", "UnknownTransactionCommitResult"];
    let is_answer =
        matches!(&*error.kind, ErrorKind::Write(WriteFailure::WriteError(_)) | ErrorKind::Command(_));
    if is_answer && !passes.iter().any(|label| error.contains_label(label)) {
        return Outcome::Refused(error.into());
    }
    Outcome::Unknown
}
