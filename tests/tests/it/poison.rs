//! Hostile records between good ones.
//!
//! Goal: each bad record is in the dead-letter topic, byte for byte, before the position moves past it; each good one is
//! a line, however it is written. Method: a topic with both, judged by the ledger, then letter by letter.

use anyhow::{Context, Result, ensure};
use pipeline_tests::kafka_writer::NewRecord;

use crate::{
    records::{LONG_AGO_S, event, events, judge, make_topic},
    stage::Stage,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_records_become_dead_letters_and_good_ones_lines() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("poison")?;
    let topic = make_topic(&pipeline).await?;
    let with_headers =
        |record: NewRecord| NewRecord { headers: event(&pipeline, 0, LONG_AGO_S).headers, ..record };
    let valued = |value: &[u8]| with_headers(NewRecord::new(value));
    let strange_database =
        event(&pipeline, 1, LONG_AGO_S).headers.into_iter().map(|(name, value)| match name.as_str() {
            "database" => (name, b"elsewhere".to_vec()),
            _ => (name, value),
        });

    let hostile = [
        ("invalid-json", valued(b"{\"a\":")),
        ("invalid-json", valued(b"{\"a\":1} trailing")),
        ("invalid-utf8", valued(b"{\"a\":\"\xff\"}")),
        ("not-an-object", valued(b"[1,2]")),
        ("not-an-object", valued(b"17")),
        ("empty", valued(b"")),
        ("kafka-member-present", valued(br#"{"a":1,"_kafka":{"topic":"x"}}"#)),
        (
            "namespace-mismatch",
            NewRecord { headers: strange_database.collect(), ..NewRecord::new(&br#"{"a":1}"#[..]) },
        ),
    ];
    let odd = [
        valued(b"{}"),
        valued(b" { \"a\" : 1 }  \n"),
        valued(b"{\n\"a\":\r\n[1,\n2]\n}"),
        valued("{\"a\":\"\u{2028}\\n\",\"a\":2}".as_bytes()),
        // No header, no namespace, no time: the hour comes from Kafka's timestamp.
        NewRecord { timestamp_ms: Some(LONG_AGO_S * 1000), ..NewRecord::new(&br#"{"free":true}"#[..]) },
        NewRecord { key: Some(b"1".to_vec()), ..NewRecord::default() },
    ];

    // Good ones in between, and so many that a breaker for bad shares stays closed.
    let mut records = Vec::new();
    let mut wanted = Vec::new();
    let mut number = 0;
    for (reason, bad) in hostile {
        records.extend(events(&pipeline, number..number + 60, LONG_AGO_S));
        number += 60;
        wanted.push((i64::try_from(records.len())?, reason, bad.clone()));
        records.push(bad);
    }
    records.extend(odd);
    pipeline.kafka_writer().send(&topic, 0, records).await?;

    let mut sink = pipeline.ready_sink().await?;
    let (evidence, violations) = judge(&pipeline, &mut [&mut sink]).await?;
    violations.none()?;

    let letters: Vec<_> = evidence.kafka.records(&pipeline.topics().dead_letters()).collect();
    ensure!(letters.len() == wanted.len(), "{} letters for {} bad records", letters.len(), wanted.len());
    for (offset, reason, bad) in wanted {
        let key = format!("{topic}/0/{offset}");
        let letter = letters.iter().find(|letter| letter.key.as_deref() == Some(key.as_bytes()));
        let letter = letter.with_context(|| format!("no letter for {key}"))?;
        let header = |name: &str| letter.header(name).unwrap_or("(absent)").to_owned();
        ensure!(header("dlq-reason") == reason, "{key} is {}, not {reason}", header("dlq-reason"));
        ensure!(letter.value == bad.value, "{key}: the value is not byte for byte");
        for (name, value) in &bad.headers {
            ensure!(
                letter.headers.contains(&(name.clone(), value.clone())),
                "{key}: header {name} is not as it was"
            );
        }
        for (name, value) in [
            ("dlq-original-topic", topic.clone()),
            ("dlq-original-partition", "0".to_owned()),
            ("dlq-original-offset", offset.to_string()),
        ] {
            ensure!(header(name) == value, "{key}: {name} is {}", header(name));
        }
    }
    sink.assert_running()
}
