//! `PUBLISH=sealed`: files that appear once.
//!
//! Goal: whoever loads a file when it sees it has all of it, for good; and what waits to be seen is neither lost nor doubled when the sink that
//! has staged it dies, gives its partition up, or finds that another one was first. Method: sinks of one group are killed while rows are on their
//! way, and every file is compared with what it was when it was first seen; then two groups stage the same rows side by side.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    lake_reader::LakeFile,
    pipeline::Pipeline,
    service::{Binary, Environment, Service},
    wait,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    closing::{
        HOUR_S, Positions, closed, folder, manifest, named_as_they_are, partitions_of, wait_for_hours,
    },
    records::{LONG_AGO_S, event, events, judge},
    stage::{LIMIT, Stage},
};

const PARTITIONS: i32 = 2;
const KILLS: i64 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_killed_sinks_appear_once_in_a_directory() -> Result<()> {
    files_appear_once(&Stage::shared().await?.pipeline("sealeddir")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_killed_sinks_appear_once_in_azurite() -> Result<()> {
    files_appear_once(&Stage::shared().await?.pipeline_into_azurite("sealedazure").await?).await
}

fn environment(pipeline: &Pipeline) -> Environment {
    pipeline.sink_environment().set("PUBLISH", "sealed").set("FLUSH_INTERVAL", "100ms").set("ROLL_BYTES", "0")
}

async fn files_appear_once(pipeline: &Pipeline) -> Result<()> {
    let seed: u64 = rand::random();
    eprintln!("kills of {}: seed {seed}", pipeline.database());
    let mut random = StdRng::seed_from_u64(seed);
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, PARTITIONS, &[]).await?;
    let environment =
        environment(pipeline).set("ROLL_AGE", "2s").set("ROLL_ROWS", "70").set("COMPRESSION", "gzip");
    let start = || pipeline.start(Binary::Sink, environment.clone());
    let mut sinks = [start()?, start()?];
    let mut seen = BTreeMap::new();
    for round in 0..KILLS {
        for step in 0..5 {
            let number = round * 100 + step * 20;
            for partition in 0..PARTITIONS {
                // Hours change too.
                let rows = events(pipeline, number..number + 20, LONG_AGO_S + number * 12);
                writer.send(&topic, partition, rows).await?;
            }
            same_as_seen(pipeline, &mut seen).await?;
        }
        let victim = random.random_range(0..sinks.len());
        if round % 2 == 0 {
            sinks[victim].kill9()?
        } else {
            sinks[victim].stop(LIMIT).await?
        }
        sinks[victim] = start()?;
    }
    let [one, two] = &mut sinks;
    let (evidence, violations) = judge(pipeline, &mut [one, two]).await?;
    violations.none()?;
    ensure!(evidence.data_records() == 1600, "{} records", evidence.data_records());
    same_as_seen(pipeline, &mut seen).await?;
    ensure!(seen.len() > 10, "{} files", seen.len());
    written_by_one_commit(&pipeline.lake().files().await?)?;
    verify(pipeline, &["verify", "--all", "--drained"]).await
}

/// Every file there is has ended, and is what it was when it was first seen.
async fn same_as_seen(pipeline: &Pipeline, seen: &mut BTreeMap<String, String>) -> Result<()> {
    for file in pipeline.lake().files().await? {
        ensure!(file.text("sealed")? == "true", "{} is not sealed", file.path);
        let facts = ["first", "next", "rows", "crc", "storedsize", "writer", "seq"];
        let facts: Vec<&str> = facts.iter().map(|name| file.text(name)).collect::<Result<_>>()?;
        let facts = facts.join(" ");
        let before = seen.entry(file.path.clone()).or_insert_with(|| facts.clone());
        ensure!(*before == facts, "{} was {before}, and is {facts}", file.path);
    }
    Ok(())
}

/// Nobody may look between two commits of a file, so they are counted: a writer numbers its commits.
fn written_by_one_commit(files: &[LakeFile]) -> Result<()> {
    let mut files: Vec<&LakeFile> = files.iter().collect();
    files.sort_by_key(|file| (file.number("partition").ok(), file.number("first").ok()));
    let mut before = None;
    for file in &files {
        let place = (file.number("partition")?, file.text("writer")?);
        let seq = file.number("seq")?;
        // It begins to count anew when it has read back.
        let follows = before.is_some_and(|(last, at)| at == place && seq == last + 1);
        ensure!(seq == 1 || follows, "{}: commit {seq} of its writer, after {before:?}", file.path);
        before = Some((seq, place));
    }
    // Several flushes each.
    ensure!(files.iter().any(|file| file.number("rows").is_ok_and(|rows| rows == 70)), "no file of 70 rows");
    Ok(())
}

async fn verify(pipeline: &Pipeline, arguments: &[&str]) -> Result<()> {
    let environment = environment(pipeline);
    let mut verify = Service::start_with(Binary::Sink, "verify", arguments, environment, pipeline.folder())?;
    let code = verify.exit_code(LIMIT).await?;
    ensure!(code == 0, "verify ends with {code}\n{}", verify.log_tail());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_groups_stage_the_same_rows_in_a_directory() -> Result<()> {
    two_groups(&Stage::shared().await?.pipeline("sealedgroupsdir")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_groups_stage_the_same_rows_in_azurite() -> Result<()> {
    two_groups(&Stage::shared().await?.pipeline_into_azurite("sealedgroupsazure").await?).await
}

async fn two_groups(pipeline: &Pipeline) -> Result<()> {
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, PARTITIONS, &[]).await?;
    let positions = Positions::new(pipeline).await?;
    let hour = LONG_AGO_S / HOUR_S * HOUR_S;
    positions.commit(hour + 10).await?;
    let start = |group: &str| {
        let group = format!("{}-{group}", pipeline.database());
        pipeline.start(Binary::Sink, environment(pipeline).set("SINK_GROUP", group))
    };
    let send = async |numbers: std::ops::Range<i64>, at: i64| -> Result<()> {
        for partition in 0..PARTITIONS {
            writer.send(&topic, partition, events(pipeline, numbers.clone(), at)).await?;
        }
        Ok(())
    };

    let (mut blue, mut green) = (start("blue")?, start("green")?);
    blue.wait_until_ready().await?;
    green.wait_until_ready().await?;
    // The hour before the first sight ends here, and would end the files of the next one as well.
    closed(pipeline, hour - HOUR_S).await?;
    wait_for_hours(&blue).await?;
    wait_for_hours(&green).await?;
    send(0..20, hour + 5).await?;
    wait_for_staged(&blue, 40).await?;
    wait_for_staged(&green, 40).await?;
    ensure!(pipeline.lake().files().await?.is_empty(), "nothing has ended, and a file is seen");
    verify(pipeline, &["verify", "--all"]).await?;
    let drained = verify(pipeline, &["verify", "--all", "--drained"]).await;
    ensure!(drained.is_err(), "rows that are staged are in the lake for nobody");

    // One gives up: what it has staged is published. The other one has gone on behind that.
    send(20..30, hour + 6).await?;
    wait_for_staged(&blue, 60).await?;
    wait_for_staged(&green, 60).await?;
    blue.stop(LIMIT).await?;
    send(30..40, hour + 7).await?;
    wait_for_staged(&green, 80).await?;
    // Of the hour after it, so that the barrier of the first lies behind rows that are staged for the second.
    send(40..45, hour + HOUR_S + 5).await?;
    positions.commit(hour + HOUR_S).await?;
    let first = closed(pipeline, hour).await?;
    ensure!(first["rows"] == 80 && first["revision"] == 1, "{first}");
    ensure!(manifest(pipeline, hour + HOUR_S).await?.is_none(), "an hour that is not over has a manifest");
    let log = green.log_text()?;
    ensure!(log.contains("what was staged is gone"), "nobody was first\n{log}");

    // A row that comes late is a file and a revision of its own.
    writer.send(&topic, 1, vec![event(pipeline, 500, hour + 40)]).await?;
    wait::until("the late row is named", LIMIT, || async {
        let manifest = manifest(pipeline, hour).await?.context("a manifest")?;
        Ok((manifest["rows"] == 81 && manifest["revision"].as_u64() > Some(1)).then_some(()))
    })
    .await?;
    named_as_they_are(pipeline, hour, &mut [&mut green]).await?;

    // Killed with rows staged: they are read again.
    send(50..60, hour + HOUR_S + 50).await?;
    wait_for_staged(&green, 20).await?;
    green.kill9()?;
    let mut green = start("green")?;
    green.wait_until_ready().await?;
    positions.commit(hour + 2 * HOUR_S).await?;
    let second = closed(pipeline, hour + HOUR_S).await?;
    ensure!(second["rows"] == 30, "{second}");
    let (evidence, violations) = judge(pipeline, &mut [&mut green]).await?;
    violations.none()?;
    ensure!(evidence.data_records() == 111, "{} records", evidence.data_records());
    if let Some(root) = pipeline.lake_folder() {
        let mut left = Vec::new();
        files_below(&root.join("_chain/pending"), &mut left)?;
        // Of the one that was killed, whose successor has begun the same file.
        ensure!(left.is_empty(), "{left:?}");
    }
    let names: Vec<String> = pipeline.lake().files().await?.into_iter().map(|file| file.path).collect();
    ensure!(names.iter().any(|name| name.starts_with(&folder(pipeline, hour))), "{names:?}");
    verify(pipeline, &["verify", "--all", "--drained"]).await
}

fn files_below(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() { files_below(&path, found)? } else { found.push(path) }
    }
    Ok(())
}

/// Waits until the sink has staged this many rows, over all partitions.
async fn wait_for_staged(sink: &Service, rows: i64) -> Result<()> {
    let staged = || -> Result<i64> {
        Ok(partitions_of(sink)?.iter().filter_map(|partition| partition["stagedRows"].as_i64()).sum())
    };
    wait::until(&format!("{rows} rows are staged"), LIMIT, || async { Ok((staged()? == rows).then_some(())) })
        .await
        .with_context(|| format!("{}\n{}", sink.status().unwrap_or_default(), sink.log_tail()))
}
