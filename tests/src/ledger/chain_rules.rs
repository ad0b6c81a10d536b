//! The lake by itself: per Kafka partition one linear chain of files, tiled without gap or overlap.

use std::collections::BTreeMap;

use super::{ViolationKind, Violations};
use crate::lake_reader::{LakeContent, LakeFile, LakeHead};

/// The files of one Kafka partition, in the order of their ranges, and what they answer for.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    pub(super) topic: String,
    pub(super) partition: i32,
    /// Where the chain begins.
    pub(super) start: i64,
    /// One past the last offset that some file, or the head's `scanned`, answers for.
    pub(super) end: i64,
    pub(super) links: Vec<Link<'a>>,
}

#[derive(Debug)]
pub(super) struct Link<'a> {
    pub(super) file: &'a LakeFile,
    pub(super) first: i64,
    pub(super) next: i64,
    sealed: bool,
}

pub(super) fn judge<'a>(lake: &'a LakeContent, violations: &mut Violations) -> Vec<Chain<'a>> {
    let mut links: BTreeMap<(String, i32), Vec<Link<'a>>> = BTreeMap::new();
    for file in &lake.files {
        match link(file) {
            Ok((partition, link)) => links.entry(partition).or_default().push(link),
            Err(error) => violations.add(ViolationKind::WrongMetadata, format!("{error:#}")),
        }
    }
    let mut heads: BTreeMap<(String, i32), &LakeHead> = BTreeMap::new();
    for head in &lake.heads {
        heads.insert((head.topic.clone(), head.partition), head);
        links.entry((head.topic.clone(), head.partition)).or_default();
    }
    let chains = links.into_iter();
    chains
        .map(|(partition, links)| {
            judge_chain(partition.clone(), links, heads.get(&partition).copied(), violations)
        })
        .collect()
}

/// Offsets are committed after the rows are durable, never before.
pub(super) fn judge_offsets(
    chains: &[Chain<'_>],
    committed: &BTreeMap<(String, i32), i64>,
    violations: &mut Violations,
) {
    for ((topic, partition), &offset) in committed {
        let chain = chains.iter().find(|chain| chain.topic == *topic && chain.partition == *partition);
        let end = chain.map_or(0, |chain| chain.end);
        if offset > end {
            let detail =
                format!("{topic}/{partition}: offset {offset} is committed, the chain reached {end}");
            violations.add(ViolationKind::OffsetAhead, detail);
        }
    }
}

fn link(file: &LakeFile) -> anyhow::Result<((String, i32), Link<'_>)> {
    let partition = i32::try_from(file.number("partition")?)?;
    let link = Link {
        file,
        first: file.number("first")?,
        next: file.number("next")?,
        sealed: file.text("sealed")? == "true",
    };
    Ok(((file.topic()?, partition), link))
}

fn judge_chain<'a>(
    (topic, partition): (String, i32),
    mut links: Vec<Link<'a>>,
    head: Option<&LakeHead>,
    violations: &mut Violations,
) -> Chain<'a> {
    links.sort_by_key(|link| (link.first, link.next));
    let name = format!("{topic}/{partition}");
    let first = links.first().map_or(0, |link| link.first);
    let start = head.map_or(first, |head| head.start);
    if head.is_none() {
        violations.add(ViolationKind::WrongHead, format!("{name} has files but no head"));
    }

    let mut reached = start;
    for (index, link) in links.iter().enumerate() {
        let path = &link.file.path;
        if link.next <= link.first {
            violations.add(
                ViolationKind::WrongMetadata,
                format!("{path}: the range [{}, {}) is empty", link.first, link.next),
            );
        }
        if link.first > reached {
            violations
                .add(ViolationKind::ChainGap, format!("{name}: [{reached}, {}) before {path}", link.first));
        }
        if link.first < reached {
            violations.add(
                ViolationKind::ChainOverlap,
                format!("{name}: [{}, {reached}) again in {path}", link.first),
            );
        }
        if index + 1 < links.len() && !link.sealed {
            violations.add(ViolationKind::NotSealed, format!("{path} has a successor"));
        }
        reached = reached.max(link.next);
    }

    if let Some(head) = head {
        judge_head(head, &links, reached, violations);
    }
    let end = reached.max(head.map_or(0, |head| head.scanned));
    Chain { topic, partition, start, end, links }
}

/// The head names the last file, or one that is about to be made behind the last, sealed one.
fn judge_head(head: &LakeHead, links: &[Link<'_>], reached: i64, violations: &mut Violations) {
    let mut wrong = |detail: String| {
        violations.add(ViolationKind::WrongHead, format!("{}: {detail}", head.document_path))
    };
    let Some(path) = &head.path else {
        if let Some(link) = links.first() {
            wrong(format!("names no file, but {} is there", link.file.path));
        }
        return;
    };
    match links.last() {
        Some(last) if last.file.path == *path => {
            if head.first != Some(last.first) {
                wrong(format!("says first {:?}, the file {}", head.first, last.first));
            }
        }
        last => {
            let is_sealed = last.is_none_or(|last| last.sealed);
            if head.created || !is_sealed || head.first != Some(reached) {
                let last = last.map_or("none", |last| last.file.path.as_str());
                wrong(format!("names {path}, but the last file is {last}"));
            }
        }
    }
}
