//! One collection: the fold, the scan, and rounds over what differs, as the module above draws it.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bson::Bson;
use shared::{
    exit::{ExitCode, Stop},
    kafka_position::TopicPartition,
};

use super::{
    collection::MongoSide,
    completeness::Completeness,
    drops::Drops,
    fold::{Bucket, Fold},
    lake_side::LakeSide,
    normal::ValueHash,
    report::CollectionResult,
    suspect::{InMongo, Suspect},
};
use crate::{lake::Lake, look_error::LookError, progress::Progress, topic_content::TopicContent};

/// After so many rounds a document that changed in each of them is left undecided.
const ROUNDS_MAX: u32 = 10;

/// So many documents that differ are looked at one by one. More are another collection, or a lake that does not begin with it.
const SUSPECTS_MAX: usize = 1_000_000;

/// What all collections share.
pub(super) struct Rounds<'a> {
    pub lake: &'a Lake,
    pub drops: Drops<'a>,
    pub completeness: Completeness<'a>,
}

/// One bucket of a collection.
#[derive(Clone, Copy)]
struct Compared<'a> {
    topic: &'a str,
    partitions: &'a [TopicPartition],
    content: &'a TopicContent,
    bucket: Bucket,
    mongo: &'a MongoSide,
}

impl Rounds<'_> {
    /// Compares one bucket of a collection.
    pub(super) async fn collection(
        &mut self,
        partitions: &[TopicPartition],
        content: &TopicContent,
        mongo: &MongoSide,
        estimate: u64,
        bucket: Bucket,
        result: &mut CollectionResult,
    ) -> Result<(), LookError> {
        let Some(topic) = partitions.first().map(|partition| &*partition.topic) else { return Ok(()) };
        let mut side = LakeSide::new(self.lake, topic, content, bucket);
        let mut fold = Fold::default();
        side.read_on(|row| fold.take(row.key, row.last)).await?;
        self.take_drops(content, &mut fold).await?;

        let mut suspects = HashMap::new();
        result.in_mongodb += scan(mongo, estimate, bucket, &mut fold, &mut suspects).await?;
        // Of most collections this is all: they stand still, or go slowly.
        if !suspects.is_empty() || fold.unseen().next().is_some() {
            let compared = Compared { topic, partitions, content, bucket, mongo };
            self.settle(compared, &mut side, &mut fold, &mut suspects, result).await?;
        }
        result.in_lake += fold.documents();
        result.not_changes += side.strange;
        Ok(())
    }

    /// Rounds over what differs.
    async fn settle(
        &mut self,
        compared: Compared<'_>,
        side: &mut LakeSide<'_>,
        fold: &mut Fold,
        suspects: &mut HashMap<ValueHash, Suspect>,
        result: &mut CollectionResult,
    ) -> Result<(), LookError> {
        let Compared { topic, partitions, content, bucket, mongo } = compared;
        // What came while the scan ran may have been too late for it, and is asked about; what came later is another matter.
        let scanned = mongo.time().await?;
        self.completeness.wait_for(scanned, partitions, content).await?;
        side.read_on(|row| {
            if let Some(suspect) = suspects.get_mut(&row.key) {
                suspect.meet(row.last.state);
            }
            if row.last.time > scanned && !suspects.contains_key(&row.key) {
                fold.take_later(row.key, row.last);
                return;
            }
            fold.take(row.key, row.last);
            if !fold.is_settled(row.key) {
                suspects.entry(row.key).or_insert_with(|| Suspect::new(row.id, InMongo::NotAskedYet));
            }
        })
        .await?;
        self.take_drops(content, fold).await?;
        self.add_unseen(topic, content, bucket, fold, suspects).await?;
        for round in 0.. {
            suspects.retain(|key, suspect| !suspect.agrees(fold.last(*key)));
            suspects.retain(|key, suspect| {
                let last = fold.last(*key);
                let settled = suspect.is_settled(last);
                if settled {
                    result.differs(&suspect.id, suspect.difference(last));
                }
                !settled
            });
            if suspects.is_empty() {
                break;
            }
            if suspects.len() > SUSPECTS_MAX {
                let what = format!(
                    "{topic}: more than {SUSPECTS_MAX} documents differ. Does the lake hold {content} from its beginning (START_FROM=snapshot), and is MONGO_URI that of the source?"
                );
                return Err(Stop::new(ExitCode::LakeDiffers, what).into());
            }
            if round == ROUNDS_MAX {
                result.undecided += suspects.len() as u64;
                break;
            }
            eprintln!("compare: {topic}: {} documents are looked at again", suspects.len());
            for (key, suspect) in &mut *suspects {
                suspect.ask_again(fold.last(*key));
            }
            let ids: Vec<Bson> = suspects.values().map(|suspect| suspect.id.clone()).collect();
            let found = |document: bson::Document| {
                if let Some(suspect) = document.get("_id").and_then(|id| suspects.get_mut(&ValueHash::of(id)))
                {
                    suspect.mongo = InMongo::Document(ValueHash::of_document(&document));
                }
            };
            mongo.find(&ids, found).await?;
            self.completeness.wait_for(mongo.time().await?, partitions, content).await?;
            side.read_on(|row| match suspects.get_mut(&row.key) {
                Some(suspect) => {
                    suspect.meet(row.last.state);
                    fold.take(row.key, row.last);
                }
                None => fold.take_later(row.key, row.last),
            })
            .await?;
            self.take_drops(content, fold).await?;
        }
        Ok(())
    }

    /// Documents of the lake that the scan did not meet. Their `_id`s are read from the lake once more, which is only needed if there are such.
    async fn add_unseen(
        &self,
        topic: &str,
        content: &TopicContent,
        bucket: Bucket,
        fold: &Fold,
        suspects: &mut HashMap<ValueHash, Suspect>,
    ) -> Result<(), LookError> {
        let unseen: HashSet<ValueHash> = fold.unseen().filter(|key| !suspects.contains_key(key)).collect();
        if unseen.is_empty() {
            return Ok(());
        }
        let mut again = LakeSide::new(self.lake, topic, content, bucket);
        again
            .read_on(|row| {
                if unseen.contains(&row.key) {
                    suspects.entry(row.key).or_insert_with(|| Suspect::new(row.id, InMongo::Absent));
                }
            })
            .await
    }

    /// None of the documents that the collection had when it was dropped, or got another name, was deleted one by one.
    async fn take_drops(&mut self, content: &TopicContent, fold: &mut Fold) -> Result<(), LookError> {
        self.drops.read_on().await?;
        if let Some(time) = self.drops.last_of(content) {
            fold.dropped_at(time);
        }
        Ok(())
    }
}

/// Compares every document with the fold; those that differ become suspects. How many documents there were.
async fn scan(
    mongo: &MongoSide,
    estimate: u64,
    bucket: Bucket,
    fold: &mut Fold,
    suspects: &mut HashMap<ValueHash, Suspect>,
) -> Result<u64, LookError> {
    let done = Arc::new(AtomicU64::new(0));
    let mut progress = Progress::over("compare", "documents of MongoDB", estimate, Arc::clone(&done));
    let mut found = 0;
    let mut undecodable = 0_u64;
    mongo
        .scan(|document| {
            if done.fetch_add(1, Ordering::Relaxed).is_multiple_of(1000) {
                progress.tick();
            }
            let Some(document) = document else {
                undecodable += 1;
                return;
            };
            let Some(id) = document.get("_id") else { return };
            let key = ValueHash::of(id);
            if !bucket.has(key) {
                return;
            }
            found += 1;
            let hash = ValueHash::of_document(&document);
            if !fold.agrees(key, hash) && suspects.len() <= SUSPECTS_MAX {
                suspects.insert(key, Suspect::new(id.clone(), InMongo::Document(hash)));
            }
        })
        .await?;
    progress.over_and_out();
    if undecodable > 0 {
        let what = format!(
            "{undecodable} documents of MongoDB's hold text that is not UTF-8: they cannot be compared"
        );
        return Err(Stop::new(ExitCode::LakeDiffers, what).into());
    }
    Ok(found)
}
