//! How a record's value becomes a line: as it is, or flat.
//!
//! ```text
//!   envelope   {"_meta":{"eventId":…,"ns":{"db":…,"coll":…},…},"documentKey":{…},"fullDocument":{"_id":7,"a":1},…,"_kafka":{…}}
//!   flat       {"_id":7,"a":1,"_meta_eventId":…,"_meta_db":…,"_meta_coll":…,…,"_documentKey":{…},…,"_kafka":{…}}
//! ```
//!
//! A flat line says all that its envelope says: values are moved as they stand, and [`LineFormat::envelope_of`] finds the way back. What each member
//! becomes is defined in docs/lake/files.md. The names that events bring along are kept free: a document that has one of them stays whole, as
//! `_document`. A value that is no event stays as it is.
//!
//! A file has one format from its begin to its end; its metadata says which. Lines are made when a record is read, so an open file of another
//! format than the writer's is sealed before anything is added.

mod envelope;
mod flat;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub(crate) use flat::{each_member, write_flat};

/// Of all lines of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LineFormat {
    /// The value as it is.
    #[default]
    Envelope,
    /// The document at the top level, what the event says of it beside.
    Flat,
}

impl LineFormat {
    pub const ALL: [Self; 2] = [Self::Envelope, Self::Flat];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Flat => "flat",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|each| each.as_str() == text)
    }

    /// What files said before there was another one, and need not say now.
    pub fn is_envelope(&self) -> bool {
        *self == Self::Envelope
    }

    /// The line as [`Self::Envelope`] would have it, but for blanks and the order of the envelope's own members. A line that is none of this
    /// format stays as it is.
    pub(crate) fn envelope_of(self, line: &Bytes) -> Bytes {
        match self {
            Self::Envelope => line.clone(),
            Self::Flat => envelope::of_flat(line).unwrap_or_else(|| line.clone()),
        }
    }
}
