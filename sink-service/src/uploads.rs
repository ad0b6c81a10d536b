//! How many partitions talk to the lake at once: in all, and of one topic.
//!
//! A topic that is slow (its locks are held, its requests hang) keeps what it has for as long as its attempts may take. So
//! it never gets all there is: some uploads are always left to the others.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

/// All uploads of this process.
#[derive(Debug)]
pub struct Uploads {
    all: Semaphore,
    of_topic: usize,
}

/// What one topic may have at once of all uploads; its partitions share it.
#[derive(Clone, Debug)]
pub struct TopicUploads(Arc<Semaphore>);

/// One upload. It ends when this is dropped.
#[derive(Debug)]
pub struct Upload<'a> {
    _of_topic: SemaphorePermit<'a>,
    _of_all: SemaphorePermit<'a>,
}

impl Uploads {
    /// A quarter, and at least one, is out of one topic's reach. A single upload cannot be shared.
    pub fn new(count: usize) -> Self {
        let reserved = (count / 4).max(1);
        Self { all: Semaphore::new(count), of_topic: count.saturating_sub(reserved).max(1) }
    }

    pub fn of_topic(&self) -> TopicUploads {
        TopicUploads(Arc::new(Semaphore::new(self.of_topic)))
    }

    /// Waits for its turn: first among its own topic's, then among all.
    pub async fn begin<'a>(&'a self, topic: &'a TopicUploads) -> Upload<'a> {
        let closed = "the semaphores are never closed";
        let of_topic = topic.0.acquire().await.expect(closed);
        Upload { _of_topic: of_topic, _of_all: self.all.acquire().await.expect(closed) }
    }

    /// Whether one more could begin at once.
    pub fn are_idle(&self) -> bool {
        self.all.available_permits() > 0
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn begun<'a>(uploads: &'a Uploads, topic: &'a TopicUploads) -> Vec<Upload<'a>> {
        std::iter::from_fn(|| uploads.begin(topic).now_or_never()).collect()
    }

    #[test]
    fn one_topic_leaves_some_to_the_others() {
        for (count, of_topic) in [(1, 1), (2, 1), (3, 2), (8, 6), (256, 192)] {
            let uploads = Uploads::new(count);
            let (slow, other) = (uploads.of_topic(), uploads.of_topic());
            let held = begun(&uploads, &slow);
            assert_eq!(held.len(), of_topic, "of {count}");
            let rest = begun(&uploads, &other);
            assert_eq!(held.len() + rest.len(), count);
            assert!(!uploads.are_idle());
            drop((held, rest));
            assert_eq!(begun(&uploads, &other).len(), of_topic);
        }
    }
}
