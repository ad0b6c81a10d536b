//! A partition's log that ends before the lake does: an election that was not clean, or a disk restored from a backup.
//!
//! Goal: the sink ends with 23, says that the log was cut and not that the topic was made again, and publishes nothing, at its start and while it
//! runs, also where the log has grown past the lake's end again before it looks. Method: the broker is stopped, its log is cut at a batch, and it comes
//! back on the same port; other changes take the lost ones' offsets.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use pipeline_tests::{
    pipeline::Pipeline,
    servers::{Azurite, AzuriteStorage, Kafka, KafkaOptions},
    service::{Binary, Environment, Service},
    wait,
};

use crate::{
    records::{LONG_AGO_S, changes, make_topic},
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
        pipeline.kafka_writer().send(&topic, 0, changes(pipeline, 100..150, LONG_AGO_S)).await?;
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
    // The group does not give its partition to anybody meanwhile.
    let environment = pipeline.sink_environment().set("KAFKA_OPTIONS", "session.timeout.ms=60000");
    let mut sink = begun_with(&pipeline, environment).await?;
    let before = pipeline.lake().read().await?;
    sink.sigstop()?;
    kafka.kill9()?;
    kafka.cut_log(&topic, 0, CUT_AT)?;
    kafka.restart().await?;
    pipeline.kafka_writer().send(&topic, 0, changes(&pipeline, 100..150, LONG_AGO_S)).await?;
    sink.sigcont()?;
    let code = sink.exit_code(LIMIT).await?;
    let text = sink.log_text()?;
    ensure!(code == 23 && text.contains(GROWN), "{code}\n{text}");
    // The client itself has noticed it, by the leader's epoch.
    ensure!(text.contains("a position is outside its log"), "{text}");
    ensure!(pipeline.lake().read().await?.files == before.files, "something was published");
    Ok(())
}

/// Where files appear once, the current one is not there yet as a rule: then the head says what was before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_has_grown_again_below_rows_that_were_staged_is_noticed() -> Result<()> {
    let mut kafka = Kafka::start(KafkaOptions::default()).await?;
    let pipeline = Pipeline::into_directory("cutsealed", NO_MONGODB.to_owned(), kafka.bootstrap())?;
    let environment = pipeline.sink_environment().set("PUBLISH", "sealed");
    let topic = make_topic(&pipeline).await?;
    let writer = pipeline.kafka_writer();
    writer.send(&topic, 0, changes(&pipeline, 0..20, LONG_AGO_S)).await?;
    writer.send(&topic, 0, changes(&pipeline, 20..30, LONG_AGO_S)).await?;
    let until_end = ["run", "--until-end"];
    let mut sink =
        Service::start_with(Binary::Sink, "first", &until_end, environment.clone(), pipeline.folder())?;
    let code = sink.exit_code(LIMIT).await?;
    ensure!(code == 0, "{code}\n{}", sink.log_tail());

    let mut sink = pipeline.start(Binary::Sink, environment.clone())?;
    sink.wait_until_ready().await?;
    // An hour that ends has all published that was there then. So these are closed first, that of the rows and the one before now.
    wait::until("the hours before are closed", LIMIT, || async {
        Ok((sink.log_text()?.matches("\"hour closed\"").count() >= 2).then_some(()))
    })
    .await?;
    // Of an hour that is not over: it would be closed, and its file be there.
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    writer.send(&topic, 0, changes(&pipeline, 30..33, now)).await?;
    wait::until("rows of another hour are staged", LIMIT, || async {
        Ok(sink.status()?.contains("\"stagedRows\": 3").then_some(()))
    })
    .await?;
    sink.kill9()?;
    let before = pipeline.lake().read().await?;
    kafka.stop().await?;
    kafka.cut_log(&topic, 0, CUT_AT)?;
    kafka.restart().await?;
    writer.send(&topic, 0, changes(&pipeline, 100..150, now + 1)).await?;
    let mut sink = Service::start_with(Binary::Sink, "grown", &["run"], environment, pipeline.folder())?;
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
        writer.send(&topic, 0, changes(&pipeline, numbers, LONG_AGO_S)).await?;
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
    begun_with(pipeline, pipeline.sink_environment()).await
}

async fn begun_with(pipeline: &Pipeline, environment: Environment) -> Result<Service> {
    let topic = make_topic(pipeline).await?;
    let writer = pipeline.kafka_writer();
    writer.send(&topic, 0, changes(pipeline, 0..20, LONG_AGO_S)).await?;
    writer.send(&topic, 0, changes(pipeline, 20..30, LONG_AGO_S)).await?;
    let mut sink = pipeline.start(Binary::Sink, environment)?;
    sink.wait_until_ready().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    Ok(sink)
}

const GROWN: &str = "the log was cut and has grown again";

async fn run(pipeline: &Pipeline, name: &str, arguments: &[&str]) -> Result<(i32, String)> {
    let environment = pipeline.sink_environment();
    let mut service = Service::start_with(Binary::Sink, name, arguments, environment, pipeline.folder())?;
    let code = service.exit_code(LIMIT).await?;
    Ok((code, service.log_text()?))
}
