//! One job's turn at the lake, and its back-off, told to the operator from the first wait to the success.

use std::time::Duration;

use shared::{backoff::Backoff, kafka_position::TopicPartition};

use super::{Identity, Publisher, Waiting, Waits};
use crate::uploads::{TopicUploads, Upload, Uploads};

/// See the module.
pub(super) struct Patience<'a> {
    partition: &'a TopicPartition,
    of_topic: &'a TopicUploads,
    uploads: &'a Uploads,
    waits: &'a Waits,
    upload: Option<Upload<'a>>,
    backoff: Backoff,
}

impl<'a> Patience<'a> {
    pub(super) fn new(publisher: &'a Publisher, identity: &'a Identity) -> Self {
        Self {
            partition: &identity.partition,
            of_topic: &identity.uploads,
            uploads: &publisher.uploads,
            waits: &publisher.waits,
            upload: None,
            backoff: Backoff::default(),
        }
    }

    /// Permission to talk to the lake. It is kept from step to step: were it asked for before each of them, all batches of a
    /// round would end with the last one, and the memory of none of them would be free before.
    pub(super) async fn upload(&mut self) {
        if self.upload.is_none() {
            self.upload = Some(self.uploads.begin(self.of_topic).await);
        }
    }

    /// The permission goes to somebody else.
    pub(super) fn give_way(&mut self) {
        self.upload = None;
    }

    /// Whoever waits for a dependency holds no permission, so that a partition that cannot go on does not stop the others.
    pub(super) async fn wait(&mut self, cause: String, at_least: Option<Duration>) {
        self.give_way();
        let delay = self.backoff.next_delay_at_least(at_least);
        if self.backoff.attempts() == 1 {
            tracing::warn!(partition = %self.partition, %cause, "waiting for a dependency");
        }
        self.tell(Some(cause));
        tokio::time::sleep(delay).await;
    }

    pub(super) fn over(&mut self) {
        if self.backoff.attempts() > 0 {
            tracing::info!(partition = %self.partition, attempts = self.backoff.attempts(), "dependency is back");
            self.backoff.reset();
            self.tell(None);
        }
    }

    /// A report that finds the channel full is not missed: the next attempt reports again, and the end of a wait shows
    /// in the job's result.
    fn tell(&self, cause: Option<String>) {
        if self.waits.try_send(Waiting { partition: self.partition.clone(), cause }).is_err() {
            tracing::debug!(partition = %self.partition, "wait not told");
        }
    }
}
