//! Which events of a Kafka transaction belong to one MongoDB transaction, and how many there are.
//!
//! All events of a MongoDB transaction have the same cluster time and come one after the other, with the same `lsid` and `txnNumber`. How many
//! there are is known only where both ends are seen: the event before the first one and the one behind the last one are of something
//! else. Replies of the server cut transactions wherever they are full; [`may_go_on`] says when one may have.

use crate::{change_stream::Reply, envelope};

/// Events in one reply at most; the server also ends a reply at 16 MB. Bounds memory without costing throughput.
pub const REPLY_EVENTS_MAX: u32 = 2000;
/// The server ends a reply before it is 16 MB large because the next event has no room in it. A smaller one than this would have room for
/// any event but one of more than 15 MB.
const REPLY_BYTES_FULL: usize = 1024 * 1024;

/// Events in a row that are of one MongoDB transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: usize,
    events: u32,
    /// Both of its ends were seen.
    whole: bool,
}

/// What is known of the transactions among the events of one Kafka transaction, which are asked for in their order.
#[derive(Debug, Default)]
pub struct Transactions {
    runs: Vec<Run>,
    /// The run that the next event may be of.
    next: usize,
    asked: usize,
    /// What the last event before these was of; `None` if that is not known.
    before: Option<Option<Identity>>,
}

/// Owned, because it outlives its reply.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    lsid: Vec<u8>,
    number: Vec<u8>,
}

impl Identity {
    fn is(&self, other: envelope::Transaction<'_>) -> bool {
        self.lsid == other.lsid && self.number == other.number
    }
}

impl Transactions {
    /// Forgets the last event: the next one may be anything's.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Looks at the events of the next Kafka transaction. `ended`: what follows them is not of the last one's MongoDB transaction.
    pub fn look_at<'a>(
        &mut self,
        events: impl Iterator<Item = Option<envelope::Transaction<'a>>>,
        ended: bool,
    ) {
        self.runs.clear();
        (self.next, self.asked) = (0, 0);
        let mut last = None;
        let mut seen_any = false;
        for (number, transaction) in events.enumerate() {
            if let Some(transaction) = transaction
                && !(number > 0 && last == Some(transaction))
            {
                let begins = number > 0 || self.begins(transaction);
                self.runs.push(Run { first: number, events: 0, whole: begins });
            }
            if transaction.is_some()
                && let Some(run) = self.runs.last_mut()
            {
                run.events += 1;
            }
            last = transaction;
            seen_any = true;
        }
        if !seen_any {
            return;
        }
        if last.is_some()
            && !ended
            && let Some(run) = self.runs.last_mut()
        {
            run.whole = false;
        }
        self.before =
            Some(last.map(|last| Identity { lsid: last.lsid.to_vec(), number: last.number.to_vec() }));
    }

    fn begins(&self, transaction: envelope::Transaction<'_>) -> bool {
        self.before
            .as_ref()
            .is_some_and(|before| !before.as_ref().is_some_and(|before| before.is(transaction)))
    }

    /// How many events the transaction of the next event has, as far as it is of one and that is known.
    pub fn count_of_next(&mut self) -> Option<u32> {
        let number = self.asked;
        self.asked += 1;
        let run = *self.runs.get(self.next)?;
        if number + 1 >= run.first + run.events as usize {
            self.next += 1;
        }
        (number >= run.first && run.whole).then_some(run.events)
    }
}

/// Whether the transaction of the reply's last event may go on in the next reply.
pub fn may_go_on(reply: &Reply) -> bool {
    let (mut count, mut last) = (0_u32, None);
    for event in reply.events().filter_map(Result::ok) {
        count += 1;
        last = Some(event);
    }
    let full = count >= REPLY_EVENTS_MAX || reply.bytes() >= REPLY_BYTES_FULL;
    full && last.and_then(envelope::transaction).is_some()
}

/// Which operation of its MongoDB transaction an event is of, from 0, those outside of the stream counted: the `txnOpIndex` that its resume
/// token holds. `None` if the token is of another form.
///
/// A token is a MongoDB KeyString in hexadecimal digits: the cluster time, the token's version, its kind, the index, … (MongoDB's
/// `ResumeTokenData`). Positive numbers are a byte that says how many follow, and those, shifted by one.
pub fn operation_index(token_data: &str) -> Option<u32> {
    let (_cluster_time, rest) = token_data.split_at_checked(CLUSTER_TIME_DIGITS)?;
    let (_version, rest) = number(rest)?;
    let (kind, rest) = number(rest)?;
    if kind != KIND_EVENT {
        return None;
    }
    number(rest).map(|(index, _)| index)
}

/// `82`, seconds, increment.
const CLUSTER_TIME_DIGITS: usize = 18;
/// Of a token that belongs to an event; others are positions.
const KIND_EVENT: u32 = 128;
/// KeyString's type of the number 0.
const ZERO: u8 = 0x29;
/// One less than its type of a positive integer of one byte.
const POSITIVE_BYTES_BASE: u8 = 0x2A;

/// Reads one integer that is not negative, and returns what follows it.
fn number(digits: &str) -> Option<(u32, &str)> {
    let (kind, rest) = digits.split_at_checked(2)?;
    let kind = u8::from_str_radix(kind, 16).ok()?;
    if kind == ZERO {
        return Some((0, rest));
    }
    let bytes = kind.checked_sub(POSITIVE_BYTES_BASE).filter(|bytes| (1..=4).contains(bytes))?;
    let (value, rest) = rest.split_at_checked(usize::from(bytes) * 2)?;
    Some((u32::from_str_radix(value, 16).ok()? >> 1, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_tells_the_operation() {
        // Tokens of 6.0.5: the first operations of a transaction, and a position.
        for (token, index) in [
            ("826B0794D5000000112B022C0100296E5A100445C1AFE7D85A", Some(0)),
            ("826B0794D5000000112B022C01002B026E5A100445C1AFE7D85A", Some(1)),
            ("826B0794D5000000112B022C01002C01006E5A100445C1AFE7D85A", Some(128)),
            ("8266C1F3A5000000012B0229296E04", None),
            ("8266C1F3A500000001", None),
            ("", None),
            ("82ä6C1F3A5000000012B022C0100296E04", None),
        ] {
            assert_eq!(operation_index(token), index, "{token}");
        }
    }

    const A: Option<envelope::Transaction<'_>> = Some(envelope::Transaction { lsid: b"a", number: b"1" });
    const B: Option<envelope::Transaction<'_>> = Some(envelope::Transaction { lsid: b"a", number: b"2" });

    fn counts(
        transactions: &mut Transactions,
        events: &[Option<envelope::Transaction<'_>>],
        ended: bool,
    ) -> Vec<Option<u32>> {
        transactions.look_at(events.iter().copied(), ended);
        events.iter().map(|_| transactions.count_of_next()).collect()
    }

    #[test]
    fn a_count_is_known_where_both_ends_are_seen() {
        let mut transactions = Transactions::default();
        // Nobody knows what was before the first event.
        let found = counts(&mut transactions, &[A, A, B, B, B, None, A], true);
        assert_eq!(found, [None, None, Some(3), Some(3), Some(3), None, Some(1)]);
        // The transaction before goes on, against what was said.
        assert_eq!(counts(&mut transactions, &[A, None, B], false), [None, None, None]);
        assert_eq!(counts(&mut transactions, &[B, B], true), [None, None]);
        assert_eq!(counts(&mut transactions, &[A, A], true), [Some(2), Some(2)]);
        assert_eq!(counts(&mut transactions, &[], true), []);
        assert_eq!(counts(&mut transactions, &[B], true), [Some(1)]);
        transactions.forget();
        assert_eq!(counts(&mut transactions, &[A, B], true), [None, Some(1)]);
    }
}
