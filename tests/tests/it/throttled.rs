//! A storage account that has too much to do, and says for how long it wants to be left alone.
//!
//! Goal: no request of the sink's comes before the `Retry-After` of a 503 or a 429 has passed: not of the partition that was refused, not of
//! another one, and not to read back what became of a commit. `/status`, `/readyz` and the metrics say that writes fail, why, and when the
//! next attempt is due. Then the sink goes on by itself; nothing is lost or doubled. Method: two partitions that are written all the time
//! through a proxy which refuses single requests, of each kind: staged blocks, commits, heads.

use std::{
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    pipeline::Pipeline,
    servers::{Azurite, AzuriteStorage, azurite::ACCOUNT},
    service::Binary,
    wait,
};

use crate::{
    closing::{HOUR_S, Positions},
    records::{LONG_AGO_S, event, judge},
    stage::{LIMIT, Stage},
    throttling_proxy::{Refusal, ThrottlingProxy},
};

const PARTITIONS: i64 = 2;
const RETRY_AFTER: Duration = Duration::from_secs(3);

/// A request that comes so soon was sent before the answer to the refused one was there.
const ON_ITS_WAY: Duration = Duration::from_millis(200);

const REFUSALS: [Refusal; 3] = [
    Refusal { of: "blockid=", status: "503 busy", code: "ServerBusy", retry_after: RETRY_AFTER },
    // Of a commit: whether it happened is not known, so the sink would read back at once.
    Refusal {
        of: "comp=blocklist",
        status: "429 too many",
        code: "TooManyRequests",
        retry_after: RETRY_AFTER,
    },
    Refusal { of: "comp=blocklist", status: "503 busy", code: "ServerBusy", retry_after: RETRY_AFTER },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttling_lake_is_left_alone_for_as_long_as_it_says() -> Result<()> {
    let stage = Stage::shared().await?;
    let azurite = Azurite::start(AzuriteStorage::Memory).await?;
    let proxy = ThrottlingProxy::start(azurite.port()).await?;
    let (uri, brokers) = (stage.mongod.uri(), stage.kafka.bootstrap());
    let pipeline = Pipeline::into_azurite("throttled", uri, brokers, &azurite)?;
    Positions::new(&pipeline).await?.commit(LONG_AGO_S / HOUR_S * HOUR_S + 10).await?;
    let topic = pipeline.data_topic("orders");
    pipeline.kafka_writer().create_topic(&topic, i32::try_from(PARTITIONS)?, &[]).await?;
    let environment = pipeline
        .sink_environment()
        .set("FLUSH_INTERVAL", "200ms")
        .set("LAKE_ENDPOINT", format!("http://127.0.0.1:{}/{ACCOUNT}", proxy.port()));
    let mut sink = pipeline.start(Binary::Sink, environment)?;
    sink.wait_until_ready().await?;
    let mut written = PARTITIONS;
    write(&pipeline, 0..written).await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;

    for refusal in REFUSALS {
        let begun = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        proxy.refuse_next(refusal);
        // Records of both partitions go on coming, so that there is always something that could be sent.
        let told = wait::until("it says that writes fail", LIMIT, || {
            let numbers = written..written + PARTITIONS;
            written += PARTITIONS;
            let (pipeline, sink, proxy) = (&pipeline, &sink, &proxy);
            async move {
                write(pipeline, numbers).await?;
                let mut status: serde_json::Value = serde_json::from_str(&sink.status()?)?;
                let down = proxy.refused().is_some() && status["lake"]["up"] == false;
                Ok(down.then(|| status["lake"].take()))
            }
        })
        .await
        .with_context(|| format!("{refusal:?}\n{}", sink.log_tail()))?;
        ensure!(sink.metrics()?.sum("cdc_sink_lake_up") == Some(0.0), "the lake is up");
        let cause = told["cause"].as_str().context("a cause")?;
        ensure!(cause.contains(refusal.code) || cause.contains("Retry-After"), "{refusal:?}: {told:#}");
        let next = told["nextAttempt"].as_str().context("the next attempt")?;
        let next = u64::try_from(chrono::DateTime::parse_from_rfc3339(next)?.timestamp())?;
        ensure!((begun + 2..begun + LIMIT.as_secs()).contains(&next), "{refusal:?}: {told:#}");
        ensure!(!sink.is_ready(), "it is ready although nothing can be written");

        let refused = wait::until("it goes on", LIMIT, || async {
            let after = |(after, _): &(Duration, String)| *after > ON_ITS_WAY;
            Ok(proxy.refused().filter(|refused| refused.since.iter().any(after)))
        })
        .await?;
        let partition = i64::from(refused.line.contains("-p0001-"));
        for (after, line) in &refused.since {
            // The other partition's one request may have been on its way; the refused one has no other.
            let other = line.contains(&format!("-p{:04}-", 1 - partition));
            let allowed =
                if other { *after < ON_ITS_WAY || *after >= RETRY_AFTER } else { *after >= RETRY_AFTER };
            ensure!(allowed, "{refusal:?}: {refused:#?}");
        }
        let at_once = refused.since.iter().filter(|(after, _)| *after < ON_ITS_WAY).count();
        ensure!(at_once <= 1, "{refusal:?}: {refused:#?}");
        sink.wait_until_ready().await?;
        pipeline.wait_for_lake(&mut [&mut sink]).await?;
        ensure!(sink.metrics()?.sum("cdc_sink_lake_up") == Some(1.0), "the lake is not up again");
    }
    let (evidence, violations) = judge(&pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    let found = evidence.data_records();
    ensure!(found == usize::try_from(written)? && evidence.dead_letters() == 0, "{found} of {written}");
    sink.stop(LIMIT).await
}

/// One record for each partition.
async fn write(pipeline: &Pipeline, numbers: Range<i64>) -> Result<()> {
    let records = numbers
        .map(|number| anyhow::Ok((i32::try_from(number % PARTITIONS)?, event(pipeline, number, LONG_AGO_S))));
    let records = records.collect::<Result<_>>()?;
    pipeline.kafka_writer().send_to_partitions(&pipeline.data_topic("orders"), records).await
}
