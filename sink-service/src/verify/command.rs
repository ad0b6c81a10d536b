//! The command `verify`: what is compared, and progress for people.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rdkafka::error::KafkaError;
use shared::{
    exit::{ExitCode, Stop},
    kafka_client::{self, FIRST_CONTACT_LIMIT},
    schema_registry::SchemaRegistry,
};
use tokio::runtime::Runtime;

use super::{EventIds, PartitionResult, Verification, report::print};
use crate::{
    cli::VerifyRequest,
    kafka_log::KafkaLog,
    known_partitions::{known_partitions, refuse_unknown},
    lake::LakeError,
    lake_start::open_existing_lake,
    look_error::LookError,
    record_reader::RecordReader,
    settings::SinkSettings,
    topic_reader::TopicReader,
};

/// Compares what was asked for and prints it; whether everything agrees.
///
/// # Errors
/// If it cannot be compared.
pub fn verify(runtime: &Runtime, settings: &SinkSettings, request: &VerifyRequest) -> Result<bool, Stop> {
    kafka_client::connect_check(&settings.kafka, FIRST_CONTACT_LIMIT)?;
    let lake = open_existing_lake(runtime, settings)?;
    let refused =
        |error: KafkaError| Stop::new(ExitCode::Configuration, format!("the Kafka client refuses: {error}"));
    let kafka = settings.kafka.client_config("atlas-sink-verify");
    let verification = Verification {
        lake: &lake,
        log: &KafkaLog::new(&kafka, &settings.group).map_err(refused)?,
        reader: TopicReader::new(&kafka, &settings.group).map_err(refused)?,
        names: settings.names.clone(),
        span: request.span.clone(),
        drained: request.drained,
        delivery: request.delivery,
    };
    let registry = settings.registry.as_ref().map(SchemaRegistry::new).transpose()?;
    let mut records = RecordReader::new(registry);
    let wanted = |topic: &str| request.topics.is_empty() || request.topics.iter().any(|each| each == topic);
    let results = runtime.block_on(async {
        let mut partitions =
            known_partitions(&lake, &verification.reader, &verification.names, |_| true).await?;
        refuse_unknown(&request.topics, &partitions)?;
        partitions.retain(|partition| wanted(&partition.topic));
        let progress = progress_over(partitions.len());
        let mut events = EventIds::default();
        let mut results = Vec::with_capacity(partitions.len());
        for of_topic in partitions.chunk_by(|a, b| a.topic == b.topic) {
            progress.set_message(of_topic[0].topic.to_string());
            if request.restore_heads {
                for partition in of_topic {
                    if let Some(path) = verification.restore_head(partition).await? {
                        eprintln!("verify: the head of {partition} was missing and is there again; its file is {path}");
                    }
                }
            }
            let look = verification.look(of_topic).await?;
            for seen in &look.partitions {
                let partition = &seen.partition;
                let tell = |count| progress.set_message(format!("{partition}: {count} records"));
                let compared = verification.compare(seen, &look, &mut events, &mut records, tell).await;
                results.push(match compared {
                    // One damaged file is a finding; the others are compared all the same.
                    Err(LookError::Lake(error @ LakeError::Damaged { .. })) => {
                        PartitionResult::unreadable(partition, error.to_string())
                    }
                    result => result?,
                });
                progress.inc(1);
            }
        }
        progress.finish_and_clear();
        Ok::<_, LookError>(results)
    })?;
    if results.is_empty() && request.topics.is_empty() {
        let message = format!(
            "there is nothing to compare: no data topic under the prefix {} at {}, and no chain in the lake at {}. Check TOPIC_PREFIX, KAFKA_BROKERS and LAKE_URL",
            settings.names.prefix(),
            settings.kafka.bootstrap(),
            settings.lake
        );
        return Err(Stop::new(ExitCode::Configuration, message));
    }
    print(&results, &request.span, request.output, &mut std::io::stdout().lock())
        .map_err(|error| Stop::new(ExitCode::Defect, format!("the result cannot be printed: {error}")))
}

/// A bar with the time it still takes, on a terminal.
fn progress_over(partitions: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(partitions as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} partitions, {eta} left  {wide_msg}");
    bar.set_style(style.expect("the template is right"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
