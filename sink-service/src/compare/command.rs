//! The command: which collections, and in how many passes.

use mongodb::Client;
use rdkafka::error::KafkaError;
use shared::{
    exit::{ExitCode, Stop},
    kafka_client::{self, FIRST_CONTACT_LIMIT},
    kafka_position::TopicPartition,
    namespace::Namespace,
    settings::Secret,
    topic_name::TopicNames,
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{
    CompareRequest,
    collection::{MongoSide, connect},
    completeness::Completeness,
    drops::Drops,
    fold::{Bucket, ENTRY_BYTES},
    report::{CollectionResult, print},
    rounds::Rounds,
};
use crate::{
    hours::{expired::expired, token_follower::follow},
    kafka_log::KafkaLog,
    known_partitions::{known_partitions, refuse_unknown},
    lake_layout::OpenLake,
    lake_start::open_existing_lake,
    look_again::look_again,
    look_error::LookError,
    settings::SinkSettings,
    standing::standing,
    topic_content::TopicContent,
    topic_reader::TopicReader,
};

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    Agrees,
    Differs,
    /// Some documents changed too often.
    Undecided,
}

/// Where MongoDB is, which only this command has to know.
///
/// # Errors
/// If that was not set.
pub fn mongo_uri(settings: &SinkSettings) -> Result<&Secret, Stop> {
    settings.mongo_uri.as_ref().ok_or_else(|| {
        let what = "MONGO_URI is not set: expected mongodb://host:port/?replicaSet=name or mongodb+srv://host of the MongoDB that the source reads";
        Stop::new(ExitCode::Configuration, what)
    })
}

/// Compares what was asked for and prints it.
///
/// # Errors
/// If it cannot be compared.
pub fn compare(
    runtime: &Runtime,
    settings: &SinkSettings,
    request: &CompareRequest,
) -> Result<Agreement, Stop> {
    let uri = mongo_uri(settings)?;
    if let Some(topic) = request.topics.iter().find(|topic| **topic == settings.names.control()) {
        let what = format!(
            "{topic} has no documents that MongoDB could be compared with: `verify` holds it against Kafka"
        );
        return Err(Stop::new(ExitCode::Usage, what));
    }
    kafka_client::connect_check(&settings.kafka, FIRST_CONTACT_LIMIT)?;
    let lake = open_existing_lake(runtime, settings)?;
    let refused =
        |error: KafkaError| Stop::new(ExitCode::Configuration, format!("the Kafka client refuses: {error}"));
    let kafka = settings.kafka.client_config("atlas-sink-compare");
    let log = KafkaLog::new(&kafka, &settings.group).map_err(refused)?;
    let reader = TopicReader::new(&kafka, &settings.group).map_err(refused)?;
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let known = follow(&kafka, &settings.group, &settings.names, stop)
        .map_err(|error| Stop::new(ExitCode::Configuration, error.to_string()))?;
    let results = runtime.block_on(async {
        let client = connect(uri).await?;
        let named =
            |topic: &str| request.topics.is_empty() || request.topics.iter().any(|each| each == topic);
        let wanted = |topic: &str| topic != settings.names.control() && named(topic);
        let mut partitions: Vec<TopicPartition> =
            known_partitions(&lake, &reader, &settings.names, |_| true).await?;
        refuse_unknown(&request.topics, &partitions)?;
        partitions.retain(|partition| wanted(&partition.topic));
        let mut topics = Vec::new();
        for of_topic in partitions.chunk_by(|a, b| a.topic == b.topic) {
            topics.push((of_topic, namespace_of(&lake, &settings.names, of_topic).await?));
        }
        let control = settings.names.control();
        let collections = topics.iter().map(|(_, namespace)| namespace.clone());
        let mut rounds = Rounds {
            lake: &lake,
            drops: Drops::new(&lake, &log, &reader, &control, collections),
            completeness: Completeness { lake: &lake, log: &log, known: &known, patience: request.patience },
        };
        let mut results = Vec::new();
        for (of_topic, namespace) in &topics {
            results.push(one_topic(&mut rounds, &client, settings, request, of_topic, namespace).await?);
        }
        if results.iter().any(|each| each.differences > 0) {
            for what in rounds.drops.unknown() {
                eprintln!(
                    "compare: {what}: of a collection that was dropped before, documents look as if they were missing in MongoDB"
                );
            }
        }
        Ok::<_, LookError>(results)
    })?;
    if results.is_empty() {
        let what = format!(
            "there is nothing to compare: no data topic under the prefix {}, and no chain in the lake at {}",
            settings.names.prefix(),
            settings.lake
        );
        return Err(Stop::new(ExitCode::Configuration, what));
    }
    print(&results, request.sample, request.output, &mut std::io::stdout().lock())
        .map_err(|error| Stop::new(ExitCode::Defect, format!("the result cannot be printed: {error}")))?;
    Ok(if results.iter().any(|each| each.differences > 0) {
        Agreement::Differs
    } else if results.iter().any(|each| each.undecided > 0) {
        Agreement::Undecided
    } else {
        Agreement::Agrees
    })
}

async fn one_topic(
    rounds: &mut Rounds<'_>,
    client: &Client,
    settings: &SinkSettings,
    request: &CompareRequest,
    partitions: &[TopicPartition],
    namespace: &Namespace,
) -> Result<CollectionResult, LookError> {
    let topic = partitions[0].topic.to_string();
    if let Some((expired, _)) = look_again(async || expired(rounds.lake, &topic).await).await? {
        eprintln!(
            "compare: {topic}: hours before {} were removed by `expire`. A document whose last change was there looks as if it were missing",
            expired.before
        );
    }
    let mongo = MongoSide::new(client, namespace);
    let content = TopicContent::Data(namespace.clone());
    let estimate = mongo.estimate().await?;
    let memory = (settings.flush.memory_limit as u64).max(1);
    let passes = estimate.saturating_mul(ENTRY_BYTES) / memory + 1;
    let (run, count) = buckets(request.sample, passes);
    let mut result =
        CollectionResult { topic, namespace: namespace.to_string(), ..CollectionResult::default() };
    for index in 0..run {
        rounds
            .collection(partitions, &content, &mongo, estimate, Bucket { index, count }, &mut result)
            .await?;
    }
    // Each pass reads all lines.
    result.not_changes /= run;
    Ok(result)
}

/// How many buckets are compared, of how many. A pass holds one of them in memory.
fn buckets(percent: f64, passes: u64) -> (u64, u64) {
    // Hundredths of a percent, at most one million.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0.01 to 100")]
    let hundredths = (percent * 100.0).round() as u64;
    let count = (passes * 10_000).div_ceil(hundredths).max(passes);
    ((count * hundredths).div_ceil(10_000).min(count), count)
}

/// As the head says; without one, as the topic's name does.
async fn namespace_of(
    lake: &OpenLake,
    names: &TopicNames,
    partitions: &[TopicPartition],
) -> Result<Namespace, LookError> {
    for partition in partitions {
        let standing = look_again(async || standing(lake, partition).await).await?;
        if let Some(TopicContent::Data(namespace)) = standing.and_then(|standing| standing.head.content()) {
            return Ok(namespace);
        }
    }
    match TopicContent::by_name(names, &partitions[0].topic) {
        Some(TopicContent::Data(namespace)) => Ok(namespace),
        _ => {
            let what = format!(
                "{}: its name was cut and it has no chain: whose it is cannot be told",
                partitions[0].topic
            );
            Err(Stop::new(ExitCode::Configuration, what).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::buckets;

    #[test]
    fn a_sample_is_a_share_of_the_buckets() {
        assert_eq!(buckets(100.0, 1), (1, 1));
        assert_eq!(buckets(100.0, 7), (7, 7));
        assert_eq!(buckets(1.0, 1), (1, 100));
        assert_eq!(buckets(0.01, 1), (1, 10_000));
        assert_eq!(buckets(50.0, 1), (1, 2));
        // Of a collection too large for one pass, each pass is still one bucket.
        assert_eq!(buckets(50.0, 4), (4, 8));
    }
}
