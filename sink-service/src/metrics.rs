//! Every metric of the sink: its name, its labels, its help text.
//!
//! Call sites say what happened; how it is counted stands here. Labels are bounded: reasons and outcomes are enums,
//! topics and partitions are what this process was assigned. Counted once per flush or poll round, never per record.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use shared::{dead_letter::DeadLetterReason, kafka_position::TopicPartition};

use crate::{chain::RollReason, lake::LakeError, publish::Dependency};

const RECORDS: &str = "cdc_sink_records_total";
const REPEATS: &str = "cdc_sink_repeats_total";
const BYTES: &str = "cdc_sink_bytes_total";
const FLUSHES: &str = "cdc_sink_flushes_total";
const FLUSH_DURATION: &str = "cdc_sink_flush_duration_seconds";
const FILES_CREATED: &str = "cdc_sink_files_created_total";
const FILES_SEALED: &str = "cdc_sink_files_sealed_total";
const EVENT_AGE: &str = "cdc_sink_event_age_seconds";
const BUFFERED: &str = "cdc_sink_buffered_seconds";
const PARTITION_LAG: &str = "cdc_sink_partition_lag_records";
const OLDEST_UNPUBLISHED: &str = "cdc_sink_oldest_unpublished_timestamp_seconds";
const LAST_EVENT: &str = "cdc_sink_last_event_timestamp_seconds";
const HOUR_ENDS: &str = "cdc_sink_hour_ends_total";
const CLOSED_HOUR: &str = "cdc_sink_closed_hour_end_timestamp_seconds";
const HOUR_REVISIONS: &str = "cdc_sink_manifest_revisions_total";
const LATE_ROWS: &str = "cdc_sink_late_rows_total";
const CONFLICTS: &str = "cdc_sink_publish_conflicts_total";
const STORAGE_REQUESTS: &str = "cdc_sink_storage_requests_total";
const LAKE_UP: &str = "cdc_sink_lake_up";
const LAKE_FAILS_SINCE: &str = "cdc_sink_lake_fails_since_timestamp_seconds";
const RETRIES: &str = "cdc_retries_total";
const DEAD_LETTERS: &str = "cdc_dlq_records_total";
const DEAD_LETTER_RATIO: &str = "cdc_sink_dead_letter_ratio";
const ERRORS: &str = "cdc_errors_total";
const REBALANCES: &str = "cdc_sink_rebalances_total";
const COMMITS: &str = "cdc_sink_commits_total";
const BUFFER_BYTES: &str = "cdc_sink_buffer_bytes";
const MEMORY_LIMIT: &str = "cdc_sink_memory_limit_bytes";
const ASSIGNED: &str = "cdc_sink_assigned_partitions";
const PAUSED: &str = "cdc_sink_paused_partitions";

/// Handles of the metrics without variable labels.
pub struct SinkMetrics {
    bytes_original: Counter,
    bytes_stored: Counter,
    flushes: Counter,
    flush_duration: Histogram,
    files_created: Counter,
    event_age: Histogram,
    buffered: Histogram,
    conflicts: Counter,
    lost_replies: Counter,
    commits_ok: Counter,
    commits_failed: Counter,
    hour_ends: Counter,
    hour_revisions: Counter,
    late_rows: Counter,
    buffer_bytes: Gauge,
    memory_limit: Gauge,
    assigned: Gauge,
    paused: Gauge,
    dead_letter_ratio: Gauge,
    lake_up: Gauge,
    lake_fails_since: Gauge,
}

impl SinkMetrics {
    /// Describes all metrics and makes those that must read 0 before anything happened.
    pub fn register() -> Self {
        describe();
        for reason in RollReason::ALL {
            counter!(FILES_SEALED, "reason" => reason.as_str()).absolute(0);
        }
        for reason in DeadLetterReason::ALL {
            counter!(DEAD_LETTERS, "reason" => reason.as_str()).absolute(0);
        }
        for dependency in Dependency::ALL {
            counter!(RETRIES, "op" => dependency.as_str()).absolute(0);
        }
        for (stage, kind) in [("consume", "client"), ("consume", "pause"), ("publish", "halt")] {
            counter!(ERRORS, "stage" => stage, "type" => kind).absolute(0);
        }
        for kind in ["assign", "revoke", "lost"] {
            counter!(REBALANCES, "kind" => kind).absolute(0);
        }
        let metrics = Self {
            bytes_original: counter!(BYTES, "kind" => "original"),
            bytes_stored: counter!(BYTES, "kind" => "stored"),
            flushes: counter!(FLUSHES, "outcome" => "ok"),
            flush_duration: histogram!(FLUSH_DURATION),
            files_created: counter!(FILES_CREATED),
            event_age: histogram!(EVENT_AGE),
            buffered: histogram!(BUFFERED),
            conflicts: counter!(CONFLICTS, "kind" => "refused"),
            lost_replies: counter!(CONFLICTS, "kind" => "lost-reply"),
            commits_ok: counter!(COMMITS, "outcome" => "sent"),
            commits_failed: counter!(COMMITS, "outcome" => "failed"),
            hour_ends: counter!(HOUR_ENDS),
            hour_revisions: counter!(HOUR_REVISIONS),
            late_rows: counter!(LATE_ROWS),
            buffer_bytes: gauge!(BUFFER_BYTES),
            memory_limit: gauge!(MEMORY_LIMIT),
            assigned: gauge!(ASSIGNED),
            paused: gauge!(PAUSED),
            dead_letter_ratio: gauge!(DEAD_LETTER_RATIO),
            lake_up: gauge!(LAKE_UP),
            lake_fails_since: gauge!(LAKE_FAILS_SINCE),
        };
        for counter in [
            &metrics.bytes_original,
            &metrics.bytes_stored,
            &metrics.flushes,
            &metrics.files_created,
            &metrics.conflicts,
            &metrics.lost_replies,
            &metrics.commits_ok,
            &metrics.commits_failed,
            &metrics.hour_ends,
            &metrics.hour_revisions,
            &metrics.late_rows,
        ] {
            counter.absolute(0);
        }
        metrics
    }

    /// An append, a create or a recommit went through.
    /// `lines` and `stored` are bytes, before and after packing.
    pub fn flushed(&self, lines: u64, stored: usize, roll: Option<RollReason>, took: Duration) {
        self.flushes.increment(1);
        self.flush_duration.record(took);
        self.bytes_original.increment(lines);
        self.bytes_stored.increment(stored as u64);
        if let Some(reason) = roll {
            counter!(FILES_SEALED, "reason" => reason.as_str()).increment(1);
        }
    }

    pub fn file_created(&self) {
        self.files_created.increment(1);
    }

    /// A step that was refused, or whose reply was lost.
    pub fn publish_conflict(&self, error: &LakeError) {
        match error {
            LakeError::Unknown { .. } => self.lost_replies.increment(1),
            _ => self.conflicts.increment(1),
        }
    }

    pub fn storage_request(&self, operation: &'static str, error: Option<&LakeError>) {
        let outcome = match error {
            None => "ok",
            Some(LakeError::Conflict) => "conflict",
            Some(LakeError::Unknown { .. }) => "unknown",
            Some(LakeError::Unavailable { .. }) => "unavailable",
            Some(LakeError::Denied { .. }) => "denied",
            Some(LakeError::Refused { .. }) => "refused",
            Some(LakeError::Damaged { .. }) => "damaged",
            Some(LakeError::Foreign { .. }) => "foreign",
        };
        counter!(STORAGE_REQUESTS, "op" => operation, "outcome" => outcome).increment(1);
    }

    pub fn retry(&self, on: Dependency) {
        counter!(RETRIES, "op" => on.as_str()).increment(1);
    }

    /// Since when writes to the lake fail; `None` while none does.
    pub fn lake(&self, fails_since: Option<DateTime<Utc>>) {
        self.lake_up.set(if fails_since.is_none() { 1.0 } else { 0.0 });
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.lake_fails_since.set(fails_since.map_or(0.0, |since| since.timestamp() as f64));
    }

    pub fn dead_letter(&self, reason: DeadLetterReason) {
        counter!(DEAD_LETTERS, "reason" => reason.as_str()).increment(1);
    }

    /// In the breaker's window.
    pub fn dead_letter_ratio(&self, ratio: f64) {
        self.dead_letter_ratio.set(ratio);
    }

    pub fn error(&self, stage: &'static str, kind: &'static str) {
        counter!(ERRORS, "stage" => stage, "type" => kind).increment(1);
    }

    pub fn rebalanced(&self, kind: &'static str, assigned: usize) {
        counter!(REBALANCES, "kind" => kind).increment(1);
        self.assigned.set(count(assigned));
    }

    pub fn committed(&self, ok: bool) {
        if ok { self.commits_ok.increment(1) } else { self.commits_failed.increment(1) }
    }

    /// A batch became durable; its oldest record was read `buffered` ago.
    pub fn durable(&self, buffered: Duration) {
        self.buffered.record(buffered);
    }

    /// How long ago, by our clock, the oldest row of a batch happened in MongoDB; whole seconds, as cluster time is.
    pub fn event_age(&self, seconds: u32) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.event_age.record(now.saturating_sub(Duration::from_secs(seconds.into())));
    }

    /// An hour has closed; it ended then, in seconds since 1970.
    pub fn hour_closed(&self, topic: &str, ended: i64) {
        self.hour_ends.increment(1);
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        gauge!(CLOSED_HOUR, "topic" => topic.to_owned()).set(ended as f64);
    }

    /// The manifest of an hour that had closed was corrected, by so many rows.
    pub fn hour_revised(&self, late_rows: u64) {
        self.hour_revisions.increment(1);
        self.late_rows.increment(late_rows);
    }

    pub fn memory(&self, used: usize, limit: usize, paused: usize) {
        self.buffer_bytes.set(count(used));
        self.memory_limit.set(count(limit));
        self.paused.set(count(paused));
    }
}

/// Handles of one partition's metrics.
pub struct PartitionMetrics {
    records: Counter,
    repeats: Counter,
    lag: Gauge,
    oldest_unpublished: Gauge,
    last_event: Gauge,
}

impl PartitionMetrics {
    pub fn of(partition: &TopicPartition) -> Self {
        let topic = partition.topic.to_string();
        let number = partition.partition.to_string();
        let metrics = Self {
            records: counter!(RECORDS, "topic" => topic.clone()),
            repeats: counter!(REPEATS, "topic" => topic.clone()),
            lag: gauge!(PARTITION_LAG, "topic" => topic.clone(), "partition" => number.clone()),
            oldest_unpublished: gauge!(OLDEST_UNPUBLISHED, "topic" => topic.clone(), "partition" => number),
            last_event: gauge!(LAST_EVENT, "topic" => topic),
        };
        metrics.records.increment(0);
        metrics.repeats.increment(0);
        metrics
    }

    pub fn records(&self, count: u64) {
        self.records.increment(count);
    }

    /// A record of an event that the partition has already.
    pub fn repeat(&self) {
        self.repeats.increment(1);
    }

    pub fn lag(&self, records: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.lag.set(records as f64);
    }

    /// When the oldest record that is not durable was read; `None` if everything is durable.
    pub fn oldest_unpublished(&self, age: Option<Duration>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.oldest_unpublished.set(age.map_or(0.0, |age| now.saturating_sub(age).as_secs_f64()));
    }

    pub fn last_event(&self, seconds: u32) {
        self.last_event.set(f64::from(seconds));
    }

    /// The partition is no longer ours: what it was is not what it is.
    pub fn retire(&self) {
        self.lag.set(0.0);
        self.oldest_unpublished.set(0.0);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge")]
fn count(value: usize) -> f64 {
    value as f64
}

fn describe() {
    describe_counter!(RECORDS, "Records read from Kafka, by topic");
    describe_counter!(REPEATS, "Records of events that their partition has already: passed over, by topic");
    describe_counter!(BYTES, Unit::Bytes, "Bytes published to the lake, before and after compression");
    describe_counter!(FLUSHES, "Publishing steps on data files that went through");
    describe_histogram!(FLUSH_DURATION, Unit::Seconds, "Time that one publishing step on a data file took");
    describe_counter!(FILES_CREATED, "Data files created");
    describe_counter!(FILES_SEALED, "Data files sealed, by what ended them");
    describe_histogram!(
        EVENT_AGE,
        Unit::Seconds,
        "Age of a flush's oldest row when it became durable, by cluster time"
    );
    describe_histogram!(
        BUFFERED,
        Unit::Seconds,
        "Time from reading a flush's oldest record to its being durable"
    );
    describe_gauge!(PARTITION_LAG, "Records between what is durable and the end of the partition");
    describe_gauge!(
        OLDEST_UNPUBLISHED,
        Unit::Seconds,
        "When the oldest record that is not durable was read; 0 = none"
    );
    describe_gauge!(LAST_EVENT, Unit::Seconds, "Cluster time of the newest durable row, by topic");
    describe_counter!(HOUR_ENDS, "Hours closed: manifest and _SUCCESS written");
    describe_gauge!(CLOSED_HOUR, Unit::Seconds, "End of the last hour that was closed here, by topic");
    describe_counter!(HOUR_REVISIONS, "Manifests corrected after their hour had closed");
    describe_counter!(LATE_ROWS, "Rows that came to an hour after it had closed");
    describe_counter!(
        CONFLICTS,
        "Publishing steps that were refused or whose reply was lost, and were read back"
    );
    describe_counter!(STORAGE_REQUESTS, "Writing requests to the lake, by operation and outcome");
    describe_gauge!(LAKE_UP, "Whether the lake takes what is written: 0 while any partition waits for it");
    describe_gauge!(LAKE_FAILS_SINCE, Unit::Seconds, "Since when writes to the lake fail; 0 = they do not");
    describe_counter!(RETRIES, "Attempts repeated because a dependency was not available");
    describe_counter!(DEAD_LETTERS, "Records sent to the dead-letter topic, by reason");
    describe_gauge!(
        DEAD_LETTER_RATIO,
        "Share of dead letters among the last records; above DLQ_MAX_RATIO the sink stops"
    );
    describe_counter!(ERRORS, "Errors, by stage and type");
    describe_counter!(REBALANCES, "Changes of the assignment");
    describe_counter!(COMMITS, "Commits of Kafka offsets: sent, or failed to be sent");
    describe_gauge!(BUFFER_BYTES, Unit::Bytes, "Memory that records hold which are not yet durable");
    describe_gauge!(MEMORY_LIMIT, Unit::Bytes, "MEMORY_LIMIT");
    describe_gauge!(ASSIGNED, "Partitions assigned to this process");
    describe_gauge!(PAUSED, "Partitions paused for memory");
}
