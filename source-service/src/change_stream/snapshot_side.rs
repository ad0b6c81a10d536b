//! The snapshot's questions, asked over the same client and on the same thread as the stream.

use bson::doc;
use shared::{
    backoff::Backoff,
    exit::{ExitCode, Stop},
    namespace::Namespace,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    ChangeStream, FIRST_CONTACT_LIMIT,
    rights::{self, Right},
    unreachable_at_start,
};
use crate::{
    scope::Scope,
    snapshot::{
        catalog::{self, Cuts, Found, Listed},
        reader::{RangeRead, ReadReport, read_range},
    },
    stream_error::{self, Phase, Verdict},
};

/// Replies that are read ahead of the one being published.
const REPLIES_AHEAD: usize = 1;

impl ChangeStream {
    /// The collections that a snapshot of this scope copies, as they are now; waits for MongoDB as long as a start may.
    ///
    /// # Errors
    /// What no waiting heals, or [`ExitCode::Unreachable`].
    pub fn collections(&self, scope: &Scope) -> Result<Vec<Namespace>, Stop> {
        let listed = self.list(scope, "START_FROM=snapshot")?;
        Ok(listed.into_iter().map(|collection| collection.namespace).collect())
    }

    /// The collections in scope, for what `setting` asks for; waits for MongoDB as long as a start may.
    ///
    /// # Errors
    /// As [`Self::collections`].
    pub fn list(&self, scope: &Scope, setting: &'static str) -> Result<Vec<Listed>, Stop> {
        let (client, scope) = (self.client.clone(), scope.clone());
        self.runtime.block_on(async move {
            let attempts = async {
                let mut backoff = Backoff::default();
                loop {
                    match catalog::collections(&client, &scope).await {
                        Ok(collections) => return Ok(collections),
                        Err(error) => match stream_error::classify(&error, Phase::Opening) {
                            Verdict::Stop(ExitCode::NotAllowed, _) => {
                                let lacking = rights::sentence(&client, &Right::to_list(&scope)).await;
                                return Err(may_not_list(&error, setting, &lacking));
                            }
                            Verdict::Stop(code, advice) => {
                                return Err(Stop::new(
                                    code,
                                    stream_error::stop_text(advice, &error, "none yet"),
                                ));
                            }
                            Verdict::Reopen(_) | Verdict::Oversize => {
                                tokio::time::sleep(backoff.next_delay()).await
                            }
                        },
                    }
                }
            };
            let listed = tokio::time::timeout(FIRST_CONTACT_LIMIT, attempts).await;
            listed.unwrap_or_else(|_| Err(unreachable_at_start("it did not answer")))
        })
    }

    /// Reads one row of a collection as a snapshot would, and forgets it; in one attempt.
    ///
    /// # Errors
    /// What a snapshot would end with; [`ExitCode::Unreachable`] if MongoDB does not answer.
    pub fn try_row(&self, namespace: &Namespace) -> Result<(), Stop> {
        let database = self.client.database(&namespace.db);
        let find = doc! {
            "find": &namespace.coll,
            "projection": { "_id": 1 },
            "hint": { "_id": 1 },
            "limit": 1,
            "singleBatch": true,
            "readConcern": { "level": "snapshot" },
        };
        self.runtime.block_on(async {
            let Err(error) = database.run_command(find).await else { return Ok(()) };
            let (code, advice) = match stream_error::classify(&error, Phase::Opening) {
                Verdict::Stop(code, _) => (code, "cannot be copied by START_FROM=snapshot"),
                Verdict::Reopen(_) | Verdict::Oversize => (ExitCode::Unreachable, "could not be read"),
            };
            let mut text = format!("{namespace} {advice}. MongoDB says: {}", stream_error::short(&error));
            if code == ExitCode::NotAllowed {
                text += &rights::sentence(&self.client, &[Right::to_read(namespace)]).await;
            }
            Err(Stop::new(code, text))
        })
    }

    /// What there is under this name now, in one attempt.
    ///
    /// # Errors
    /// MongoDB's, in words.
    pub fn find_collection(&self, namespace: &Namespace) -> Result<Found, String> {
        let (client, namespace) = (self.client.clone(), namespace.clone());
        self.runtime.block_on(async move {
            catalog::find(&client, &namespace).await.map_err(|error| stream_error::short(&error))
        })
    }

    /// Where a collection can be cut into at most `ranges` ranges, in one attempt.
    ///
    /// # Errors
    /// MongoDB's, in words.
    pub fn cuts(&self, namespace: &Namespace, ranges: u64) -> Result<Cuts, String> {
        let (client, namespace) = (self.client.clone(), namespace.clone());
        self.runtime.block_on(async move {
            catalog::cuts(&client, &namespace, ranges).await.map_err(|error| stream_error::short(&error))
        })
    }

    /// Begins to read ranges, each on its own, until `enough`. The reports end when all of them have ended.
    pub fn read_ranges(
        &self,
        reads: Vec<RangeRead>,
        enough: &CancellationToken,
    ) -> mpsc::Receiver<ReadReport> {
        let (sender, reports) = mpsc::channel(REPLIES_AHEAD);
        for read in reads {
            self.runtime.spawn(read_range(self.client.clone(), read, sender.clone(), enough.clone()));
        }
        reports
    }
}

fn may_not_list(error: &mongodb::error::Error, setting: &str, lacking: &str) -> Stop {
    Stop::new(
        ExitCode::NotAllowed,
        format!(
            "MongoDB does not let this user list the collections in scope, which {setting} needs: grant listCollections on the databases in \
             scope. MongoDB says: {}{lacking}",
            stream_error::short(error)
        ),
    )
}
