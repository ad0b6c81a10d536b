//! Which topic an event goes to, and that the topic is what the promises need.
//!
//! A collection's topic is made before its first event. What is already there is taken if it keeps the promises, named if it differs
//! harmlessly, and refused (78) if it would break one. Where a namespace went once is recorded beside the token: the form of the
//! name, and over how many partitions keys are spread. A partition added to a live topic must not move keys: see [`counts`].

mod counts;
mod requirements;
mod rules;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    num::NonZeroU32,
    time::Duration,
};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use shared::{
    exit::{ExitCode, Stop},
    kafka_topics::{AdminError, Creation, TopicAdmin, TopicSpec},
    namespace::Namespace,
    topic_name::{Form, TopicNames},
};

pub use counts::{AcceptedCounts, look as look_at_count};
pub use requirements::{Kind, Review, SetBy, TopicSettings};
pub use rules::{MESSAGE_BYTES, PARTITIONS, REPLICAS, RETENTION, TopicRules};

use crate::{
    kafka_log::LogContext,
    metrics::{EventCounters, NAMESPACES_MAX},
    token_record::TopicRecord,
};

/// How long a topic that was just made may take to show up in a broker's metadata.
const PROPAGATION_LIMIT: Duration = Duration::from_secs(15);

/// Why a topic cannot be used now.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// Kafka is away: recover and try again.
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Stop(#[from] Stop),
}

impl From<AdminError> for TopicError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Unavailable { .. } | AdminError::UnknownTopic { .. } => {
                Self::Unavailable(error.to_string())
            }
            AdminError::NotAllowed { .. } => Self::Stop(Stop::new(
                ExitCode::NotAllowed,
                format!(
                    "{error}: the source needs CREATE, DESCRIBE, DESCRIBE_CONFIGS, READ and WRITE on its topics; kafka/acls-source.conf has all that it needs"
                ),
            )),
            AdminError::Refused { .. } => Self::Stop(Stop::new(ExitCode::Configuration, error.to_string())),
        }
    }
}

/// A topic that events go to.
pub struct Topic {
    pub name: String,
    /// Keys are spread over these.
    pub partitions: NonZeroU32,
    /// Brokers delete what is older; `None` if nothing is deleted by age.
    pub retention: Option<Duration>,
    /// `None` for the control topic.
    pub record: Option<TopicRecord>,
    /// Whether the record is committed beside the token.
    pub recorded: bool,
    pub events: EventCounters,
}

/// A place in [`Topics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicIndex(usize);

/// All topics of this source.
pub struct Topics {
    names: TopicNames,
    rules: TopicRules,
    accepted: AcceptedCounts,
    admin: TopicAdmin,
    runtime: tokio::runtime::Runtime,
    control: Option<TopicIndex>,
    dead_letters: Option<(String, NonZeroU32)>,
    /// By the event's own `ns` document: no allocation per event.
    by_namespace: HashMap<Box<[u8]>, TopicIndex>,
    topics: Vec<Topic>,
    /// What is committed beside the token, by topic.
    committed: BTreeMap<String, TopicRecord>,
    /// Differences that were named already: once is enough.
    warned: HashSet<String>,
}

impl Topics {
    pub fn new(
        names: TopicNames,
        rules: TopicRules,
        accepted: AcceptedCounts,
        admin: TopicAdmin,
        runtime: tokio::runtime::Runtime,
    ) -> Self {
        Self {
            names,
            rules,
            accepted,
            admin,
            runtime,
            control: None,
            dead_letters: None,
            by_namespace: HashMap::new(),
            topics: Vec::new(),
            committed: BTreeMap::new(),
            warned: HashSet::new(),
        }
    }

    pub fn names(&self) -> &TopicNames {
        &self.names
    }

    /// The topics that exist before any event: tokens, control, dead letters. Blocks.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub fn prepare(
        &mut self,
        log: &BaseConsumer<LogContext>,
        token_topic: &str,
        dead_letters: &str,
    ) -> Result<(), TopicError> {
        self.ensure(log, token_topic, Kind::Tokens, None)?;
        let Ensured { partitions, .. } = self.ensure(log, dead_letters, Kind::DeadLetters, None)?;
        self.dead_letters = Some((dead_letters.to_owned(), partitions));
        // Each time: it may have been deleted meanwhile, as the others may.
        let name = self.names.control();
        let Ensured { partitions, retention, .. } = self.ensure(log, &name, Kind::Control, None)?;
        match self.control {
            Some(TopicIndex(index)) => {
                (self.topics[index].partitions, self.topics[index].retention) = (partitions, retention);
            }
            None => {
                let events = EventCounters::new("_control", "_control");
                let control = Topic { name, partitions, retention, record: None, recorded: true, events };
                self.control = Some(self.push(control));
            }
        }
        Ok(())
    }

    /// The dead-letter topic and its partitions.
    ///
    /// # Panics
    /// Before [`Self::prepare`].
    pub fn dead_letters(&self) -> (&str, NonZeroU32) {
        let (topic, partitions) = self.dead_letters.as_ref().expect("prepared before the first event");
        (topic, *partitions)
    }

    /// After a recovery: what is committed beside the token, the numbers of partitions that are there, and whether the former process
    /// ended in order. Returns the records that have to be committed with the start: those of topics whose number is switched.
    ///
    /// Topics are looked at again when their next event comes: they may have been deleted meanwhile.
    ///
    /// # Errors
    /// [`ExitCode::Configuration`] if a number has changed and nobody has confirmed it.
    pub fn recovered(
        &mut self,
        committed: BTreeMap<String, TopicRecord>,
        found: &BTreeMap<String, u32>,
        drained: bool,
    ) -> Result<Vec<(String, TopicRecord)>, Stop> {
        self.committed = committed;
        let switched = counts::switched(&self.committed, found, &self.accepted, drained)?;
        self.committed.extend(switched.iter().cloned());
        self.by_namespace.clear();
        let control = self.control.take().map(|TopicIndex(index)| self.topics.swap_remove(index));
        self.topics.clear();
        self.control = control.map(|topic| self.push(topic));
        Ok(switched)
    }

    /// The stop that a number of partitions asks for, if one has changed since it was recorded and nobody has said to keep it.
    pub fn count_changed(&self, found: &BTreeMap<String, u32>) -> Option<Stop> {
        counts::changed(&self.committed, found, &self.accepted)
    }

    /// Whether where keys go in this topic is recorded.
    pub fn is_recorded(&self, topic: &str) -> bool {
        self.committed.contains_key(topic)
    }

    pub fn get(&mut self, index: TopicIndex) -> &mut Topic {
        &mut self.topics[index.0]
    }

    /// # Panics
    /// Before [`Self::prepare`].
    pub fn control(&self) -> TopicIndex {
        self.control.expect("prepared before the first event")
    }

    /// The topic of the collection with this `ns` document, if it is known already.
    pub fn find(&self, raw: &[u8]) -> Option<TopicIndex> {
        self.by_namespace.get(raw).copied()
    }

    /// The collection's topic; made and checked if it is new. Blocks.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub fn intern(
        &mut self,
        log: &BaseConsumer<LogContext>,
        raw: &[u8],
        namespace: &Namespace,
    ) -> Result<TopicIndex, TopicError> {
        let (name, form) = self.name_of(namespace)?;
        let Ensured { partitions: found, retention, made } =
            self.ensure(log, &name, Kind::Data, Some(namespace))?;
        let committed = self.committed.get(&name).cloned();
        // A topic that was made just now has no order to lose.
        let partitions = match &committed {
            Some(record) if !made => counts::kept(&name, record.partitions, found)?,
            _ => found,
        };
        let record = TopicRecord { namespace: namespace.clone(), form, partitions: partitions.get() };
        let recorded = committed.as_ref() == Some(&record);
        let events = if self.topics.len() < NAMESPACES_MAX {
            EventCounters::new(&namespace.db, &namespace.coll)
        } else {
            EventCounters::new("other", "other")
        };
        if committed.is_none() {
            tracing::info!(%namespace, topic = name, partitions, ?form, "a new collection has its topic");
        }
        let index = self.push(Topic { name, partitions, retention, record: Some(record), recorded, events });
        self.by_namespace.insert(raw.into(), index);
        Ok(index)
    }

    /// Records that have to be committed before the next event.
    pub fn unrecorded(&self) -> impl Iterator<Item = (&str, &TopicRecord)> {
        let new = self.topics.iter().filter(|topic| !topic.recorded);
        new.filter_map(|topic| Some((topic.name.as_str(), topic.record.as_ref()?)))
    }

    /// The records of [`Self::unrecorded`] are committed.
    pub fn recorded(&mut self) {
        for topic in self.topics.iter_mut().filter(|topic| !topic.recorded) {
            if let Some(record) = &topic.record {
                self.committed.insert(topic.name.clone(), record.clone());
                topic.recorded = true;
            }
        }
    }

    /// The transaction is committed. Returns how many events it had.
    pub fn committed(&mut self) -> u64 {
        self.topics.iter_mut().map(|topic| topic.events.committed()).sum()
    }

    pub fn discarded(&mut self) {
        self.topics.iter_mut().for_each(|topic| topic.events.discarded());
    }

    fn push(&mut self, topic: Topic) -> TopicIndex {
        self.topics.push(topic);
        TopicIndex(self.topics.len() - 1)
    }

    /// An existing form is always kept, never both.
    fn name_of(&self, namespace: &Namespace) -> Result<(String, Form), TopicError> {
        let known = self.committed.iter().find(|(_, record)| record.namespace == *namespace);
        if let Some((name, record)) = known {
            return Ok((name.clone(), record.form));
        }
        let usual = self.names.data(namespace, Form::Usual);
        let escaped = self.names.data(namespace, Form::FullyEscaped);
        let existing = self.runtime.block_on(self.admin.topic_names())?;
        if existing.contains(&usual) {
            return Ok((usual, Form::Usual));
        }
        if escaped != usual && existing.contains(&escaped) {
            return Ok((escaped, Form::FullyEscaped));
        }
        let spec = self.spec(&usual, Kind::Data, Some(namespace));
        let creation = self.runtime.block_on(self.admin.create_topic(&spec))?;
        match creation {
            Creation::Created | Creation::AlreadyExists => Ok((usual, Form::Usual)),
            Creation::CollidesWith(others) if escaped != usual => {
                tracing::warn!(%namespace, collides_with = others.join(","), topic = escaped, "Kafka takes '.' and '_' for the same: the fully escaped name is used");
                Ok((escaped, Form::FullyEscaped))
            }
            Creation::CollidesWith(others) => Err(Stop::new(
                ExitCode::Configuration,
                format!(
                    "topic {usual} cannot be made: for Kafka it is the same name as {}",
                    others.join(", ")
                ),
            )
            .into()),
        }
    }

    /// Makes the topic if it is missing, and holds it against what it has to be.
    fn ensure(
        &mut self,
        log: &BaseConsumer<LogContext>,
        name: &str,
        kind: Kind,
        namespace: Option<&Namespace>,
    ) -> Result<Ensured, TopicError> {
        let mut made = false;
        let found = match partition_count(log, name)? {
            Some(count) => count,
            None => {
                let spec = self.spec(name, kind, namespace);
                match self.runtime.block_on(self.admin.create_topic(&spec))? {
                    Creation::Created => {
                        made = true;
                        tracing::info!(
                            topic = name,
                            partitions = spec.partitions,
                            replication = spec.replication,
                            "topic made"
                        );
                    }
                    Creation::AlreadyExists => {}
                    Creation::CollidesWith(others) => {
                        let text = format!(
                            "topic {name} cannot be made: for Kafka it is the same name as {}",
                            others.join(", ")
                        );
                        return Err(Stop::new(ExitCode::Configuration, text).into());
                    }
                }
                wait_for_partitions(log, name)?
            }
        };
        let settings = self.settings_of(kind, namespace);
        let (review, retention) = self.runtime.block_on(review(&self.admin, &settings, name, kind, found))?;
        for difference in &review.harmless {
            if !self.warned.insert(format!("{name}: {difference}")) {
                continue;
            }
            tracing::warn!(topic = name, difference, "the topic differs from the settings");
        }
        if !review.refused.is_empty() {
            return Err(breaks_a_promise(name, &review).into());
        }
        Ok(Ensured { partitions: found, retention, made })
    }

    fn settings_of(&self, kind: Kind, namespace: Option<&Namespace>) -> TopicSettings {
        namespace.map_or_else(|| self.rules.of_kind(kind), |namespace| self.rules.of(namespace))
    }

    fn spec(&self, name: &str, kind: Kind, namespace: Option<&Namespace>) -> TopicSpec {
        requirements::spec(&self.settings_of(kind, namespace), name, kind)
    }
}

/// A topic that is there and keeps the promises.
struct Ensured {
    partitions: NonZeroU32,
    retention: Option<Duration>,
    /// A moment ago there was none.
    made: bool,
}

/// Holds a topic that is there against what it has to be. Also says how long brokers keep its records.
///
/// # Errors
/// See [`TopicError`].
pub async fn review(
    admin: &TopicAdmin,
    settings: &TopicSettings,
    name: &str,
    kind: Kind,
    partitions: NonZeroU32,
) -> Result<(Review, Option<Duration>), TopicError> {
    let mut configs = admin.topic_configs(&[name]).await?;
    let configs = configs.remove(name).unwrap_or_else(|| {
        Err(AdminError::UnknownTopic { what: format!("describe the configuration of topic {name}") })
    })?;
    Ok((requirements::review(settings, kind, partitions, &configs), requirements::retention(&configs)))
}

/// How a start ends at such a topic.
pub fn breaks_a_promise(name: &str, review: &Review) -> Stop {
    let text = format!("topic {name} would break a promise: {}", review.refused.join("; "));
    Stop::new(ExitCode::Configuration, text)
}

/// `None` if there is no such topic.
///
/// # Errors
/// See [`TopicError`].
pub fn partition_count(log: &BaseConsumer<LogContext>, name: &str) -> Result<Option<NonZeroU32>, TopicError> {
    let metadata = log
        .fetch_metadata(Some(name), Duration::from_secs(10))
        .map_err(|error| TopicError::Unavailable(format!("ask for topic {name}: {error}")))?;
    let topic = metadata.topics().iter().find(|topic| topic.name() == name && topic.error().is_none());
    Ok(topic.and_then(|topic| NonZeroU32::new(u32::try_from(topic.partitions().len()).ok()?)))
}

/// The controller has the topic; the brokers learn of it within moments.
fn wait_for_partitions(log: &BaseConsumer<LogContext>, name: &str) -> Result<NonZeroU32, TopicError> {
    let deadline = std::time::Instant::now() + PROPAGATION_LIMIT;
    loop {
        if let Some(count) = partition_count(log, name)? {
            return Ok(count);
        }
        if std::time::Instant::now() > deadline {
            return Err(TopicError::Unavailable(format!("topic {name} was made and does not show up")));
        }
        // Polling a condition of another machine; there is nothing to be woken by.
        std::thread::sleep(Duration::from_millis(50));
    }
}
