//! The hour's end: manifests and marks.
//!
//! Goal: an hour that is over gets `_manifest.json` and then `_SUCCESS`, be it busy, idle or empty, with several sinks, kills and late rows; the
//! manifest names exactly the sealed files of its hour, and a row that comes later is in the lake and in a new revision. Method: the test is the
//! producer and commits the position of a source as a source does, so that hours end when it says so.

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    pipeline::Pipeline,
    service::{Binary, Service},
    wait,
};
use serde_json::{Value, json};

use crate::{
    closing::{HOUR_S, Positions, closed, folder, instant, manifest, named_as_they_are},
    records::{LONG_AGO_S, event, events, judge},
    stage::{LIMIT, Stage},
};

const PARTITIONS: i32 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_close_in_a_directory() -> Result<()> {
    hours_close(&Stage::shared().await?.pipeline("hoursdir")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_close_in_azurite() -> Result<()> {
    hours_close(&Stage::shared().await?.pipeline_into_azurite("hoursazure").await?).await
}

async fn hours_close(pipeline: &Pipeline) -> Result<()> {
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, PARTITIONS, &[]).await?;
    let positions = Positions::new(pipeline).await?;
    let first_hour = LONG_AGO_S / HOUR_S * HOUR_S;
    positions.commit(first_hour + 10).await?;
    for partition in [0, 1] {
        writer.send(&topic, partition, events(pipeline, 0..20, first_hour + 5)).await?;
    }
    let (mut one, mut two) = (pipeline.ready_sink().await?, pipeline.ready_sink().await?);
    pipeline.wait_for_lake(&mut [&mut one, &mut two]).await?;
    // The hour before the first sight closes at once, without a file. Then also this one would have, if it were over.
    let empty = closed(pipeline, first_hour - HOUR_S).await?;
    ensure!(empty["files"] == json!([]) && empty["rows"] == 0, "an empty hour: {empty}");
    ensure!(manifest(pipeline, first_hour).await?.is_none(), "an hour that is not over has a manifest");

    // A busy hour, an idle one, an empty one; the last record of partition 1 lies in the hour that goes on.
    writer.send(&topic, 1, events(pipeline, 20..30, first_hour + 3 * HOUR_S + 5)).await?;
    positions.commit(first_hour + 3 * HOUR_S).await?;
    for hour in 0..3 {
        let manifest = closed(pipeline, first_hour + hour * HOUR_S).await?;
        ensure!(manifest["revision"] == 1, "{manifest}");
        ensure!(manifest["rows"] == if hour == 0 { 40 } else { 0 }, "hour {hour}: {manifest}");
    }
    ensure!(manifest(pipeline, first_hour + 3 * HOUR_S).await?.is_none(), "the current hour has a manifest");
    // Said when the last of them has its mark.
    wait::until("the hours are said to have closed", LIMIT, || async {
        let record = pipeline.lake().document(&format!("_chain/{topic}/hours.json")).await?;
        let record: Value = serde_json::from_slice(&record.context("hours.json")?)?;
        Ok((record["closed"] == instant(first_hour + 2 * HOUR_S)).then_some(()))
    })
    .await?;

    // Late rows, while sinks are killed and partitions change hands. In between hours go on ending.
    for round in 0..6_i64 {
        for partition in 0..PARTITIONS {
            let late = first_hour + (round % 2) * HOUR_S + 30;
            let number = 1000 + round * 10 + i64::from(partition);
            let mut rows = vec![event(pipeline, number, late)];
            if round % 3 == 0 {
                // The head moves off the late file at once.
                rows.push(event(pipeline, number + 5, first_hour + (3 + round) * HOUR_S));
            }
            writer.send(&topic, partition, rows).await?;
        }
        positions.commit(first_hour + (4 + round) * HOUR_S).await?;
        let victim = if round % 2 == 0 { &mut one } else { &mut two };
        victim.kill9()?;
        *victim = pipeline.start_sink()?;
    }
    let (_, violations) = judge(pipeline, &mut [&mut one, &mut two]).await?;
    violations.none()?;
    for hour in 0..9 {
        named_as_they_are(pipeline, first_hour + hour * HOUR_S, &mut [&mut one, &mut two]).await?;
    }
    let busy = closed(pipeline, first_hour).await?;
    eprintln!("{busy:#}");
    ensure!(busy["rows"] == 40 + 9, "the first hour: {busy}");
    ensure!(busy["revision"].as_u64() > Some(1), "late rows make a revision: {busy}");

    // A row behind everything, with nobody killed: counted. Those of the rounds may have been counted too, by who was not killed after them.
    let late_rows = || -> Result<f64> {
        let late =
            |sink: &Service| anyhow::Ok(sink.metrics()?.sum("cdc_sink_late_rows_total").unwrap_or(0.0));
        Ok(late(&one)? + late(&two)?)
    };
    let before = late_rows()?;
    writer.send(&topic, 2, vec![event(pipeline, 5000, first_hour + HOUR_S + 40)]).await?;
    wait::until("a late row is counted", LIMIT, || async { Ok((late_rows()? > before).then_some(())) })
        .await?;
    named_as_they_are(pipeline, first_hour + HOUR_S, &mut [&mut one, &mut two]).await?;
    verify_sees_through(pipeline, first_hour).await
}

/// `verify` holds manifests and marks against the files.
async fn verify_sees_through(pipeline: &Pipeline, first_hour: i64) -> Result<()> {
    let verify_hours = async |name: &str, hours: &[&str]| -> Result<(i32, String)> {
        let arguments: Vec<&str> = ["verify"].iter().chain(hours).copied().collect();
        let environment = pipeline.sink_environment();
        let mut verify = Service::start_with(Binary::Sink, name, &arguments, environment, pipeline.folder())?;
        let code = verify.exit_code(LIMIT).await?;
        Ok((code, verify.log_text()?))
    };
    let verify = async |name: &str| verify_hours(name, &["--all"]).await;
    let (code, text) = verify("verify-closed").await?;
    ensure!(code == 0, "closed hours: {code}\n{text}");
    let Some(root) = pipeline.lake_folder() else { return Ok(()) };
    let path = root.join(folder(pipeline, first_hour)).join("_manifest.json");
    let whole = std::fs::read_to_string(&path)?;
    for (name, text, says) in [
        ("another-checksum", Some(whole.replacen("\"crc\": \"", "\"crc\": \"f", 1)), "is not as it is named"),
        ("another-sum", Some(whole.replacen("\"rows\": ", "\"rows\": 1", 1)), "rows, its files have"),
        ("lost", None, "has no manifest beside it"),
    ] {
        match text {
            Some(text) => std::fs::write(&path, text)?,
            None => std::fs::remove_file(&path)?,
        }
        let (code, said) = verify(name).await?;
        ensure!(code == 25 && said.contains(says), "{name}: {code}\n{said}");
    }
    // Of some hours only: what is wrong with another one is not seen.
    let (begin, end) = (instant(first_hour), instant(first_hour + HOUR_S));
    let (code, said) = verify_hours("this-hour", &["--from", &begin, "--to", &end, "--json"]).await?;
    ensure!(code == 25 && said.contains("is missing"), "{code}\n{said}");
    let later = instant(first_hour + 2 * HOUR_S);
    let (code, said) = verify_hours("the-next-hour", &["--from", &end, "--to", &later, "--json"]).await?;
    // The late rows of three rounds, and the one behind everything.
    ensure!(code == 0 && said.contains("\"rows\":10}"), "{code}\n{said}");
    std::fs::write(&path, whole)?;
    // Of a line too.
    let files = pipeline.lake().read().await?.files;
    let of_this_hour = folder(pipeline, first_hour);
    let file =
        files.iter().find(|file| file.path.starts_with(&of_this_hour)).context("a file of the hour")?;
    let mut spoilt = file.bytes.clone();
    spoilt[20] ^= 1;
    pipeline.lake().overwrite(&file.path, spoilt).await?;
    let (code, said) = verify_hours("this-hours-line", &["--from", &begin, "--to", &end]).await?;
    ensure!(code == 25 && said.contains("is not the record's"), "{code}\n{said}");
    let (code, said) = verify_hours("the-next-hours-lines", &["--from", &end, "--to", &later]).await?;
    ensure!(code == 0 && said.contains("10 rows in 10 files of the hours asked for"), "{code}\n{said}");
    pipeline.lake().overwrite(&file.path, file.bytes.clone()).await?;
    let (code, text) = verify("verify-mended").await?;
    ensure!(code == 0, "{code}\n{text}");
    Ok(())
}

/// A source that is retired holds nothing back any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_without_a_source_close_after_the_grace() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("hoursgrace")?;
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, 1, &[]).await?;
    let positions = Positions::new(&pipeline).await?;
    positions.commit(LONG_AGO_S).await?;
    writer.send(&topic, 0, events(&pipeline, 0..10, LONG_AGO_S)).await?;
    let environment = pipeline.sink_environment().set("HOUR_GRACE", "1s");
    let mut sink = pipeline.start(Binary::Sink, environment)?;
    sink.wait_until_ready().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    let hour = LONG_AGO_S / HOUR_S * HOUR_S;
    closed(&pipeline, hour - HOUR_S).await?;
    ensure!(manifest(&pipeline, hour).await?.is_none(), "the source is not that far");
    positions.retire().await?;
    let manifest = closed(&pipeline, hour).await?;
    ensure!(manifest["rows"] == 10, "{manifest}");
    named_as_they_are(&pipeline, hour, &mut [&mut sink]).await
}

/// No chain ever stands at the end of a topic that is written to all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_close_while_records_keep_coming() -> Result<()> {
    let pipeline = &Stage::shared().await?.pipeline("hoursbusy")?;
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, PARTITIONS, &[]).await?;
    let positions = Positions::new(pipeline).await?;
    let first_hour = LONG_AGO_S / HOUR_S * HOUR_S;
    positions.commit(first_hour + 10).await?;
    writer.send(&topic, 0, events(pipeline, 0..20, first_hour + 5)).await?;
    let environment = pipeline.sink_environment().set("FLUSH_INTERVAL", "2s");
    let mut sink = pipeline.start(Binary::Sink, environment)?;
    sink.wait_until_ready().await?;
    let mut sent = 0;
    let mut keep_coming = std::pin::pin!(async {
        loop {
            for partition in 0..PARTITIONS {
                let rows = events(pipeline, 1000 + sent..1001 + sent, first_hour + HOUR_S + 5);
                writer.send(&topic, partition, rows).await?;
                sent += 1;
            }
        }
        #[expect(unreachable_code, reason = "the type of the error")]
        anyhow::Ok(())
    });
    let hour = tokio::select! {
        stopped = &mut keep_coming => anyhow::bail!("the producer has stopped: {stopped:?}"),
        hour = async {
            pipeline.wait_for_records(25, LIMIT).await?;
            positions.commit(first_hour + HOUR_S).await?;
            closed(pipeline, first_hour).await
        } => hour?,
    };
    ensure!(hour["rows"] == 20, "{hour}");
    sink.stop(LIMIT).await
}
