//! One line per event, for people.
//!
//! ```text
//! 2026-11-20T08:00:00.123Z update    shop.orders  66c1a0b2c3d4e5f60718293a  payment.status, -note
//! ```
//!
//! Time, operation, namespace, key, and the names of what changed; never a value. On a terminal the line is cut at its width, because
//! lines that wrap cannot be scanned; in a pipe it is whole and plain.

use console::{measure_text_width, truncate_str};
use serde_json::Value;

use super::event_view::{Changed, EventView, TOMBSTONE, harmless};

/// So many names are written out.
const NAMES_MAX: usize = 20;
/// Operations are padded to the longest frequent one.
const OPERATION_WIDTH: usize = 8;
/// Longer keys are cut; an ObjectId just fits.
const KEY_WIDTH: usize = 24;

/// How lines look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) colour: bool,
    /// Columns of the terminal; `None` leaves lines whole.
    pub(super) width: Option<usize>,
    /// The column of namespaces, which lines under each other share.
    pub(super) namespace_width: usize,
}

/// As ANSI numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    None,
    Dim,
    Red,
    Green,
    Yellow,
    Blue,
    Magenta,
    Cyan,
}

impl Paint {
    const fn code(self) -> Option<&'static str> {
        Some(match self {
            Self::None => return None,
            Self::Dim => "2",
            Self::Red => "31",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Blue => "34",
            Self::Magenta => "35",
            Self::Cyan => "36",
        })
    }

    pub(super) fn of_operation(operation: &str) -> Self {
        match operation {
            "insert" => Self::Green,
            "update" => Self::Yellow,
            "replace" => Self::Magenta,
            "delete" | TOMBSTONE => Self::Red,
            _ => Self::Cyan,
        }
    }
}

/// A line in the making: it takes pieces until its width is used up.
pub(super) struct Line {
    look: Look,
    text: String,
    used: usize,
    full: bool,
}

impl Line {
    pub(super) fn new(look: Look) -> Self {
        Self { look, text: String::new(), used: 0, full: false }
    }

    pub(super) fn push(&mut self, paint: Paint, piece: &str) -> &mut Self {
        if self.full || piece.is_empty() {
            return self;
        }
        let piece = harmless(piece);
        let mut shown = piece.as_ref();
        let cut;
        if let Some(width) = self.look.width {
            let room = width.saturating_sub(self.used);
            if room == 0 {
                self.full = true;
                return self;
            }
            if measure_text_width(shown) > room {
                cut = truncate_str(shown, room, "…").into_owned();
                shown = &cut;
                self.full = true;
            }
        }
        self.used += measure_text_width(shown);
        match paint.code().filter(|_| self.look.colour) {
            Some(code) => self.text.extend(["\u{1b}[", code, "m", shown, "\u{1b}[0m"]),
            None => self.text.push_str(shown),
        }
        self
    }

    /// In a column of this width, which a longer text breaks.
    pub(super) fn column(&mut self, paint: Paint, piece: &str, width: usize) -> &mut Self {
        let room = width.saturating_sub(measure_text_width(piece));
        self.push(paint, piece).push(Paint::None, &" ".repeat(room + 1))
    }

    pub(super) fn end(self) -> String {
        let mut text = self.text;
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
        text
    }
}

/// The whole line, its line break included.
pub(super) fn event_line(view: &EventView<'_>, look: Look) -> String {
    let observed = &view.observed;
    let mut line = Line::new(look);
    line.column(Paint::Dim, &view.time(), 24)
        .column(Paint::of_operation(observed.operation), observed.operation, OPERATION_WIDTH)
        .column(Paint::Blue, observed.namespace, look.namespace_width)
        .push(Paint::None, " ");
    let key = if view.is_about_a_document() { view.bare_key() } else { String::new() };
    let key =
        if look.width.is_some() { truncate_str(&harmless(&key), KEY_WIDTH, "…").into_owned() } else { key };
    line.column(Paint::Dim, &key, KEY_WIDTH).push(Paint::None, " ").push(Paint::None, &summary(view));
    if let Some(transaction) = view.transaction() {
        let session = transaction.session.get(..8).unwrap_or(&transaction.session);
        line.push(Paint::Dim, &format!("  txn {session}/{}", transaction.number));
    }
    if view.is_snapshot() {
        line.push(Paint::Dim, "  snapshot");
    }
    line.end()
}

fn summary(view: &EventView<'_>) -> String {
    if view.is_opaque() {
        let bytes = view.observed.value.map_or(0, <[u8]>::len);
        return format!("{bytes} bytes that are no JSON");
    }
    if let Some(changed) = view.changed() {
        return changed_text(&changed);
    }
    let fields = view.document_fields();
    match view.observed.operation {
        "delete" if fields.is_empty() => String::new(),
        "delete" => format!("was {}", list(fields)),
        "rename" => view.member("to").map(|to| format!("to {}", namespace_text(to))).unwrap_or_default(),
        "gap" => view.member("gap").map(gap_text).unwrap_or_default(),
        _ => list(fields),
    }
}

/// `a, b.c, -removed, list[..3]`.
pub(super) fn changed_text(changed: &Changed) -> String {
    let removed = changed.removed.iter().map(|name| format!("-{name}"));
    let truncated = changed.truncated.iter().map(|(name, size)| format!("{name}[..{size}]"));
    list(changed.updated.iter().cloned().chain(removed).chain(truncated).collect())
}

pub(super) fn list(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMES_MAX);
    names.truncate(NAMES_MAX);
    let text = names.join(", ");
    if more == 0 { text } else { format!("{text} and {more} more") }
}

fn namespace_text(namespace: &Value) -> String {
    let part = |name: &str| namespace.get(name).and_then(Value::as_str).unwrap_or_default();
    format!("{}.{}", part("db"), part("coll"))
}

fn gap_text(gap: &Value) -> String {
    let time = |name: &str| {
        let seconds = gap.get(name)?.get("$timestamp")?.get("t")?.as_u64()?;
        Some(crate::status::rfc3339(shared::cluster_time::ClusterTime::new(u32::try_from(seconds).ok()?, 0)))
    };
    let part = |name: &str| time(name).unwrap_or_else(|| "?".to_owned());
    format!("from {} to {}", part("from"), part("to"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::event_view::{
        Observed,
        tests::{DELETE, TRANSACTION, UPDATE, observed},
    };

    const PLAIN: Look = Look { colour: false, width: None, namespace_width: 0 };

    fn line(operation: &str, key: &str, value: &[u8], look: Look) -> String {
        event_line(&EventView::new(observed(operation, key, value)), look)
    }

    const OID: &str = r#"{"$oid":"66c1a0b2c3d4e5f60718293a"}"#;

    #[test]
    fn a_line_says_what_changed_and_no_value() {
        assert_eq!(
            line("update", OID, UPDATE, PLAIN),
            "2025-08-22T22:00:00.123Z update   shop.orders  66c1a0b2c3d4e5f60718293a  lines.0.n, payment.status, -note, lines[..1]\n"
        );
        assert_eq!(
            line("insert", r#"{"b":1,"a":2}"#, TRANSACTION, PLAIN),
            "2025-08-22T22:00:00.123Z insert   shop.orders  {\"b\":1,\"a\":2}             _id  txn 07070707/5\n"
        );
        let delete = line("delete", OID, DELETE, PLAIN);
        assert!(delete.starts_with("2025-08-22T22:00:00.123Z delete   shop.orders  66c1"), "{delete}");
    }

    #[test]
    fn a_terminal_gets_colours_and_no_line_that_wraps() {
        for width in 1..140 {
            let look = Look { colour: true, width: Some(width), namespace_width: 16 };
            let text = line("update", OID, UPDATE, look);
            assert!(measure_text_width(text.trim_end()) <= width, "{width}: {text:?}");
        }
        let text = line("update", OID, UPDATE, Look { colour: true, width: Some(60), ..PLAIN });
        assert!(text.contains("\u{1b}[33mupdate\u{1b}[0m") && text.contains('…'), "{text:?}");
        let long = line("insert", &"k".repeat(200), b"{}", Look { width: Some(200), ..PLAIN });
        assert!(long.contains(&format!("{}…", "k".repeat(23))), "{long}");
        let wide = line("insert", "日本日本日本日本", b"{}", Look { width: Some(50), ..PLAIN });
        assert!(measure_text_width(wide.trim_end()) <= 50, "{wide}");
    }

    #[test]
    fn what_has_no_envelope_has_a_line_too() {
        assert!(line("insert", "1", b"\x00avro", PLAIN).ends_with("5 bytes that are no JSON\n"));
        let tombstone = Observed { value: None, ..observed(TOMBSTONE, "1", b"") };
        assert_eq!(
            event_line(&EventView::new(tombstone), PLAIN),
            "2025-08-22T22:00:00Z     tombstone shop.orders  1\n"
        );
        let rename = line("rename", "", br#"{"to":{"db":"shop","coll":"old"}}"#, PLAIN);
        assert!(rename.ends_with("to shop.old\n"), "{rename}");
        let gap = br#"{"gap":{"from":null,"to":{"$timestamp":{"t":7,"i":1}}}}"#;
        assert!(line("gap", "", gap, PLAIN).ends_with("from ? to 1970-01-01T00:00:07Z\n"));
    }

    #[test]
    fn long_lists_end() {
        let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert!(list(names(25)).ends_with("18, 19 and 5 more"));
        assert_eq!(list(names(2)), "0, 1");
    }
}
