//! SIGTERM under load.
//!
//! Goal: both services end with 0 within their limit, and the next ones go on exactly where they were. Method: stop and
//! start both in the middle of a workload; then a second signal during a stop ends a service at once, and so does the
//! first one while a service still waits for Kafka. A broker that hangs keeps nobody longer than `SHUTDOWN_TIMEOUT`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pipeline_tests::{http, pipeline::Pipeline, ports::free_port, service::Binary, wait, workload::Pace};

use crate::stage::{LIMIT, Run, Stage};

/// `SHUTDOWN_TIMEOUT` as pipelines set it.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_drain_and_the_next_ones_go_on() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("shutdown")?;
    let client = stage.mongod.client().await?;
    let mut run = Run::start(&pipeline, &client, Pace::PerSecond(300)).await?;
    let mut sink = pipeline.ready_sink().await?;
    run.workload.wait_for(400, LIMIT).await?;
    run.source.stop(SHUTDOWN_LIMIT).await?;
    sink.stop(SHUTDOWN_LIMIT).await?;
    for service in [&run.source, &sink] {
        let log = service.log_text()?;
        let last = log.lines().last().unwrap_or_default();
        ensure!(last.contains("stopped"), "{}: the last line is {last}", service.name());
    }
    run.source = pipeline.start_source()?;
    let mut sink = pipeline.start_sink()?;
    run.workload.wait_for(300, LIMIT).await?;
    let (expected, mut source) = run.finish().await?;
    pipeline.drain_and_judge(&expected, &mut [&mut source, &mut sink]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once() -> Result<()> {
    let mut stage = Stage::own().await?;
    let pipeline = stage.pipeline("secondsignal")?;
    let mut sink = pipeline.ready_sink().await?;
    // Without a broker the sink cannot leave its group in good order: there is something to wait for.
    stage.kafka.sigstop()?;
    sink.sigterm()?;
    sink.wait_until_not_ready(LIMIT).await?;
    sink.sigterm()?;
    let started = Instant::now();
    sink.exit_code(Duration::from_secs(5)).await?;
    ensure!(started.elapsed() < Duration::from_secs(5), "the second signal was not heard");
    stage.kafka.sigcont()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_waits_for_kafka_says_so_and_ends_at_the_first_signal() -> Result<()> {
    let nobody = |scheme: &str| Ok::<_, anyhow::Error>(format!("{scheme}127.0.0.1:{}", free_port()?));
    let pipeline = Pipeline::into_directory("startphase", nobody("mongodb://")?, nobody("")?)?;
    for mut service in [pipeline.start_source()?, pipeline.start_sink()?] {
        let port = service.admin_port();
        // The port does not answer at first, which is not an error here.
        let said = || async move {
            let told = http::get(port, "/readyz").is_ok_and(|answer| {
                answer.status != 200 && answer.text().contains("Kafka does not answer yet")
            });
            Ok(told.then_some(()))
        };
        wait::until("/readyz says what is waited for", LIMIT, said).await?;
        service.sigterm()?;
        let code = service.exit_code(Duration::from_secs(5)).await?;
        let log = service.log_text()?;
        ensure!(code == 0, "{} ended with {code}\n{log}", service.name());
        let stopped = log.lines().filter(|line| line.contains(r#""stopped""#)).count();
        let last = log.lines().last().unwrap_or_default();
        ensure!(stopped == 1 && last.contains(r#""stopped""#), "{}\n{log}", service.name());
        ensure!(log.contains("Kafka does not answer yet"), "{}\n{log}", service.name());
    }
    Ok(())
}

/// A commit lasts as long as its transaction may: longer than the shutdown (cut off), or shorter (it ends by itself).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_whose_broker_hangs_ends_in_time_and_the_next_one_goes_on() -> Result<()> {
    let mut stage = Stage::own().await?;
    let client = stage.mongod.client().await?;
    let cases = [
        ("hangcutoff", Duration::from_secs(4), "30s", 75, "not drained within SHUTDOWN_TIMEOUT"),
        ("hangdrained", Duration::from_secs(20), "4s", 0, r#""stopped""#),
    ];
    for (name, limit, transaction_timeout, wanted, last_words) in cases {
        let pipeline = stage.pipeline(name)?;
        let environment = pipeline
            .source_environment()
            .set("SHUTDOWN_TIMEOUT", format!("{}s", limit.as_secs()))
            .set("TRANSACTION_TIMEOUT", transaction_timeout);
        let mut source = pipeline.start(Binary::Source, environment.clone())?;
        source.wait_until_ready().await?;
        let mut run = Run::start_with(&pipeline, &client, Pace::PerSecond(100), source).await?;
        run.workload.wait_for(300, LIMIT).await?;
        for _ in 0..3 {
            stage.kafka.sigstop()?;
            run.source.sigterm()?;
            let code = run.source.exit_code(limit + MARGIN).await?;
            let log = run.source.log_text()?;
            ensure!(code == wanted, "{name} ended with {code}\n{log}");
            let told = log.lines().filter(|line| line.contains(last_words)).count();
            let last = log.lines().last().unwrap_or_default();
            ensure!(told == 1 && last.contains(last_words), "{name}\n{log}");
            // What was on its way arrives now, behind the end of its sender.
            stage.kafka.sigcont()?;
            run.source = pipeline.start(Binary::Source, environment.clone())?;
            run.source.wait_until_ready().await?;
            run.workload.wait_for(100, LIMIT).await?;
        }
        let (expected, mut source) = run.finish().await?;
        pipeline.wait_for_kafka(&expected, &mut [&mut source]).await?;
        expected.judge(&pipeline.evidence_of_kafka().await?).none()?;
    }
    Ok(())
}

/// What a busy machine needs to end a process.
const MARGIN: Duration = Duration::from_secs(3);
