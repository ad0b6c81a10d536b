//! Three calls of librdkafka that the rdkafka crate does not wrap. The only `unsafe` code of the project.
//!
//! - [`flush`]: rdkafka's own flush polls in slices of 100 ms, and its `commit_transaction` calls that flush, so
//!   each commit would take 100 ms. Flushing here first makes it 2 ms. Needs a producer whose delivery reports
//!   are served by a thread of its own (`ServedProducer`).
//! - [`describe_topics`]: the topic's id (KIP-516), by which a topic that was deleted and made again can be told, and what a client may
//!   do with it (KIP-430).
//! - [`group_rights`]: what a client may do with a consumer group.
//!
//! All block: never call them on a runtime worker.
#![expect(
    unsafe_code,
    reason = "rd_kafka_flush, rd_kafka_DescribeTopics and rd_kafka_DescribeConsumerGroups have no safe wrapper"
)]

mod group;
mod topic_id;

use std::collections::HashSet;
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka_sys as sys;

pub use group::{GroupError, group_rights};
pub use topic_id::TopicId;

/// What a broker says of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedTopic {
    pub name: String,
    /// `None` if the broker knows no topic ids.
    pub id: Option<TopicId>,
    pub partitions: usize,
    /// What this client may do with the topic; `None` if it was not asked for, or the broker does not say (before 2.3, KIP-430).
    pub allowed: Option<Vec<KafkaRight>>,
}

/// An operation of Kafka's access lists on a topic or a group, as far as a client of ours uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KafkaRight {
    Read,
    Write,
    Describe,
    DescribeConfigs,
}

impl KafkaRight {
    fn from_operation(operation: sys::rd_kafka_AclOperation_t) -> Option<Self> {
        use sys::rd_kafka_AclOperation_t as Operation;
        match operation {
            Operation::RD_KAFKA_ACL_OPERATION_READ => Some(Self::Read),
            Operation::RD_KAFKA_ACL_OPERATION_WRITE => Some(Self::Write),
            Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE => Some(Self::Describe),
            Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS => Some(Self::DescribeConfigs),
            _ => None,
        }
    }

    /// As access lists name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "READ",
            Self::Write => "WRITE",
            Self::Describe => "DESCRIBE",
            Self::DescribeConfigs => "DESCRIBE_CONFIGS",
        }
    }
}

/// # Safety
/// `operations` is null, or points to `count` operations.
unsafe fn rights_of(
    operations: *const sys::rd_kafka_AclOperation_t,
    count: usize,
) -> Option<Vec<KafkaRight>> {
    if operations.is_null() {
        return None;
    }
    // SAFETY: by this function's contract.
    let operations = unsafe { std::slice::from_raw_parts(operations, count) };
    Some(operations.iter().filter_map(|one| KafkaRight::from_operation(*one)).collect())
}

/// Why one topic of several was not described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescribeError {
    #[error("topic {name} does not exist")]
    Unknown { name: String },
    #[error("not allowed to describe topic {name}: grant Describe on it")]
    NotAllowed { name: String },
    #[error("topic {name} cannot be described: {code}")]
    Failed { name: String, code: RDKafkaErrorCode },
}

/// Sends everything in the producer's queue and waits for its delivery reports, at most `timeout`.
///
/// A delivery that failed is no error here: only its report, or the commit, tells.
///
/// # Errors
/// `Flush(OperationTimedOut)` if something is still in the queue.
pub fn flush<C: ClientContext>(client: &Client<C>, timeout: Duration) -> KafkaResult<()> {
    // SAFETY: `client` owns the handle and outlives the call; librdkafka's functions on it are thread-safe.
    let code = unsafe { sys::rd_kafka_flush(client.native_ptr(), milliseconds(timeout)) };
    match RDKafkaErrorCode::from(code) {
        RDKafkaErrorCode::NoError => Ok(()),
        code => Err(KafkaError::Flush(code)),
    }
}

/// Asks a broker for ids and partition counts of topics, in one request. One result per topic, in any order.
///
/// # Errors
/// The outer error if the request as a whole failed: unreachable, timed out, a name with a zero byte.
pub fn describe_topics<C: ClientContext>(
    client: &Client<C>,
    names: &[&str],
    timeout: Duration,
) -> KafkaResult<Vec<Result<DescribedTopic, DescribeError>>> {
    describe(client, names, Rights::NotAsked, timeout)
}

/// As [`describe_topics`], with what this client may do with each of them.
///
/// # Errors
/// As [`describe_topics`].
pub fn describe_topics_and_rights<C: ClientContext>(
    client: &Client<C>,
    names: &[&str],
    timeout: Duration,
) -> KafkaResult<Vec<Result<DescribedTopic, DescribeError>>> {
    describe(client, names, Rights::Asked, timeout)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rights {
    Asked,
    NotAsked,
}

fn describe<C: ClientContext>(
    client: &Client<C>,
    names: &[&str],
    rights: Rights,
    timeout: Duration,
) -> KafkaResult<Vec<Result<DescribedTopic, DescribeError>>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let deadline = Instant::now() + timeout;
    let request = Request::new(client, names, rights, timeout)?;
    let queue = Queue::new(client)?;
    // SAFETY: all four pointers are live; the call copies collection and options and returns at once. The reply
    // goes to `queue`, which librdkafka keeps alive by its own reference until then.
    unsafe {
        sys::rd_kafka_DescribeTopics(
            client.native_ptr(),
            request.topics.as_ptr(),
            request.options.as_ptr(),
            queue.0.as_ptr(),
        );
    }
    loop {
        // The request times out by itself; the second beyond that is for the reply that says so.
        let wait = deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
        let Some(event) = queue.poll(wait) else {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
        };
        if let Some(described) = event.described_topics() {
            return described;
        }
    }
}

fn milliseconds(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX)
}

fn out_of_memory() -> KafkaError {
    KafkaError::AdminOp(RDKafkaErrorCode::Fail)
}

/// What the request is made of; freed when dropped.
struct Request {
    topics: NonNull<sys::rd_kafka_TopicCollection_t>,
    options: Options,
}

struct Options(NonNull<sys::rd_kafka_AdminOptions_t>);

impl Options {
    fn new<C: ClientContext>(
        client: &Client<C>,
        operation: sys::rd_kafka_admin_op_t,
        rights: Rights,
        timeout: Duration,
    ) -> KafkaResult<Self> {
        // SAFETY: the handle is live for as long as `client` is borrowed.
        let options = unsafe { sys::rd_kafka_AdminOptions_new(client.native_ptr(), operation) };
        let options = Self(NonNull::new(options).ok_or_else(out_of_memory)?);
        let mut reason: [c_char; 256] = [0; 256];
        // SAFETY: `reason` is writable for the length that is passed with it.
        let code = unsafe {
            sys::rd_kafka_AdminOptions_set_request_timeout(
                options.0.as_ptr(),
                milliseconds(timeout),
                reason.as_mut_ptr(),
                reason.len(),
            )
        };
        match RDKafkaErrorCode::from(code) {
            RDKafkaErrorCode::NoError => {}
            code => return Err(KafkaError::AdminOp(code)),
        }
        if rights == Rights::Asked {
            // SAFETY: the options are live; the error that is returned belongs to the caller.
            let error = unsafe {
                sys::rd_kafka_AdminOptions_set_include_authorized_operations(options.0.as_ptr(), 1)
            };
            if !error.is_null() {
                // SAFETY: not null, owned here alone, and freed once, after its last use.
                let code = unsafe {
                    let code = RDKafkaErrorCode::from(sys::rd_kafka_error_code(error));
                    sys::rd_kafka_error_destroy(error);
                    code
                };
                return Err(KafkaError::AdminOp(code));
            }
        }
        Ok(options)
    }

    fn as_ptr(&self) -> *const sys::rd_kafka_AdminOptions_t {
        self.0.as_ptr()
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: made by `rd_kafka_AdminOptions_new`, owned by this value alone, freed once.
        unsafe { sys::rd_kafka_AdminOptions_destroy(self.0.as_ptr()) }
    }
}

impl Request {
    fn new<C: ClientContext>(
        client: &Client<C>,
        names: &[&str],
        rights: Rights,
        timeout: Duration,
    ) -> KafkaResult<Self> {
        // A name given twice is refused by librdkafka as an invalid argument.
        let mut seen = HashSet::new();
        let names: Vec<CString> = names
            .iter()
            .filter(|name| seen.insert(**name))
            .map(|name| CString::new(*name))
            .collect::<Result<_, _>>()
            .map_err(KafkaError::Nul)?;
        let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();

        let options = Options::new(
            client,
            sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
            rights,
            timeout,
        )?;
        // SAFETY: `pointers` holds that many zero-terminated strings, which `names` keeps alive; they are copied.
        let topics =
            unsafe { sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()) };
        let topics = NonNull::new(topics).ok_or_else(out_of_memory)?;
        Ok(Self { topics, options })
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: made by `rd_kafka_TopicCollection_of_topic_names`, owned by this value alone, freed once.
        unsafe { sys::rd_kafka_TopicCollection_destroy(self.topics.as_ptr()) }
    }
}

/// A queue for one reply, so that it cannot be taken for an event of the client's owner.
struct Queue(NonNull<sys::rd_kafka_queue_t>);

impl Queue {
    fn new<C: ClientContext>(client: &Client<C>) -> KafkaResult<Self> {
        // SAFETY: the handle is live for as long as `client` is borrowed.
        let queue = unsafe { sys::rd_kafka_queue_new(client.native_ptr()) };
        NonNull::new(queue).map(Self).ok_or_else(out_of_memory)
    }

    fn poll(&self, timeout: Duration) -> Option<Reply> {
        // SAFETY: the queue is live; the event that is returned belongs to the caller.
        NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.0.as_ptr(), milliseconds(timeout)) }).map(Reply)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: made by `rd_kafka_queue_new`, owned by this value alone, freed once. A reply that is still on
        // its way holds a reference of its own and is freed by librdkafka.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

/// One event from the queue. Everything that is read from it is copied before it is dropped.
struct Reply(NonNull<sys::rd_kafka_event_t>);

impl Reply {
    /// `None` if this is another kind of event.
    fn described_topics(&self) -> Option<KafkaResult<Vec<Result<DescribedTopic, DescribeError>>>> {
        // SAFETY: the event is live; the result is a view of it, or null for another kind of event.
        let result =
            NonNull::new(unsafe { sys::rd_kafka_event_DescribeTopics_result(self.0.as_ptr()) }.cast_mut())?;
        // SAFETY: the event is live.
        match RDKafkaErrorCode::from(unsafe { sys::rd_kafka_event_error(self.0.as_ptr()) }) {
            RDKafkaErrorCode::NoError => {}
            code => return Some(Err(KafkaError::AdminOp(code))),
        }
        let mut count = 0;
        // SAFETY: the result is live and `count` is writable.
        let topics = unsafe { sys::rd_kafka_DescribeTopics_result_topics(result.as_ptr(), &raw mut count) };
        if topics.is_null() {
            return Some(Ok(Vec::new()));
        }
        // SAFETY: librdkafka returns an array of `count` pointers that lives as long as the event.
        let topics = unsafe { std::slice::from_raw_parts(topics, count) };
        // SAFETY: each element points to a description that lives as long as the event.
        Some(Ok(topics.iter().map(|topic| unsafe { described(*topic) }).collect()))
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // SAFETY: returned by `rd_kafka_queue_poll`, owned by this value alone, freed once.
        unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

/// # Safety
/// `topic` must be a description within a live reply.
unsafe fn described(topic: *const sys::rd_kafka_TopicDescription_t) -> Result<DescribedTopic, DescribeError> {
    // SAFETY: by this function's contract; the strings are zero-terminated and copied at once.
    let (name, code) = unsafe {
        let name = CStr::from_ptr(sys::rd_kafka_TopicDescription_name(topic)).to_string_lossy().into_owned();
        let error = sys::rd_kafka_TopicDescription_error(topic);
        let code = if error.is_null() {
            RDKafkaErrorCode::NoError
        } else {
            RDKafkaErrorCode::from(sys::rd_kafka_error_code(error))
        };
        (name, code)
    };
    match code {
        RDKafkaErrorCode::NoError => {}
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
            return Err(DescribeError::Unknown { name });
        }
        RDKafkaErrorCode::TopicAuthorizationFailed => return Err(DescribeError::NotAllowed { name }),
        code => return Err(DescribeError::Failed { name, code }),
    }
    // SAFETY: by this function's contract. The id is a view of the description: it is not destroyed here.
    let (id, partitions, allowed) = unsafe {
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        let id = if id.is_null() {
            None
        } else {
            TopicId::from_halves(
                sys::rd_kafka_Uuid_most_significant_bits(id),
                sys::rd_kafka_Uuid_least_significant_bits(id),
            )
        };
        let mut partitions = 0;
        sys::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions);
        let mut count = 0;
        let operations = sys::rd_kafka_TopicDescription_authorized_operations(topic, &raw mut count);
        // An array that lives as long as the description; null if it was not asked for.
        let allowed = rights_of(operations, count);
        (id, partitions, allowed)
    };
    Ok(DescribedTopic { name, id, partitions, allowed })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use rdkafka::ClientConfig;
    use rdkafka::producer::{BaseProducer, Producer};

    use super::*;

    /// Nothing listens on port 1, so every path but the successful reply is walked.
    fn unreachable() -> BaseProducer {
        ClientConfig::new()
            .set("bootstrap.servers", "127.0.0.1:1")
            .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg)
            .create()
            .unwrap()
    }

    #[test]
    fn an_empty_queue_flushes_at_once() {
        flush(unreachable().client(), Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn a_broker_that_does_not_answer_is_a_timeout_and_frees_everything() {
        let producer = unreachable();
        let error = describe_topics(producer.client(), &["a", "a", "b"], Duration::from_millis(300));
        assert!(matches!(error, Err(KafkaError::AdminOp(_))), "{error:?}");
        let error = describe_topics_and_rights(producer.client(), &["a"], Duration::from_millis(300));
        assert!(matches!(error, Err(KafkaError::AdminOp(_))), "{error:?}");
        assert_eq!(describe_topics(producer.client(), &[], Duration::ZERO), Ok(Vec::new()));
        assert!(matches!(
            describe_topics(producer.client(), &["a\0b"], Duration::from_millis(10)),
            Err(KafkaError::Nul(_))
        ));
    }
}
