//! The columns of the Parquet files, one table for schema, writer and reader.

use std::sync::Arc;

use parquet::{
    basic::{Compression, ZstdLevel},
    file::{
        metadata::SortingColumn,
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::{
        parser::parse_message_type,
        types::{ColumnPath, TypePtr},
    },
};

use super::edition::{Edition, FORM};

/// In the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    EventId,
    Operation,
    ClusterTime,
    ClusterTimeIncrement,
    WallTime,
    ProcessedAt,
    Source,
    Snapshot,
    Db,
    Coll,
    Lsid,
    TxnNumber,
    DocumentKey,
    FullDocument,
    UpdateDescription,
    FullDocumentBeforeChange,
    Rest,
    KafkaTopic,
    KafkaPartition,
    KafkaOffset,
    KafkaTimestamp,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A text of its own for nearly every row.
    Text,
    /// One of a few texts: written once and numbered.
    Word,
    /// JSON as it stands in the line.
    Json,
    /// Milliseconds since 1970, UTC.
    Instant,
    Long,
    Int,
    Flag,
}

/// One column.
pub(super) struct ColumnSpec {
    pub column: Column,
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
}

const fn optional(column: Column, name: &'static str, kind: Kind) -> ColumnSpec {
    ColumnSpec { column, name, kind, required: false }
}

const fn required(column: Column, name: &'static str, kind: Kind) -> ColumnSpec {
    ColumnSpec { column, name, kind, required: true }
}

pub(super) const COLUMN_COUNT: usize = 21;

pub(super) const COLUMNS: [ColumnSpec; COLUMN_COUNT] = [
    optional(Column::EventId, "event_id", Kind::Text),
    optional(Column::Operation, "operation", Kind::Word),
    optional(Column::ClusterTime, "cluster_time", Kind::Instant),
    optional(Column::ClusterTimeIncrement, "cluster_time_increment", Kind::Int),
    optional(Column::WallTime, "wall_time", Kind::Instant),
    optional(Column::ProcessedAt, "processed_at", Kind::Instant),
    optional(Column::Source, "source", Kind::Word),
    optional(Column::Snapshot, "snapshot", Kind::Flag),
    optional(Column::Db, "db", Kind::Word),
    optional(Column::Coll, "coll", Kind::Word),
    optional(Column::Lsid, "lsid", Kind::Json),
    optional(Column::TxnNumber, "txn_number", Kind::Json),
    optional(Column::DocumentKey, "document_key", Kind::Json),
    optional(Column::FullDocument, "full_document", Kind::Json),
    optional(Column::UpdateDescription, "update_description", Kind::Json),
    optional(Column::FullDocumentBeforeChange, "full_document_before_change", Kind::Json),
    optional(Column::Rest, "rest", Kind::Json),
    required(Column::KafkaTopic, "kafka_topic", Kind::Word),
    required(Column::KafkaPartition, "kafka_partition", Kind::Int),
    required(Column::KafkaOffset, "kafka_offset", Kind::Long),
    optional(Column::KafkaTimestamp, "kafka_timestamp", Kind::Instant),
];

/// A column's number is its place.
const _: () = {
    let mut place = 0;
    while place < COLUMN_COUNT {
        assert!(COLUMNS[place].column as usize == place, "the table is not in the order of the columns");
        place += 1;
    }
};

/// zstd's own default, as for the lake's files.
const ZSTD_LEVEL: i32 = 3;

/// Values that go into a page before its size is looked at: a document may have 16 MB.
const WRITE_BATCH_ROWS: usize = 64;

/// Texts are `STRING`, JSON too: a JSON annotation makes bytes of them in some readers.
pub(super) fn schema() -> TypePtr {
    use std::fmt::Write;
    let mut text = String::from("message event {\n");
    for ColumnSpec { name, kind, required, .. } in &COLUMNS {
        let repetition = if *required { "REQUIRED" } else { "OPTIONAL" };
        let (physical, logical) = match kind {
            Kind::Text | Kind::Word | Kind::Json => ("BINARY", " (STRING)"),
            Kind::Instant => ("INT64", " (TIMESTAMP(MILLIS,true))"),
            Kind::Long => ("INT64", ""),
            Kind::Int => ("INT32", ""),
            Kind::Flag => ("BOOLEAN", ""),
        };
        writeln!(text, "{repetition} {physical} {name}{logical};").expect("writing to a String cannot fail");
    }
    text.push('}');
    Arc::new(parse_message_type(&text).expect("the schema is right"))
}

/// All that decides about bytes is said here, and nothing of it depends on the machine.
pub(super) fn properties(edition: &Edition) -> WriterProperties {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).expect("zstd has this level");
    let mut properties = WriterProperties::builder()
        // The form that readers parse: application, version, build.
        .set_created_by(format!("atlas-lake version {FORM} (build parquet)"))
        .set_key_value_metadata(Some(edition.to_key_values()))
        .set_compression(Compression::ZSTD(level))
        .set_dictionary_enabled(false)
        .set_write_batch_size(WRITE_BATCH_ROWS)
        .set_sorting_columns(Some(vec![ascending(Column::KafkaPartition), ascending(Column::KafkaOffset)]));
    for ColumnSpec { name, kind, .. } in &COLUMNS {
        let path = ColumnPath::from(*name);
        properties = match kind {
            Kind::Word => properties.set_column_dictionary_enabled(path, true),
            // The least and the greatest of texts that all begin with a brace help nobody.
            Kind::Json => properties.set_column_statistics_enabled(path, EnabledStatistics::None),
            Kind::Text | Kind::Instant | Kind::Long | Kind::Int | Kind::Flag => properties,
        };
    }
    properties.build()
}

fn ascending(column: Column) -> SortingColumn {
    SortingColumn { column_idx: column as i32, descending: false, nulls_first: false }
}
