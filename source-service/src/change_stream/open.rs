//! Opens the stream: which stages, with which options, on what.

use bson::{Document, doc};
use mongodb::{Client, raw_batch_cursor::RawBatchCursor};

use super::{AWAIT_TIME, StreamOptions};
use crate::{
    pipeline::Pipeline,
    scope::{Target, filter},
    stream_error,
    token_record::Position,
    transactions::REPLY_EVENTS_MAX,
};

/// How much is asked for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// As configured.
    Usual,
    /// One event in a reply: what comes before an event that is too large arrives.
    OneByOne,
    /// One event in a reply, without looked-up documents and without images: small enough whatever the documents are.
    WithoutImages,
}

/// Opens streams, and remembers what this server does not know.
pub(super) struct Opener {
    client: Client,
    options: StreamOptions,
    /// What happens to collections beyond drop and rename is asked for. Not every server can say (6.0 and later).
    expanded: bool,
    /// Events that are too large come in fragments (6.0.9 and 7.0).
    splits: bool,
}

impl Opener {
    pub(super) fn new(client: Client, options: StreamOptions) -> Self {
        Self { client, options, expanded: true, splits: true }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn options(&self) -> &StreamOptions {
        &self.options
    }

    /// Whether an event may be a fragment of one.
    pub(super) fn splits(&self) -> bool {
        self.splits
    }

    pub(super) async fn open(
        &mut self,
        position: &Position,
        view: View,
    ) -> mongodb::error::Result<RawBatchCursor> {
        let mut without_expanded = false;
        loop {
            let error = match self.aggregate(position, view).await {
                Ok(cursor) => {
                    if without_expanded {
                        tracing::warn!(
                            "this server does not report creates, changes of indexes and the like (MongoDB 6.0 does): atlas.control has drops and renames only"
                        );
                    }
                    return Ok(cursor);
                }
                Err(error) => error,
            };
            // What may be unknown to this server is left out, once.
            if self.splits && stream_error::is_unknown_stage(&error) {
                self.splits = false;
            } else if self.expanded && stream_error::is_unknown_option(&error) {
                (self.expanded, without_expanded) = (false, true);
            } else {
                return Err(error);
            }
        }
    }

    async fn aggregate(&self, position: &Position, view: View) -> mongodb::error::Result<RawBatchCursor> {
        let target = self.options.scope.target();
        let mut pipeline =
            vec![doc! { "$changeStream": stage(&self.options, &target, position, self.expanded, view)? }];
        pipeline.extend(filter::stage(&self.options.scope, &self.options.operations));
        pipeline.extend(self.options.pipeline.iter().flat_map(Pipeline::stages).cloned());
        if self.splits {
            // It has to be the last.
            pipeline.push(doc! { "$changeStreamSplitLargeEvent": {} });
        }
        let batch_size = if view == View::Usual { REPLY_EVENTS_MAX } else { 1 };
        match target {
            Target::Deployment => {
                let database = self.client.database("admin");
                database.aggregate(pipeline).batch_size(batch_size).max_await_time(AWAIT_TIME).batch().await
            }
            Target::Database(name) => {
                let database = self.client.database(&name);
                database.aggregate(pipeline).batch_size(batch_size).max_await_time(AWAIT_TIME).batch().await
            }
            Target::Collection(name) => {
                let collection = self.client.database(&name.db).collection::<Document>(&name.coll);
                collection.aggregate(pipeline).batch_size(batch_size).max_await_time(AWAIT_TIME).batch().await
            }
        }
    }
}

fn stage(
    options: &StreamOptions,
    target: &Target,
    position: &Position,
    expanded: bool,
    view: View,
) -> mongodb::error::Result<Document> {
    let mut stage = Document::new();
    if *target == Target::Deployment {
        stage.insert("allChangesForCluster", true);
    }
    if expanded {
        stage.insert("showExpandedEvents", true);
    }
    if view != View::WithoutImages {
        // Not asking for what is the default keeps the stage understood by old servers.
        if let Some(mode) = options.full_document.mode() {
            stage.insert("fullDocument", mode);
        }
        if let Some(mode) = options.full_document_before.mode() {
            stage.insert("fullDocumentBeforeChange", mode);
        }
    }
    match position {
        Position::Time(time) => {
            stage.insert(
                "startAtOperationTime",
                bson::Timestamp { time: time.seconds, increment: time.increment },
            );
        }
        Position::After(token) => {
            stage.insert("startAfter", Document::try_from(token.as_raw())?);
        }
    }
    Ok(stage)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use bson::{Bson, rawdoc};
    use shared::cluster_time::ClusterTime;

    use super::*;
    use crate::{
        change_stream::{FullDocument, FullDocumentBefore, Oversize},
        scope::{Scope, operations::Operations},
        token_record::ResumeToken,
    };

    fn options(scope: Scope) -> StreamOptions {
        StreamOptions {
            scope,
            operations: Operations::default(),
            pipeline: None,
            full_document: FullDocument::UpdateLookup,
            full_document_before: FullDocumentBefore::WhenAvailable,
            oversize: Oversize::Stop,
        }
    }

    #[test]
    fn a_stream_always_goes_on_with_start_after() {
        let token = ResumeToken::new(&rawdoc! { "_data": "8266C1F3A4000000032B0229296E04" }).unwrap();
        let (options, position) = (options(Scope::default()), Position::After(token));
        let mut stage = stage(&options, &Target::Deployment, &position, true, View::Usual).unwrap();
        let expected = doc! {
            "allChangesForCluster": true,
            "showExpandedEvents": true,
            "fullDocument": "updateLookup",
            "fullDocumentBeforeChange": "whenAvailable",
            "startAfter": { "_data": "8266C1F3A4000000032B0229296E04" },
        };
        assert_eq!(stage, expected);

        stage = super::stage(&options, &Target::Deployment, &position, true, View::WithoutImages).unwrap();
        assert_eq!((stage.get("fullDocument"), stage.get("fullDocumentBeforeChange")), (None, None));
        assert_eq!(stage.get("startAfter"), expected.get("startAfter"));
    }

    #[test]
    fn a_first_start_opens_at_a_time() {
        let position = Position::Time(ClusterTime::new(7, 2));
        let options = options(Scope::default());
        let target = Target::Database("shop".to_owned());
        let stage = stage(&options, &target, &position, false, View::Usual).unwrap();
        assert_eq!(
            stage.get("startAtOperationTime"),
            Some(&Bson::Timestamp(bson::Timestamp { time: 7, increment: 2 }))
        );
        assert_eq!((stage.get("allChangesForCluster"), stage.get("showExpandedEvents")), (None, None));
    }
}
