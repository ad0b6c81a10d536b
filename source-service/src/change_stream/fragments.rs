//! Events that the server has cut into fragments, because they are larger than a reply (`$changeStreamSplitLargeEvent`, MongoDB 6.0.9 and
//! 7.0): put together again before anybody sees them.
//!
//! A fragment has some of the event's top-level members, `splitEvent: { fragment, of }` and a resume token of its own. Resuming behind any
//! token but the last one's begins in the middle of the event, so a reply that ends with an unfinished event is kept until the
//! rest has come: only the last fragment's token is ever handed over.
//! <https://www.mongodb.com/docs/manual/reference/operator/aggregation/changeStreamSplitLargeEvent/>

use bson::{RawDocument, RawDocumentBuf};
use shared::exit::Stop;

use super::unreadable;

/// What the server calls a fragment's place.
const SPLIT_EVENT: &str = "splitEvent";
const ID: &str = "_id";

/// Collects events; whole ones pass through.
#[derive(Default)]
pub(super) struct Fragments {
    whole: Vec<RawDocumentBuf>,
    /// The members of an event of which fragments are missing, and how many have come.
    open: Option<(RawDocumentBuf, i32)>,
}

impl Fragments {
    pub(super) fn are_in(event: &RawDocument) -> bool {
        matches!(event.get(SPLIT_EVENT), Ok(Some(_)))
    }

    /// An event of which the last fragment is not there yet.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The next event of the stream, or the next fragment of one.
    ///
    /// # Errors
    /// If it is not the one that has to come.
    pub(super) fn add(&mut self, event: &RawDocument) -> Result<(), Stop> {
        if !Self::are_in(event) {
            if self.open.is_some() {
                return Err(unreadable(&"a fragment of an event is missing"));
            }
            self.whole.push(event.to_owned());
            return Ok(());
        }
        let place = event.get_document(SPLIT_EVENT).map_err(|error| unreadable(&error))?;
        let part = |name: &str| place.get_i32(name).map_err(|error| unreadable(&error));
        let (fragment, of) = (part("fragment")?, part("of")?);
        let (mut merged, before) = self.open.take().unwrap_or_default();
        if fragment != before + 1 || fragment > of {
            return Err(unreadable(&format!("fragment {fragment} of {of} follows {before}")));
        }
        let is_last = fragment == of;
        for member in event {
            let (name, value) = member.map_err(|error| unreadable(&error))?;
            // The event's token is that of its last fragment.
            let belongs = if name.as_str() == ID { is_last } else { name.as_str() != SPLIT_EVENT };
            if belongs {
                merged.append(name, value);
            }
        }
        if is_last {
            self.whole.push(merged);
        } else {
            self.open = Some((merged, fragment));
        }
        Ok(())
    }

    /// What is whole, in order; nothing is open.
    pub(super) fn take(&mut self) -> Vec<RawDocumentBuf> {
        std::mem::take(&mut self.whole)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use bson::{Document, doc, rawdoc};

    use super::*;

    /// Made by hand after MongoDB's documentation: the server that runs here, 6.0.5, does not know the stage.
    #[test]
    fn made_up_fragments_are_one_event_again() {
        let mut fragments = Fragments::default();
        let small = rawdoc! { "_id": { "_data": "81" }, "operationType": "insert" };
        fragments.add(&small).unwrap();
        for (number, part) in [
            (
                1,
                rawdoc! { "_id": { "_data": "82A" }, "splitEvent": { "fragment": 1, "of": 3 }, "operationType": "update", "fullDocument": { "a": 1 } },
            ),
            (
                2,
                rawdoc! { "_id": { "_data": "82B" }, "splitEvent": { "fragment": 2, "of": 3 }, "fullDocumentBeforeChange": { "a": 0 } },
            ),
            (
                3,
                rawdoc! { "_id": { "_data": "82C" }, "splitEvent": { "fragment": 3, "of": 3 }, "updateDescription": {} },
            ),
        ] {
            fragments.add(&part).unwrap();
            assert_eq!(fragments.is_open(), number < 3);
        }
        let whole: Vec<Document> = fragments.take().iter().map(|event| event.try_into().unwrap()).collect();
        let event = doc! {
            "operationType": "update",
            "fullDocument": { "a": 1 },
            "fullDocumentBeforeChange": { "a": 0 },
            "_id": { "_data": "82C" },
            "updateDescription": {},
        };
        assert_eq!(whole, [Document::try_from(&small).unwrap(), event]);
    }

    #[test]
    fn a_missing_fragment_is_no_event() {
        let part = |fragment: i32| rawdoc! { "_id": { "_data": "82A" }, "splitEvent": { "fragment": fragment, "of": 3 } };
        let mut fragments = Fragments::default();
        assert!(fragments.add(&part(2)).is_err());
        let mut fragments = Fragments::default();
        fragments.add(&part(1)).unwrap();
        assert!(fragments.add(&rawdoc! { "_id": { "_data": "82B" } }).is_err());
        let mut fragments = Fragments::default();
        fragments.add(&part(1)).unwrap();
        assert!(fragments.add(&part(3)).is_err());
    }
}
