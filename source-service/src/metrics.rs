//! Every metric of the source, by name and meaning. Handles are cached: nothing is looked up per event.

use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use shared::{cluster_time::ClusterTime, dead_letter::DeadLetterReason, exit::ExitCode};

use crate::{
    envelope::Operation,
    field_policy::{Action, HiddenCounts},
    gap_marker::GapReason,
    snapshot::plan::Progress,
};

const EVENTS: &str = "cdc_source_events_total";
const EVENT_BYTES: &str = "cdc_source_event_bytes_total";
const TRANSACTIONS: &str = "cdc_source_transactions_total";
const TRANSACTION_SECONDS: &str = "cdc_source_transaction_duration_seconds";
const EVENT_AGE: &str = "cdc_source_event_age_seconds";
const STREAM_UP: &str = "cdc_source_stream_up";
const OPLOG_START: &str = "cdc_source_oplog_start_timestamp_seconds";
const RESTARTS: &str = "cdc_source_restarts_total";
const PRODUCERS: &str = "cdc_source_producer_recreated_total";
const TOKEN_TIME: &str = "cdc_source_resume_token_timestamp_seconds";
const HEADROOM: &str = "cdc_source_retention_headroom_seconds";
const SKIPPED: &str = "cdc_source_duplicates_skipped_total";
const REPAIRED: &str = "cdc_source_repaired_texts_total";
const GAPS: &str = "cdc_source_gaps_total";
const OVERSIZE: &str = "cdc_source_oversize_events_total";
const FIELDS_HIDDEN: &str = "cdc_source_fields_hidden_total";
const BROKER_CHECK_SKIPPED: &str = "cdc_source_broker_check_skipped";
const DEAD_LETTERS: &str = "cdc_dlq_records_total";
const ERRORS: &str = "cdc_errors_total";
const SNAPSHOT_ROWS: &str = "cdc_source_snapshot_rows";
const SNAPSHOT_ESTIMATE: &str = "cdc_source_snapshot_rows_estimate";
const SNAPSHOT_LEFT: &str = "cdc_source_snapshot_collections_left";
const SNAPSHOT_ETA: &str = "cdc_source_snapshot_eta_seconds";

/// Collections with series of their own; further ones share `db="other", coll="other"`.
pub const NAMESPACES_MAX: usize = 500;

/// Help texts. Once, after the recorder is installed.
pub fn describe() {
    describe_counter!(EVENTS, Unit::Count, "Change events committed to Kafka, by collection and operation.");
    describe_counter!(
        EVENT_BYTES,
        Unit::Bytes,
        "Bytes of keys and values committed to Kafka, before compression."
    );
    describe_counter!(
        TRANSACTIONS,
        Unit::Count,
        "Kafka transactions, by outcome: committed, or doubt (recovery decides)."
    );
    describe_histogram!(TRANSACTION_SECONDS, Unit::Seconds, "From begin to the end of the commit.");
    describe_histogram!(
        EVENT_AGE,
        Unit::Seconds,
        "From MongoDB's wall time to committed in Kafka, of the oldest event of each batch."
    );
    describe_gauge!(STREAM_UP, Unit::Count, "1 while the change stream is open and answers.");
    describe_counter!(
        RESTARTS,
        Unit::Count,
        "Times that the change stream had to be opened again, by reason."
    );
    describe_counter!(
        PRODUCERS,
        Unit::Count,
        "Times that a new transactional producer was taken after a doubt, by reason."
    );
    describe_gauge!(
        TOKEN_TIME,
        Unit::Seconds,
        "Cluster time of the committed resume token, in Unix seconds; it moves while the stream is idle too."
    );
    describe_gauge!(
        HEADROOM,
        Unit::Seconds,
        "How much older the oldest event of the last batch may still get before its topic's retention takes it."
    );
    describe_counter!(
        SKIPPED,
        Unit::Count,
        "Events that a recovery found to be committed already, and that were not sent again."
    );
    describe_counter!(REPAIRED, Unit::Count, "Texts with invalid UTF-8, whose bad bytes became U+FFFD.");
    describe_counter!(
        GAPS,
        Unit::Count,
        "Gaps in the published changes that were gone on behind, by reason; each has a marker in the control topic."
    );
    counter!(GAPS, "reason" => GapReason::PositionLost.as_str()).absolute(0);
    describe_counter!(
        OVERSIZE,
        Unit::Count,
        "Events published without their documents, by what they were too large for: event (a reply of MongoDB) or record (their topic)."
    );
    for reason in ["event", "record"] {
        counter!(OVERSIZE, "reason" => reason).absolute(0);
    }
    describe_counter!(
        FIELDS_HIDDEN,
        Unit::Count,
        "Fields that FIELD_POLICY_FILE hid in committed events, by what was done: hash, mask or drop."
    );
    describe_gauge!(
        BROKER_CHECK_SKIPPED,
        Unit::Count,
        "1 while BROKER_CHECK=skip leaves the brokers unchecked."
    );
    describe_counter!(DEAD_LETTERS, Unit::Count, "Events sent to the dead-letter topic, by reason.");
    for reason in
        [DeadLetterReason::UnreadableEvent, DeadLetterReason::IncompleteEvent, DeadLetterReason::Oversize]
    {
        counter!(DEAD_LETTERS, "reason" => reason.as_str()).absolute(0);
    }
    describe_gauge!(SNAPSHOT_ROWS, Unit::Count, "Rows that the snapshot has copied, over all runs.");
    describe_gauge!(
        SNAPSHOT_ESTIMATE,
        Unit::Count,
        "Rows that the snapshot will have copied in the end, as MongoDB estimates."
    );
    describe_gauge!(
        SNAPSHOT_LEFT,
        Unit::Count,
        "Collections that the snapshot has not copied whole yet; 0 if there is nothing to copy."
    );
    describe_gauge!(
        SNAPSHOT_ETA,
        Unit::Seconds,
        "How long the snapshot will still take at the pace of this run; 0 if nothing is left or not known."
    );
    describe_counter!(ERRORS, Unit::Count, "Errors, by stage and type.");
    // A series that first appears with an error has no increase to be seen.
    for code in [ExitCode::PositionLost, ExitCode::NotAllowed, ExitCode::Configuration, ExitCode::Unreachable]
    {
        counter!(ERRORS, "stage" => "stream", "type" => stop_class(code)).absolute(0);
    }
    describe_gauge!(
        OPLOG_START,
        Unit::Seconds,
        "Cluster time of the first entry of MongoDB's oplog, in Unix seconds, asked every minute. What the position is ahead of it is the headroom; absent if it may not be read."
    );
}

/// An error that was handled or ends the process. Both labels are bounded sets.
pub fn error(stage: &'static str, kind: &'static str) {
    counter!(ERRORS, "stage" => stage, "type" => kind).increment(1);
}

/// The stream ended with what it does not heal from by itself.
pub fn stream_stopped(code: ExitCode) {
    error("stream", stop_class(code));
}

const fn stop_class(code: ExitCode) -> &'static str {
    match code {
        ExitCode::PositionLost => "position-lost",
        ExitCode::NotAllowed => "not-allowed",
        ExitCode::Configuration => "configuration",
        ExitCode::Unreachable => "unreachable",
        _ => "defect",
    }
}

/// The reader of the control topic sees the marker, the operator this.
pub fn gap(reason: GapReason) {
    counter!(GAPS, "reason" => reason.as_str()).increment(1);
}

pub fn broker_check_skipped(skipped: bool) {
    gauge!(BROKER_CHECK_SKIPPED).set(if skipped { 1.0 } else { 0.0 });
}

/// The reader's.
#[derive(Clone)]
pub struct StreamMetrics {
    up: Gauge,
}

impl Default for StreamMetrics {
    fn default() -> Self {
        let up = gauge!(STREAM_UP);
        up.set(0.0);
        Self { up }
    }
}

impl StreamMetrics {
    pub fn up(&self, up: bool) {
        self.up.set(if up { 1.0 } else { 0.0 });
    }

    /// One that MongoDB could send only without its documents.
    pub fn oversize_event(&self) {
        counter!(OVERSIZE, "reason" => "event").increment(1);
    }

    /// Of the oplog's first entry.
    pub fn oplog_start(&self, time: ClusterTime) {
        gauge!(OPLOG_START).set(f64::from(time.seconds));
    }

    pub fn restarted(&self, reason: &'static str) {
        counter!(RESTARTS, "reason" => reason).increment(1);
    }
}

/// The pump's.
pub struct PumpMetrics {
    bytes: Counter,
    committed: Counter,
    doubts: Counter,
    transaction_seconds: Histogram,
    event_age: Histogram,
    token_time: Gauge,
    headroom: Gauge,
    skipped: Counter,
    repaired: Counter,
    hidden: [(Action, Counter); 3],
}

impl Default for PumpMetrics {
    fn default() -> Self {
        Self {
            bytes: counter!(EVENT_BYTES),
            committed: counter!(TRANSACTIONS, "outcome" => "committed"),
            doubts: counter!(TRANSACTIONS, "outcome" => "doubt"),
            transaction_seconds: histogram!(TRANSACTION_SECONDS),
            event_age: histogram!(EVENT_AGE),
            token_time: gauge!(TOKEN_TIME),
            headroom: gauge!(HEADROOM),
            skipped: counter!(SKIPPED),
            repaired: counter!(REPAIRED),
            hidden: Action::ALL.map(|action| (action, counter!(FIELDS_HIDDEN, "action" => action.as_str()))),
        }
    }
}

/// What one committed transaction held.
#[derive(Clone, Debug, Default)]
pub struct BatchFigures {
    pub bytes: u64,
    pub skipped: u64,
    pub repaired: u64,
    pub hidden: HiddenCounts,
    /// Of the oldest event, from MongoDB's wall time to the commit.
    pub age_seconds: Option<f64>,
    pub headroom_seconds: Option<f64>,
    pub dead_letters: Vec<DeadLetterReason>,
    /// Events that were too large for their topic.
    pub stubs: u64,
    pub seconds: f64,
}

impl PumpMetrics {
    pub fn batch_committed(&self, figures: &BatchFigures) {
        self.committed.increment(1);
        self.bytes.increment(figures.bytes);
        self.skipped.increment(figures.skipped);
        self.repaired.increment(figures.repaired);
        for (action, counter) in &self.hidden {
            counter.increment(figures.hidden.of(*action).into());
        }
        self.transaction_seconds.record(figures.seconds);
        if let Some(age) = figures.age_seconds {
            self.event_age.record(age);
        }
        if figures.stubs > 0 {
            counter!(OVERSIZE, "reason" => "record").increment(figures.stubs);
        }
        for reason in &figures.dead_letters {
            counter!(DEAD_LETTERS, "reason" => reason.as_str()).increment(1);
        }
        if let Some(headroom) = figures.headroom_seconds {
            self.headroom.set(headroom);
        }
    }

    pub fn position(&self, seconds: u32) {
        self.token_time.set(f64::from(seconds));
    }

    pub fn snapshot(&self, progress: Progress, eta: Option<Duration>) {
        #[expect(clippy::cast_precision_loss, reason = "a metric; exact up to 2^53 rows")]
        let number = |count: u64| count as f64;
        gauge!(SNAPSHOT_ROWS).set(number(progress.rows));
        gauge!(SNAPSHOT_ESTIMATE).set(number(progress.estimate));
        gauge!(SNAPSHOT_LEFT).set(number((progress.collections - progress.collections_done) as u64));
        gauge!(SNAPSHOT_ETA).set(eta.map_or(0.0, |eta| eta.as_secs_f64()));
    }

    pub fn doubt(&self, reason: &'static str) {
        self.doubts.increment(1);
        counter!(PRODUCERS, "reason" => reason).increment(1);
    }
}

/// Operations with a series of their own; what a later server invents is counted as `other`.
const OPERATIONS: [&str; 6] = ["insert", "update", "replace", "delete", "other", "snapshot"];

/// Counts one collection's events of the open transaction; they become visible with its commit.
pub struct EventCounters {
    pending: [u64; OPERATIONS.len()],
    counters: [Counter; OPERATIONS.len()],
}

impl EventCounters {
    pub fn new(db: &str, coll: &str) -> Self {
        let counters = OPERATIONS
            .map(|op| counter!(EVENTS, "db" => db.to_owned(), "coll" => coll.to_owned(), "op" => op));
        Self { pending: [0; OPERATIONS.len()], counters }
    }

    pub fn count(&mut self, operation: Operation<'_>, snapshot: bool) {
        let index = match operation {
            _ if snapshot => 5,
            Operation::Insert => 0,
            Operation::Update => 1,
            Operation::Replace => 2,
            Operation::Delete => 3,
            _ => 4,
        };
        self.pending[index] += 1;
    }

    /// Returns how many were pending.
    pub fn committed(&mut self) -> u64 {
        let mut sum = 0;
        for (pending, counter) in self.pending.iter_mut().zip(&self.counters) {
            let count = std::mem::take(pending);
            if count > 0 {
                counter.increment(count);
                sum += count;
            }
        }
        sum
    }

    pub fn discarded(&mut self) {
        self.pending = [0; OPERATIONS.len()];
    }
}
