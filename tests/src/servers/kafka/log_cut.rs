//! A log that ends earlier than it did.

use std::{
    fs::{self, OpenOptions},
    path::Path,
};

use anyhow::{Context, Result, ensure};

/// Of a record batch: its base offset in 8 bytes, and in 4 how many follow.
const BATCH_HEADER_BYTES: usize = 12;

/// Without these a start reads every log from its beginning, and believes only what it finds.
const CHECKPOINTS: [&str; 4] = [
    ".kafka_cleanshutdown",
    "recovery-point-offset-checkpoint",
    "replication-offset-checkpoint",
    "log-start-offset-checkpoint",
];

/// Cuts the only segment of a partition in front of the first batch that begins at `offset` or behind it.
pub(super) fn cut(logs: &Path, topic: &str, partition: i32, offset: i64) -> Result<()> {
    let folder = logs.join(format!("{topic}-{partition}"));
    let segment = folder.join(format!("{:020}.log", 0));
    let bytes = fs::read(&segment).with_context(|| format!("read {}", segment.display()))?;
    let mut at = 0;
    let end = loop {
        let header = bytes.get(at..at + BATCH_HEADER_BYTES);
        let header = header.with_context(|| format!("the log of {topic} has no batch from {offset} on"))?;
        let (base, length) = header.split_at(8);
        if i64::from_be_bytes(base.try_into()?) >= offset {
            break at;
        }
        at += BATCH_HEADER_BYTES + usize::try_from(i32::from_be_bytes(length.try_into()?))?;
    };
    ensure!(end > 0, "nothing would be left of {topic}");
    let file = OpenOptions::new().write(true).open(&segment).context("open the segment")?;
    file.set_len(end as u64).context("cut the segment")?;
    for entry in fs::read_dir(&folder).context("list the partition's folder")? {
        let path = entry.context("list the partition's folder")?.path();
        if path.extension().is_some_and(|kind| kind == "index" || kind == "timeindex" || kind == "snapshot") {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    for name in CHECKPOINTS {
        let path = logs.join(name);
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("remove {name}"))?;
        }
    }
    Ok(())
}
