//! `compare`: holds the lake against MongoDB itself, document by document.
//!
//! A collection's changes, folded to the last one of each document, must give the collection. Both go on changing meanwhile,
//! so a document that differs is looked at again until it agrees or is known to differ:
//!
//! ```text
//!   lake ── fold ──▶ key ▶ last change          rows of the chain, in its order, and when the collection was dropped ([`drops`])
//!                        │
//!   MongoDB ── scan ─────┴──▶ suspects          documents that differ; changes that no document was seen for
//!                                │
//!          ┌─────────────────────▼──────────────────────────────┐
//!          │ 1. MongoDB's time T is asked, after its documents  │
//!          │ 2. the lake is complete through T: every source's  │
//!          │    position is behind T, then every chain reached  │
//!          │    the end that its partition had after that       │
//!          │ 3. the fold reads on                               │
//!          │ 4. suspects that agree now are none                │
//!          └─ the others are read from MongoDB again ◀──────────┘
//! ```
//!
//! A suspect *agrees* if the last change, or one that came since MongoDB was asked, left what MongoDB said: so a document that changes all the time
//! is compared too. A suspect *differs* if two rounds after each other saw the same document in MongoDB and the same last change in the lake. A document
//! that `updateLookup` took from a later time than its change cannot be mistaken for that: the change of that later time is complete in the next
//! round, and then the last change is another one.
//!
//! Documents are compared by a hash of their values' normal form ([`normal`]), which is made by the `bson` crate and not by the code that wrote the
//! lines. Nothing is written, and no consumer group is touched.

mod args;
mod collection;
mod command;
mod completeness;
mod drops;
mod fold;
mod lake_side;
mod normal;
mod report;
mod rounds;
mod suspect;
mod topic_lines;

pub use self::{
    args::{CompareRequest, compare_command, compare_request},
    command::{Agreement, compare, mongo_uri},
};
