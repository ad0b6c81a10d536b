//! Rows into row groups, and a finished file read back.
//!
//! A row group ends before the row that would be its 131,073rd, or that would bring its lines over 64 MiB; a longer line has one of its
//! own. One row group is in memory at a time.

use std::{fs::File, mem, sync::Arc};

use parquet::{
    column::{
        reader::{ColumnReader, ColumnReaderImpl},
        writer::ColumnWriter,
    },
    data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int32Type, Int64Type},
    errors::ParquetError,
    file::{
        reader::{FileReader, RowGroupReader},
        serialized_reader::SerializedFileReader,
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
};

use super::{
    columns::{COLUMN_COUNT, COLUMNS, ColumnSpec, Kind, properties, schema},
    edition::Edition,
    row::{Cell, Row},
};
use crate::file_metadata::{LineCrc, LineCrcBuilder};

const GROUP_ROWS_MAX: u64 = 128 * 1024;

/// Bytes of lines, before compression.
const GROUP_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Values that are read at a time.
const READ_BATCH_ROWS: usize = 1024;

/// What a file holds: as it was written, and as it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub rows: u64,
    pub row_groups: u64,
    /// Of each column's values, in their order, the absent ones included.
    columns: Vec<LineCrc>,
}

/// Writes rows in their order.
pub(super) struct EventFile {
    writer: SerializedFileWriter<File>,
    columns: Vec<ColumnBuffer>,
    group_rows: u64,
    group_bytes: u64,
    rows: u64,
    row_groups: u64,
}

impl EventFile {
    pub(super) fn begin(file: File, edition: &Edition) -> Result<Self, ParquetError> {
        Ok(Self {
            writer: SerializedFileWriter::new(file, schema(), Arc::new(properties(edition)))?,
            columns: COLUMNS.iter().map(ColumnBuffer::new).collect(),
            group_rows: 0,
            group_bytes: 0,
            rows: 0,
            row_groups: 0,
        })
    }

    /// `line_bytes`: how long the row's line is.
    pub(super) fn push(&mut self, row: Row, line_bytes: u64) -> Result<(), ParquetError> {
        let is_full = self.group_rows == GROUP_ROWS_MAX || self.group_bytes + line_bytes > GROUP_BYTES_MAX;
        if is_full && self.group_rows > 0 {
            self.write_group()?;
        }
        for (column, cell) in self.columns.iter_mut().zip(row.0) {
            column.push(cell);
        }
        self.group_rows += 1;
        self.group_bytes += line_bytes;
        self.rows += 1;
        Ok(())
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let mut group = self.writer.next_row_group()?;
        for column in &mut self.columns {
            let mut writer = group
                .next_column()?
                .ok_or_else(|| ParquetError::General("a column is missing".to_owned()))?;
            column.write(&mut writer)?;
            writer.close()?;
        }
        group.close()?;
        (self.group_rows, self.group_bytes) = (0, 0);
        self.row_groups += 1;
        Ok(())
    }

    /// Everything is handed to the file; it is not synced.
    pub(super) fn finish(mut self) -> Result<Content, ParquetError> {
        if self.group_rows > 0 {
            self.write_group()?;
        }
        self.writer.close()?;
        let columns = self.columns.iter().map(|column| column.digest.finish()).collect();
        Ok(Content { rows: self.rows, row_groups: self.row_groups, columns })
    }
}

/// What a finished file holds, and of which edition it says that it is.
pub(super) fn read_back(file: File) -> Result<(Content, Option<Edition>), ParquetError> {
    let reader = SerializedFileReader::new(file)?;
    let metadata = reader.metadata();
    let facts = metadata.file_metadata().key_value_metadata();
    let edition = facts.and_then(|facts| Edition::from_key_values(facts));
    let mut digests: [LineCrcBuilder; COLUMN_COUNT] = Default::default();
    let mut rows = 0;
    for number in 0..reader.num_row_groups() {
        let group = reader.get_row_group(number)?;
        let group_rows = u64::try_from(group.metadata().num_rows())?;
        for (place, (spec, digest)) in COLUMNS.iter().zip(&mut digests).enumerate() {
            let values = read_column(&*group, place, spec, digest)?;
            if values != group_rows {
                let what = format!("{} has {values} values for {group_rows} rows", spec.name);
                return Err(ParquetError::General(what));
            }
        }
        rows += group_rows;
    }
    let columns = digests.iter().map(LineCrcBuilder::finish).collect();
    Ok((Content { rows, row_groups: reader.num_row_groups() as u64, columns }, edition))
}

/// A column of the row group in the making.
struct ColumnBuffer {
    required: bool,
    /// 1 where there is a value, 0 where there is none.
    levels: Vec<i16>,
    values: Values,
    digest: LineCrcBuilder,
}

enum Values {
    Texts(Vec<ByteArray>),
    Longs(Vec<i64>),
    Ints(Vec<i32>),
    Flags(Vec<bool>),
}

impl ColumnBuffer {
    fn new(spec: &ColumnSpec) -> Self {
        let values = match spec.kind {
            Kind::Text | Kind::Word | Kind::Json => Values::Texts(Vec::new()),
            Kind::Instant | Kind::Long => Values::Longs(Vec::new()),
            Kind::Int => Values::Ints(Vec::new()),
            Kind::Flag => Values::Flags(Vec::new()),
        };
        Self { required: spec.required, levels: Vec::new(), values, digest: LineCrcBuilder::new() }
    }

    fn push(&mut self, cell: Option<Cell>) {
        self.levels.push(i16::from(cell.is_some()));
        let Some(cell) = cell else { return digest_absent(&mut self.digest) };
        match (&mut self.values, cell) {
            (Values::Texts(values), Cell::Text(text)) => {
                digest_value(&mut self.digest, &text);
                values.push(text.into());
            }
            (Values::Longs(values), Cell::Long(value)) => {
                digest_value(&mut self.digest, &value.to_le_bytes());
                values.push(value);
            }
            (Values::Ints(values), Cell::Int(value)) => {
                digest_value(&mut self.digest, &value.to_le_bytes());
                values.push(value);
            }
            (Values::Flags(values), Cell::Flag(value)) => {
                digest_value(&mut self.digest, &[u8::from(value)]);
                values.push(value);
            }
            (_, cell) => unreachable!("{cell:?} is not of its column's type"),
        }
    }

    fn write(&mut self, writer: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let levels = mem::take(&mut self.levels);
        let levels = (!self.required).then_some(levels.as_slice());
        match (&mut self.values, writer.untyped()) {
            (Values::Texts(values), ColumnWriter::ByteArrayColumnWriter(writer)) => {
                writer.write_batch(&mem::take(values), levels, None)?;
            }
            (Values::Longs(values), ColumnWriter::Int64ColumnWriter(writer)) => {
                writer.write_batch(&mem::take(values), levels, None)?;
            }
            (Values::Ints(values), ColumnWriter::Int32ColumnWriter(writer)) => {
                writer.write_batch(&mem::take(values), levels, None)?;
            }
            (Values::Flags(values), ColumnWriter::BoolColumnWriter(writer)) => {
                writer.write_batch(&mem::take(values), levels, None)?;
            }
            _ => unreachable!("the schema is made of the same table"),
        }
        Ok(())
    }
}

/// How many rows a row group has in this column; its values go into the digest.
fn read_column(
    group: &dyn RowGroupReader,
    place: usize,
    spec: &ColumnSpec,
    digest: &mut LineCrcBuilder,
) -> Result<u64, ParquetError> {
    match group.get_column_reader(place)? {
        ColumnReader::ByteArrayColumnReader(reader) => {
            read_values::<ByteArrayType>(reader, spec, digest, |digest, text| {
                digest_value(digest, text.data())
            })
        }
        ColumnReader::Int64ColumnReader(reader) => {
            read_values::<Int64Type>(reader, spec, digest, |digest, value| {
                digest_value(digest, &value.to_le_bytes());
            })
        }
        ColumnReader::Int32ColumnReader(reader) => {
            read_values::<Int32Type>(reader, spec, digest, |digest, value| {
                digest_value(digest, &value.to_le_bytes());
            })
        }
        ColumnReader::BoolColumnReader(reader) => {
            read_values::<BoolType>(reader, spec, digest, |digest, value| {
                digest_value(digest, &[u8::from(*value)]);
            })
        }
        _ => Err(ParquetError::General(format!("{} is of another type", spec.name))),
    }
}

fn read_values<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    spec: &ColumnSpec,
    digest: &mut LineCrcBuilder,
    value: impl Fn(&mut LineCrcBuilder, &T::T),
) -> Result<u64, ParquetError> {
    let mut rows = 0;
    loop {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (read, _, _) = reader.read_records(READ_BATCH_ROWS, Some(&mut levels), None, &mut values)?;
        if read == 0 {
            return Ok(rows);
        }
        rows += read as u64;
        let mut values = values.iter();
        if spec.required {
            values.for_each(|each| value(digest, each));
        } else {
            for level in levels {
                match level {
                    0 => digest_absent(digest),
                    _ => value(
                        digest,
                        values.next().ok_or(ParquetError::EOF("a value is missing".to_owned()))?,
                    ),
                }
            }
        }
    }
}

fn digest_absent(digest: &mut LineCrcBuilder) {
    digest.update(&[0]);
}

/// With its length in front, so that no two sequences of values are the same bytes.
fn digest_value(digest: &mut LineCrcBuilder, bytes: &[u8]) {
    digest.update(&[1]);
    digest.update(&(bytes.len() as u64).to_le_bytes());
    digest.update(bytes);
}

#[cfg(test)]
mod tests;
