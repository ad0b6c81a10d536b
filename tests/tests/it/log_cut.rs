//! A partition's log that ends before the lake does: an election that was not clean, or a disk restored from a backup.
//!
//! Goal: the sink ends with 23, says that the log was cut and not that the topic was made again, and publishes nothing, at its start and while it
//! runs, also where the log has grown past the lake's end again before it looks. Method: the broker is stopped, its log is cut at a batch, and it comes
//! back on the same port; other changes take the lost ones' offsets.

use anyhow::{Result, ensure};
use pipeline_tests::{
    kafka_writer::NewRecord,
    pipeline::Pipeline,
    servers::{Azurite, AzuriteStorage, Kafka, KafkaOptions},
    service::{Binary, Service},
};

use crate::{
    records::{LONG_AGO_S, event, make_topic},
    stage::LIMIT,
};

/// No source runs here.
const NO_MONGODB: &str = "mongodb://127.0.0.1:1";

/// The offset at which the log is cut: behind it the lake has ten more records and a marker.
const CUT_AT: i64 = 21;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_ends_with_23_and_so_does_one_after_the_log_has_grown_again() -> Result<()> {
    let (mut kafka, azurite) =
        tokio::try_join!(Kafka::start(KafkaOptions::default()), Azurite::start(AzuriteStorage::Memory))?;
    let pipelines = [
        Pipeline::into_directory("cutdir", NO_MONGODB.to_owned(), kafka.bootstrap())?,
        Pipeline::into_azurite("cutazure", NO_MONGODB.to_owned(), kafka.bootstrap(), &azurite)?,
    ];
    let mut before = Vec::new();
    for pipeline in &pipelines {
        let mut sink = begun(pipeline).await?;
        sink.stop(LIMIT).await?;
        before.push(pipeline.lake().read().await?);
    }
    kafka.stop().await?;
    for pipeline in &pipelines {
        kafka.cut_log(&pipeline.data_topic("orders"), 0, CUT_AT)?;
    }
    kafka.restart().await?;
    for (pipeline, before) in pipelines.iter().zip(&before) {
        let topic = pipeline.data_topic("orders");
        // 31 or 32: the marker behind the last record may have been passed or not.
        let says = format!(
            "the log was cut: it ends at offset {CUT_AT}, but the lake was written from this same topic up to offset 3"
        );
        for (name, arguments, expected) in
            [("cut-run", vec!["run"], 23), ("cut-verify", vec!["verify", "--topic", &topic], 25)]
        {
            let (code, text) = run(pipeline, name, &arguments).await?;
            ensure!(code == expected && text.contains(&says), "{name}: {code}\n{text}");
            ensure!(!text.contains("made again"), "{text}");
        }
        ensure!(pipeline.lake().read().await?.files == before.files, "something was published");

        // A log that has grown again does not end early: its records tell.
        pipeline.kafka_writer().send(&topic, 0, changes(pipeline, 100..150)).await?;
        for (name, arguments) in [("grown-run", vec!["run"]), ("grown-until-end", vec!["run", "--until-end"])]
        {
            let (code, text) = run(pipeline, name, &arguments).await?;
            ensure!(code == 23 && text.contains(GROWN), "{name}: {code}\n{text}");
        }
        ensure!(pipeline.lake().read().await?.files == before.files, "something was published");
        let (code, text) = run(pipeline, "grown-verify", &["verify", "--topic", &topic]).await?;
        ensure!(
            code == 25 && text.contains("the line at offset 21 is not the record's"),
            "grown-verify: {code}\n{text}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_sink_ends_with_23() -> Result<()> {
    let mut kafka = Kafka::start(KafkaOptions::default()).await?;
    let pipeline = Pipeline::into_directory("cutrunning", NO_MONGODB.to_owned(), kafka.bootstrap())?;
    let mut sink = begun(&pipeline).await?;
    let before = pipeline.lake().read().await?;
    kafka.kill9()?;
    kafka.cut_log(&pipeline.data_topic("orders"), 0, CUT_AT)?;
    kafka.restart().await?;
    let code = sink.exit_code(LIMIT).await?;
    let text = sink.log_text()?;
    ensure!(code == 23 && text.contains("the log was cut"), "{code}\n{text}");
    ensure!(pipeline.lake().read().await?.files == before.files, "something was published");
    Ok(())
}

/// It is stopped meanwhile, so the log is long enough when it looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_sink_notices_a_log_that_has_grown_again() -> Result<()> {
    let mut kafka = Kafka::start(KafkaOptions::default()).await?;
    let pipeline = Pipeline::into_directory("cutgrown", NO_MONGODB.to_owned(), kafka.bootstrap())?;
    let topic = pipeline.data_topic("orders");
    let mut sink = begun(&pipeline).await?;
    let before = pipeline.lake().read().await?;
    sink.sigstop()?;
    kafka.kill9()?;
    kafka.cut_log(&topic, 0, CUT_AT)?;
    kafka.restart().await?;
    pipeline.kafka_writer().send(&topic, 0, changes(&pipeline, 100..150)).await?;
    sink.sigcont()?;
    let code = sink.exit_code(LIMIT).await?;
    let text = sink.log_text()?;
    ensure!(code == 23 && text.contains(GROWN), "{code}\n{text}");
    ensure!(pipeline.lake().read().await?.files == before.files, "something was published");
    Ok(())
}

/// What the log lost is sent again by its source, in other transactions: nothing is missing, and nothing comes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_source_has_sent_again_what_it_lost_goes_on() -> Result<()> {
    let mut kafka = Kafka::start(KafkaOptions::default()).await?;
    let pipeline = Pipeline::into_directory("cutagain", NO_MONGODB.to_owned(), kafka.bootstrap())?;
    let topic = pipeline.data_topic("orders");
    begun(&pipeline).await?.stop(LIMIT).await?;
    kafka.stop().await?;
    kafka.cut_log(&topic, 0, CUT_AT)?;
    kafka.restart().await?;
    let writer = pipeline.kafka_writer();
    for numbers in [20..23, 23..24, 24..40] {
        writer.send(&topic, 0, changes(&pipeline, numbers)).await?;
    }
    let (code, text) = run(&pipeline, "again", &["run", "--until-end"]).await?;
    ensure!(code == 0, "{code}\n{text}");
    let files = pipeline.lake().read().await?.files;
    let mut rows = 0;
    for file in &files {
        rows += file.lines()?.len();
    }
    ensure!(rows == 40, "{rows} rows of 40 changes");
    Ok(())
}

/// A sink whose lake has two transactions of the topic.
async fn begun(pipeline: &Pipeline) -> Result<Service> {
    let topic = make_topic(pipeline).await?;
    let writer = pipeline.kafka_writer();
    writer.send(&topic, 0, changes(pipeline, 0..20)).await?;
    writer.send(&topic, 0, changes(pipeline, 20..30)).await?;
    let mut sink = pipeline.ready_sink().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    Ok(sink)
}

const GROWN: &str = "the log was cut and has grown again: the lake was not written from the record at offset";

/// As a source of ours would publish them: their ids rise.
fn changes(pipeline: &Pipeline, numbers: std::ops::Range<i64>) -> Vec<NewRecord> {
    let id = |number: i64| format!("82{LONG_AGO_S:08X}00000001{number:08X}");
    numbers
        .map(|number| {
            event(pipeline, number, LONG_AGO_S).header("event-id", &id(number)).header("source", "cut/1")
        })
        .collect()
}

async fn run(pipeline: &Pipeline, name: &str, arguments: &[&str]) -> Result<(i32, String)> {
    let environment = pipeline.sink_environment();
    let mut service = Service::start_with(Binary::Sink, name, arguments, environment, pipeline.folder())?;
    let code = service.exit_code(LIMIT).await?;
    Ok((code, service.log_text()?))
}
