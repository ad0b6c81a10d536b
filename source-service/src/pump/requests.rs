//! Requests for snapshots, which operators write into the token topic: looked for from time to time, and taken up in a transaction that
//! begins the copy.

use std::time::{Duration, Instant};

use chrono::Utc;
use rdkafka::message::{BorrowedMessage, Message as _};
use shared::{backoff::Backoff, namespace::Namespace};

use super::{Pump, Session, setback::Setback};
use crate::{
    kafka_log::{LogError, Range},
    recovery,
    snapshot::{
        catalog::Found,
        plan::{CollectionCopy, Ended, SnapshotPlan},
        record::copy_key,
        request::SnapshotRequest,
    },
};

/// Looked for no more often than so, however short TOKEN_INTERVAL is.
const LOOK_AFTER_MIN: Duration = Duration::from_secs(1);

/// What was asked for, and how far the token topic was read for it.
#[derive(Default)]
pub(super) struct Requests {
    /// The last one of each collection, taken up or not.
    known: Vec<SnapshotRequest>,
    read_to: i64,
    looked: Option<Instant>,
    /// After MongoDB did not answer.
    not_before: Option<Instant>,
    backoff: Backoff,
}

impl Requests {
    pub(super) fn recovered(&mut self, known: Vec<SnapshotRequest>, read_to: i64) {
        self.known = known;
        self.read_to = read_to;
        self.looked = Some(Instant::now());
    }

    /// Whether there are some that were not taken up.
    pub(super) fn are_open(&self, plan: &SnapshotPlan) -> bool {
        self.known.iter().any(|request| request.is_open(plan))
    }

    /// Those whose time has come: a collection that is being copied is copied again afterwards.
    fn to_be_taken_up(&self, plan: &SnapshotPlan) -> Vec<SnapshotRequest> {
        let is_free = |namespace: &Namespace| plan.find(namespace).is_none_or(CollectionCopy::is_done);
        let open = self.known.iter().filter(|request| request.is_open(plan) && is_free(&request.namespace));
        open.cloned().collect()
    }

    fn put(&mut self, request: SnapshotRequest) {
        self.known.retain(|known| known.namespace != request.namespace);
        self.known.push(request);
    }
}

impl Pump {
    /// Begins the copies that were asked for.
    pub(super) fn take_up_requests(&mut self, session: &mut Session) -> Result<(), Setback> {
        self.look_for_requests();
        let requests = &mut self.copying.requests;
        if requests.not_before.is_some_and(|time| Instant::now() < time) {
            return Ok(());
        }
        let asked = requests.to_be_taken_up(&self.copying.plan);
        if asked.is_empty() {
            return Ok(());
        }
        let mut copies = Vec::with_capacity(asked.len());
        for request in asked {
            match self.copy_of(&request) {
                Ok(copy) => copies.push(copy),
                Err(cause) => {
                    tracing::warn!(namespace = %request.namespace, cause, "a request for a snapshot waits for MongoDB");
                    let requests = &mut self.copying.requests;
                    requests.not_before = Some(Instant::now() + requests.backoff.next_delay());
                    return Ok(());
                }
            }
        }
        let records: Vec<_> = copies.iter().map(|copy| (copy_key(&copy.namespace), copy.to_json())).collect();
        self.commit_states(session, false, &records, None)?;
        self.copying.requests.backoff.reset();
        for copy in copies {
            let (namespace, request) = (&copy.namespace, copy.request.as_deref());
            match copy.ended {
                None => tracing::info!(%namespace, request, "a snapshot was asked for and is taken up"),
                Some(why) => {
                    tracing::warn!(%namespace, request, why = why.why(), "a snapshot was asked for and cannot be made");
                }
            }
            self.copying.plan.put(copy);
        }
        self.tell_snapshot(false);
        Ok(())
    }

    /// What becomes of a request. An error, in words, if MongoDB does not say.
    fn copy_of(&self, request: &SnapshotRequest) -> Result<CollectionCopy, String> {
        let namespace = &request.namespace;
        let refused = match self.not_to_be_copied(namespace) {
            Some(why) => Some(why),
            None => match self.stream.find_collection(namespace)? {
                Found::Collection => None,
                Found::Other => Some(Ended::NoCollection),
                Found::Nothing => Some(Ended::Gone),
            },
        };
        let former = self.copying.plan.find(namespace);
        let copy = former
            .map_or_else(
                || CollectionCopy::new(namespace.clone(), Utc::now()),
                |former| former.again(Utc::now()),
            )
            .asked(request);
        Ok(match refused {
            Some(why) => copy.ended(why, Utc::now()),
            None => copy,
        })
    }

    /// Reads what was written to the token topic since the last look. A failure is no doubt: nothing is published by it.
    fn look_for_requests(&mut self) {
        let every = self.settings.token_interval.max(LOOK_AFTER_MIN);
        let requests = &mut self.copying.requests;
        if requests.looked.is_some_and(|looked| looked.elapsed() < every) {
            return;
        }
        requests.looked = Some(Instant::now());
        match self.read_requests() {
            Ok(found) => found.into_iter().for_each(|request| self.copying.requests.put(request)),
            Err(error) => tracing::warn!(%error, "could not look for requests: looking again later"),
        }
    }

    fn read_requests(&mut self) -> Result<Vec<SnapshotRequest>, LogError> {
        let topic = &self.token_topic;
        // Nothing of ours is open between two transactions; what another producer left open ends some time.
        let (from, to) = (self.copying.requests.read_to, self.log.stable_end(topic, 0)?);
        let mut found = Vec::new();
        let take = |message: &BorrowedMessage<'_>| {
            let key = message.key().unwrap_or_default();
            found.extend(recovery::request_of(key, message.payload()));
        };
        self.log.read(topic, &[Range { partition: 0, from, to }], take, |_| true)?;
        self.copying.requests.read_to = to.max(from);
        Ok(found)
    }
}
