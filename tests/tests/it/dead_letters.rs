//! A dead letter that cannot be written.
//!
//! Goal: nothing is skipped. What an operator has to repair ends the sink with a code and a message that name it; what heals
//! is waited for. Either way the position stays before the record, and afterwards the letter arrives byte for byte.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pipeline_tests::{
    http, kafka_reader::KafkaRecord, kafka_writer::NewRecord, pipeline::Pipeline, service::Service, wait,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    records::{LONG_AGO_S, event, events, judge, make_topic},
    stage::{LIMIT, Stage},
};

/// The broker's limit is about what is left after compression, so these are letters without a pattern.
const HOSTILE_BYTES: usize = 20_000;

/// The client itself gives a letter up after a minute.
const GONE_LIMIT: Duration = Duration::from_secs(90);

/// A record that is no JSON.
fn hostile(pipeline: &Pipeline) -> NewRecord {
    let mut random = StdRng::seed_from_u64(17);
    let value: Vec<u8> = (0..HOSTILE_BYTES).map(|_| random.random_range(b'0'..=b'z')).collect();
    let like_others = event(pipeline, 1, LONG_AGO_S);
    NewRecord { value: Some(value), ..like_others }
}

/// How far the lake is, and what the group has committed; both must stay before a letter that was not written.
async fn positions(pipeline: &Pipeline, topic: &str) -> Result<(i64, i64)> {
    let key = (topic.to_owned(), 0);
    let lake = pipeline.lake().positions().await?.get(&key).copied().unwrap_or(0);
    let committed = pipeline.kafka().committed(&pipeline.sink_group(), [topic.to_owned()]).await?;
    Ok((lake, committed.get(&key).copied().unwrap_or(0)))
}

async fn letters(pipeline: &Pipeline) -> Result<Vec<KafkaRecord>> {
    let dead_letters = pipeline.topics().dead_letters();
    let content = pipeline.kafka().read([dead_letters.clone()]).await?;
    Ok(content.records(&dead_letters).cloned().collect())
}

/// This record is there as a letter, whole and once.
async fn letter_is_there(pipeline: &Pipeline, key: &str, record: &NewRecord) -> Result<()> {
    let letters = letters(pipeline).await?;
    let found: Vec<_> =
        letters.iter().filter(|letter| letter.key.as_deref() == Some(key.as_bytes())).collect();
    let [letter] = found[..] else { bail!("{} letters for {key}", found.len()) };
    ensure!(letter.value == record.value, "{key}: the value is not byte for byte");
    for header in &record.headers {
        ensure!(letter.headers.contains(header), "{key}: header {} is not as it was", header.0);
    }
    Ok(())
}

/// The sink ends by itself, says why, and has written nothing beyond the record.
async fn stops_at(pipeline: &Pipeline, sink: &mut Service, topic: &str, offset: i64) -> Result<()> {
    let code = sink.exit_code(LIMIT).await?;
    let log = sink.log_text()?;
    ensure!(code == 78, "it ended with {code}\n{log}");
    let last = log.lines().last().context("a last line")?;
    let dead_letters = pipeline.topics().dead_letters();
    let what = format!("dead letter {topic}/0/{offset} cannot be written to {dead_letters}");
    ensure!(last.contains(r#""stopped""#) && last.contains(&what), "{last}");
    ensure!(last.contains("nothing was skipped"), "{last}");
    let (lake, committed) = positions(pipeline, topic).await?;
    ensure!(lake <= offset && committed <= lake, "{offset} was passed: lake {lake}, committed {committed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_its_topic_refuses_stops_the_sink_until_that_is_repaired() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("lettertoolarge")?;
    let writer = pipeline.kafka_writer();
    let topic = make_topic(&pipeline).await?;
    let dead_letters = pipeline.topics().dead_letters();
    writer.create_topic(&dead_letters, 1, &[("max.message.bytes", "4096")]).await?;

    // What came before is in the lake.
    writer.send(&topic, 0, events(&pipeline, 0..20, LONG_AGO_S)).await?;
    let mut sink = pipeline.ready_sink().await?;
    let (_, violations) = judge(&pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    let (before, _) = positions(&pipeline, &topic).await?;

    let offset = pipeline.kafka().high_watermarks([topic.clone()]).await?[&(topic.clone(), 0)] + 10;
    let bad = hostile(&pipeline);
    let mut records = events(&pipeline, 20..30, LONG_AGO_S);
    records.push(bad.clone());
    records.extend(events(&pipeline, 30..40, LONG_AGO_S));
    writer.send(&topic, 0, records).await?;
    stops_at(&pipeline, &mut sink, &topic, offset).await?;
    let mut again = pipeline.start_sink()?;
    stops_at(&pipeline, &mut again, &topic, offset).await?;
    ensure!(positions(&pipeline, &topic).await?.0 >= before, "the lake fell back");
    ensure!(letters(&pipeline).await?.is_empty(), "a letter that was refused is there");

    writer.set_topic_setting(&dead_letters, "max.message.bytes", "1048576").await?;
    let mut sink = pipeline.ready_sink().await?;
    let (_, violations) = judge(&pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    letter_is_there(&pipeline, &format!("{topic}/0/{offset}"), &bad).await?;
    sink.assert_running()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_topic_that_is_gone_is_waited_for() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("lettergone")?;
    let writer = pipeline.kafka_writer();
    let topic = make_topic(&pipeline).await?;
    let bad = hostile(&pipeline);
    writer.send(&topic, 0, vec![bad.clone()]).await?;
    let mut sink = pipeline.ready_sink().await?;
    let (_, violations) = judge(&pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    letter_is_there(&pipeline, &format!("{topic}/0/0"), &bad).await?;

    let dead_letters = pipeline.topics().dead_letters();
    let saved = letters(&pipeline).await?;
    writer.delete_topic(&dead_letters).await?;
    let offset = pipeline.kafka().high_watermarks([topic.clone()]).await?[&(topic.clone(), 0)] + 10;
    let mut records = events(&pipeline, 0..10, LONG_AGO_S);
    records.push(bad.clone());
    records.extend(events(&pipeline, 10..20, LONG_AGO_S));
    writer.send(&topic, 0, records).await?;
    wait::until("/readyz says what is waited for", GONE_LIMIT, || async {
        let answer = http::get(sink.admin_port(), "/readyz")?;
        Ok((answer.status != 200 && answer.text().contains(&dead_letters)).then_some(()))
    })
    .await?;
    eprintln!("{}", http::get(sink.admin_port(), "/readyz")?.text());
    sink.assert_running()?;
    let (lake, committed) = positions(&pipeline, &topic).await?;
    ensure!(lake <= offset && committed <= lake, "{offset} was passed: lake {lake}, committed {committed}");

    // As a restored topic: with what it had.
    writer.create_topic(&dead_letters, 1, &[]).await?;
    let restored = saved.into_iter().map(|letter| NewRecord {
        key: letter.key,
        value: letter.value,
        headers: letter.headers,
        timestamp_ms: letter.timestamp_ms,
    });
    writer.send(&dead_letters, 0, restored.collect()).await?;
    let (_, violations) = judge(&pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    letter_is_there(&pipeline, &format!("{topic}/0/{offset}"), &bad).await?;
    sink.assert_running()
}
