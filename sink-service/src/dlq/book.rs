//! The dead-letter topic, read whole and then followed: letters by key, and the newest marker of each.

use std::collections::{BTreeMap, HashMap};

use shared::kafka_position::{KafkaOffset, TopicPartition};

use super::letter::{Content, Entry, Letter, Mark};
use crate::{
    kafka_log::{KafkaLog, LogError},
    topic_reader::TopicReader,
};

pub(super) struct Book<'a> {
    topic: &'a str,
    log: &'a KafkaLog,
    reader: &'a TopicReader,
    /// Everything before was read, by partition.
    read_up_to: BTreeMap<i32, KafkaOffset>,
    pub(super) letters: BTreeMap<String, Letter>,
    marks: HashMap<String, Mark>,
    /// Records that are neither letters nor markers of ours.
    pub(super) foreign: u64,
}

impl<'a> Book<'a> {
    /// Reads nothing yet.
    pub(super) fn new(topic: &'a str, log: &'a KafkaLog, reader: &'a TopicReader) -> Self {
        Self {
            topic,
            log,
            reader,
            read_up_to: BTreeMap::new(),
            letters: BTreeMap::new(),
            marks: HashMap::new(),
            foreign: 0,
        }
    }

    /// Reads what is committed below the high watermarks of now. A topic that is not there holds nothing.
    pub(super) async fn catch_up(&mut self) -> Result<(), LogError> {
        let topics = self.reader.topics()?;
        let partitions = topics.iter().find(|(name, _)| name == self.topic).map_or(0, |(_, count)| *count);
        for number in 0..partitions {
            let partition = TopicPartition::new(self.topic, number);
            let end = self.log.end(&partition).await?;
            let start = self.log.start(&partition).await?;
            let from = self.read_up_to.get(&number).copied().unwrap_or_default().max(start);
            let mut records = self.reader.read(&partition, from, end)?;
            while let Some(message) = records.next_record()? {
                self.take(Entry::of(&message));
            }
            self.read_up_to.insert(number, end.max(from));
        }
        Ok(())
    }

    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Letter(letter) => match self.letters.get_mut(&letter.key) {
                Some(known) => known.join(*letter),
                None => drop(self.letters.insert(letter.key.clone(), *letter)),
            },
            Entry::Marker { key, mark } => {
                if self.marks.get(&key).is_none_or(|known| known.order < mark.order) {
                    self.marks.insert(key, mark);
                }
            }
            Entry::Foreign => self.foreign += 1,
        }
    }

    /// The keys that have a marker, also those whose letter is gone.
    pub(super) fn marked(&self) -> impl Iterator<Item = &str> {
        self.marks.keys().map(String::as_str)
    }

    pub(super) fn mark(&self, key: &str) -> Option<&Mark> {
        self.marks.get(key)
    }

    /// The contents of some letters, in their order; `None` where retention was faster. Parts are put together.
    pub(super) fn contents(&self, letters: &[&Letter]) -> Result<Vec<Option<Content>>, LogError> {
        let mut wanted: BTreeMap<i32, BTreeMap<KafkaOffset, (usize, u32)>> = BTreeMap::new();
        for (index, letter) in letters.iter().enumerate() {
            for (number, piece) in &letter.pieces {
                let of_partition = wanted.entry(piece.place.partition).or_default();
                of_partition.insert(piece.place.offset, (index, *number));
            }
        }
        let mut found: Vec<BTreeMap<u32, Content>> = vec![BTreeMap::new(); letters.len()];
        for (number, offsets) in wanted {
            let (Some((first, _)), Some((last, _))) = (offsets.first_key_value(), offsets.last_key_value())
            else {
                continue;
            };
            let partition = TopicPartition::new(self.topic, number);
            let mut records = self.reader.read(&partition, *first, last.after())?;
            while let Some(message) = records.next_record()? {
                use rdkafka::Message;
                let offset = KafkaOffset::from_kafka(message.offset());
                if let Some((index, part)) = offset.and_then(|offset| offsets.get(&offset)) {
                    found[*index].insert(*part, Content::of(&message));
                }
            }
        }
        let whole = |(letter, parts): (&&Letter, BTreeMap<u32, Content>)| {
            let complete = parts.len() == letter.pieces.len();
            let mut parts = parts.into_values();
            let mut content = parts.next().filter(|_| complete)?;
            for part in parts {
                content.value.get_or_insert_default().extend(part.value.unwrap_or_default());
            }
            Some(content)
        };
        Ok(letters.iter().zip(found).map(whole).collect())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use rdkafka::ClientConfig;

    use super::*;
    use crate::dlq::letter::{
        Marked,
        tests::{SINK, message},
    };

    #[test]
    fn the_newest_marker_decides_wherever_it_is_read_first() {
        let kafka = ClientConfig::new();
        let log = KafkaLog::new(&kafka, "test").unwrap();
        let reader = TopicReader::new(&kafka, "test").unwrap();
        let dropped = message((0, 8), "k", None, &[("dlq-marker", "dropped"), ("dlq-marker-reason", "x")]);
        let retried = message((1, 6), "k", None, &[("dlq-marker", "retried")]);
        for order in [[&dropped, &retried], [&retried, &dropped]] {
            let mut book = Book::new("atlas.dlq", &log, &reader);
            order.into_iter().for_each(|message| book.take(Entry::of(message)));
            assert!(matches!(book.mark("k").unwrap().what, Marked::Dropped { .. }));
            // A copy that comes later is the same letter: the marker stands.
            book.take(Entry::of(&message((0, 9), "k", Some(b"x"), &SINK)));
            assert!(book.mark("k").is_some());
        }
    }
}
