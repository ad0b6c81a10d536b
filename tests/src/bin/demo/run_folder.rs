//! `.demo/<run>`: the lake and the logs of one demo, kept until the next one starts.
//!
//! Each running demo holds a lock on its own folder, so that one that starts removes what finished runs left and
//! leaves alone those that still run. `.demo/lock` is held only while folders are made and removed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use chrono::Utc;
use pipeline_tests::paths;

const LOCK: &str = "lock";

#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    name: String,
    /// Locked until the process ends, however it does.
    _running: File,
}

impl RunFolder {
    /// Makes a folder for this run and removes those of runs that have ended.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn make() -> Result<Self> {
        let root = paths::repository().join(".demo");
        fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
        let all = lock_file(&root)?;
        all.lock().context("wait for another demo to start")?;
        for entry in fs::read_dir(&root).with_context(|| format!("list {}", root.display()))? {
            let folder = entry.context("list the demos")?.path();
            if folder.is_dir() && lock_file(&folder)?.try_lock().is_ok() {
                fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
            }
        }
        let name = format!("{}-{}", Utc::now().format("%Y%m%d-%H%M%S"), std::process::id());
        let path = root.join(&name);
        fs::create_dir_all(path.join("logs")).with_context(|| format!("make {}", path.display()))?;
        let running = lock_file(&path)?;
        running.try_lock().context("lock a new folder")?;
        Ok(Self { path, name, _running: running })
    }

    /// Tells this run's names apart from another one's.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn lake(&self) -> PathBuf {
        self.path.join("lake")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }
}

fn lock_file(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))
}
