//! Replays of a topic in Avro.
//!
//! Goal: what a replay makes of records in Avro is what the live sink made of them, in place and in another form; and a dead letter whose schema the
//! registry did not have becomes a row once it has it. Method: records put together here, byte by byte, with ids that the registry may give later.

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    kafka_writer::NewRecord,
    paths,
    pipeline::Pipeline,
    service::{Binary, Service},
};
use serde_json::Value;

use crate::{
    avro::registry,
    closing::{HOUR_S, Positions, closed, folder, manifest},
    generation::rows_of,
    records::{LONG_AGO_S, event, make_topic},
    stage::{LIMIT, Stage},
};

/// Ids that the registry may give to the next schemas, other tests' included.
const NEXT_IDS: u32 = 12;

fn long(value: i64, to: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    loop {
        let [low, ..] = rest.to_le_bytes();
        rest >>= 7;
        if rest == 0 {
            return to.push(low);
        }
        to.push(low | 0x80);
    }
}

fn text(value: &str, to: &mut Vec<u8>) {
    long(i64::try_from(value.len()).expect("a short text"), to);
    to.extend_from_slice(value.as_bytes());
}

/// The envelope of an insert, field by field as its schema has them.
fn datum(database: &str, number: i64, seconds: i64) -> Vec<u8> {
    let mut to = Vec::new();
    text(&format!("82{number:08}"), &mut to);
    text("insert", &mut to);
    long(1, &mut to);
    text(database, &mut to);
    long(1, &mut to);
    text("orders", &mut to);
    long(seconds, &mut to);
    long(1, &mut to);
    // wallTime, lsid, txnNumber: null.
    to.extend([0, 0, 0]);
    text("w", &mut to);
    // No snapshot; processedAt and text: null.
    to.extend([0, 0, 0]);
    for _ in ["documentKey", "fullDocument"] {
        long(1, &mut to);
        text(&format!("{{\"_id\":{number}}}"), &mut to);
    }
    // updateDescription, fullDocumentBeforeChange: null; nothing further.
    to.extend([0, 0, 0]);
    to
}

fn envelope(database: &str, number: i64, seconds: i64) -> String {
    format!(
        r#"{{"_meta":{{"eventId":"82{number:08}","operationType":"insert","ns":{{"db":"{database}","coll":"orders"}},"clusterTime":{{"$timestamp":{{"t":{seconds},"i":1}}}},"wallTime":null,"lsid":null,"txnNumber":null,"source":"w","snapshot":false,"processedAt":null}},"documentKey":{{"_id":{number}}},"fullDocument":{{"_id":{number}}},"updateDescription":null,"fullDocumentBeforeChange":null,"_kafka":"#
    )
}

fn record(pipeline: &Pipeline, schema: u32, number: i64, seconds: i64) -> NewRecord {
    let value = [&[0][..], &schema.to_be_bytes(), &datum(pipeline.database(), number, seconds)].concat();
    let headers = event(pipeline, number, seconds).headers;
    NewRecord { headers, ..NewRecord::new(value) }.header("content-type", "application/avro")
}

struct Hour<'a> {
    pipeline: &'a Pipeline,
    topic: String,
    begin: i64,
}

impl Hour<'_> {
    async fn command(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let environment =
            self.pipeline.sink_environment().set("SCHEMA_REGISTRY_URL", registry().await?.url());
        let folder = self.pipeline.folder();
        let mut command = Service::start_with(Binary::Sink, name, arguments, environment, folder)?;
        let code = command.exit_code(LIMIT).await?;
        let text = command.log_text()?;
        ensure!(code == 0, "{name} ends with {code}\n{text}");
        Ok(text)
    }

    async fn replay(&self, name: &str, more: &[&str]) -> Result<String> {
        self.command(name, &[&["replay", "--topic", &self.topic, "--all"], more].concat()).await
    }

    async fn manifest(&self) -> Result<Value> {
        manifest(self.pipeline, self.begin).await?.context("a manifest")
    }

    /// Checksum and lines of the hour's one file in the chain.
    async fn chain(&self) -> Result<(String, Vec<u8>)> {
        let place = folder(self.pipeline, self.begin);
        let files = self.pipeline.lake().read().await?.files;
        let file = files.into_iter().find(|file| file.path.starts_with(&place)).context("a file")?;
        Ok((file.text("crc")?.to_owned(), file.plain()?.to_vec()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_in_avro_are_made_again_as_they_were() -> Result<()> {
    let pipeline = &Stage::shared().await?.pipeline("avroreplay")?;
    let registry = registry().await?;
    let topic = make_topic(pipeline).await?;
    let schema = std::fs::read_to_string(paths::repository().join("shared/src/avro/change_event.avsc"))?;
    let ours = registry.register("atlas.lake.ChangeEvent", &schema)?;
    let last = registry.register("replayed-last", r#"{"type":"fixed","name":"Replayed","size":17}"#)?;
    let begin = LONG_AGO_S / HOUR_S * HOUR_S;
    let positions = Positions::new(pipeline).await?;
    positions.commit(begin + 10).await?;
    let mut records: Vec<NewRecord> =
        (0..20).map(|number| record(pipeline, ours, number, begin + 5)).collect();
    records.extend(
        (0..NEXT_IDS).map(|next| record(pipeline, last + 1 + next, 100 + i64::from(next), begin + 6)),
    );
    records.push(record(pipeline, ours, 20, begin + 7));
    records.push(record(pipeline, ours, 21, begin + HOUR_S + 5));
    pipeline.kafka_writer().send(&topic, 0, records).await?;
    let environment = pipeline.sink_environment().set("SCHEMA_REGISTRY_URL", registry.url());
    let mut sink = pipeline.start(Binary::Sink, environment)?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    positions.commit(begin + HOUR_S).await?;
    let hour = closed(pipeline, begin).await?;
    ensure!(hour["rows"] == 21 && hour["deadletters"] == NEXT_IDS, "{hour:#}");
    let hour = Hour { pipeline, topic, begin };
    let place = folder(pipeline, begin);
    let (crc, lines) = hour.chain().await?;
    let start = envelope(pipeline.database(), 0, begin + 5);
    ensure!(lines.starts_with(start.as_bytes()), "{}", String::from_utf8_lossy(&lines));

    // In place, and in another form: the same.
    hour.replay("in-place", &[]).await?;
    ensure!(hour.chain().await? == (crc.clone(), lines.clone()), "other lines than before");
    hour.replay("beside", &["--reformat"]).await?;
    let of_reprint = hour.manifest().await?["files"][0].clone();
    ensure!(of_reprint["crc"] == crc && of_reprint["rows"] == 21, "{of_reprint}");
    hour.replay("packed", &["--reformat", "--compression", "zstd"]).await?;
    let packed = hour.manifest().await?["files"][0].clone();
    ensure!(packed["crc"] == crc && packed["compressed"] == "zstd", "{packed}");
    let rows = rows_of(pipeline.lake(), &place).await?;

    // The registry has the schema of one of them now: the same schema with another text has another id.
    let later = registry.register("replayed", &schema.replacen("One change of MongoDB.", "A change.", 1))?;
    ensure!((last + 1..=last + NEXT_IDS).contains(&later), "schema {later} after {last}");
    let said = hour.replay("taken-in", &["--reformat", "--compression", "zstd"]).await?;
    ensure!(said.contains("1 dead letters of before are rows now"), "{said}");
    let taken = hour.manifest().await?;
    ensure!(taken["rows"] == 22 && taken["deadletters"] == NEXT_IDS - 1, "{taken:#}");
    let (crc, lines) = hour.chain().await?;
    ensure!(taken["files"][0]["crc"] == crc && taken["chain"][0]["crc"] == crc, "{crc}: {taken:#}");
    let number = 100 + i64::from(later - last - 1);
    let expected = envelope(pipeline.database(), number, begin + 6);
    let lines = String::from_utf8(lines)?;
    ensure!(lines.lines().any(|line| line.starts_with(&expected)), "no {expected}\n{lines}");
    let now = rows_of(pipeline.lake(), &place).await?;
    ensure!(now.len() == 22 && rows.iter().all(|(at, row)| now[at] == *row), "{now:?}");

    hour.replay("once-more", &[]).await?;
    ensure!(hour.chain().await? == (crc, lines.into_bytes()), "other lines than before");
    ensure!(rows_of(pipeline.lake(), &place).await? == now, "other rows than before");
    hour.command("verify", &["verify", "--all", "--drained"]).await?;
    sink.assert_running()
}
