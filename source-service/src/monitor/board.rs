//! The status line and the table at the end.

use std::time::Instant;

use comfy_table::{CellAlignment, Table, presets};
use shared::cluster_time::ClusterTime;

use super::rates::{Counts, Rates};
use crate::{change_stream::OplogStart, status::rfc3339};

/// So many namespaces have room in one line.
const NAMESPACES_MAX: usize = 4;
/// The columns of the table; every other operation is counted under "other".
const OPERATIONS: [&str; 4] = ["insert", "update", "replace", "delete"];

/// `12 events · 1.2/s over 10 s · lag 0.4 s · oplog headroom 3 h 2 min · shop.orders 1.2/s (insert 0.8 update 0.4)`. What is needed most comes
/// first, because the line is cut at the width of the terminal.
pub(super) fn status(rates: &mut Rates, oplog: Option<&OplogStart>, now: Instant, clock_ms: i64) -> String {
    let (recent, seconds) = rates.recent(now);
    let all: u64 = recent.iter().map(|(_, counts)| counts.total()).sum();
    let mut parts = vec![events(rates.events()), format!("{}/s over {seconds} s", per_second(all, seconds))];
    if let Some(newest) = rates.newest() {
        parts.push(format!("lag {}", lag(newest, clock_ms)));
    }
    match oplog {
        Some(OplogStart::At(first)) => {
            // Without an event yet: before now.
            let at = rates.newest().map_or(clock_ms / 1000, |newest| i64::from(newest.seconds));
            parts.push(format!("oplog headroom {}", span(at - i64::from(first.seconds))));
        }
        Some(OplogStart::Unreadable(_)) => parts.push("oplog headroom unknown".to_owned()),
        None => {}
    }
    for (namespace, counts) in recent.iter().take(NAMESPACES_MAX) {
        let operations: Vec<String> = counts
            .by_count()
            .iter()
            .map(|(operation, count)| format!("{operation} {}", per_second(*count, seconds)))
            .collect();
        let name = if namespace.is_empty() { "(no namespace)" } else { namespace };
        parts.push(format!("{name} {}/s ({})", per_second(counts.total(), seconds), operations.join(" ")));
    }
    if recent.len() > NAMESPACES_MAX {
        parts.push(format!("{} more", recent.len() - NAMESPACES_MAX));
    }
    parts.join(" · ")
}

/// By namespace and operation, with the totals.
pub(super) fn summary(rates: &Rates, now: Instant) -> String {
    let seconds = rates.elapsed(now).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = rates.events() as f64 / seconds.max(0.001);
    let newest = rates.newest().map(|time| format!(", the newest of {}", rfc3339(time))).unwrap_or_default();
    let head = format!("{} in {seconds:.1} s ({rate:.1}/s){newest}\n", events(rates.events()));
    if rates.events() == 0 {
        return head;
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["namespace"].into_iter().chain(OPERATIONS).chain(["other", "total"]));
    let row = |name: &str, cells: [u64; OPERATIONS.len()], total: u64| {
        let other = total - cells.iter().sum::<u64>();
        let numbers = cells.into_iter().chain([other, total]).map(grouped);
        [name.to_owned()].into_iter().chain(numbers).collect::<Vec<_>>()
    };
    let mut sums = [0; OPERATIONS.len()];
    for (namespace, counts) in rates.totals() {
        let cells = OPERATIONS.map(|operation| Counts::of(counts, operation));
        sums.iter_mut().zip(cells).for_each(|(sum, cell)| *sum += cell);
        let name = if namespace.is_empty() { "(no namespace)" } else { namespace };
        table.add_row(row(name, cells, counts.total()));
    }
    if rates.totals().len() > 1 {
        table.add_row(row("all", sums, rates.events()));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{head}{table}\n")
}

/// The clock minus the cluster time of the newest event; while nothing happens it grows.
fn lag(newest: ClusterTime, clock_ms: i64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let seconds = (clock_ms - newest.to_millis()) as f64 / 1000.0;
    if seconds < 60.0 { format!("{seconds:.1} s") } else { span((clock_ms - newest.to_millis()) / 1000) }
}

/// Two units at most.
fn span(seconds: i64) -> String {
    let (sign, seconds) = if seconds < 0 { ("-", -seconds) } else { ("", seconds) };
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{sign}{seconds} s"),
        (0, 0, _) => format!("{sign}{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{sign}{hours} h {minutes} min"),
        _ => format!("{sign}{days} d {hours} h"),
    }
}

fn per_second(count: u64, seconds: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = count as f64 / seconds.max(1) as f64;
    if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

fn events(count: u64) -> String {
    if count == 1 { "1 event".to_owned() } else { format!("{} events", grouped(count)) }
}

/// `12,345`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rates(begun: Instant) -> Rates {
        let mut rates = Rates::new(begun);
        let time = |seconds| Some(ClusterTime::new(seconds, 1));
        for second in 0..10_u32 {
            let now = begun + Duration::from_secs(u64::from(second));
            rates.count("shop.orders", "insert", time(1_000 + second), now);
            rates.count("shop.orders", "update", time(1_000 + second), now);
            rates.count("shop.items", "delete", time(1_000 + second), now);
        }
        rates.count("shop", "dropDatabase", time(1_009), begun + Duration::from_secs(9));
        rates
    }

    #[test]
    fn the_status_line_says_rates_lag_and_headroom() {
        let begun = Instant::now();
        let oplog = OplogStart::At(ClusterTime::new(409, 1));
        let text = status(&mut rates(begun), Some(&oplog), begun + Duration::from_secs(10), 1_011_500);
        assert_eq!(
            text,
            "31 events · 3.1/s over 10 s · lag 2.5 s · oplog headroom 10 min 0 s · \
             shop.orders 2.0/s (insert 1.0 update 1.0) · shop.items 1.0/s (delete 1.0) · shop 0.1/s (dropDatabase 0.1)"
        );
        let quiet = status(&mut Rates::new(begun), None, begun, 0);
        assert_eq!(quiet, "0 events · 0.0/s over 1 s");
    }

    #[test]
    fn the_summary_adds_up() {
        let begun = Instant::now();
        let text = summary(&rates(begun), begun + Duration::from_secs(10));
        assert!(
            text.starts_with("31 events in 10.0 s (3.1/s), the newest of 1970-01-01T00:16:49Z\n"),
            "{text}"
        );
        let cells = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.trim_start().starts_with(&format!("{name} ")))
                .unwrap_or_default();
            line.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(cells("shop.orders"), ["shop.orders", "10", "10", "0", "0", "0", "20"]);
        assert_eq!(cells("all"), ["all", "10", "10", "0", "10", "1", "31"]);
        assert!(summary(&Rates::new(begun), begun).starts_with("0 events in "));
    }

    #[test]
    fn figures_are_for_people() {
        assert_eq!([grouped(7), grouped(1_234_567), grouped(123_456)], ["7", "1,234,567", "123,456"]);
        assert_eq!(
            [span(59), span(61), span(7_260), span(200_000), span(-5)],
            ["59 s", "1 min 1 s", "2 h 1 min", "2 d 7 h", "-5 s"]
        );
    }
}
