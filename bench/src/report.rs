//! Figures beside their targets: a table for people, JSON for pipes.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Shown for orientation.
    None,
}

#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) target: Target,
}

impl Figure {
    pub(crate) fn new(name: &'static str, value: f64, unit: &'static str, target: Target) -> Self {
        Self { name, value, unit, target }
    }

    fn verdict(&self) -> Option<bool> {
        match self.target {
            Target::AtLeast(least) => Some(self.value >= least),
            Target::AtMost(most) => Some(self.value <= most),
            Target::None => None,
        }
    }
}

/// The middle one; the mean of the two middle ones of an even number. `NaN` of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (lower, upper) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(lower), values.get(upper)) {
        (Some(lower), Some(upper)) => f64::midpoint(*lower, *upper),
        _ => f64::NAN,
    }
}

/// # Errors
/// If the output cannot be written.
pub(crate) fn print(
    figures: &[Figure],
    conditions: &str,
    as_json: bool,
    to: &mut impl Write,
) -> io::Result<()> {
    if as_json {
        let figures: Vec<_> = figures
            .iter()
            .map(|figure| {
                let (least, most) = match figure.target {
                    Target::AtLeast(least) => (Some(least), None),
                    Target::AtMost(most) => (None, Some(most)),
                    Target::None => (None, None),
                };
                json!({ "name": figure.name, "value": figure.value, "unit": figure.unit,
                        "atLeast": least, "atMost": most, "met": figure.verdict() })
            })
            .collect();
        return writeln!(to, "{}", json!({ "conditions": conditions, "figures": figures }));
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["figure", "value", "unit", "target", ""]);
    for figure in figures {
        let digits = if figure.value >= 1000.0 { 0 } else { 2 };
        let target = match figure.target {
            Target::AtLeast(least) => format!("≥ {least}"),
            Target::AtMost(most) => format!("≤ {most}"),
            Target::None => String::new(),
        };
        let verdict = match figure.verdict() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let value = format!("{:.digits$}", figure.value);
        table.add_row([figure.name, &value, figure.unit, &target, verdict]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(to, "{table}\n{conditions}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median([]).is_nan());
    }
}
