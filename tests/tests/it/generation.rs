//! Reprints: closed hours in another form, in files that only the manifest names.
//!
//! Goal: whoever follows the manifests has each row once at every moment, whatever a replay does and wherever it is killed; the chain's files stay as
//! they are, for everybody else; what comes later is named too; `verify` sees what is spoilt, `replay` brings it back, and `expire` removes all of
//! it. Method: a lake whose hours are closed; a reader that follows a manifest all the time, and compares what it finds with Kafka's offsets.

use std::{
    collections::BTreeMap,
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use flate2::read::MultiGzDecoder;
use pipeline_tests::{
    lake_reader::LakeReader,
    pipeline::Pipeline,
    service::{Binary, Environment, Service},
    wait,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    closing::{HOUR_S, Positions, closed, folder, instant, manifest},
    records::{LONG_AGO_S, event, events, judge},
    replay::Closed,
    stage::{LIMIT, Stage},
};

const KILLS: i64 = 3;

const FLAT: [&str; 7] =
    ["--reformat", "--compression", "zstd", "--line-format", "flat", "--roll-bytes", "1MiB"];

/// Lines by partition and offset.
type Rows = BTreeMap<(i64, i64), Value>;

/// What a reader has that follows the manifest of an hour.
pub(crate) async fn rows_of(lake: &LakeReader, folder: &str) -> Result<Rows> {
    let document = async |name: &str| -> Result<Vec<u8>> {
        let path = format!("{folder}/{name}");
        lake.document(&path).await?.with_context(|| format!("{path} is not there"))
    };
    let manifest: Value = serde_json::from_slice(&document("_manifest.json").await?)?;
    let mut rows = Rows::new();
    for file in manifest["files"].as_array().context("files")? {
        let name = file["name"].as_str().context("a name")?;
        let bytes = document(name).await?;
        let mut lines = Vec::new();
        match name.rsplit('.').next() {
            Some("zst") => lines = zstd::decode_all(bytes.as_slice())?,
            Some("gz") => drop(MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut lines)?),
            _ => lines = bytes,
        }
        let before = rows.len();
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).with_context(|| name.to_owned())?;
            let number = |member: &str| line["_kafka"][member].as_i64().context("a coordinate");
            let place = (number("partition")?, number("offset")?);
            ensure!(rows.insert(place, line).is_none(), "{place:?} is there twice: {manifest:#}");
        }
        ensure!(file["rows"] == rows.len() - before, "{name} has {} rows", rows.len() - before);
    }
    ensure!(manifest["rows"] == rows.len(), "{} rows: {manifest:#}", rows.len());
    Ok(rows)
}

/// Reads an hour by its manifest, again and again, until it is told to end; how often.
struct Watcher {
    ended: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    job: tokio::task::JoinHandle<Result<()>>,
}

impl Watcher {
    fn start(lake: LakeReader, folder: String, expected: Vec<(i64, i64)>) -> Self {
        let (ended, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, count) = (Arc::clone(&ended), Arc::clone(&looks));
        let job = tokio::spawn(async move {
            while !until.load(Ordering::Relaxed) {
                let rows = rows_of(&lake, &folder).await?;
                ensure!(rows.keys().eq(&expected), "{:?}, expected {expected:?}", rows.keys());
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Self { ended, looks, job }
    }

    async fn end(self) -> Result<u64> {
        self.ended.store(true, Ordering::Relaxed);
        self.job.await??;
        Ok(self.looks.load(Ordering::Relaxed))
    }
}

/// A command of the sink; what it printed.
async fn command(
    pipeline: &Pipeline,
    name: &str,
    arguments: &[&str],
    environment: Environment,
    expected: i32,
) -> Result<String> {
    let mut command = Service::start_with(Binary::Sink, name, arguments, environment, pipeline.folder())?;
    let code = command.exit_code(LIMIT).await?;
    let text = command.log_text()?;
    ensure!(code == expected, "{name} ends with {code}, not {expected}\n{text}");
    Ok(text)
}

async fn verify(pipeline: &Pipeline, name: &str, expected: i32) -> Result<String> {
    command(pipeline, name, &["verify", "--all"], pipeline.sink_environment(), expected).await
}

fn names(files: &Value) -> Vec<&str> {
    files.as_array().into_iter().flatten().filter_map(|file| file["name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_get_another_form_in_a_directory() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("reprintdir")?;
    hours_get_another_form(&pipeline).await?;
    // Nothing of them is left in any form, locks included.
    let root = pipeline.lake_folder().context("a directory")?;
    let left = std::process::Command::new("find").arg(root).args(["-path", "*hour=22*"]).output()?;
    ensure!(left.stdout.is_empty(), "left behind: {}", String::from_utf8_lossy(&left.stdout));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_get_another_form_in_azurite() -> Result<()> {
    hours_get_another_form(&Stage::shared().await?.pipeline_into_azurite("reprintazure").await?).await
}

async fn hours_get_another_form(pipeline: &Pipeline) -> Result<()> {
    let mut lake = Closed::new(pipeline).await?;
    let (first, second) = (folder(pipeline, lake.begin), folder(pipeline, lake.begin + HOUR_S));
    let chain = lake.files().await?;
    let before = rows_of(pipeline.lake(), &first).await?;
    let of_chain = async || manifest(pipeline, lake.begin).await?.context("a manifest");
    let closed_first = of_chain().await?;

    let plan = lake.replay("dry-run", &[&FLAT[..], &["--dry-run"]].concat()).await?;
    ensure!(plan.contains("beside the files that are there, compression zstd, lines flat"), "{plan}");
    ensure!(of_chain().await? == closed_first, "a dry run has changed something");

    // Killed at any moment, while new rows come and a reader looks all the time.
    let watcher = Watcher::start(pipeline.lake().clone(), first.clone(), before.keys().copied().collect());
    let mut random = StdRng::seed_from_u64(11);
    for kill in 0..KILLS {
        let mut replay = lake.start(&format!("killed-{kill}"), &FLAT)?;
        let records = events(pipeline, 10_000..10_010, lake.begin + 2 * HOUR_S + 60);
        pipeline.kafka_writer().send(&lake.topic, 0, records).await?;
        let pause = Duration::from_millis(random.random_range(100..1000));
        if replay.exit_code(pause).await.is_err() {
            replay.kill9()?;
        }
    }
    let (mut one, mut two) = (lake.start("one", &FLAT)?, lake.start("two", &FLAT)?);
    for each in [&mut one, &mut two] {
        let code = each.exit_code(LIMIT).await?;
        ensure!(code == 0, "{} ends with {code}\n{}", each.name(), each.log_tail());
    }
    // Two that want different things: of an hour the later claim wins, and the other one ends, or was done before.
    let packed = ["--reformat", "--compression", "gzip"];
    let (mut one, mut two) = (lake.start("flat", &FLAT)?, lake.start("packed", &packed)?);
    let codes = [one.exit_code(LIMIT).await?, two.exit_code(LIMIT).await?];
    ensure!(
        codes.iter().all(|code| [0, 75].contains(code)),
        "{codes:?}\n{}\n{}",
        one.log_tail(),
        two.log_tail()
    );
    lake.replay("flat-again", &FLAT).await?;
    let first_time = of_chain().await?["generation"].as_i64().context("a generation")?;
    let said = lake.replay("again", &FLAT).await?;
    eprintln!("{said}");
    let all = format!("{} of the chain's {} files stay as they are", chain.len(), chain.len());
    ensure!(said.contains(&all) && said.contains("OK: 240 rows in 6 files"), "{said}");
    let looks = watcher.end().await?;
    ensure!(looks > 5, "the reader has looked {looks} times only");

    // One file for a partition, packed, flat; the chain is what it was, byte for byte and fact for fact.
    ensure!(lake.files().await? == chain, "the chain's files have changed");
    let switched = of_chain().await?;
    eprintln!("{switched:#}");
    let generation = switched["generation"].as_i64().context("a generation")?;
    ensure!(
        generation > first_time && (2..=6 + KILLS).contains(&generation) && switched["rebuilding"].is_null(),
        "{switched}"
    );
    let made: Vec<String> = (0..3)
        .map(|partition| format!("_gen-{generation}/events-20250822-22-p000{partition}-{:020}.jsonl.zst", 0))
        .collect();
    ensure!(names(&switched["files"]) == made, "{switched:#}");
    ensure!(names(&switched["chain"]) == names(&closed_first["files"]), "{switched:#}");
    ensure!(switched["rows"] == 120 && switched["deadletters"] == 3, "{switched}");
    ensure!(switched["reprint"]["form"]["compression"] == "zstd", "{switched}");
    let rows = rows_of(pipeline.lake(), &first).await?;
    ensure!(rows.keys().eq(before.keys()), "other rows than before");
    for (place, row) in &rows {
        let old = &before[place];
        ensure!(row["_id"] == old["documentKey"]["_id"] && row["_meta_operationType"] == "insert", "{row}");
    }
    // The same bytes each time.
    let bytes = async |name: &str| pipeline.lake().document(&format!("{first}/{name}")).await;
    for name in &made {
        let older = name.replace(&format!("_gen-{generation}/"), &format!("_gen-{first_time}/"));
        ensure!(bytes(name).await?.is_some() && bytes(name).await? == bytes(&older).await?, "{name} differs");
    }
    let said = verify(pipeline, "verify", 0).await?;
    ensure!(said.contains("6 files of reprints were compared too"), "{said}");

    spoilt_files_come_back(&lake, &first, &second).await?;
    late_rows_are_named(&lake, &first, &before).await?;
    let (_, violations) = judge(pipeline, &mut [&mut lake.sink]).await?;
    violations.none()?;
    expired_with_their_hour(&lake, &first).await
}

async fn spoilt_files_come_back(lake: &Closed<'_>, first: &str, second: &str) -> Result<()> {
    let pipeline = lake.pipeline;
    let before = rows_of(pipeline.lake(), first).await?;
    let standing = manifest(pipeline, lake.begin).await?.context("a manifest")?;
    let paths: Vec<String> = names(&standing["files"]).iter().map(|name| format!("{first}/{name}")).collect();
    let whole = pipeline.lake().document(&paths[0]).await?.context("a file of the reprint")?;
    // Another flat line of the same length, and well packed: nothing but its content is wrong.
    let lines = String::from_utf8(zstd::decode_all(whole.as_slice())?)?;
    let other = zstd::encode_all(lines.replacen("\"insert\"", "\"INSERT\"", 1).as_bytes(), 3)?;
    pipeline.lake().overwrite(&paths[0], other).await?;
    pipeline.lake().delete(&paths[1]).await?;
    let other_hour = manifest(pipeline, lake.begin + HOUR_S).await?.context("a manifest")?;
    pipeline.lake().delete(&format!("{second}/{}", names(&other_hour["files"])[2])).await?;
    let said = verify(pipeline, "verify-spoilt", 25).await?;
    // An upload over a blob takes what is said of it: then it is as good as lost. Of an hour the first one is named.
    let first_lost = usize::from(pipeline.lake_folder().is_some());
    for what in [names(&standing["files"])[first_lost], names(&other_hour["files"])[2]] {
        ensure!(said.contains(&format!("{what} is named, and not there")), "{what}:\n{said}");
    }
    if pipeline.lake_folder().is_some() {
        ensure!(said.contains(&format!("{}: ", paths[0])), "{said}");
    }
    // A live sink closes hours and takes late rows all the same. A replay that says nothing of a form keeps the one that is there.
    let chain = lake.files().await?;
    lake.replay("mended", &[]).await?;
    let mended = manifest(pipeline, lake.begin).await?.context("a manifest")?;
    ensure!(mended["generation"].as_i64() > standing["generation"].as_i64(), "{mended:#}");
    ensure!(mended["reprint"] == standing["reprint"] && mended["rows"] == 120, "{mended:#}");
    ensure!(rows_of(pipeline.lake(), first).await? == before, "other rows than before");
    for (path, file) in lake.files().await? {
        ensure!(file.bytes == chain[&path].bytes, "{path} of the chain holds other bytes");
    }
    Ok(())
}

/// A row that comes late is a file of the chain, beside the reprint; the next one takes it in.
async fn late_rows_are_named(lake: &Closed<'_>, first: &str, before: &Rows) -> Result<()> {
    let pipeline = lake.pipeline;
    pipeline.kafka_writer().send(&lake.topic, 1, vec![event(pipeline, 7777, lake.begin + 30)]).await?;
    let late = wait::until("the late row is named", LIMIT, || async {
        let manifest = manifest(pipeline, lake.begin).await?.context("a manifest")?;
        Ok((manifest["rows"] == 121).then_some(manifest))
    })
    .await?;
    let chain = lake.files().await?;
    let outside: Vec<&str> =
        names(&late["files"]).into_iter().filter(|name| !name.starts_with("_gen-")).collect();
    ensure!(outside.len() == 1 && outside[0].contains("-p0001-"), "{late:#}");
    ensure!(names(&late["chain"]).contains(&outside[0]), "{late:#}");
    let rows = rows_of(pipeline.lake(), first).await?;
    ensure!(rows.len() == 121 && before.keys().all(|place| rows.contains_key(place)), "{}", rows.len());
    verify(pipeline, "verify-late", 0).await?;

    // In the usual form, rolled; a file of the chain that is lost meanwhile comes back at its place, the others stay as they are.
    let lost = chain.keys().find(|path| path.starts_with(first)).context("a file")?;
    pipeline.lake().delete(lost).await?;
    let rolled = ["--reformat", "--hour", "22", "--roll-rows", "10", "--line-format", "envelope"];
    let said = lake.replay("rolled", &rolled).await?;
    ensure!(said.contains("OK: 121 rows in 13 files"), "{said}");
    let taken = manifest(pipeline, lake.begin).await?.context("a manifest")?;
    ensure!(names(&taken["files"]).iter().all(|name| name.starts_with("_gen-")), "{taken:#}");
    let after = lake.files().await?;
    ensure!(after[lost].bytes == chain[lost].bytes, "{lost} holds other bytes");
    for (path, file) in chain.iter().filter(|(path, _)| *path != lost) {
        ensure!(after[path] == *file, "{path} of the chain has changed");
    }
    let rows = rows_of(pipeline.lake(), first).await?;
    ensure!(rows.len() == 121 && before.iter().all(|(place, row)| rows[place] == *row), "other lines");
    verify(pipeline, "verify-rolled", 0).await?;
    // Exports and letters go by the chain.
    let into = format!("file://{}", pipeline.folder().join("silver").display());
    let export = ["export", "parquet", "--topic", &lake.topic, "--all", "--into", &into];
    let said = command(pipeline, "export", &export, pipeline.sink_environment(), 0).await?;
    ensure!(said.contains("241 rows"), "{said}");
    let list = ["dlq", "list", "--json"];
    let said = command(pipeline, "letters", &list, pipeline.sink_environment(), 0).await?;
    let open = said.lines().filter(|line| line.contains("\"open\"")).count();
    ensure!(open == 6, "{said}");
    // No chain stands in the hour any more.
    pipeline
        .kafka_writer()
        .send(&lake.topic, 1, vec![event(pipeline, 8888, lake.begin + 2 * HOUR_S + 90)])
        .await
}

async fn expired_with_their_hour(lake: &Closed<'_>, first: &str) -> Result<()> {
    let pipeline = lake.pipeline;
    let standing = manifest(pipeline, lake.begin).await?.context("a manifest")?;
    let limit = instant(lake.begin + HOUR_S);
    let expire = ["expire", "--topic", &lake.topic, "--before", &limit];
    let said = command(pipeline, "expire", &expire, pipeline.sink_environment(), 0).await?;
    eprintln!("{said}");
    let generation = standing["generation"].as_i64().context("a generation")?;
    for name in names(&standing["files"]) {
        for older in 1..=generation {
            let name = name.replace(&format!("_gen-{generation}/"), &format!("_gen-{older}/"));
            for path in [format!("{first}/{name}"), format!("{first}/{name}.zst")] {
                ensure!(pipeline.lake().document(&path).await?.is_none(), "{path} is still there");
            }
        }
    }
    ensure!(!lake.files().await?.keys().any(|path| path.starts_with(first)), "the chain's files are there");
    verify(pipeline, "verify-expired", 0).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_files_stay_in_a_directory() -> Result<()> {
    sealed_files_stay(&Stage::shared().await?.pipeline("reprintsealeddir")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_files_stay_in_azurite() -> Result<()> {
    sealed_files_stay(&Stage::shared().await?.pipeline_into_azurite("reprintsealedazure").await?).await
}

/// Readers pin what they have seen: only what is not whole is made again at its place.
async fn sealed_files_stay(pipeline: &Pipeline) -> Result<()> {
    let topic = pipeline.data_topic("orders");
    pipeline.kafka_writer().create_topic(&topic, 1, &[]).await?;
    let positions = Positions::new(pipeline).await?;
    let begin = LONG_AGO_S / HOUR_S * HOUR_S;
    positions.commit(begin + 10).await?;
    let sealed = || {
        pipeline.sink_environment().set("PUBLISH", "sealed").set("ROLL_ROWS", "10").set("COMPRESSION", "zstd")
    };
    let mut sink = pipeline.start(Binary::Sink, sealed())?;
    sink.wait_until_ready().await?;
    let mut records = events(pipeline, 0..25, begin + 5);
    records.extend(events(pipeline, 25..30, begin + HOUR_S + 5));
    pipeline.kafka_writer().send(&topic, 0, records).await?;
    closed(pipeline, begin - HOUR_S).await?;
    positions.commit(begin + HOUR_S).await?;
    let hour = closed(pipeline, begin).await?;
    ensure!(hour["rows"] == 25 && names(&hour["files"]).len() == 3, "{hour:#}");
    let place = folder(pipeline, begin);
    let (chain, rows) = (pipeline.lake().files().await?, rows_of(pipeline.lake(), &place).await?);

    let replay = ["replay", "--topic", &topic, "--all"];
    let said = command(pipeline, "whole", &replay, sealed(), 0).await?;
    ensure!(said.contains("3 of the chain's 3 files stay as they are"), "{said}");
    let of_hour = async |from: &str| -> Result<Vec<_>> {
        let files = pipeline.lake().files().await?.into_iter();
        Ok(files.filter(|file| file.path.starts_with(from)).collect())
    };
    let chain: Vec<_> = chain.into_iter().filter(|file| file.path.starts_with(&place)).collect();
    ensure!(of_hour(&place).await? == chain, "a whole file has changed");
    let again = manifest(pipeline, begin).await?.context("a manifest")?;
    let like_the_chain: Vec<String> =
        names(&hour["files"]).iter().map(|name| format!("_gen-1/{name}")).collect();
    ensure!(names(&again["files"]) == like_the_chain && again["generation"] == 1, "{again:#}");
    ensure!(again["reprint"].get("form").is_none() && again["rows"] == 25, "{again:#}");
    ensure!(rows_of(pipeline.lake(), &place).await? == rows, "other lines");

    // One that is lost comes back where it was; the others are not touched.
    pipeline.lake().delete(&chain[1].path).await?;
    let said = command(pipeline, "lost", &replay, sealed(), 0).await?;
    ensure!(said.contains("2 of the chain's 3 files stay as they are"), "{said}");
    let after = of_hour(&place).await?;
    ensure!(after.len() == 3 && after[0] == chain[0] && after[2] == chain[2], "a whole file has changed");
    ensure!(
        after[1].plain()? == chain[1].plain()? && after[1].text("crc")? == chain[1].text("crc")?,
        "its lines"
    );
    let again = manifest(pipeline, begin).await?.context("a manifest")?;
    ensure!(again["generation"] == 2 && names(&again["files"])[0].starts_with("_gen-2/"), "{again:#}");
    ensure!(again["reprint"] == json!({ "ranges": again["reprint"]["ranges"] }), "{again:#}");
    ensure!(rows_of(pipeline.lake(), &place).await? == rows, "other lines");
    command(pipeline, "verify", &["verify", "--all"], sealed(), 0).await?;
    sink.assert_running()
}
