//! How the programs of Kafka are started: the broker and its command line tools.
//!
//! `tests/servers/fetch.py` made an archive of the classes that a broker loads when it starts. With it a start takes half of the CPU
//! time, and two thirds of what a whole run of the tests needs is Java. A Java that finds the archive unfit passes over it in silence;
//! the script asks once whether it fits.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::paths;

/// The Java runtime and its arguments, but for the class to run.
#[derive(Clone, Debug)]
pub struct KafkaJava {
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

impl KafkaJava {
    /// With a heap of at most `heap_mb` megabytes. The collector is the one that the archive was made with.
    ///
    /// # Errors
    /// If Kafka or the runtime was not fetched.
    pub fn with_heap(heap_mb: u32) -> Result<Self> {
        let archive = paths::fetched("kafka-start/classes.jsa", "")?;
        let jars = paths::fetched("kafka/libs", "")?.join("*");
        let arguments = [
            &format!("-Xmx{heap_mb}m"),
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",
            &format!("-XX:SharedArchiveFile={}", archive.display()),
            "-cp",
            &jars.to_string_lossy(),
        ];
        let arguments = arguments.map(ToOwned::to_owned).to_vec();
        Ok(Self { program: paths::fetched("jre/bin/java", "")?, arguments })
    }

    /// One of Kafka's command line tools as an executable script at `path`, as its own distribution has them in `bin/`.
    ///
    /// # Errors
    /// If Kafka was not fetched, or the script cannot be written.
    pub fn tool(class: &str, path: &Path) -> Result<()> {
        let java = Self::with_heap(64)?;
        let arguments: String = java.arguments.iter().map(|argument| format!(" '{argument}'")).collect();
        let script = format!("#!/bin/sh\nexec '{}'{arguments} {class} \"$@\"\n", java.program.display());
        fs::write(path, script).context("write the tool's script")?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context("make the script executable")
    }
}
