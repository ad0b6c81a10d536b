//! Reprints: are the rows that a manifest names beside the chain the chain's rows, each once? Files that no manifest names are a replay's that has not
//! finished, or an older reprint's: nobody reads them.

use std::collections::BTreeMap;

use super::Span;
use crate::{
    event_hour::EventHour,
    hours::{
        accounts::manifest,
        manifest::{Manifest, ManifestFile},
        reprint::{FileRange, covers},
    },
    lake::{Lake, LakeError, ListedFile},
    lake_path::TopicFolder,
    look_again::look_again,
};

/// Those of some files that the manifests of their hours name, by partition and first offset.
pub(super) async fn named(
    lake: &Lake,
    folder: &TopicFolder,
    listed: Vec<ListedFile>,
    span: &Span,
) -> Result<Vec<ListedFile>, LakeError> {
    let mut hours: BTreeMap<EventHour, Vec<ListedFile>> = BTreeMap::new();
    for file in listed {
        if let Some(hour) = folder.hour_of(&file.path.in_the_chain()).filter(|hour| span.contains(*hour)) {
            hours.entry(hour).or_default().push(file);
        }
    }
    let mut named = Vec::new();
    for (hour, files) in hours {
        let manifest = match look_again(async || manifest(lake, folder, hour).await).await {
            Ok(Some((manifest, _))) => manifest,
            // Looked at with all manifests.
            Ok(None) | Err(LakeError::Damaged { .. }) => continue,
            Err(error) => return Err(error),
        };
        let is_named = |file: &ListedFile| {
            manifest.reprinted_files().any(|named| named.name == file.path.name_in_hour())
        };
        named.extend(files.into_iter().filter(is_named));
    }
    named.sort_by_key(|file| (file.metadata.topic_partition.partition, file.metadata.first));
    Ok(named)
}

/// What is wrong with what a manifest names beside the chain. `there`: the files of reprints in its hour's folder.
pub(super) fn disagreement(manifest: &Manifest, there: &[ManifestFile]) -> Option<String> {
    let reprinted: Vec<ManifestFile> = manifest.reprinted_files().cloned().collect();
    for file in &reprinted {
        match there.iter().find(|other| other.name == file.name) {
            None => return Some(format!("{} is named, and not there", file.name)),
            Some(other) if other != file => return Some(format!("{} is not as it is named", file.name)),
            Some(_) => {}
        }
    }
    if manifest.reprint.is_none() {
        let stray = reprinted.first()?;
        return Some(format!("{} is named, and there is no reprint", stray.name));
    }
    let (covered, others): (Vec<&ManifestFile>, Vec<&ManifestFile>) =
        manifest.chain_files().iter().partition(|file| covers(&reprinted, file));
    let beside: Vec<&ManifestFile> = manifest.files.iter().filter(|file| !file.is_reprint()).collect();
    if beside != others {
        return Some("the files that came later are not those that the reprint leaves out".to_owned());
    }
    match (ranges(reprinted.iter()), ranges(covered.iter().copied())) {
        (Some(reprinted), Some(covered)) if reprinted == covered => {}
        _ => return Some("the reprint's offsets are not those of the files that it is made of".to_owned()),
    }
    // A replay that has begun may have made rows of dead letters already.
    let facts = |files: &mut dyn Iterator<Item = &ManifestFile>| {
        files.fold((0, 0, 0), |(rows, letters, tombstones), file| {
            (rows + file.rows, letters + file.deadletters, tombstones + file.tombstones)
        })
    };
    let (here, in_chain) = (facts(&mut reprinted.iter()), facts(&mut covered.iter().copied()));
    (manifest.rebuilding.is_none() && here != in_chain).then(|| {
        format!(
            "the reprint has {} rows, {} dead letters and {} tombstones, the files that it is made of {}, {} and {}",
            here.0, here.1, here.2, in_chain.0, in_chain.1, in_chain.2
        )
    })
}

/// What files hold together, by partition and first offset; neighbours are one. `None` if two hold the same.
fn ranges<'a>(files: impl Iterator<Item = &'a ManifestFile>) -> Option<Vec<FileRange>> {
    let mut ranges: Vec<FileRange> = Vec::new();
    for file in files {
        match ranges.last_mut() {
            Some((partition, _, next)) if *partition == file.partition && *next > file.first => return None,
            Some((partition, _, next)) if *partition == file.partition && *next == file.first => {
                *next = file.next;
            }
            _ => ranges.push((file.partition, file.first, file.next)),
        }
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use shared::{kafka_position::KafkaOffset, namespace::Namespace};

    use super::*;
    use crate::{hours::reprint::Reprint, topic_content::TopicContent};

    fn file(name: &str, partition: i32, first: u64, next: u64) -> ManifestFile {
        ManifestFile {
            name: name.to_owned(),
            partition,
            first: KafkaOffset::new(first),
            next: KafkaOffset::new(next),
            rows: next - first,
            deadletters: 0,
            tombstones: 0,
            operations: BTreeMap::new(),
            crc: "0".repeat(16),
            originalsize: 10,
            storedsize: 10,
            compressed: "none".to_owned(),
            lineformat: crate::line_format::LineFormat::Envelope,
            generation: 0,
        }
    }

    #[test]
    fn what_comes_later_is_named_beside_the_reprint_and_everything_else_is_told() {
        let now = chrono::DateTime::UNIX_EPOCH;
        let chain = vec![file("events-a", 0, 0, 10), file("events-b", 0, 10, 25), file("events-c", 1, 0, 5)];
        let closed = Manifest::new(
            "t",
            &TopicContent::Data(Namespace::new("shop", "orders")),
            EventHour::EPOCH,
            BTreeMap::new(),
            chain.clone(),
            now,
        );
        assert_eq!(closed.chain_files(), chain);
        assert!(!String::from_utf8(closed.to_bytes()).unwrap().contains("chain"));
        let reprinted = vec![file("_gen-1/events-a", 0, 0, 25), file("_gen-1/events-c", 1, 0, 5)];
        let reprint = || (Reprint { form: None, ranges: String::new() }, reprinted.clone());
        let switched = closed.switched(1, reprint(), chain.clone(), now);
        assert_eq!((switched.revision, switched.generation, switched.rows), (2, 1, 30));
        assert_eq!((&switched.files[..], switched.chain_files()), (&reprinted[..], &chain[..]));
        assert_eq!(Manifest::parse(&switched.to_bytes()).unwrap(), switched);
        assert_eq!(disagreement(&switched, &reprinted), None);

        let mut later = chain.clone();
        later.insert(2, file("events-d", 0, 40, 41));
        let revised = switched.revised(later.clone(), now);
        let names: Vec<&str> = revised.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["_gen-1/events-a", "events-d", "_gen-1/events-c"]);
        assert_eq!((revised.rows, revised.chain_files().len()), (31, 4));
        assert_eq!(disagreement(&revised, &reprinted), None);
        // The next one covers it.
        let mut wider = reprinted.clone();
        wider.insert(1, file("_gen-2/events-d", 0, 40, 41));
        let next = revised.switched(2, (reprint().0, wider.clone()), later.clone(), now);
        assert_eq!((&next.files[..], next.revision), (&wider[..], 4));
        // In place again: no reprint any more.
        let back = next.rebuilt(3, later.clone(), now);
        assert_eq!((&back.files[..], back.chain_files(), back.rows), (&later[..], &later[..], 31));

        let says = |manifest: &Manifest, there: &[ManifestFile], what: &str| {
            let said = disagreement(manifest, there).unwrap();
            assert!(said.contains(what), "{said}");
        };
        says(&switched, &reprinted[1..], "_gen-1/events-a is named, and not there");
        let mut other = reprinted.clone();
        other[0].crc = "f".repeat(16);
        says(&switched, &other, "is not as it is named");
        let mut twice = revised.clone();
        twice.files.push(later[0].clone());
        says(&twice, &reprinted, "not those that the reprint leaves out");
        let short = vec![file("_gen-1/events-a", 0, 0, 24), reprinted[1].clone()];
        let short_of = closed.switched(1, (reprint().0, short.clone()), chain.clone(), now);
        says(&short_of, &short, "offsets are not those");
        let mut fewer = reprinted.clone();
        fewer[0].rows -= 1;
        says(&closed.switched(1, (reprint().0, fewer.clone()), chain.clone(), now), &fewer, "has 29 rows");
        let lost = Manifest { reprint: None, ..switched };
        says(&lost, &reprinted, "there is no reprint");
    }
}
