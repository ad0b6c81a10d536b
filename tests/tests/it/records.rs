//! Topics that no source writes: the test is the producer, so that it can write what a source never would.

use anyhow::{Result, ensure};
use pipeline_tests::{
    kafka_writer::NewRecord,
    ledger::{Evidence, Violations, judge_lake},
    pipeline::Pipeline,
    service::Service,
};

/// 2025-08-22T22:00:00Z: an hour that no clock shows while these tests run.
pub(crate) const LONG_AGO_S: i64 = 1_755_900_000;

/// A plausible event of a foreign producer, `seconds` after 1970, in a collection of the pipeline's database.
pub(crate) fn event(pipeline: &Pipeline, number: i64, seconds: i64) -> NewRecord {
    event_of(pipeline, "orders", number, seconds)
}

/// The same in another collection.
pub(crate) fn event_of(pipeline: &Pipeline, collection: &str, number: i64, seconds: i64) -> NewRecord {
    let database = pipeline.database();
    let value = format!(
        r#"{{"_meta":{{"operationType":"insert","ns":{{"db":"{database}","coll":"{collection}"}}}},"documentKey":{{"_id":{number}}},"fullDocument":{{"_id":{number}}}}}"#
    );
    NewRecord { key: Some(number.to_string().into_bytes()), ..NewRecord::new(value) }
        .header("operation-type", "insert")
        .header("database", database)
        .header("collection", collection)
        .header("cluster-time", &format!("{seconds}.1"))
}

/// The event with so many bytes more.
pub(crate) fn padded(event: NewRecord, bytes: usize) -> NewRecord {
    let mut value = event.value.unwrap_or_default();
    value.truncate(value.len() - 1);
    value.extend_from_slice(br#","padding":""#);
    value.extend(std::iter::repeat_n(b'x', bytes));
    value.extend_from_slice(b"\"}");
    NewRecord { value: Some(value), ..event }
}

pub(crate) fn events(pipeline: &Pipeline, numbers: std::ops::Range<i64>, seconds: i64) -> Vec<NewRecord> {
    numbers.map(|number| event(pipeline, number, seconds)).collect()
}

/// As a source of ours would publish them: their ids rise with the seconds and the numbers.
pub(crate) fn changes(pipeline: &Pipeline, numbers: std::ops::Range<i64>, seconds: i64) -> Vec<NewRecord> {
    let id = |number: i64| format!("82{seconds:08X}00000001{number:08X}");
    let change =
        |number| event(pipeline, number, seconds).header("event-id", &id(number)).header("source", "it/1");
    numbers.map(change).collect()
}

/// Makes the topic `orders` with one partition.
pub(crate) async fn make_topic(pipeline: &Pipeline) -> Result<String> {
    let topic = pipeline.data_topic("orders");
    pipeline.kafka_writer().create_topic(&topic, 1, &[]).await?;
    Ok(topic)
}

/// Waits until the lake has everything and judges it against Kafka.
pub(crate) async fn judge(pipeline: &Pipeline, sinks: &mut [&mut Service]) -> Result<(Evidence, Violations)> {
    pipeline.wait_for_lake(sinks).await?;
    let evidence = pipeline.evidence().await?;
    ensure!(evidence.data_records() > 0, "nothing to judge");
    let mut violations = Violations::default();
    judge_lake(&evidence, &mut violations);
    Ok((evidence, violations))
}
