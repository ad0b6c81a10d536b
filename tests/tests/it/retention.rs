//! The lake's retention.
//!
//! Goal: `expire` removes hours that are old enough, whole, and nothing else: chains go on, `verify` finds no difference, and still finds damage;
//! a removal that was killed is finished by the next one. Method: two collections, one of them idle, whose hours close when the test says so.

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    kafka_writer::NewRecord,
    pipeline::Pipeline,
    service::{Binary, Service},
};
use serde_json::{Value, json};

use crate::{
    closing::{HOUR_S, Positions, closed, folder, instant, manifest, named_as_they_are},
    records::{LONG_AGO_S, event, events},
    stage::{LIMIT, Stage},
};

const PARTITIONS: i32 = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_hours_leave_a_directory() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("retentiondir")?;
    old_hours_leave(&pipeline).await?;
    // Nothing of them is left in any form, locks included.
    let root = pipeline.lake_folder().context("a directory")?;
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let place = entry?.path();
            let text = place.display().to_string();
            ensure!(!text.contains("hour=22") && !text.contains("hour=21"), "left behind: {text}");
            if place.is_dir() {
                folders.push(place);
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_hours_leave_azurite() -> Result<()> {
    old_hours_leave(&Stage::shared().await?.pipeline_into_azurite("retentionazure").await?).await
}

struct Commands<'a> {
    pipeline: &'a Pipeline,
    count: usize,
}

impl Commands<'_> {
    fn start(&mut self, arguments: &[&str]) -> Result<Service> {
        self.count += 1;
        let name = format!("{}-{}", arguments[0], self.count);
        let environment = self.pipeline.sink_environment();
        Service::start_with(Binary::Sink, &name, arguments, environment, self.pipeline.folder())
    }

    async fn run(&mut self, arguments: &[&str], expected: i32) -> Result<String> {
        let mut service = self.start(arguments)?;
        let code = service.exit_code(LIMIT).await?;
        let text = service.log_text()?;
        ensure!(code == expected, "{arguments:?} ends with {code}, expected {expected}\n{text}");
        Ok(text)
    }
}

/// The last line that is JSON.
fn report(text: &str) -> Result<Value> {
    let line = text.lines().rev().find(|line| line.starts_with("{\"") && line.contains("\"dryRun\""));
    let line = line.with_context(|| text.to_owned())?;
    Ok(serde_json::from_str(line)?)
}

fn of_idle(pipeline: &Pipeline, number: i64, seconds: i64) -> NewRecord {
    let database = pipeline.database();
    let value = format!(
        r#"{{"_meta":{{"operationType":"insert","ns":{{"db":"{database}","coll":"idle"}}}},"documentKey":{{"_id":{number}}}}}"#
    );
    NewRecord::new(value).header("cluster-time", &format!("{seconds}.1"))
}

/// What lies in an hour's folder of `orders`.
async fn is_there(pipeline: &Pipeline, hour: i64) -> Result<bool> {
    let folder = folder(pipeline, hour);
    let mark = pipeline.lake().document(&format!("{folder}/_SUCCESS")).await?;
    let files = pipeline.lake().files().await?;
    let files = files.iter().any(|file| file.path.starts_with(&folder));
    Ok(mark.is_some() || files || manifest(pipeline, hour).await?.is_some())
}

async fn old_hours_leave(pipeline: &Pipeline) -> Result<()> {
    let (orders, idle) = (pipeline.data_topic("orders"), pipeline.data_topic("idle"));
    let writer = pipeline.kafka_writer();
    writer.create_topic(&orders, PARTITIONS, &[]).await?;
    writer.create_topic(&idle, 1, &[]).await?;
    let positions = Positions::new(pipeline).await?;
    let begin = LONG_AGO_S / HOUR_S * HOUR_S;
    positions.commit(begin + 10).await?;
    let mut sink = pipeline.start(Binary::Sink, pipeline.sink_environment().set("ROLL_ROWS", "7"))?;
    for hour in 0..4 {
        for partition in 0..PARTITIONS {
            let number = i64::from(partition) * 1000 + hour * 100;
            let rows = events(pipeline, number..number + 30, begin + hour * HOUR_S + 5);
            writer.send(&orders, partition, rows).await?;
        }
    }
    writer.send(&idle, 0, vec![of_idle(pipeline, 1, begin + 5)]).await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    closed(pipeline, begin - HOUR_S).await?;
    positions.commit(begin + 3 * HOUR_S).await?;
    for hour in 0..3 {
        named_as_they_are(pipeline, begin + hour * HOUR_S, &mut [&mut sink]).await?;
    }
    let idle_folder = folder(pipeline, begin).replacen("/orders/", "/idle/", 1);
    let of_idle_hour = |name: &str| format!("{idle_folder}/{name}");
    pipeline_tests::wait::until("the idle hour closes", LIMIT, || async {
        Ok(pipeline.lake().document(&of_idle_hour("_SUCCESS")).await?.map(drop))
    })
    .await?;
    let mut commands = Commands { pipeline, count: 0 };
    commands.run(&["verify", "--all"], 0).await?;

    // Hours 0 and 1 are to go, and the empty one before them. That of the idle collection has to stay.
    let limit = instant(begin + 2 * HOUR_S);
    let expire = ["expire", "--all", "--before", &limit, "--json"];
    let before = pipeline.lake().files().await?;
    let plan = report(&commands.run(&[&expire[..], &["--dry-run"]].concat(), 0).await?)?;
    ensure!(pipeline.lake().files().await? == before, "a dry run has changed something");
    let topic = |report: &Value, name: &str| -> Result<Value> {
        let topics = report["topics"].as_array().context("topics")?;
        topics.iter().find(|topic| topic["topic"] == name).cloned().context("the topic")
    };
    let of_orders = topic(&plan, &orders)?;
    ensure!(of_orders["hours"] == 3 && of_orders["rows"] == 120, "{plan}");
    ensure!(of_orders["kept"] == json!([]) && of_orders["before"] == limit, "{plan}");
    let of_idle_topic = topic(&plan, &idle)?;
    ensure!(of_idle_topic["kept"][0]["hour"] == instant(begin), "{plan}");
    // The empty hours before and behind it go.
    ensure!(of_idle_topic["hours"] == 2 && of_idle_topic["files"] == 0, "{plan}");

    // A replay that was given up keeps its hour, until somebody says so.
    let place = format!("{}/_manifest.json", folder(pipeline, begin));
    let mut claimed: Value =
        serde_json::from_slice(&pipeline.lake().document(&place).await?.context("a manifest")?)?;
    claimed["rebuilding"] = json!(1);
    pipeline.lake().overwrite(&place, serde_json::to_vec(&claimed)?).await?;

    // Killed wherever it is, and typed again.
    for _ in 0..4 {
        let mut killed = commands.start(&expire)?;
        pipeline_tests::wait::until("it removes, or is done", LIMIT, || async {
            // Not by a look at the lake, whose files go meanwhile.
            let said = killed.log_text()?;
            Ok((said.contains("removing an hour") || said.contains("\"dryRun\"")).then_some(()))
        })
        .await?;
        killed.kill9()?;
    }
    let text = commands.run(&expire, 0).await?;
    ensure!(text.contains("--abandon-replays") && is_there(pipeline, begin).await?, "{text}");
    // Nothing of it is written down as removed: its files are compared.
    let (from, to) = (instant(begin), instant(begin + HOUR_S));
    let text =
        commands.run(&["verify", "--topic", &orders, "--from", &from, "--to", &to, "--json"], 0).await?;
    ensure!(text.contains("\"rows\":60}"), "{text}");
    commands.run(&[&expire[..], &["--abandon-replays"]].concat(), 0).await?;
    for hour in -1..2 {
        ensure!(!is_there(pipeline, begin + hour * HOUR_S).await?, "hour {hour} is still there");
    }
    for hour in 2..4 {
        ensure!(is_there(pipeline, begin + hour * HOUR_S).await?, "hour {hour} has gone");
    }
    ensure!(pipeline.lake().document(&of_idle_hour("_SUCCESS")).await?.is_some(), "the idle hour has gone");
    let text = commands.run(&["verify", "--all", "--drained"], 0).await?;
    ensure!(text.contains("121 rows") && text.contains("without gap"), "{text}");

    // A rebuild leaves them alone, an export says why it cannot have them.
    let day = &instant(begin)[..10];
    let text = commands.run(&["replay", "--topic", &orders, "--all"], 0).await?;
    ensure!(text.contains("were removed by `expire`"), "{text}");
    ensure!(!is_there(pipeline, begin).await?, "a rebuild has brought an hour back");
    let into = format!("file://{}", pipeline.folder().join("silver").display());
    let export = ["export", "parquet", "--topic", &orders, "--day", day, "--hour", "22", "--into", &into];
    let text = commands.run(&export, 64).await?;
    ensure!(text.contains("removed from the lake by `expire`"), "{text}");

    // A row that comes late is written where it belongs, and goes the next time.
    writer.send(&orders, 0, vec![event(pipeline, 9000, begin + 30)]).await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    writer.send(&orders, 0, vec![event(pipeline, 9001, begin + 3 * HOUR_S + 30)]).await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    named_as_they_are(pipeline, begin, &mut [&mut sink]).await?;
    let late = manifest(pipeline, begin).await?.context("a manifest")?;
    ensure!(late["rows"] == 1, "{late}");
    commands.run(&["verify", "--all", "--drained"], 0).await?;

    // Chains go on, also that of the idle collection, in a new process; then its hour goes too.
    sink.stop(LIMIT).await?;
    let mut sink = pipeline.ready_sink().await?;
    writer.send(&idle, 0, vec![of_idle(pipeline, 2, begin + 3 * HOUR_S + 5)]).await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    let text = commands.run(&expire[..4], 0).await?;
    eprintln!("{text}");
    ensure!(text.contains("OK: removed 2 hours with 2 files, 2 rows"), "{text}");
    ensure!(pipeline.lake().document(&of_idle_hour("_SUCCESS")).await?.is_none(), "the idle hour is there");
    ensure!(!is_there(pipeline, begin).await?, "the late row is still there");
    commands.run(&["verify", "--all", "--drained"], 0).await?;
    sink.assert_running()?;

    // What nobody expired is still missed.
    let files = pipeline.lake().files().await?;
    let hour = folder(pipeline, begin + 2 * HOUR_S);
    let file = files.iter().find(|file| file.path.starts_with(&hour)).context("a file")?;
    pipeline.lake().delete(&file.path).await?;
    let text = commands.run(&["verify", "--all"], 25).await?;
    ensure!(text.contains(&file.path) || text.contains("gap"), "{text}");
    Ok(())
}
