//! What a client may do with a consumer group (KIP-430).

use std::ffi::{CString, c_char};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka_sys as sys;

use super::{KafkaRight, Options, Queue, Reply, Rights, rights_of};

/// Why a group was not described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    #[error("not allowed to describe consumer group {name}: grant Describe on it")]
    NotAllowed { name: String },
    #[error("consumer group {name} cannot be described: {code}")]
    Failed { name: String, code: RDKafkaErrorCode },
}

type Described = Result<Option<Vec<KafkaRight>>, GroupError>;

/// What this client may do with a consumer group, which need not exist; `None` if the broker does not say (before 2.3). Nobody
/// joins the group. Blocks.
///
/// # Errors
/// The outer error if the request as a whole failed: unreachable, timed out, a name with a zero byte.
pub fn group_rights<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    timeout: Duration,
) -> KafkaResult<Described> {
    let deadline = Instant::now() + timeout;
    let name = CString::new(group).map_err(KafkaError::Nul)?;
    let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
    let options = Options::new(client, operation, Rights::Asked, timeout)?;
    let queue = Queue::new(client)?;
    let mut names: [*const c_char; 1] = [name.as_ptr()];
    // SAFETY: all pointers are live; the call copies names and options and returns at once. The reply goes to `queue`, which
    // librdkafka keeps alive by its own reference until then.
    unsafe {
        sys::rd_kafka_DescribeConsumerGroups(
            client.native_ptr(),
            names.as_mut_ptr(),
            names.len(),
            options.as_ptr(),
            queue.0.as_ptr(),
        );
    }
    loop {
        // The request times out by itself; the second beyond that is for the reply that says so.
        let wait = deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
        let Some(event) = queue.poll(wait) else {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
        };
        if let Some(described) = described_group(&event, group) {
            return described;
        }
    }
}

/// `None` if this is another kind of event.
fn described_group(event: &Reply, name: &str) -> Option<KafkaResult<Described>> {
    // SAFETY: the event is live; the result is a view of it, or null for another kind of event.
    let result = NonNull::new(
        unsafe { sys::rd_kafka_event_DescribeConsumerGroups_result(event.0.as_ptr()) }.cast_mut(),
    )?;
    // SAFETY: the event is live.
    match RDKafkaErrorCode::from(unsafe { sys::rd_kafka_event_error(event.0.as_ptr()) }) {
        RDKafkaErrorCode::NoError => {}
        code => return Some(Err(KafkaError::AdminOp(code))),
    }
    let mut count = 0;
    // SAFETY: the result is live and `count` is writable; what is returned is an array of `count` pointers that lives as long as
    // the event, and each points to a description that does.
    let group = unsafe {
        let groups = sys::rd_kafka_DescribeConsumerGroups_result_groups(result.as_ptr(), &raw mut count);
        if groups.is_null() || count == 0 {
            return Some(Err(KafkaError::AdminOp(RDKafkaErrorCode::Fail)));
        }
        *groups
    };
    let name = name.to_owned();
    // SAFETY: the description is live, as are its error and its operations.
    let (code, allowed) = unsafe {
        let error = sys::rd_kafka_ConsumerGroupDescription_error(group);
        let code = if error.is_null() {
            RDKafkaErrorCode::NoError
        } else {
            RDKafkaErrorCode::from(sys::rd_kafka_error_code(error))
        };
        let mut count = 0;
        let operations = sys::rd_kafka_ConsumerGroupDescription_authorized_operations(group, &raw mut count);
        (code, rights_of(operations, count))
    };
    Some(Ok(match code {
        RDKafkaErrorCode::NoError => Ok(allowed),
        RDKafkaErrorCode::GroupAuthorizationFailed => Err(GroupError::NotAllowed { name }),
        code => Err(GroupError::Failed { name, code }),
    }))
}
