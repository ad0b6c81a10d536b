//! What a line must be, by the record that it was made of.

use std::borrow::Cow;

use rdkafka::{Message, message::BorrowedMessage};

use super::expected_flat::flat;
use crate::line_format::LineFormat;

/// Whether a line is the record's value, in the file's format, with its coordinates as the last member. Written apart from the code that writes
/// lines, so that a mistake there is seen here.
pub(super) fn is_line_of(
    line: &[u8],
    object: &str,
    empty_object: bool,
    format: LineFormat,
    message: &BorrowedMessage<'_>,
) -> bool {
    let (body, has_members) = match format {
        LineFormat::Envelope => (Cow::Borrowed(&object.as_bytes()[..object.len() - 1]), !empty_object),
        LineFormat::Flat => {
            let (body, has_members) = flat(object.as_bytes());
            (Cow::Owned(body), has_members)
        }
    };
    let Some((head, tail)) = line.split_at_checked(body.len()) else { return false };
    let same = head.iter().zip(&*body).all(|(found, sent)| match sent {
        b'\n' | b'\r' => *found == b' ',
        other => found == other,
    });
    let timestamp =
        message.timestamp().to_millis().map_or_else(|| "null".to_owned(), |millis| millis.to_string());
    let comma = if has_members { "," } else { "" };
    let expected = format!(
        "{comma}\"_kafka\":{{\"topic\":\"{}\",\"partition\":{},\"offset\":{},\"timestamp\":{timestamp}}}}}\n",
        message.topic(),
        message.partition(),
        message.offset(),
    );
    same && tail == expected.as_bytes()
}
