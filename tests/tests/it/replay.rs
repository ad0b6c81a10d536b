//! Closed hours made again from Kafka.
//!
//! Goal: after `replay` every file of a closed hour holds the bytes that it held, whatever was done to it before, with kills of the replay in
//! between, two at once, and a live sink that goes on; what Kafka no longer has is refused by name, and nothing is touched. Method: a lake whose
//! hours are closed, read whole, damaged, replayed, read again.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    kafka_writer::NewRecord,
    lake_reader::LakeFile,
    pipeline::Pipeline,
    service::{Binary, Service},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    closing::{HOUR_S, Positions, closed, folder, manifest},
    records::{LONG_AGO_S, event, events, judge},
    stage::{LIMIT, Stage},
};

const PARTITIONS: i32 = 3;
const KILLS: i64 = 5;

/// Files by path.
pub(crate) type Files = BTreeMap<String, LakeFile>;

/// A lake with two hours that have closed, and a third that goes on.
pub(crate) struct Closed<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) topic: String,
    positions: Positions<'a>,
    pub(crate) sink: Service,
    pub(crate) begin: i64,
}

impl<'a> Closed<'a> {
    pub(crate) async fn new(pipeline: &'a Pipeline) -> Result<Self> {
        let topic = pipeline.data_topic("orders");
        let writer = pipeline.kafka_writer();
        writer.create_topic(&topic, PARTITIONS, &[]).await?;
        let positions = Positions::new(pipeline).await?;
        let begin = LONG_AGO_S / HOUR_S * HOUR_S;
        positions.commit(begin + 10).await?;
        let environment = pipeline.sink_environment().set("ROLL_BYTES", "4KiB");
        let mut sink = pipeline.start(Binary::Sink, environment)?;
        for partition in 0..PARTITIONS {
            let number = i64::from(partition) * 1000;
            for hour in 0..2 {
                let at = begin + hour * HOUR_S + 5;
                let mut records = events(pipeline, number..number + 40, at);
                records
                    .insert(7, NewRecord::new(&b"{\"no\":"[..]).header("cluster-time", &format!("{at}.1")));
                records.insert(9, NewRecord { value: None, ..event(pipeline, number, at) });
                writer.send(&topic, partition, records).await?;
            }
            writer.send(&topic, partition, events(pipeline, number..number + 5, begin + 2 * HOUR_S)).await?;
        }
        positions.commit(begin + 2 * HOUR_S).await?;
        pipeline.wait_for_lake(&mut [&mut sink]).await?;
        for hour in 0..2 {
            let manifest = closed(pipeline, begin + hour * HOUR_S).await?;
            ensure!(manifest["rows"] == 120, "{manifest}");
        }
        Ok(Self { pipeline, topic, positions, sink, begin })
    }

    /// The files of the hours that have closed.
    pub(crate) async fn files(&self) -> Result<Files> {
        let folders = [folder(self.pipeline, self.begin), folder(self.pipeline, self.begin + HOUR_S)];
        let files = self.pipeline.lake().read().await?.files.into_iter();
        let closed = files.filter(|file| folders.iter().any(|folder| file.path.starts_with(folder)));
        Ok(closed.map(|file| (file.path.clone(), file)).collect())
    }

    pub(crate) fn start(&self, name: &str, more: &[&str]) -> Result<Service> {
        let day = instant_day(self.begin);
        let mut arguments = vec!["replay", "--topic", &self.topic, "--day", &day];
        arguments.extend(more);
        let environment = self.pipeline.sink_environment();
        Service::start_with(Binary::Sink, name, &arguments, environment, self.pipeline.folder())
    }

    pub(crate) async fn replay(&self, name: &str, more: &[&str]) -> Result<String> {
        let mut replay = self.start(name, more)?;
        let code = replay.exit_code(LIMIT).await?;
        ensure!(code == 0, "{name} ends with {code}\n{}", replay.log_tail());
        replay.log_text()
    }

    /// The hours are as they were, in this generation.
    async fn is_restored(&self, before: &Files, generation: i64) -> Result<()> {
        let after = self.files().await?;
        ensure!(after.keys().eq(before.keys()), "{:?}, before {:?}", after.keys(), before.keys());
        for (path, file) in &after {
            let old = &before[path];
            ensure!(file.bytes == old.bytes, "{path} holds other bytes than before");
            ensure!(file.number("generation")? == generation, "{path}: {:?}", file.metadata);
            for fact in [
                "topic",
                "partition",
                "first",
                "next",
                "rows",
                "tombstones",
                "sealed",
                "crc",
                "originalsize",
                "storedsize",
                "layout",
                "deadletters",
                "lastevent",
                "otherevents",
                "minclustertime",
                "maxclustertime",
                "operations",
                "compressed",
            ] {
                ensure!(file.metadata.get(fact) == old.metadata.get(fact), "{path}: {fact} differs");
            }
        }
        for hour in 0..2 {
            let manifest =
                manifest(self.pipeline, self.begin + hour * HOUR_S).await?.context("a manifest")?;
            ensure!(
                manifest["generation"] == generation && manifest.get("rebuilding").is_none(),
                "{manifest}"
            );
            ensure!(manifest["rows"] == 120 && manifest["deadletters"] == 3, "{manifest}");
        }
        Ok(())
    }
}

pub(crate) fn instant_day(seconds: i64) -> String {
    chrono::DateTime::from_timestamp(seconds, 0).expect("a date").format("%Y-%m-%d").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_is_made_again_in_a_directory() -> Result<()> {
    a_day_is_made_again(&Stage::shared().await?.pipeline("replaydir")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_is_made_again_in_azurite() -> Result<()> {
    a_day_is_made_again(&Stage::shared().await?.pipeline_into_azurite("replayazure").await?).await
}

async fn a_day_is_made_again(pipeline: &Pipeline) -> Result<()> {
    let mut lake = Closed::new(pipeline).await?;
    let before = lake.files().await?;
    ensure!(before.len() >= 12, "{} files: each hour of a partition has several", before.len());

    // The plan, and nothing else.
    let plan = lake.replay("dry-run", &["--dry-run"]).await?;
    ensure!(plan.contains("to be made again") && plan.contains(" 240 "), "{plan}");
    ensure!(lake.files().await? == before, "a dry run has changed something");

    // Every way to spoil a file, and a claim that nobody finished.
    let paths: Vec<&String> = before.keys().collect();
    let half = |path: &str| before[path].bytes[..before[path].bytes.len() / 2].to_vec();
    pipeline.lake().delete(paths[0]).await?;
    pipeline.lake().delete(paths[1]).await?;
    pipeline.lake().overwrite(paths[3], half(paths[3])).await?;
    pipeline.lake().overwrite(paths[4], Vec::new()).await?;
    let mut other = before[paths[6]].bytes.clone();
    other[20] ^= 1;
    pipeline.lake().overwrite(paths[6], other).await?;
    if let Some(root) = pipeline.lake_folder() {
        std::fs::remove_file(root.join(paths[7]))?;
        std::fs::write(root.join(format!("_chain/files/{}.json", paths[8])), "{\"etag\":")?;
        std::fs::remove_file(root.join(format!("_chain/files/{}.json", paths[9])))?;
    }
    let plan = lake.replay("dry-run-of-damage", &["--dry-run"]).await?;
    for path in [paths[0], paths[3]] {
        ensure!(plan.contains(path.as_str()), "{path} is not named:\n{plan}");
    }

    // Killed at any moment, while new rows come.
    let mut random = StdRng::seed_from_u64(7);
    for kill in 0..KILLS {
        let mut replay = lake.start(&format!("killed-{kill}"), &[])?;
        let records = events(pipeline, 10_000..10_010, lake.begin + 2 * HOUR_S + 60);
        pipeline.kafka_writer().send(&lake.topic, 0, records).await?;
        let pause = Duration::from_millis(random.random_range(0..1200));
        if replay.exit_code(pause).await.is_err() {
            replay.kill9()?;
        }
    }
    // Whatever the kills have left, two at once finish it.
    let (mut one, mut two) = (lake.start("one", &[])?, lake.start("two", &["--json"])?);
    for each in [&mut one, &mut two] {
        let code = each.exit_code(LIMIT).await?;
        ensure!(code == 0, "{} ends with {code}\n{}", each.name(), each.log_tail());
    }
    let reached = manifest(pipeline, lake.begin).await?.context("a manifest")?["generation"].as_i64();
    let reached = reached.context("a generation")?;
    // A replay that was killed behind its last step is done, and the next one is one more.
    ensure!((1..=2 + KILLS).contains(&reached), "generation {reached}");
    lake.replay("again", &["--hour", "22", "--hour", "23"]).await?;
    let second = manifest(pipeline, lake.begin + HOUR_S).await?.context("a manifest")?["generation"].clone();
    for hour in 0..2 {
        let manifest = manifest(pipeline, lake.begin + hour * HOUR_S).await?.context("a manifest")?;
        ensure!(
            manifest["generation"] == second,
            "one hour is of another generation than the other: {manifest}"
        );
    }
    ensure!(second.as_i64() > Some(reached), "generation {second} after {reached}");
    lake.is_restored(&before, second.as_i64().context("a generation")?).await?;

    // The chain is whole, the live sink goes on, and closes the next hour.
    let (_, violations) = judge(pipeline, &mut [&mut lake.sink]).await?;
    violations.none()?;
    lake.positions.commit(lake.begin + 3 * HOUR_S).await?;
    let next = closed(pipeline, lake.begin + 2 * HOUR_S).await?;
    ensure!(next["generation"] == 0, "{next}");
    if let Some(root) = pipeline.lake_folder() {
        let pending = std::process::Command::new("find")
            .arg(root.join("_chain/pending"))
            .args(["-type", "f"])
            .output()?;
        ensure!(pending.stdout.is_empty(), "left behind: {}", String::from_utf8_lossy(&pending.stdout));
        let arguments = ["verify", "--all", "--drained"];
        let environment = pipeline.sink_environment();
        let mut verify =
            Service::start_with(Binary::Sink, "verify", &arguments, environment, pipeline.folder())?;
        let code = verify.exit_code(LIMIT).await?;
        ensure!(code == 0, "verify: {code}\n{}", verify.log_tail());
        copy_elsewhere(&lake, &before).await?;
    }
    what_kafka_no_longer_has_is_refused(&lake).await
}

async fn copy_elsewhere(lake: &Closed<'_>, before: &Files) -> Result<()> {
    let copy = lake.pipeline.folder().join("copy");
    let url = format!("file://{}", copy.display());
    lake.replay("copy", &["--into", &url]).await?;
    lake.replay("copy-again", &["--into", &url]).await?;
    for (path, file) in before {
        ensure!(std::fs::read(copy.join(path))? == file.bytes, "{path} of the copy holds other bytes");
    }
    ensure!(
        copy.join(folder(lake.pipeline, lake.begin)).join("_SUCCESS").exists(),
        "the copy's hour has no mark"
    );
    Ok(())
}

async fn what_kafka_no_longer_has_is_refused(lake: &Closed<'_>) -> Result<()> {
    let before = lake.files().await?;
    lake.pipeline.kafka_writer().delete_records(&lake.topic, 1, 10).await?;
    let mut replay = lake.start("expired", &[])?;
    let code = replay.exit_code(LIMIT).await?;
    let text = replay.log_text()?;
    ensure!(code == 21 && text.contains(&format!("{}/1", lake.topic)), "expired: {code}\n{text}");
    ensure!(text.contains("offsets 0 to 10"), "{text}");
    ensure!(lake.files().await? == before, "a replay that was refused has changed something");
    // The hour that Kafka still has can be made again.
    lake.replay("the-other-hour", &["--hour", "23"]).await?;
    Ok(())
}

/// What is asked for wrongly is answered, and nothing is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_of_what_is_not_there_says_so() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("replaynothing")?;
    let topic = pipeline.data_topic("orders");
    pipeline.kafka_writer().create_topic(&topic, 1, &[]).await?;
    let positions = Positions::new(&pipeline).await?;
    positions.commit(LONG_AGO_S).await?;
    pipeline.kafka_writer().send(&topic, 0, events(&pipeline, 0..10, LONG_AGO_S)).await?;
    let mut sink = pipeline.ready_sink().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    let begin = LONG_AGO_S / HOUR_S * HOUR_S;
    closed(&pipeline, begin - HOUR_S).await?;
    let day = instant_day(begin);
    let unknown = format!("{topic}x");
    for (name, arguments, expected, says) in [
        ("no-such-topic", vec!["--topic", &unknown, "--all"], 64, "no such topic"),
        ("an-open-hour", vec!["--topic", &topic, "--day", &day, "--hour", "22"], 64, "has closed"),
        ("into-itself", vec!["--topic", &topic, "--all", "--into", "LAKE"], 64, "the lake itself"),
    ] {
        let lake = format!("file://{}", pipeline.lake_folder().context("a directory")?.display());
        let mut arguments: Vec<&str> =
            arguments.into_iter().map(|each| if each == "LAKE" { lake.as_str() } else { each }).collect();
        arguments.insert(0, "replay");
        let environment = pipeline.sink_environment();
        let mut replay = Service::start_with(Binary::Sink, name, &arguments, environment, pipeline.folder())?;
        let code = replay.exit_code(LIMIT).await?;
        let text = replay.log_text()?;
        ensure!(code == expected && text.contains(says), "{name}: {code}\n{text}");
    }

    // An hour without rows that somebody has deleted comes back too.
    let run = async |name: &str, arguments: &[&str]| -> Result<(i32, String)> {
        let environment = pipeline.sink_environment();
        let mut command = Service::start_with(Binary::Sink, name, arguments, environment, pipeline.folder())?;
        Ok((command.exit_code(LIMIT).await?, command.log_text()?))
    };
    let lake = pipeline.lake_folder().context("a directory")?;
    let empty = lake.join(folder(&pipeline, begin - HOUR_S));
    std::fs::remove_dir_all(&empty)?;
    let hour = ["replay", "--topic", &topic, "--day", &day, "--hour", "21"];
    let (code, text) = run("an-empty-hour", &hour).await?;
    ensure!(code == 0 && text.contains("1 hours without rows lack manifest or mark"), "{code}\n{text}");
    ensure!(empty.join("_manifest.json").exists() && empty.join("_SUCCESS").exists(), "{text}");
    let (code, text) = run("the-same-again", &hour).await?;
    ensure!(code == 0 && text.contains("No file was made again"), "{code}\n{text}");

    // Without its head a chain cannot be told from none.
    sink.stop(LIMIT).await?;
    std::fs::remove_file(lake.join(format!("_chain/{topic}/p0.json")))?;
    for (name, arguments) in [("replay", &hour[..]), ("verify", &["verify", "--topic", &topic])] {
        let (code, text) = run(name, arguments).await?;
        ensure!(code == 25 && text.contains("--restore-head"), "{name}: {code}\n{text}");
    }
    let (code, text) = run("restore", &["verify", "--topic", &topic, "--restore-head"]).await?;
    ensure!(code == 0, "{code}\n{text}");
    Ok(())
}
