//! Records that are larger than what a fetch asks for, or than their topic takes before compression.
//!
//! Goal: each is a line, in order, between small ones. A broker hands a whole batch over even if it is larger than asked for
//! (KIP-74), so small fetches lose nothing; this is where that is seen. Method: values near the largest a topic takes, made
//! so that compression cannot help, and values far above that which it does help, judged by the ledger.

use anyhow::{Result, ensure};
use pipeline_tests::kafka_writer::NewRecord;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    records::{LONG_AGO_S, event, events, judge},
    stage::Stage,
};

/// The sink's default for the largest record, less what the envelope of a Kafka batch takes.
const LARGEST: usize = 16 * 1024 * 1024 - 64 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_larger_than_a_fetch_is_a_line() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("large")?;
    let topic = pipeline.data_topic("orders");
    pipeline.kafka_writer().create_topic(&topic, 1, &[("max.message.bytes", "16777216")]).await?;

    let mut records = events(&pipeline, 0..20, LONG_AGO_S);
    for (number, size) in [(20, 2 * 1024 * 1024), (21, LARGEST), (22, 9 * 1024 * 1024)] {
        let mut random = StdRng::seed_from_u64(number);
        let text: String = (0..size - 200).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect();
        let like = event(&pipeline, i64::try_from(number)?, LONG_AGO_S);
        records
            .push(NewRecord { headers: like.headers, ..NewRecord::new(format!("{{\"text\":\"{text}\"}}")) });
        records.extend(events(&pipeline, 30..40, LONG_AGO_S));
    }
    let count = records.len();
    pipeline.kafka_writer().send(&topic, 0, records).await?;

    let mut sink = pipeline.ready_sink().await?;
    let (evidence, violations) = judge(&pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    ensure!(evidence.data_records() == count, "{} of {count} records", evidence.data_records());
    ensure!(evidence.kafka.records(&pipeline.topics().dead_letters()).next().is_none(), "a dead letter");
    sink.assert_running()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_large_only_before_compression_is_a_line() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("compressed")?;
    let topic = pipeline.data_topic("orders");
    pipeline.kafka_writer().create_topic(&topic, 1, &[("max.message.bytes", "16777216")]).await?;

    let mut random = StdRng::seed_from_u64(1);
    let phrases: Vec<String> =
        (0..256).map(|_| (0..64).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()).collect();
    // The source compresses with lz4; what librdkafka takes out of a zstd batch is bounded in another way.
    for (number, codec, size) in [(0, "lz4", 21 * 1024 * 1024), (1, "zstd", 40 * 1024 * 1024)] {
        let text: String = (0..size / 64).map(|_| phrases[random.random_range(0..256)].as_str()).collect();
        let like = event(&pipeline, number, LONG_AGO_S);
        let record =
            NewRecord { headers: like.headers, ..NewRecord::new(format!("{{\"text\":\"{text}\"}}")) };
        pipeline.kafka_writer().send_compressed(codec, &topic, 0, vec![record]).await?;
    }

    let mut sink = pipeline.ready_sink().await?;
    let (evidence, violations) = judge(&pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    ensure!(evidence.data_records() == 2, "{} of 2 records", evidence.data_records());
    ensure!(evidence.kafka.records(&pipeline.topics().dead_letters()).next().is_none(), "a dead letter");
    sink.assert_running()
}
