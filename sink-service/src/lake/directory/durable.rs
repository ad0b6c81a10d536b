//! Writes that survive a power cut: each returns only when the kernel says that the bytes, and the name that leads to
//! them, are on the disk. After <https://lwn.net/Articles/457667/>: sync the file, rename it, sync the folder.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustix::fs::{Advice, fadvise};

/// Where a replacement failed.
#[derive(Debug)]
pub(super) enum ReplaceError {
    /// The old content is untouched.
    Before(io::Error),
    /// The new content may or may not be what a restart finds.
    InDoubt(io::Error),
}

/// Replaces the content of a file, or makes it, in one step. Only one process may do so at a time: the temporary name
/// is fixed, so that a crash leaves at most one such file, which the next replacement overwrites.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), ReplaceError> {
    let temporary = temporary_name(path);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(ReplaceError::Before)?;
    fs::rename(&temporary, path).map_err(ReplaceError::InDoubt)?;
    sync_folder(parent(path)).map_err(ReplaceError::InDoubt)
}

/// Never the name of an object: objects end in `.json` or a data file's extension.
pub(super) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// Makes a folder and all above it, each synced into the one above.
pub(super) fn make_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    make_folders(parent(folder))?;
    match fs::create_dir(folder) {
        Ok(()) => {}
        // Another writer was first; its name must be durable for us, too.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    sync_folder(parent(folder))
}

/// Makes an empty file, or empties the one that a crash left behind.
pub(super) fn make_empty(path: &Path) -> io::Result<File> {
    make_folders(parent(path))?;
    let file = File::create(path)?;
    file.sync_all()?;
    sync_folder(parent(path))?;
    Ok(file)
}

pub(super) fn open_for_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

/// Cuts the file to `size` bytes, where all that is beyond is a dead writer's, and appends.
pub(super) fn append_at(file: &File, size: u64, pieces: &[Bytes]) -> io::Result<()> {
    file.set_len(size)?;
    let mut writer = BufWriter::with_capacity(256 * 1024, file);
    writer.seek(SeekFrom::Start(size))?;
    for piece in pieces {
        writer.write_all(piece)?;
    }
    writer.flush()?;
    drop(writer);
    file.sync_data()?;
    forget_cached(file, size);
    Ok(())
}

/// Gives the pages of what was just written back to the kernel: nobody reads them here, and the next append gets them instead of new
/// ones, which cost more than the writing itself where memory is handed out by a hypervisor. Only advice: what it says changes no byte.
fn forget_cached(file: &File, from: u64) {
    // No length: to the end of the file.
    if let Err(error) = fadvise(file, from, None, Advice::DontNeed) {
        tracing::debug!(%error, "the kernel keeps the pages that were written");
    }
}

/// Gives a synced file its final name, over whatever has it; the folder is made if it is missing.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    make_folders(parent(to))?;
    fs::rename(from, to)?;
    sync_folder(parent(to))
}

/// Removes a file, and the folders above it that are empty then, up to `root`. That it is gone already is no error.
pub(super) fn remove(path: &Path, root: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(parent(path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let folders = path.ancestors().skip(1).take_while(|folder| *folder != root);
    for folder in folders {
        match fs::remove_dir(folder) {
            Ok(()) => sync_folder(parent(folder))?,
            // Another file, or somebody else's removal.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) =>
            {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_replacement_survives_the_remains_of_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/head.json");
        make_folders(parent(&path)).unwrap();
        replace(&path, b"one").unwrap();
        fs::write(temporary_name(&path), b"half a longer th").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert!(!temporary_name(&path).exists());
    }

    #[test]
    fn an_append_starts_where_the_last_one_was_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.jsonl");
        let file = make_empty(&path).unwrap();
        append_at(&file, 0, &[Bytes::from_static(b"one\n"), Bytes::from_static(b"unconfirmed")]).unwrap();
        append_at(&open_for_append(&path).unwrap(), 4, &[Bytes::from_static(b"two\n")]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
    }
}
