//! A lake's own layout: `_chain/layout.json`, written by whoever begins the lake, and read by everybody at the start.
//!
//! ```text
//!   record ── there ─────────────────────────────────────────▶ that one
//!     └────── missing ── a head ── where hive puts its file ──▶ hive: begun before there were records
//!                          │       where LAYOUT puts it ──────▶ that one: the record was lost
//!                          │       elsewhere ─────────────────▶ damaged (25)
//!                          └ none ────────────────────────────▶ not begun: the first writer's, in one create
//! ```
//!
//! Invariants:
//! - The record is there before the first head, and never changes: writers that begin a lake at once agree on the one that was created.
//! - Only [`begin`] writes it. Nobody who was told another layout goes on.

use std::ops::Deref;

use serde::{Deserialize, Serialize};
use shared::exit::{ExitCode, Stop};

use crate::{
    event_hour::EventHour,
    head::Head,
    lake::{Lake, LakeError, LakeTarget},
    lake_path::{LakePath, TopicFolder},
    layout::Layout,
    settings::LayoutSetting,
    topic_content::TopicContent,
};

/// Of the record's form.
const VERSION: u32 = 1;

/// The record.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// As `LAYOUT` has it.
    layout: String,
}

/// A lake whose layout is known: whoever looks for a collection's files needs both. All that a [`Lake`] does, it does too.
pub struct OpenLake {
    lake: Lake,
    layout: Layout,
}

impl OpenLake {
    pub fn new(lake: Lake, layout: Layout) -> Self {
        Self { lake, layout }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where a topic's files lie.
    pub fn folder(&self, content: &TopicContent) -> TopicFolder {
        self.layout.folder(content)
    }

    /// The hour whose folder a file lies in; `None` for every other path.
    pub fn hour_of(&self, path: &LakePath) -> Option<EventHour> {
        self.layout.hour_of(path)
    }
}

impl Deref for OpenLake {
    type Target = Lake;

    fn deref(&self) -> &Lake {
        &self.lake
    }
}

/// The layout that the lake has; `None` if nobody has begun it. Changes nothing.
///
/// # Errors
/// As the lake says; [`LakeError::Damaged`] if the record is none, or is lost.
pub async fn found(lake: &Lake, told: &LayoutSetting) -> Result<Option<Layout>, LakeError> {
    if let Some(layout) = recorded(lake).await? {
        return Ok(Some(layout));
    }
    let heads = lake.list_heads().await?;
    if heads.is_empty() {
        return Ok(None);
    }
    // It is there before any head is, so whoever has begun the lake since the first look has written it by now.
    if let Some(layout) = recorded(lake).await? {
        return Ok(Some(layout));
    }
    for path in heads {
        let Some(document) = lake.read_document(&path).await? else { continue };
        // One that is damaged is for others to find.
        let Ok(head) = Head::parse(&document.bytes) else { continue };
        let Some(file) = &head.path else { continue };
        let candidates = [Layout::hive(), told.layout.clone()];
        return match candidates.into_iter().find(|layout| layout.puts(&head)) {
            Some(layout) => Ok(Some(layout)),
            None => Err(LakeError::Damaged { path: LakePath::layout(), what: lost(file) }),
        };
    }
    Ok(Some(Layout::hive()))
}

fn lost(file: &LakePath) -> String {
    format!(
        "it is missing, and neither LAYOUT=hive nor the LAYOUT that is set puts a file at {file}. Set LAYOUT to what the lake was begun with: a \
         sink writes the record again"
    )
}

async fn recorded(lake: &Lake) -> Result<Option<Layout>, LakeError> {
    let path = LakePath::layout();
    let Some(document) = lake.read_document(&path).await? else { return Ok(None) };
    match parse(&document.bytes) {
        Ok(layout) => Ok(Some(layout)),
        Err(what) => Err(LakeError::Damaged { path, what }),
    }
}

fn parse(bytes: &[u8]) -> Result<Layout, String> {
    let record: Record =
        serde_json::from_slice(bytes).map_err(|error| format!("not the record of a layout: {error}"))?;
    if record.version != VERSION {
        return Err(format!("it is of version {}, this program knows {VERSION}", record.version));
    }
    Layout::parse(&record.layout).map_err(|mistakes| {
        let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        format!("{} is no layout: {}", record.layout, mistakes.join("; "))
    })
}

/// The layout that the lake has from now on: its own, or if nobody has begun it, the one that was told. Nothing is written into a lake whose
/// layout is another one.
///
/// # Errors
/// As [`found`].
pub async fn begin(lake: &Lake, told: &LayoutSetting) -> Result<Layout, LakeError> {
    loop {
        if let Some(layout) = found(lake, told).await?
            && (layout != told.layout || recorded(lake).await?.is_some())
        {
            return Ok(layout);
        }
        let record = Record { version: VERSION, layout: told.layout.to_string() };
        let bytes = serde_json::to_vec(&record).expect("a record is JSON");
        match lake.create_document(&LakePath::layout(), bytes).await {
            Ok(_) => return Ok(told.layout.clone()),
            // Somebody else was first: theirs it is.
            Err(LakeError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whoever was told another layout than the lake has must not go on.
///
/// # Errors
/// 25, naming both, and what to do.
pub fn agreed(target: &LakeTarget, has: Layout, told: &LayoutSetting) -> Result<Layout, Stop> {
    if has == told.layout {
        return Ok(has);
    }
    let origin = if told.given { "is set" } else { "holds where it is not set" };
    let what = format!(
        "the lake at {target} was begun with LAYOUT={has}, and LAYOUT={} {origin}. Nothing was changed.\n\
         Set LAYOUT={has}; for other folders name another place in LAKE_URL, since what is there stays where it is",
        told.layout
    );
    Err(Stop::new(ExitCode::LakeDiffers, what))
}

#[cfg(test)]
mod tests;
