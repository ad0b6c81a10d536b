//! Files that are packed, files of flat lines, and files that end by rows.
//!
//! Goal: whatever `COMPRESSION`, `LINE_FORMAT`, `PUBLISH`, `ROLL_ROWS` and `ROLL_BYTES` say, and however often they change between restarts, every row is there once; a
//! file has lines of one format; a packed file is whole for tools that know nothing of us; a replay of packed hours gives the same lines, and two of them the same bytes.
//! Method: a sink is killed and started again with other settings, again and again.

use std::{collections::BTreeSet, io::Write as _, process::Command};

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    lake_reader::LakeFile,
    pipeline::Pipeline,
    service::{Binary, Service},
};

use crate::{
    closing::{HOUR_S, Positions, closed},
    records::{LONG_AGO_S, events, judge},
    stage::{LIMIT, Stage},
};

const PARTITIONS: i32 = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_change_between_restarts_in_a_directory() -> Result<()> {
    settings_change(&Stage::shared().await?.pipeline("packeddir")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_change_between_restarts_in_azurite() -> Result<()> {
    settings_change(&Stage::shared().await?.pipeline_into_azurite("packedazure").await?).await
}

async fn settings_change(pipeline: &Pipeline) -> Result<()> {
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, PARTITIONS, &[]).await?;
    let positions = Positions::new(pipeline).await?;
    let begin = LONG_AGO_S / HOUR_S * HOUR_S;
    positions.commit(begin + 10).await?;
    let settings = [
        ("none", "0", "128KiB", "rolling", "envelope"),
        ("gzip", "25", "0", "sealed", "flat"),
        ("zstd", "25", "128KiB", "rolling", "envelope"),
        ("gzip", "0", "4KiB", "rolling", "flat"),
        ("none", "10", "0", "sealed", "flat"),
        ("zstd", "0", "0", "sealed", "envelope"),
    ];
    let mut number = 0;
    let mut running: Option<Service> = None;
    for (round, (compression, rows, bytes, publish, format)) in settings.iter().enumerate() {
        let environment = pipeline.sink_environment();
        let environment =
            environment.set("COMPRESSION", compression).set("ROLL_ROWS", rows).set("ROLL_BYTES", bytes);
        let environment =
            environment.set("PUBLISH", publish).set("ROLL_AGE", "1s").set("LINE_FORMAT", format);
        // The one before is killed while rows are on their way.
        for partition in 0..PARTITIONS {
            let at = begin + i64::try_from(round / 2)? * HOUR_S + 5;
            writer.send(&topic, partition, events(pipeline, number..number + 40, at)).await?;
            number += 40;
        }
        if let Some(mut before) = running.replace(pipeline.start(Binary::Sink, environment)?) {
            // Killed, or ended in order; a killed one is missed only after its session.
            if round % 3 == 1 { before.kill9()? } else { before.stop(LIMIT).await? }
        }
        let sink = running.as_mut().context("a sink")?;
        sink.wait_until_ready().await?;
        pipeline.wait_for_lake(&mut [sink]).await?;
        // A second flush, which goes into the same file where it has not ended: another member, another frame.
        for partition in 0..PARTITIONS {
            let at = begin + i64::try_from(round / 2)? * HOUR_S + 6;
            writer.send(&topic, partition, events(pipeline, number..number + 3, at)).await?;
            number += 3;
        }
        pipeline.wait_for_lake(&mut [sink]).await?;
    }
    let mut sink = running.context("a sink")?;
    let (evidence, violations) = judge(pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    ensure!(evidence.data_records() == 516, "{} records", evidence.data_records());
    // The last one packs.
    let metrics = sink.metrics()?;
    let bytes = |kind: &str| {
        let label = format!("kind=\"{kind}\"");
        metrics.sum_where("cdc_sink_bytes_total", &label).context("bytes")
    };
    ensure!(
        bytes("original")? > 2.0 * bytes("stored")?,
        "packed {} to {}",
        bytes("original")?,
        bytes("stored")?
    );
    let files = pipeline.lake().read().await?.files;
    let kinds: BTreeSet<&str> = files.iter().map(|file| file.text("compressed")).collect::<Result<_>>()?;
    ensure!(kinds == BTreeSet::from(["gzip", "none", "zstd"]), "{kinds:?}");
    for file in &files {
        reads_with_ordinary_tools(file)?;
    }
    ensure!(
        files.iter().any(|file| file.number("rows").is_ok_and(|rows| rows == 25)),
        "no file ended by its rows"
    );

    positions.commit(begin + 3 * HOUR_S).await?;
    for hour in 0..3 {
        let manifest = closed(pipeline, begin + hour * HOUR_S).await?;
        ensure!(manifest["rows"] == 172, "{manifest}");
    }
    // Each is made again as it was, whatever the replay's own setting; of one that is gone only the manifest knows.
    let flat: Vec<&LakeFile> = files.iter().filter(|file| is_flat(file)).collect();
    ensure!(!flat.is_empty() && flat.len() < files.len(), "{} of {} are flat", flat.len(), files.len());
    pipeline.lake().delete(&flat[0].path).await?;
    pipeline.lake().delete(&flat[flat.len() - 1].path).await?;
    let once = replayed(pipeline, &topic, "once").await?;
    let twice = replayed(pipeline, &topic, "twice").await?;
    ensure!(once.len() == twice.len(), "{} files, then {}", once.len(), twice.len());
    for (one, two) in once.iter().zip(&twice) {
        let before = files.iter().find(|file| file.path == one.path).with_context(|| one.path.clone())?;
        ensure!(one.lines()? == before.lines()?, "{} has other lines than before", one.path);
        ensure!(is_flat(one) == is_flat(before), "{} has other lines than before", one.path);
        ensure!(one.path == two.path && one.bytes == two.bytes, "{}: two replays, two files", one.path);
    }
    let (_, violations) = judge(pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    run(pipeline, "verify", &["verify", "--all", "--drained"]).await
}

fn is_flat(file: &LakeFile) -> bool {
    file.metadata.get("lineformat").is_some_and(|format| format == "flat")
}

async fn replayed(pipeline: &Pipeline, topic: &str, name: &str) -> Result<Vec<LakeFile>> {
    run(pipeline, name, &["replay", "--topic", topic, "--all"]).await?;
    Ok(pipeline.lake().read().await?.files)
}

async fn run(pipeline: &Pipeline, name: &str, arguments: &[&str]) -> Result<()> {
    let environment = pipeline.sink_environment();
    let mut command = Service::start_with(Binary::Sink, name, arguments, environment, pipeline.folder())?;
    let code = command.exit_code(LIMIT).await?;
    ensure!(code == 0, "{name} ends with {code}\n{}", command.log_tail());
    Ok(())
}

/// `zcat` and Python's gzip read all members; the ledger's reader, which has nothing of ours, reads zstd.
fn reads_with_ordinary_tools(file: &LakeFile) -> Result<()> {
    if file.text("compressed")? != "gzip" {
        return Ok(());
    }
    let mut packed = tempfile::NamedTempFile::new().context("a file")?;
    packed.write_all(&file.bytes)?;
    let python = "import gzip, sys; sys.stdout.buffer.write(gzip.open(sys.argv[1]).read())";
    let path = packed.path();
    for mut command in [Command::new("zcat"), Command::new("python3")] {
        if command.get_program() == "python3" {
            command.args(["-c", python]);
            command.arg(path);
        } else {
            command.stdin(std::fs::File::open(path)?);
        }
        let done = command.output().with_context(|| format!("{command:?}"))?;
        ensure!(
            done.status.success() && done.stdout == file.plain()?,
            "{}: {command:?} reads something else",
            file.path
        );
    }
    Ok(())
}
