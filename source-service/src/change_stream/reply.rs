//! What is handed over: the events of one server reply, and the position behind them.

use bson::{RawBsonRef, RawDocument, RawDocumentBuf};
use mongodb::raw_batch_cursor::RawBatch;
use shared::exit::{ExitCode, Stop};

use super::lookup::LookedUp;
use crate::{envelope::FoundDocument, token_record::ResumeToken};

/// One server reply and the token that covers all of it.
pub struct Reply {
    pub(super) events: Events,
    pub(super) looked_up: Option<LookedUp>,
    /// Behind the last event of the reply, also if it has none.
    pub token: ResumeToken,
}

pub(super) enum Events {
    /// They lie in the reply's own buffer.
    Sent(RawBatch),
    /// Some had to be put together here: fragments, or an event without the documents that made it too large.
    Rebuilt(Vec<RawDocumentBuf>),
}

impl Events {
    pub(super) fn iter(&self) -> impl Iterator<Item = Result<&[u8], Stop>> {
        let (sent, rebuilt, error) = match self {
            Self::Sent(batch) => match batch.doc_slices() {
                Ok(events) => (Some(events.into_iter()), None, None),
                Err(error) => (None, None, Some(Err(unreadable(&error)))),
            },
            Self::Rebuilt(events) => (None, Some(events.iter().map(|event| Ok(event.as_bytes()))), None),
        };
        let sent = sent.into_iter().flatten().map(document);
        error.into_iter().chain(sent).chain(rebuilt.into_iter().flatten())
    }
}

impl Reply {
    /// Its events in order, each a whole BSON document.
    ///
    /// # Errors
    /// Of an item: [`ExitCode::Defect`], the reply is none.
    pub fn events(&self) -> impl Iterator<Item = Result<&[u8], Stop>> {
        self.events.iter()
    }

    /// The document that was looked up for the event of this number; `None` if the event itself says what there is.
    pub fn looked_up(&self, number: usize) -> Option<FoundDocument<'_>> {
        self.looked_up.as_ref()?.of_event(number)
    }

    pub fn is_empty(&self) -> bool {
        match &self.events {
            Events::Sent(batch) => batch.doc_slices().is_ok_and(bson::RawArray::is_empty),
            Events::Rebuilt(events) => events.is_empty(),
        }
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        match &self.events {
            Events::Sent(batch) => batch.as_raw_document().as_bytes().len(),
            Events::Rebuilt(events) => events.iter().map(|event| event.as_bytes().len()).sum(),
        }
    }
}

/// A reply's element as the document that it has to be.
pub(super) fn document(element: Result<RawBsonRef<'_>, bson::error::Error>) -> Result<&[u8], Stop> {
    let element = element.map_err(|error| unreadable(&error))?;
    element.as_document().map(RawDocument::as_bytes).ok_or_else(|| unreadable(&"an event is no document"))
}

/// What MongoDB sent is not what it sends.
pub(crate) fn unreadable(error: &dyn std::fmt::Display) -> Stop {
    Stop::new(ExitCode::Defect, format!("a reply of MongoDB cannot be read: {error}"))
}
