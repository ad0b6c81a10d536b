//! Whether the brokers can keep the promise.
//!
//! A broker that does not verify that a partition belongs to the open transaction lets a late request of a dead transaction into the
//! next one (KIP-890 part 1): an event would be committed behind the token's back, and reading the tails could not repair it. The
//! verification came with Kafka 3.6 (3.6.1 is the documented minimum: KAFKA-15653), is on by default and can be switched off. So every broker is
//! asked, at start and hourly.

use std::{collections::BTreeMap, time::Duration};

use shared::{
    exit::{ExitCode, Stop},
    kafka_topics::{AdminError, TopicAdmin},
};

const PROPERTY: &str = "transaction.partition.verification.enable";

/// Between two checks.
pub const INTERVAL: Duration = Duration::from_secs(3600);

/// How a check ended.
pub enum BrokerReport {
    Able,
    /// Kafka could not say now: ask again later.
    Unknown(AdminError),
}

/// # Errors
/// [`ExitCode::Configuration`] naming the brokers; [`ExitCode::NotAllowed`] with what to grant.
pub async fn check(admin: &TopicAdmin) -> Result<BrokerReport, Stop> {
    match admin.broker_config(PROPERTY).await {
        Ok(brokers) => judge(&brokers).map(|()| BrokerReport::Able),
        Err(error @ AdminError::Unavailable { .. }) => Ok(BrokerReport::Unknown(error)),
        Err(error) => Err(Stop::new(
            ExitCode::NotAllowed,
            format!(
                "{error}: the source has to know whether {PROPERTY} is on. Grant it DESCRIBE_CONFIGS on the cluster \
                 (kafka-acls --add --allow-principal User:<user> --operation DescribeConfigs --cluster), or check it yourself and set BROKER_CHECK=skip"
            ),
        )),
    }
}

fn judge(brokers: &BTreeMap<i32, Option<String>>) -> Result<(), Stop> {
    let unable: Vec<String> = brokers
        .iter()
        .filter_map(|(id, value)| match value.as_deref() {
            Some("true") => None,
            Some(value) => Some(format!("broker {id} has {PROPERTY}={value}")),
            None => Some(format!("broker {id} does not know {PROPERTY}: it is older than Kafka 3.6")),
        })
        .collect();
    if unable.is_empty() {
        return Ok(());
    }
    Err(Stop::new(
        ExitCode::Configuration,
        format!(
            "these brokers cannot keep exactly-once: {}. Expected Kafka 3.6.1 or newer with {PROPERTY}=true",
            unable.join("; ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn one_unable_broker_is_enough() {
        let all = |second: Option<&str>| {
            BTreeMap::from([(1, Some("true".to_owned())), (2, second.map(ToOwned::to_owned))])
        };
        assert!(judge(&all(Some("true"))).is_ok());
        for value in [Some("false"), None] {
            let stop = judge(&all(value)).unwrap_err();
            assert_eq!(stop.code, ExitCode::Configuration);
            assert!(stop.message.contains("broker 2"), "{stop}");
        }
    }
}
