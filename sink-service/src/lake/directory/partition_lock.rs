//! The lock that makes one step on a local directory atomic: an advisory `flock` on a file of its own.
//!
//! It is held for one step only and freed by the kernel when its holder dies, so a crash never leaves it behind. What
//! can keep it is a process that is stopped (SIGSTOP, a debugger, a hung disk): the others then say so and are not
//! ready, rather than wait for ever.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Held until dropped.
#[derive(Debug)]
pub(super) struct PartitionLock {
    /// Closing it unlocks.
    _file: File,
}

#[derive(Debug, Error)]
pub(super) enum LockError {
    #[error("{file} has been locked by process {holder} for {waited:?}; is it stopped?")]
    Held { file: String, holder: String, waited: Duration },
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl PartitionLock {
    /// Blocks the thread for at most `patience`.
    ///
    /// `flock` knows no time limit, and a thread blocked in it cannot be called back; so it is tried, with pauses that
    /// grow to 50 ms. A step takes a few milliseconds, so that most waits end at the first tries.
    pub(super) fn take(path: &Path, patience: Duration) -> Result<Self, LockError> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            match file.try_lock() {
                // Whoever removed the file in between locks another one: take that.
                Ok(()) if !is_still_at(&file, path)? => continue,
                Ok(()) => {
                    write_holder(&mut file)?;
                    return Ok(Self { _file: file });
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            let waited = started.elapsed();
            if waited >= patience {
                let holder = read_holder(&mut file)?;
                return Err(LockError::Held { file: path.display().to_string(), holder, waited });
            }
            thread::sleep(pause.min(patience - waited));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn is_still_at(file: &File, path: &Path) -> io::Result<bool> {
    match path.metadata() {
        Ok(there) => {
            let held = file.metadata()?;
            Ok((there.dev(), there.ino()) == (held.dev(), held.ino()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// For the message of those who wait; nothing is decided by it, so it is not synced.
fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    write!(file, "{}", std::process::id())
}

fn read_holder(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.take(32).read_to_string(&mut text)?;
    Ok(if text.is_empty() { "unknown".to_owned() } else { text })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_held_lock_is_waited_for_within_bounds_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p0.lock");
        let held = PartitionLock::take(&path, Duration::ZERO).unwrap();
        let error = PartitionLock::take(&path, Duration::from_millis(80)).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("p0.lock"), "{message}");
        assert!(message.contains(&format!("process {} for", std::process::id())), "{message}");
        drop(held);
        PartitionLock::take(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn the_next_in_line_gets_it_when_the_holder_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p0.lock");
        let held = PartitionLock::take(&path, Duration::ZERO).unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| PartitionLock::take(&path, Duration::from_secs(30)));
            drop(held);
            waiter.join().unwrap().unwrap();
        });
    }
}
