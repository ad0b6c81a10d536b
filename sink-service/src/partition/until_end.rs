//! `run --until-end`: the end of one partition.

use shared::kafka_position::KafkaOffset;

use super::PartitionState;

impl PartitionState {
    /// What is to be reached: the log's end, as it was when the chain was read. The first one of an assignment counts, or records that are
    /// written meanwhile would move it.
    pub fn end_at(&mut self, log_end: KafkaOffset) {
        self.end.get_or_insert(log_end);
    }

    /// Everything before the end is durable, and the log is the one that it was written from. What is staged is not durable.
    pub fn at_end(&self) -> bool {
        self.look_back.is_none() && self.end.is_some_and(|end| self.durable >= end)
    }

    /// Everything before the end was read, and not all of it is durable: nobody waits for a flush that is due later, or for a file that ends
    /// later.
    pub fn end_due(&self) -> bool {
        let read = |end| self.durable < end && self.read_up_to() >= end;
        !self.is_opening() && self.end.is_some_and(read)
    }
}
