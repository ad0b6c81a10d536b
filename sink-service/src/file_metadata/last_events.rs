//! The last event of each source that a chain has seen lately: what the next record may repeat ([`crate::repeats`]).
//!
//! [`LastEvents::take`] is the only way in which it changes, so it is a function of the partition's records alone, and whoever goes on from what a
//! file, a head or the record of expired hours says goes on as if it had read everything before.

use serde::{Deserialize, Serialize};

use super::{LineCrc, percent};

/// Event ids longer than this are cut and closed with a hash.
const EVENT_ID_CHARS_MAX: usize = 1024;

/// Likewise for the `source` header, which a foreign producer may fill with anything.
const SOURCE_CHARS_MAX: usize = 128;

/// Of so many sources the last event is known.
pub const SOURCES_MAX: usize = 8;

/// All but the latest event may take so many bytes in a file's metadata, in all.
pub const OTHERS_BYTES_MAX: usize = 1024;

/// One event of a source. Both parts are bounded in length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastEvent {
    #[serde(rename = "eventid")]
    event_id: String,
    source: String,
}

impl LastEvent {
    /// Cuts what is too long. The first 1,024 characters of an event id still sort as the whole id does.
    pub fn new(event_id: &str, source: &str) -> Self {
        Self { event_id: cut(event_id, EVENT_ID_CHARS_MAX), source: cut(source, SOURCE_CHARS_MAX) }
    }

    pub fn event_id(&self) -> &str {
        &self.event_id
    }

    /// `<source id>/<run>`, as the record's header has it; may be empty for a foreign producer.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether both are kept as they are.
    fn is_short(event_id: &str, source: &str) -> bool {
        let short = |text: &str, chars_max| text.is_ascii() && text.len() <= chars_max;
        short(event_id, EVENT_ID_CHARS_MAX) && short(source, SOURCE_CHARS_MAX)
    }

    /// Whether it is the same event as the other one, or one of the same source before it. `false` where the cut leaves it open.
    pub fn is_known_before(&self, event_id: &str, source: &str) -> bool {
        Self::is_short(event_id, source)
            && self.source == source
            && is_known_not_to_follow(&self.event_id, event_id)
    }

    /// Becomes another event of its source, unless that is known to be the same one or one before it.
    fn advance(&mut self, event_id: &str) -> bool {
        let follows = !is_known_not_to_follow(event_id, &self.event_id);
        if follows {
            self.set_event_id(event_id);
        }
        follows
    }

    fn set_event_id(&mut self, event_id: &str) {
        self.event_id.clear();
        self.event_id.push_str(event_id);
    }

    fn encode(&self) -> String {
        format!("{},{}", percent::encode(&self.event_id, ","), percent::encode(&self.source, ","))
    }

    fn encoded_len(&self) -> usize {
        percent::encoded_len(&self.event_id, ",") + 1 + percent::encoded_len(&self.source, ",")
    }

    fn decode(event_id: &str, source: &str) -> Option<Self> {
        Some(Self { event_id: percent::decode(event_id)?, source: percent::decode(source)? })
    }
}

/// Whether an event has the same id as another one, or a lower one, both as they are kept. `false` where the cut leaves it open.
fn is_known_not_to_follow(event_id: &str, other_event_id: &str) -> bool {
    let kept = |id: &str| id.len().checked_sub(CUT_SUFFIX_LEN).filter(|_| id.len() > EVENT_ID_CHARS_MAX);
    match (kept(event_id), kept(other_event_id)) {
        (Some(a), Some(b)) if event_id.as_bytes()[..a] == other_event_id.as_bytes()[..b] => {
            event_id == other_event_id
        }
        _ => event_id <= other_event_id,
    }
}

/// `~` and 16 hexadecimal digits.
const CUT_SUFFIX_LEN: usize = 17;

/// Cuts at `chars_max` characters and closes the rest with `~` and its hash, so that two long texts stay apart.
///
/// A character counts as ASCII does, with up to three bytes when it is encoded; where others take more, the cut comes
/// earlier, or a foreign text alone could fill the metadata.
fn cut(text: &str, chars_max: usize) -> String {
    let mut room = 3 * chars_max;
    let end = text.char_indices().enumerate().find_map(|(count, (index, character))| {
        let encoded = percent::encoded_len_max(character);
        if count == chars_max || encoded > room {
            return Some(index);
        }
        room -= encoded;
        None
    });
    match end {
        None => text.to_owned(),
        Some(end) => {
            let (kept, rest) = text.split_at(end);
            format!("{kept}~{}", LineCrc::of(rest.as_bytes()))
        }
    }
}

/// The last event of each of the sources that were seen last, of [`SOURCES_MAX`] at most. In JSON the latest one with the others as a member of it, so
/// that the events of one source look as they did when only one event was kept, and as other versions can read them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastEvents {
    #[serde(flatten)]
    latest: LastEvent,
    /// The one seen last first; at most [`OTHERS_BYTES_MAX`] in all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    others: Vec<LastEvent>,
}

impl From<LastEvent> for LastEvents {
    fn from(latest: LastEvent) -> Self {
        Self { latest, others: Vec::new() }
    }
}

impl LastEvents {
    /// Of all sources.
    pub fn latest(&self) -> &LastEvent {
        &self.latest
    }

    /// The latest first.
    pub fn iter(&self) -> impl Iterator<Item = &LastEvent> {
        std::iter::once(&self.latest).chain(&self.others)
    }

    /// Whether an event of this source is known.
    pub fn know(&self, source: &str) -> bool {
        let cut = cut(source, SOURCE_CHARS_MAX);
        self.iter().any(|event| event.source == cut)
    }

    /// Whether this is an event that is known, or one of the same source before it.
    pub fn hold(&self, event_id: &str, source: &str) -> bool {
        if !LastEvent::is_short(event_id, source) {
            let event = LastEvent::new(event_id, source);
            return self.hold_kept(&event.event_id, &event.source);
        }
        self.hold_kept(event_id, source)
    }

    fn hold_kept(&self, event_id: &str, source: &str) -> bool {
        let known = self.iter().find(|event| event.source == source);
        known.is_some_and(|known| is_known_not_to_follow(event_id, &known.event_id))
    }

    /// The event is the latest from here on, unless it is held already; then nothing changes. `false` in that case. Allocates nothing as a rule, or the
    /// consumer would do it for every record.
    pub fn take(known: &mut Option<Self>, event_id: &str, source: &str) -> bool {
        let Some(known) = known else {
            *known = Some(LastEvent::new(event_id, source).into());
            return true;
        };
        if !LastEvent::is_short(event_id, source) {
            let event = LastEvent::new(event_id, source);
            return known.take_kept(&event.event_id, &event.source);
        }
        known.take_kept(event_id, source)
    }

    fn take_kept(&mut self, event_id: &str, source: &str) -> bool {
        if self.latest.source == source {
            return self.latest.advance(event_id);
        }
        self.take_of_another(event_id, source)
    }

    /// Sources take turns.
    fn take_of_another(&mut self, event_id: &str, source: &str) -> bool {
        let found = self.others.iter().position(|event| event.source == source);
        let place = match found {
            Some(place) if is_known_not_to_follow(event_id, &self.others[place].event_id) => return false,
            Some(place) => place,
            None => {
                if self.others.len() + 1 < SOURCES_MAX {
                    self.others.push(LastEvent::default());
                }
                self.others.len() - 1
            }
        };
        // Its memory becomes the new latest event's.
        self.others[..=place].rotate_right(1);
        std::mem::swap(&mut self.others[0], &mut self.latest);
        self.latest.set_event_id(event_id);
        if found.is_none() {
            self.latest.source.clear();
            self.latest.source.push_str(source);
        }
        self.forget_what_does_not_fit();
        true
    }

    /// Of long ids only as many are kept as there is room for, those first that were seen last.
    fn forget_what_does_not_fit(&mut self) {
        let raw: usize = self.others.iter().map(|event| event.event_id.len() + event.source.len()).sum();
        // A byte takes three at most, and two commas separate it from the next one.
        if 3 * raw + 2 * self.others.len() <= OTHERS_BYTES_MAX {
            return;
        }
        let mut room = OTHERS_BYTES_MAX;
        self.others.retain(|event| {
            let length = event.encoded_len() + 1;
            let fits = length <= room;
            if fits {
                room -= length;
            }
            fits
        });
    }

    /// For a file's metadata: the latest event, and the others if there are any.
    pub(super) fn encode(&self) -> (String, Option<String>) {
        let others: Vec<String> = self.others.iter().map(LastEvent::encode).collect();
        (self.latest.encode(), (!others.is_empty()).then(|| others.join(",")))
    }

    /// The latest event alone, as [`Self::encode`] has written it.
    pub(super) fn decode(text: &str) -> Option<Self> {
        let (event_id, source) = text.split_once(',')?;
        LastEvent::decode(event_id, source).map(Self::from)
    }

    /// The others.
    pub(super) fn decode_others(text: &str) -> Option<Vec<LastEvent>> {
        let parts: Vec<&str> = text.split(',').collect();
        let events = parts.chunks(2).map(|pair| match pair {
            [event_id, source] => LastEvent::decode(event_id, source),
            _ => None,
        });
        events.collect()
    }

    pub(super) fn with_others(self, others: Vec<LastEvent>) -> Self {
        Self { others, ..self }
    }
}
