//! Reads the CSV files of nycflights13: a header, no quotes, `NA` where nothing is known.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use mongodb::bson;

/// A whole file in memory.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// One row and the names of its columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    columns: &'a [String],
    cells: &'a [String],
}

impl Table {
    /// # Errors
    /// If the file cannot be read, or a row has not as many cells as the header.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
        let columns = lines.next().with_context(|| format!("{} is empty", path.display()))?;
        let rows: Vec<Vec<String>> = lines.collect();
        anyhow::ensure!(
            rows.iter().all(|row| row.len() == columns.len()),
            "{}: a row has not {} cells",
            path.display(),
            columns.len()
        );
        Ok(Self { columns, rows })
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|cells| Row { columns: &self.columns, cells })
    }
}

impl<'a> Row<'a> {
    /// The cell of a column; `None` for `NA`.
    ///
    /// # Errors
    /// If there is no such column.
    pub(crate) fn text(self, column: &str) -> Result<Option<&'a str>> {
        let index = self.columns.iter().position(|own| own == column);
        let cell = &self.cells[index.with_context(|| format!("no column {column}"))?];
        Ok((cell != "NA").then_some(cell))
    }

    /// # Errors
    /// If the cell is `NA`.
    pub(crate) fn known(self, column: &str) -> Result<&'a str> {
        self.text(column)?.with_context(|| format!("{column} is NA"))
    }

    /// A whole number; `None` for `NA`.
    ///
    /// # Errors
    /// If it is no whole number.
    pub(crate) fn number(self, column: &str) -> Result<Option<i32>> {
        let cell = self.text(column)?;
        cell.map(|cell| cell.parse().with_context(|| format!("{column}: {cell:?} is no number"))).transpose()
    }

    /// # Errors
    /// If it is no RFC 3339 instant.
    pub(crate) fn instant(self, column: &str) -> Result<DateTime<Utc>> {
        let cell = self.known(column)?;
        let instant = DateTime::parse_from_rfc3339(cell).with_context(|| format!("{column}: {cell:?}"))?;
        Ok(instant.to_utc())
    }

    /// Every known cell under its column's name, as number where it is one; `NA` is left out.
    pub(crate) fn document(self) -> bson::Document {
        let known = self.columns.iter().zip(self.cells).filter(|(_, cell)| *cell != "NA");
        known.map(|(column, cell)| (column.clone(), value(cell))).collect()
    }
}

fn value(cell: &str) -> bson::Bson {
    if let Ok(whole) = cell.parse::<i32>() {
        return whole.into();
    }
    match cell.parse::<f64>() {
        // "inf" and "nan" are somebody's name, not a number.
        Ok(number) if number.is_finite() => number.into(),
        _ => cell.into(),
    }
}
