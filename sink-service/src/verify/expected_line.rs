//! What a line must be, by the record that it was made of.

use rdkafka::{Message, message::BorrowedMessage};

/// Whether a line is the record's value with its coordinates as the last member. Written apart from the code that writes
/// lines, so that a mistake there is seen here.
pub(super) fn is_line_of(
    line: &[u8],
    body: &[u8],
    empty_object: bool,
    message: &BorrowedMessage<'_>,
) -> bool {
    let Some((head, tail)) = line.split_at_checked(body.len()) else { return false };
    let same = head.iter().zip(body).all(|(found, sent)| match sent {
        b'\n' | b'\r' => *found == b' ',
        other => found == other,
    });
    let timestamp =
        message.timestamp().to_millis().map_or_else(|| "null".to_owned(), |millis| millis.to_string());
    let comma = if empty_object { "" } else { "," };
    let expected = format!(
        "{comma}\"_kafka\":{{\"topic\":\"{}\",\"partition\":{},\"offset\":{},\"timestamp\":{timestamp}}}}}\n",
        message.topic(),
        message.partition(),
        message.offset(),
    );
    same && tail == expected.as_bytes()
}
