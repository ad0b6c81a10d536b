//! Where things are: the repository, the fetched servers, the built services.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// The repository's root, two levels above no matter which binary asks: it is fixed when this crate is built.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_path_buf()
}

/// The folder that `tests/servers/fetch.py` fills; `ATLAS_SERVERS_DIR` moves it for both.
pub fn servers() -> PathBuf {
    env::var_os("ATLAS_SERVERS_DIR").map_or_else(|| repository().join(".servers"), PathBuf::from)
}

/// One fetched file.
///
/// # Errors
/// If it is not there; the message has the line to type.
pub fn fetched(relative: &str, fetch_flag: &str) -> Result<PathBuf> {
    let path = servers().join(relative);
    if !path.exists() {
        bail!("{} is missing; type: python3 tests/servers/fetch.py {fetch_flag}", path.display());
    }
    Ok(path)
}

/// The folder of the services' binaries: `ATLAS_BIN_DIR`, else the one where the running program was built
/// (`target/debug` for tests, `target/release` for demo and bench).
///
/// # Errors
/// If the running program's own path cannot be told.
pub fn binaries() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("ATLAS_BIN_DIR") {
        return Ok(PathBuf::from(folder));
    }
    let own = env::current_exe().context("find the running program")?;
    let folder = own.parent().context("the running program has no folder")?;
    // Test binaries lie in `deps/`, one below the others.
    Ok(if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder }.to_path_buf())
}

/// The folder of the services built with planted bugs.
pub fn seeded_bug_binaries() -> PathBuf {
    repository().join("target/seeded-bugs")
}
