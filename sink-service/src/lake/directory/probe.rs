//! Looks at the place of a lake without making anything there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

use super::{CHAIN_FOLDER, Directory, before, mounts};
use crate::lake::{LakeError, Presence};

impl Directory {
    pub(in crate::lake) async fn probe(&self) -> Result<Presence, LakeError> {
        self.step(|places| {
            let root = &places.root;
            let there = nearest(root).map_err(|error| before(root, &error))?;
            let resolved = fs::canonicalize(&there).map_err(|error| before(&there, &error))?;
            if !resolved.is_dir() {
                return Err(before(&there, &io::ErrorKind::NotADirectory.into()));
            }
            mounts::refuse_network(&resolved)?;
            if there == *root {
                return Ok(Presence::There);
            }
            may_write(&resolved)?;
            Ok(Presence::Missing)
        })
        .await
    }

    pub(in crate::lake) async fn probe_write(&self) -> Result<(), LakeError> {
        self.step(|places| {
            may_write(&places.root)?;
            let chain = places.root.join(CHAIN_FOLDER);
            if chain.exists() { may_write(&chain) } else { Ok(()) }
        })
        .await
    }
}

/// The path, or the closest folder above it that is there.
fn nearest(path: &Path) -> io::Result<PathBuf> {
    for place in path.ancestors() {
        match fs::metadata(place) {
            Ok(_) => return Ok(place.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn may_write(folder: &Path) -> Result<(), LakeError> {
    let allowed = access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK);
    allowed.map_err(|error| before(folder, &error.into()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn nothing_is_made_by_looking() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Directory::new(folder.path().join("a/b"));
        assert_eq!(missing.probe().await.unwrap(), Presence::Missing);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let there = Directory::new(folder.path().to_owned());
        assert_eq!(there.probe().await.unwrap(), Presence::There);
        there.probe_write().await.unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let probed = Directory::new(file).probe().await;
        assert!(matches!(probed, Err(LakeError::Refused { .. })), "{probed:?}");
    }
}
