//! Folders that are gone when the process is, however it ends.
//!
//! Destructors do not run on `kill -9`, nor for statics. So one small shell, the janitor, holds the reading end of a pipe
//! and removes the process's folder when the pipe closes, which the kernel does for every kind of death. With
//! `ATLAS_KEEP_FOLDERS=1` nothing is removed and the path is printed: for looking at what a failed test left.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::{ChildStdin, Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Signals of the terminal are for the test, not for its janitor. A server that dies at the same moment may still make a
/// file, hence the second attempt.
const JANITOR: &str =
    r#"trap "" INT TERM HUP; read -r never; rm -rf "$0" 2>/dev/null || { sleep 1; rm -rf "$0"; }"#;

struct Root {
    folder: std::path::PathBuf,
    /// Closed by the end of the process and by nothing else.
    _pipe: Option<ChildStdin>,
}

/// A new folder below this process's own one; removed when it is dropped, at the latest with the process.
///
/// # Errors
/// If the system refuses.
pub fn new(prefix: &str) -> Result<TempDir> {
    static ROOT: OnceLock<std::result::Result<Root, String>> = OnceLock::new();
    let root = ROOT.get_or_init(|| make_root().map_err(|error| format!("{error:#}")));
    let root = root.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).disable_cleanup(keeps());
    builder.tempdir_in(&root.folder).with_context(|| format!("make a folder in {}", root.folder.display()))
}

fn keeps() -> bool {
    std::env::var_os("ATLAS_KEEP_FOLDERS").is_some()
}

fn make_root() -> Result<Root> {
    let folder = tempfile::Builder::new().prefix("atlas-lake-").tempdir().context("make a folder")?.keep();
    if keeps() {
        eprintln!("kept: {}", folder.display());
        return Ok(Root { folder, _pipe: None });
    }
    let pipe = start_janitor(&folder)?;
    Ok(Root { folder, _pipe: Some(pipe) })
}

fn start_janitor(folder: &Path) -> Result<ChildStdin> {
    let mut janitor = Command::new("sh")
        .args(["-c", JANITOR])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A group of its own: what ends the tests' group does not end it.
        .process_group(0)
        .spawn()
        .context("start the janitor")?;
    janitor.stdin.take().context("the janitor's pipe")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_janitor_removes_the_folder_when_its_pipe_closes() {
        let folder = tempfile::tempdir().unwrap().keep();
        std::fs::write(folder.join("file"), "x").unwrap();
        let pipe = start_janitor(&folder).unwrap();
        assert!(folder.exists());
        drop(pipe);
        let gone = || async { Ok((!folder.exists()).then_some(())) };
        crate::wait::until("the folder is gone", Duration::from_secs(10), gone).await.unwrap();
    }
}
