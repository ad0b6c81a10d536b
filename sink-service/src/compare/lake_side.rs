//! The rows of one topic, read from where the last reading ended.

use shared::exit::{ExitCode, Stop};

use super::{
    fold::{Bucket, NoRow, Row},
    topic_lines::TopicLines,
};
use crate::{lake::Lake, look_error::LookError, topic_content::TopicContent};

pub(super) struct LakeSide<'a> {
    topic: &'a str,
    lines: TopicLines<'a>,
    bucket: Bucket,
    /// Lines that are no changes: of other producers, or of another profile.
    pub(super) strange: u64,
}

impl<'a> LakeSide<'a> {
    pub(super) fn new(lake: &'a Lake, topic: &'a str, content: &TopicContent, bucket: Bucket) -> Self {
        Self { topic, lines: TopicLines::new(lake, topic, content), bucket, strange: 0 }
    }

    /// Reads what has come since; each row of the bucket goes to `take`, those of a partition in its order.
    pub(super) async fn read_on(&mut self, mut take: impl FnMut(Row)) -> Result<(), LookError> {
        let Self { topic, lines, bucket, strange } = self;
        let each = |line: &bytes::Bytes| {
            match Row::of(line, *bucket) {
                Ok(Some(row)) => take(row),
                Ok(None) => {}
                Err(NoRow::NoChange) => *strange += 1,
                Err(NoRow::Plain) => return Err(plain(topic)),
            }
            Ok(())
        };
        lines.read_on(each).await
    }
}

fn plain(topic: &str) -> Stop {
    let what = format!(
        "{topic} was written with JSON_DIALECT=plain, which does not say the types of values: it cannot be compared with MongoDB"
    );
    Stop::new(ExitCode::Configuration, what)
}
