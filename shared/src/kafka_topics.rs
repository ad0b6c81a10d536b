//! Topics and configurations of the cluster, asked for and made through Kafka's admin interface.
//!
//! What a topic *should* be is decided by its owner; this module only carries the question and the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};

use crate::kafka_client::{ForwardLogs, error_code};
use crate::kafka_ffi::{
    DescribeError, GroupError, KafkaRight, describe_topics, describe_topics_and_rights, group_rights,
};

/// Configuration by name. Values that the broker keeps to itself (passwords) are left out.
pub type Configs = BTreeMap<String, String>;

/// What the admin interface answered instead, by what the caller does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// Somebody has to grant a right: exit 77 with the ACL to grant.
    #[error("not allowed to {what} ({code})")]
    NotAllowed { what: String, code: Code },
    /// The cluster cannot answer now: wait and ask again.
    #[error("Kafka cannot {what} now ({code})")]
    Unavailable { what: String, code: Code },
    /// There is no such topic.
    #[error("cannot {what}: no such topic")]
    UnknownTopic { what: String },
    /// Asking again does not help: a setting has to change.
    #[error("Kafka refuses to {what} ({reason})")]
    Refused { what: String, reason: String },
}

/// A topic as it shall be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
    pub replication: i32,
    pub configs: Configs,
}

/// How making a topic ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    Created,
    AlreadyExists,
    /// Kafka takes `.` and `_` for the same in topic names; these topics are in the way.
    CollidesWith(Vec<String>),
}

/// An admin client. Cheap to clone; its requests run on threads of librdkafka's.
#[derive(Clone)]
pub struct TopicAdmin {
    client: Arc<AdminClient<ForwardLogs>>,
    timeout: Duration,
}

impl TopicAdmin {
    /// `timeout` bounds each request.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn new(config: &ClientConfig, timeout: Duration) -> KafkaResult<Self> {
        Ok(Self { client: Arc::new(config.create_with_context(ForwardLogs)?), timeout })
    }

    /// Makes a topic, and waits until the controller has it.
    ///
    /// # Errors
    /// See [`AdminError`]; `Refused` for a replication that the cluster cannot give, or a policy against it.
    pub async fn create_topic(&self, spec: &TopicSpec) -> Result<Creation, AdminError> {
        let what = || format!("create topic {}", spec.name);
        let mut topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(spec.replication));
        for (name, value) in &spec.configs {
            topic = topic.set(name, value);
        }
        let results = self.client.create_topics([&topic], &self.options()).await;
        let result = results.map_err(|error| failed(what(), &error))?.pop();
        match result {
            Some(Ok(_)) => Ok(Creation::Created),
            Some(Err((_, Code::TopicAlreadyExists))) => Ok(Creation::AlreadyExists),
            // The code stands for a malformed name too, and rdkafka does not pass the text on: look.
            Some(Err((_, Code::InvalidTopic))) => {
                let others = colliding(&spec.name, self.topic_names().await?);
                if others.is_empty() {
                    Err(AdminError::Refused { what: what(), reason: "the name is not valid".to_owned() })
                } else {
                    Ok(Creation::CollidesWith(others))
                }
            }
            Some(Err((_, code))) => Err(classify(what(), code)),
            None => Err(AdminError::Refused { what: what(), reason: "an empty answer".to_owned() }),
        }
    }

    /// The configurations of topics, by name, each with its own result.
    ///
    /// # Errors
    /// If the request as a whole failed.
    pub async fn topic_configs(
        &self,
        names: &[&str],
    ) -> Result<BTreeMap<String, Result<Configs, AdminError>>, AdminError> {
        // librdkafka refuses a resource that is asked for twice.
        let names: BTreeSet<&str> = names.iter().copied().collect();
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let resources: Vec<ResourceSpecifier<'_>> =
            names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let what = || "describe the configuration of topics".to_owned();
        let results = self
            .client
            .describe_configs(&resources, &self.options())
            .await
            .map_err(|error| failed(what(), &error))?;
        let mut answers = BTreeMap::new();
        for result in results {
            let resource = result.map_err(|code| classify(what(), code))?;
            if let OwnedResourceSpecifier::Topic(name) = &resource.specifier {
                answers.insert(name.clone(), Ok(configs(resource)));
            }
        }
        self.explain_empty(&mut answers).await?;
        Ok(answers)
    }

    /// What this client may do with topics, by name, each with its own result. `None` where the broker does not say.
    ///
    /// # Errors
    /// If the request as a whole failed.
    pub async fn topic_rights(
        &self,
        names: &[String],
    ) -> Result<BTreeMap<String, Result<Option<Vec<KafkaRight>>, AdminError>>, AdminError> {
        let (client, timeout, names) = (Arc::clone(&self.client), self.timeout, names.to_vec());
        let described = tokio::task::spawn_blocking(move || {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            describe_topics_and_rights(client.inner(), &names, timeout)
        });
        let described = described.await.expect("the closure neither panics nor is aborted");
        let mut answers = BTreeMap::new();
        for topic in described.map_err(|error| failed("describe topics".to_owned(), &error))? {
            let (name, code) = match topic {
                Ok(topic) => {
                    answers.insert(topic.name, Ok(topic.allowed));
                    continue;
                }
                Err(error) => why_not(error),
            };
            let what = format!("describe topic {name}");
            answers.insert(name, Err(classify(what, code)));
        }
        Ok(answers)
    }

    /// What this client may do with a consumer group, which need not exist. `None` where the broker does not say.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn group_rights(&self, group: &str) -> Result<Option<Vec<KafkaRight>>, AdminError> {
        let (client, timeout, name) = (Arc::clone(&self.client), self.timeout, group.to_owned());
        let described = tokio::task::spawn_blocking(move || group_rights(client.inner(), &name, timeout));
        let what = || format!("describe consumer group {group}");
        let described = described.await.expect("the closure neither panics nor is aborted");
        match described.map_err(|error| failed(what(), &error))? {
            Ok(allowed) => Ok(allowed),
            Err(GroupError::NotAllowed { .. }) => {
                Err(AdminError::NotAllowed { what: what(), code: Code::GroupAuthorizationFailed })
            }
            Err(GroupError::Failed { code, .. }) => Err(classify(what(), code)),
        }
    }

    /// rdkafka 0.39 drops the error of a single resource, and shows it without entries. No topic has none; why
    /// it could not be described is asked in another way.
    async fn explain_empty(
        &self,
        answers: &mut BTreeMap<String, Result<Configs, AdminError>>,
    ) -> Result<(), AdminError> {
        let empty = |(name, answer): (&String, &Result<Configs, AdminError>)| {
            answer.as_ref().is_ok_and(BTreeMap::is_empty).then(|| name.clone())
        };
        let empty: Vec<String> = answers.iter().filter_map(empty).collect();
        if empty.is_empty() {
            return Ok(());
        }
        let (client, timeout) = (Arc::clone(&self.client), self.timeout);
        let described = tokio::task::spawn_blocking(move || {
            let names: Vec<&str> = empty.iter().map(String::as_str).collect();
            describe_topics(client.inner(), &names, timeout)
        });
        let described = described.await.expect("the closure neither panics nor is aborted");
        for topic in described.map_err(|error| failed("describe topics".to_owned(), &error))? {
            let (name, code) = match topic {
                // Description is allowed, that of the configuration is not.
                Ok(topic) => (topic.name, Code::TopicAuthorizationFailed),
                Err(error) => why_not(error),
            };
            let what = format!("describe the configuration of topic {name}");
            answers.insert(name, Err(classify(what, code)));
        }
        Ok(())
    }

    /// The configuration of every broker, by its id.
    ///
    /// # Errors
    /// If one of them cannot be asked; needs `DescribeConfigs` on the cluster.
    pub async fn broker_configs(&self) -> Result<BTreeMap<i32, Configs>, AdminError> {
        let brokers: Vec<i32> =
            self.metadata(|metadata| metadata.brokers().iter().map(|b| b.id()).collect()).await?;
        if brokers.is_empty() {
            return Err(AdminError::Unavailable {
                what: "list brokers".to_owned(),
                code: Code::BrokerNotAvailable,
            });
        }
        let mut all = BTreeMap::new();
        // A broker answers for itself only, and librdkafka takes one of them per request.
        for broker in brokers {
            let what = || format!("describe the configuration of broker {broker}");
            let results = self
                .client
                .describe_configs(&[ResourceSpecifier::Broker(broker)], &self.options().broker_id(broker))
                .await
                .map_err(|error| failed(what(), &error))?;
            let mut entries = Configs::new();
            for result in results {
                entries.append(&mut configs(result.map_err(|code| classify(what(), code))?));
            }
            // As with topics: an error is shown as a broker without any configuration, and there is none such.
            if entries.is_empty() {
                return Err(AdminError::NotAllowed { what: what(), code: Code::ClusterAuthorizationFailed });
            }
            all.insert(broker, entries);
        }
        Ok(all)
    }

    /// One configuration of every broker; `None` where the broker does not know it (it is too old).
    ///
    /// # Errors
    /// As [`Self::broker_configs`].
    pub async fn broker_config(&self, name: &str) -> Result<BTreeMap<i32, Option<String>>, AdminError> {
        let brokers = self.broker_configs().await?;
        Ok(brokers.into_iter().map(|(id, mut configs)| (id, configs.remove(name))).collect())
    }

    /// The names of all topics that we may see.
    ///
    /// # Errors
    /// If no broker answers in time.
    pub async fn topic_names(&self) -> Result<Vec<String>, AdminError> {
        self.metadata(|metadata| metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
            .await
    }

    async fn metadata<T: Send + 'static>(
        &self,
        take: impl FnOnce(&rdkafka::metadata::Metadata) -> T + Send + 'static,
    ) -> Result<T, AdminError> {
        let (client, timeout) = (Arc::clone(&self.client), self.timeout);
        // The metadata request blocks.
        let answer = tokio::task::spawn_blocking(move || {
            client.inner().fetch_metadata(None, timeout).map(|metadata| take(&metadata))
        });
        let answer = answer.await.expect("the closure neither panics nor is aborted");
        answer.map_err(|error| failed("list topics and brokers".to_owned(), &error))
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.timeout)).operation_timeout(Some(self.timeout))
    }
}

fn configs(resource: ConfigResource) -> Configs {
    resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()
}

fn why_not(error: DescribeError) -> (String, Code) {
    match error {
        DescribeError::NotAllowed { name } => (name, Code::TopicAuthorizationFailed),
        DescribeError::Unknown { name } => (name, Code::UnknownTopicOrPartition),
        DescribeError::Failed { name, code } => (name, code),
    }
}

/// Topics other than `name` that Kafka cannot keep apart from it, since metric names have no dots.
#[must_use]
pub fn colliding(name: &str, existing: Vec<String>) -> Vec<String> {
    let folded = name.replace('.', "_");
    existing.into_iter().filter(|other| other != name && other.replace('.', "_") == folded).collect()
}

fn failed(what: String, error: &KafkaError) -> AdminError {
    match error_code(error) {
        Some(code) => classify(what, code),
        None => AdminError::Refused { what, reason: error.to_string() },
    }
}

/// The one place that decides what the caller does about a code.
fn classify(what: String, code: Code) -> AdminError {
    match code {
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication => AdminError::NotAllowed { what, code },
        Code::UnknownTopicOrPartition | Code::UnknownTopic => AdminError::UnknownTopic { what },
        Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::TimedOutQueue
        | Code::MessageTimedOut
        | Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::NodeUpdate
        | Code::Resolve
        | Code::NetworkException
        | Code::NotController
        | Code::BrokerNotAvailable
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::ThrottlingQuotaExceeded => AdminError::Unavailable { what, code },
        // Only what asking again certainly does not heal. Fewer live brokers than replicas is not among it: that is how a
        // cluster answers while brokers come back.
        Code::InvalidTopic
        | Code::InvalidPartitions
        | Code::InvalidReplicaAssignment
        | Code::InvalidConfig
        | Code::InvalidRequest
        | Code::PolicyViolation
        | Code::UnsupportedVersion
        | Code::InvalidArgument => AdminError::Refused { what, reason: code.to_string() },
        code => AdminError::Unavailable { what, code },
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn names_that_differ_in_dots_and_underscores_only_collide() {
        let existing = ["atlas.shop.eu_orders", "atlas.shop_eu.orders", "atlas.shop.eu"].map(str::to_owned);
        assert_eq!(colliding("atlas.shop_eu.orders", existing.to_vec()), ["atlas.shop.eu_orders"]);
        assert_eq!(colliding("atlas.other", existing.to_vec()), Vec::<String>::new());
    }

    #[test]
    fn codes_say_what_to_do() {
        let verdict = |code| classify("x".to_owned(), code);
        assert!(matches!(verdict(Code::ClusterAuthorizationFailed), AdminError::NotAllowed { .. }));
        assert!(matches!(verdict(Code::RequestTimedOut), AdminError::Unavailable { .. }));
        assert!(matches!(verdict(Code::UnknownTopicOrPartition), AdminError::UnknownTopic { .. }));
        assert!(matches!(verdict(Code::InvalidReplicationFactor), AdminError::Unavailable { .. }));
        assert!(matches!(verdict(Code::PolicyViolation), AdminError::Refused { .. }));
    }

    #[test]
    fn a_cluster_that_is_down_is_unavailable() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1");
        let admin = TopicAdmin::new(&config, Duration::from_millis(300)).unwrap();
        let spec = TopicSpec { name: "t".into(), partitions: 1, replication: 1, configs: Configs::new() };
        runtime.block_on(async {
            let created = admin.create_topic(&spec).await.unwrap_err();
            assert!(matches!(created, AdminError::Unavailable { .. }), "{created:?}");
            let names = admin.topic_names().await.unwrap_err();
            assert!(matches!(names, AdminError::Unavailable { .. }), "{names:?}");
            let configs = admin.topic_configs(&["t", "t"]).await.unwrap_err();
            assert!(matches!(configs, AdminError::Unavailable { .. }), "{configs:?}");
            assert_eq!(admin.topic_configs(&[]).await, Ok(BTreeMap::new()));
        });
    }
}
