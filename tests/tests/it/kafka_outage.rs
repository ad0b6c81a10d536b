//! What Kafka's absence costs.
//!
//! Goal: services that wait for a broker do next to nothing meanwhile. A regression: librdkafka tries to connect without a pause as long as a request of
//! its admin interface waits, and a sink with a batch to flush always had one waiting: it took a core. And each attempt of each client said that all
//! brokers are down, seventeen lines a second.
//! Method: the broker is killed under both, with records that are to be flushed and changes that are to be published, and their CPU time and
//! their logs are looked at a while later.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pipeline_tests::{
    service::{Binary, Service},
    wait,
    workload::{Pace, Workload, WorkloadOptions},
};

use crate::stage::{LIMIT, Stage};

/// For so long the outage is looked at.
const OUTAGE: Duration = Duration::from_secs(15);

/// Of one core. One that spins takes most of one.
const SHARE_MAX: f64 = 0.15;

/// Each of several clients tells of each attempt, ever more rarely.
const LINES_MAX: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_wait_for_a_broker_are_idle() -> Result<()> {
    let mut stage = Stage::own().await?;
    let pipeline = stage.pipeline("kafkaoutage")?;
    let client = stage.mongod.client().await?;
    let source = pipeline.ready_source().await?;
    // It keeps its partitions for longer than this test looks.
    let environment = pipeline
        .sink_environment()
        .set("FLUSH_INTERVAL", "5s")
        .set("KAFKA_OPTIONS", "session.timeout.ms=60000,topic.metadata.refresh.interval.ms=2000");
    let mut sink = pipeline.start(Binary::Sink, environment)?;
    sink.wait_until_ready().await?;
    let options = WorkloadOptions::new(pipeline.database()).pace(Pace::PerSecond(200));
    let workload = Workload::start(&client, &options).await?;
    workload.wait_for(200, LIMIT).await?;
    // All partitions hold something that is to be flushed.
    let holds = |sink: &Service| {
        Ok::<_, anyhow::Error>(sink.metrics()?.sum("cdc_sink_buffer_bytes") > Some(50_000.0))
    };
    wait::until("the sink holds records", LIMIT, || async { Ok(holds(&sink)?.then_some(())) }).await?;
    stage.kafka.kill9()?;
    ensure!(holds(&sink)?, "all was flushed just before the broker was gone");
    source.wait_until_not_ready(LIMIT).await?;
    sink.wait_until_not_ready(LIMIT).await?;
    workload.stop().await?;
    let before = [Spent::by(&source)?, Spent::by(&sink)?];
    tokio::time::sleep(OUTAGE).await;
    let after = [Spent::by(&source)?, Spent::by(&sink)?];
    for ((service, before), after) in ["source", "sink"].into_iter().zip(before).zip(after) {
        let share = (after.cpu_seconds - before.cpu_seconds) / OUTAGE.as_secs_f64();
        let lines = after.log_lines - before.log_lines;
        eprintln!("the {service} takes {share:.3} of a core and writes {lines} lines");
        ensure!(share < SHARE_MAX, "the {service} takes {share:.2} of a core while it waits");
        ensure!(lines < LINES_MAX, "the {service} writes {lines} lines while it waits");
    }
    Ok(())
}

struct Spent {
    cpu_seconds: f64,
    log_lines: usize,
}

impl Spent {
    fn by(service: &Service) -> Result<Self> {
        let cpu_seconds = service.metrics()?.sum("process_cpu_seconds_total");
        Ok(Self {
            cpu_seconds: cpu_seconds.context("the service does not say")?,
            log_lines: service.log_text()?.lines().count(),
        })
    }
}
