//! Manifests and marks: does each closed hour say what it holds?

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{reprints, walk::Walk};
use crate::{
    event_hour::EventHour,
    hours::{
        accounts::closed_hours,
        expired::Expired,
        manifest::{Manifest, ManifestFile, sealed_files},
    },
    lake::LakeError,
    lake_layout::OpenLake,
    lake_path::{MANIFEST, SUCCESS, TopicFolder},
    look_again::look_again,
    span::Span,
    topic_content::TopicContent,
};

/// A sink or a replay may be writing: what does not agree is looked at again before it is a difference. So long for all hours of one topic
/// together, so that a lake with many differences is not waited for hour by hour.
const AGREES_WITHIN: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);

/// Adds what is wrong with a topic's closed hours, those of the span, to the result of one of its partitions.
pub(super) async fn check(
    lake: &OpenLake,
    topic: &str,
    content: &TopicContent,
    span: &Span,
    expired: Option<&Expired>,
    walk: &mut Walk,
) -> Result<(), LakeError> {
    let folder = lake.folder(content);
    // Before the folder is listed: what has closed by now has its manifest. A live sink goes on closing.
    let record = look_again(async || closed_hours(lake, topic).await).await?;
    let mut with_manifest: BTreeSet<EventHour> = BTreeSet::new();
    let mut with_mark: BTreeSet<EventHour> = BTreeSet::new();
    let mut with_files: BTreeSet<EventHour> = BTreeSet::new();
    for path in look_again(async || lake.list_names(folder.path()).await).await? {
        let Some(hour) = folder.hour_of(&path).filter(|hour| span.contains(*hour)) else { continue };
        match path.file_name() {
            MANIFEST => with_manifest.insert(hour),
            SUCCESS => with_mark.insert(hour),
            _ => with_files.insert(hour),
        };
    }
    for hour in with_mark.difference(&with_manifest) {
        // A listing may pass by what was made while it went on.
        if look_again(async || lake.read_document(&folder.manifest(*hour)).await).await?.is_none() {
            walk.differs(format!("{} has no manifest beside it", folder.success(*hour)));
        }
    }
    if let Some((record, _)) = record
        && let Some(closed) = record.closed
    {
        let gone = |hour: &EventHour| {
            !with_files.contains(hour) && expired.is_some_and(|expired| *hour < expired.before)
        };
        let closed = record.begin.to(closed).filter(|hour| span.contains(*hour));
        for hour in closed.filter(|hour| !with_manifest.contains(hour) && !gone(hour)) {
            walk.differs(format!("hour {hour} has closed, but {} is missing", folder.manifest(hour)));
        }
    }
    let deadline = Instant::now() + AGREES_WITHIN;
    for hour in with_manifest {
        let mut trouble = disagreement(lake, topic, &folder, hour).await?;
        while trouble.is_some() && Instant::now() < deadline {
            tokio::time::sleep(PAUSE).await;
            trouble = disagreement(lake, topic, &folder, hour).await?;
        }
        if let Some(trouble) = trouble {
            walk.differs(trouble);
        }
    }
    Ok(())
}

/// What the manifest says and the folder does not, or the other way round.
async fn disagreement(
    lake: &OpenLake,
    topic: &str,
    folder: &TopicFolder,
    hour: EventHour,
) -> Result<Option<String>, LakeError> {
    let path = folder.manifest(hour);
    let Some(document) = look_again(async || lake.read_document(&path).await).await? else {
        return Ok(Some(format!("{path} is gone")));
    };
    let manifest = match Manifest::parse(&document.bytes) {
        Ok(manifest) => manifest,
        Err(what) => return Ok(Some(format!("{path}: {what}"))),
    };
    if manifest.topic != topic || manifest.hour != hour {
        return Ok(Some(format!("{path} is of {} and hour {}", manifest.topic, manifest.hour)));
    }
    let place = folder.hour(hour);
    let (there, reprinted) = look_again(async || lake.list_with_reprints(&place).await).await?;
    let mut there = sealed_files(&there.whole()?, topic);
    // A replay that has begun rewrites the files one by one, with the same content.
    let mut named = manifest.chain_files().to_vec();
    if manifest.rebuilding.is_some() {
        for file in there.iter_mut().chain(&mut named) {
            (file.generation, file.storedsize) = (0, 0);
        }
    }
    let of_file = |file: &ManifestFile, what: &str| Some(format!("{path}: {} {what}", file.name));
    for file in &named {
        match there.iter().find(|other| other.name == file.name) {
            None => return Ok(of_file(file, "is named, and not there")),
            Some(other) if other != file => return Ok(of_file(file, "is not as it is named")),
            Some(_) => {}
        }
    }
    if let Some(file) = there.iter().find(|file| !named.iter().any(|other| other.name == file.name)) {
        return Ok(of_file(file, "is there, and not named"));
    }
    let rows: u64 = manifest.files.iter().map(|file| file.rows).sum();
    if rows != manifest.rows {
        return Ok(Some(format!("{path} says {} rows, its files have {rows}", manifest.rows)));
    }
    let reprinted = sealed_files(&reprinted.files, topic);
    Ok(reprints::disagreement(&manifest, &reprinted).map(|what| format!("{path}: {what}")))
}
