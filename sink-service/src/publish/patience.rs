//! One job's turn at the lake, and its waiting for a dependency, told to the operator from the first failure to the success.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use shared::{backoff::Backoff, kafka_position::TopicPartition};

use super::{Identity, Publisher};
use crate::uploads::{TopicUploads, Upload, Uploads};

/// A step that got no answer for so long is told as a failure, before its request is given up.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// What a step may take besides for each byte that it sends: slower than this is no way to write a lake.
const BYTES_PER_SECOND: usize = 1024 * 1024;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependency {
    Lake,
    Kafka,
    Registry,
}

impl Dependency {
    pub const ALL: [Self; 3] = [Self::Lake, Self::Kafka, Self::Registry];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lake => "lake",
            Self::Kafka => "kafka",
            Self::Registry => "registry",
        }
    }
}

/// One failure, and when the next attempt is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub on: Dependency,
    /// For people; holds no secret.
    pub cause: String,
    /// `None` while an attempt is on its way that has got no answer for long.
    pub next: Option<Instant>,
}

/// A wait that the operator should see, and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub partition: TopicPartition,
    /// `None` when the wait is over.
    pub wait: Option<Wait>,
}

/// Where waits are told.
pub type Waits = tokio::sync::mpsc::Sender<Waiting>;

/// See the module.
pub(super) struct Patience<'a> {
    partition: &'a TopicPartition,
    of_topic: &'a TopicUploads,
    uploads: &'a Uploads,
    waits: &'a Waits,
    upload: Option<Upload<'a>>,
    backoff: Backoff,
    /// [`SILENCE_MAX`].
    silence_max: Duration,
    /// A silence was told, and nothing since.
    silent: bool,
}

impl<'a> Patience<'a> {
    pub(super) fn new(publisher: &'a Publisher, identity: &'a Identity) -> Self {
        Self::of(&identity.partition, &identity.uploads, &publisher.uploads, &publisher.waits)
    }

    fn of(
        partition: &'a TopicPartition,
        of_topic: &'a TopicUploads,
        uploads: &'a Uploads,
        waits: &'a Waits,
    ) -> Self {
        Self {
            partition,
            of_topic,
            uploads,
            waits,
            upload: None,
            backoff: Backoff::default(),
            silence_max: SILENCE_MAX,
            silent: false,
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
    pub(super) async fn wait(&mut self, on: Dependency, cause: String, at_least: Option<Duration>) {
        self.give_way();
        let delay = self.backoff.next_delay_at_least(at_least);
        if self.backoff.attempts() == 1 {
            tracing::warn!(partition = %self.partition, %cause, "waiting for a dependency");
        }
        self.tell(Some(Wait { on, cause, next: Instant::now().checked_add(delay) }));
        tokio::time::sleep(delay).await;
    }

    /// Does a step that sends so many bytes to the lake, and says so if no answer comes.
    pub(super) async fn attend<T>(&mut self, bytes: usize, step: impl Future<Output = T>) -> T {
        let limit = self.silence_max + Duration::from_secs((bytes / BYTES_PER_SECOND) as u64);
        let mut step = pin!(step);
        if let Ok(done) = tokio::time::timeout(limit, &mut step).await {
            return done;
        }
        self.silent = true;
        let cause = format!("the lake has not answered for {} s", limit.as_secs());
        tracing::warn!(partition = %self.partition, %cause, "waiting for a dependency");
        self.tell(Some(Wait { on: Dependency::Lake, cause, next: None }));
        step.await
    }

    pub(super) fn over(&mut self) {
        if self.backoff.attempts() > 0 || self.silent {
            tracing::info!(partition = %self.partition, attempts = self.backoff.attempts(), "dependency is back");
            self.backoff.reset();
            self.silent = false;
            self.tell(None);
        }
    }

    /// A report that finds the channel full is not missed: the next attempt reports again, and the end of a wait shows
    /// in the job's result.
    fn tell(&self, wait: Option<Wait>) {
        if self.waits.try_send(Waiting { partition: self.partition.clone(), wait }).is_err() {
            tracing::debug!(partition = %self.partition, "wait not told");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn a_step_without_an_answer_is_told_before_it_is_given_up() {
        let partition = TopicPartition::new("atlas.shop.orders", 0);
        let (waits, mut told) = tokio::sync::mpsc::channel(8);
        let uploads = Uploads::new(1);
        let of_topic = uploads.of_topic();
        let mut patience = Patience::of(&partition, &of_topic, &uploads, &waits);
        patience.attend(0, std::future::ready(())).await;
        patience.over();
        assert!(told.try_recv().is_err());

        patience.silence_max = Duration::from_millis(1);
        let (answer, answered) = tokio::sync::oneshot::channel();
        let (done, wait) = tokio::join!(patience.attend(0, answered), async {
            let wait = told.recv().await.unwrap().wait.unwrap();
            answer.send(7).unwrap();
            wait
        });
        assert_eq!((done, wait.on, wait.next), (Ok(7), Dependency::Lake, None));
        assert!(wait.cause.contains("has not answered"), "{}", wait.cause);
        patience.over();
        assert_eq!(told.recv().await.unwrap().wait, None);
        patience.over();
        assert!(told.try_recv().is_err());
    }
}
