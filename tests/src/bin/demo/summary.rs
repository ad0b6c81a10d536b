//! What a person wants to know at the end. On standard output.

use std::{
    io::{self, Write},
    time::Duration,
};

use pipeline_tests::latency::Percentiles;

use crate::{
    play::Outcome,
    progress::grouped,
    run_folder::RunFolder,
    settings::{LakeKind, Settings},
    stage::FLUSH_INTERVAL,
};

/// # Errors
/// If the output cannot be written.
pub(crate) fn print(
    outcome: &Outcome,
    settings: Settings,
    folder: &RunFolder,
    to: &mut impl Write,
) -> io::Result<()> {
    let count = |operation: &str| grouped(outcome.tally.of_operation(operation));
    let place = match settings.lake {
        LakeKind::File => "lake",
        LakeKind::Azurite => "lake (a copy of what was in Azurite's container)",
    };
    let root = folder.lake();
    let fast = outcome.full_speed;
    let megabytes = outcome.lake.bytes / 1_000_000;
    writeln!(
        to,
        "\nPASSED: every change that MongoDB acknowledged is in Kafka once and in the lake once.\n"
    )?;
    writeln!(
        to,
        "  changes     {} ({} inserts, {} updates, {} replacements, {} deletes)",
        grouped(outcome.tally.total()),
        count("insert"),
        count("update"),
        count("replace"),
        count("delete"),
    )?;
    writeln!(
        to,
        "  flights     {} of {} replayed",
        grouped(count_of(outcome.flights)),
        grouped(count_of(outcome.flights_in_all)),
    )?;
    writeln!(
        to,
        "  verified    {} rows, {} of them definitions; {} differences",
        outcome.verified["rows"], outcome.lake.definitions, outcome.verified["differences"]
    )?;
    writeln!(to, "  lake        {} files, {} MB", outcome.lake.files, grouped(megabytes))?;
    writeln!(
        to,
        "  full speed  {} changes: written {}/s, into Kafka {}/s, into the lake {}/s",
        grouped(fast.events),
        rate(fast.events, fast.written_in),
        rate(fast.events, fast.in_kafka_in),
        rate(fast.events, fast.in_lake_in),
    )?;
    writeln!(
        to,
        "  latency at {} changes/s, from the write to where it can be read:",
        grouped(settings.rate.into())
    )?;
    writeln!(to, "    Kafka     {}", latency(outcome.to_kafka))?;
    writeln!(to, "    lake      {} (FLUSH_INTERVAL={FLUSH_INTERVAL})", latency(outcome.to_lake))?;
    writeln!(to, "\n  {place}: {}", root.display())?;
    writeln!(to, "  logs: {}", folder.logs().display())?;
    writeln!(
        to,
        "\nLook at one line:\n  head -1 '{}' | python3 -m json.tool",
        root.join(&outcome.lake.largest).display()
    )?;
    writeln!(
        to,
        "\nAsk DuckDB (pip install duckdb; or any reader of JSON lines):\n{}",
        query(&root.display().to_string())
    )
}

/// Delays of the airlines, from the last state of each flight that the lake holds.
fn query(root: &str) -> String {
    format!(
        r#"  python3 - <<'EOF'
  import duckdb
  print(duckdb.sql("""
    with last as (
      select documentKey._id as id, arg_max(fullDocument, _meta.eventId) as flight
      from read_json('{root}/air/flights/year=*/month=*/day=*/hour=*/*.jsonl', hive_partitioning = true)
      group by all
    )
    select flight.carrier, count(*) as flights,
           round(avg(flight.arrival.delay_minutes), 1) as mean_delay_minutes
    from last where flight.status = 'landed'
    group by all order by flights desc limit 5"""))
  EOF"#
    )
}

fn latency(percentiles: Option<Percentiles>) -> String {
    match percentiles {
        Some(found) => format!(
            "p50 {} ms, p99 {} ms ({} changes)",
            grouped(milliseconds(found.p50)),
            grouped(milliseconds(found.p99)),
            grouped(count_of(found.count))
        ),
        None => "nothing was measured".to_owned(),
    }
}

fn rate(events: u64, span: Duration) -> String {
    grouped(events * 1000 / milliseconds(span).max(1))
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn count_of(number: usize) -> u64 {
    u64::try_from(number).expect("a count fits")
}
