//! Records that are read a second time, outside of the group: what each of them is, and of which hour.
//!
//! `verify` and `replay` must take the decisions that the live sink took. They do it by the same functions; here the registry is
//! asked at once, where the live sink lets a partition wait.

use shared::{exit::Stop, schema_registry::SchemaRegistry};

use crate::{
    record::{Inspected, RecordView, VALUE_BYTES_MAX, inspect, refused},
    topic_content::TopicContent,
    value_reader::{Value, ValueReader, no_registry},
};

/// Owned by whoever reads the records.
pub struct RecordReader {
    values: ValueReader,
    /// `None`: records in Avro cannot be read.
    registry: Option<SchemaRegistry>,
}

impl RecordReader {
    pub fn new(registry: Option<SchemaRegistry>) -> Self {
        Self { values: ValueReader::new(registry.is_some()), registry }
    }

    /// Looks at one record of `topic`, which holds `content`.
    ///
    /// # Errors
    /// If what the record's schema is cannot be found out.
    pub async fn inspect<'a>(
        &'a mut self,
        record: &RecordView<'a>,
        topic: &str,
        content: &TopicContent,
    ) -> Result<Inspected<'a>, Stop> {
        let asked = match self.values.read(record) {
            Value::AskFor(id) => Some(id),
            _ => None,
        };
        if let (Some(id), Some(registry)) = (asked, &self.registry) {
            let means = registry.meaning(id).await.map_err(|error| registry.stop(&error))?;
            self.values.learn(id, means);
        }
        match self.values.read(record) {
            Value::Json(value) => Ok(inspect(&RecordView { value, ..*record }, content, VALUE_BYTES_MAX)),
            Value::Refused { reason, error } => Ok(refused(record, reason, error)),
            Value::AskFor(_) | Value::NoRegistry => Err(no_registry(topic)),
        }
    }
}
