//! What there is to copy, and where a collection can be cut into ranges of about the same size.

use bson::{RawDocumentBuf, doc, raw::RawBson};
use futures::TryStreamExt as _;
use mongodb::{Client, results::CollectionType};
use shared::namespace::Namespace;

use crate::scope::Scope;

/// A collection below this size is one range.
const RANGE_ROWS_MIN: u64 = 20_000;
/// Documents looked at for each cut: the ranges then differ by some ten percent in size.
const SAMPLES_PER_RANGE: u64 = 50;

/// A collection's size as MongoDB estimates it, and the cuts.
#[derive(Clone, Debug, Default)]
pub struct Cuts {
    pub estimate: u64,
    /// In the order of `_id`.
    pub bounds: Vec<RawBson>,
}

/// A collection in scope.
#[derive(Clone, Debug)]
pub struct Listed {
    pub namespace: Namespace,
    /// Whether it keeps pre- and post-images of its documents (MongoDB 6.0).
    pub keeps_images: bool,
}

/// What there is under a collection's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Collection,
    /// A view or a time-series collection.
    Other,
    Nothing,
}

/// Looks for one collection.
///
/// # Errors
/// MongoDB's.
pub async fn find(client: &Client, namespace: &Namespace) -> mongodb::error::Result<Found> {
    let database = client.database(&namespace.db);
    let mut found = database.list_collections().filter(doc! { "name": &namespace.coll }).await?;
    Ok(match found.try_next().await? {
        None => Found::Nothing,
        Some(one) if one.collection_type == CollectionType::Collection => Found::Collection,
        Some(_) => Found::Other,
    })
}

/// The collections in scope that hold documents of their own, as they are now. What is created later is in the stream whole. Databases
/// of which the user may see nothing are left out by the server.
///
/// # Errors
/// MongoDB's.
pub async fn collections(client: &Client, scope: &Scope) -> mongodb::error::Result<Vec<Listed>> {
    let mut found = Vec::new();
    for db in client.list_database_names().await? {
        if !scope.touches(&db) {
            continue;
        }
        let mut collections = client.database(&db).list_collections().await?;
        while let Some(collection) = collections.try_next().await? {
            let namespace = Namespace::new(db.as_str(), collection.name.as_str());
            if collection.name.starts_with("system.") || !scope.contains(&db, &collection.name) {
                continue;
            }
            if collection.collection_type == CollectionType::Collection {
                let images = collection.options.change_stream_pre_and_post_images;
                found.push(Listed { namespace, keeps_images: images.is_some_and(|images| images.enabled) });
            } else {
                tracing::debug!(%namespace, kind = ?collection.collection_type, "left out: change streams have no events of it");
            }
        }
    }
    found.sort_by(|a, b| a.namespace.cmp(&b.namespace));
    Ok(found)
}

/// Where to cut a collection into at most `ranges` ranges.
///
/// # Errors
/// MongoDB's.
pub async fn cuts(client: &Client, namespace: &Namespace, ranges: u64) -> mongodb::error::Result<Cuts> {
    let collection = client.database(&namespace.db).collection::<RawDocumentBuf>(&namespace.coll);
    let estimate = collection.estimated_document_count().await?;
    let ranges = (estimate / RANGE_ROWS_MIN).clamp(1, ranges.max(1));
    if ranges == 1 {
        return Ok(Cuts { estimate, bounds: Vec::new() });
    }
    let size = i64::try_from(ranges * SAMPLES_PER_RANGE).unwrap_or(i64::MAX);
    // The server sorts: it knows BSON's order over all types, and the collection's own collation.
    let stages = [
        doc! { "$sample": { "size": size } },
        doc! { "$project": { "_id": 1 } },
        doc! { "$sort": { "_id": 1 } },
    ];
    let mut samples: Vec<RawBson> = Vec::new();
    let mut cursor = collection.aggregate(stages).with_type::<RawDocumentBuf>().await?;
    while let Some(sample) = cursor.try_next().await? {
        if let Ok(Some(id)) = sample.get("_id") {
            samples.push(id.into());
        }
    }
    samples.dedup();
    let ranges = usize::try_from(ranges).expect("a few ranges");
    let bounds = (1..ranges).filter_map(|cut| samples.get(cut * samples.len() / ranges).cloned());
    let mut bounds: Vec<RawBson> = bounds.collect();
    bounds.dedup();
    Ok(Cuts { estimate, bounds })
}
