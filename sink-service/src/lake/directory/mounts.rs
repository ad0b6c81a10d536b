//! Is a folder on a network file system? There `flock`, rename and sync do not hold between machines what this lake
//! needs, or only under mount options that cannot be seen from here; and a second machine may be writing.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::before;
use crate::lake::LakeError;

/// File systems that several machines can mount at once, as Linux names them. FUSE ones count by their second half.
const SHARED: [&str; 33] = [
    "9p",
    "afs",
    "beegfs",
    "blobfuse",
    "blobfuse2",
    "ceph",
    "ceph-fuse",
    "cifs",
    "coda",
    "davfs",
    "drvfs",
    "gcsfuse",
    "gfs2",
    "glusterfs",
    "goofys",
    "gpfs",
    "juicefs",
    "lustre",
    "mount-s3",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "rclone",
    "s3fs",
    "smb2",
    "smb3",
    "smbfs",
    "sshfs",
    "vboxsf",
    "virtiofs",
    "vmhgfs-fuse",
];

/// An existing folder on a network file system is refused.
pub(super) fn refuse_network(folder: &Path) -> Result<(), LakeError> {
    let Some(kind) = network_file_system(folder).map_err(|error| before(folder, &error))? else {
        return Ok(());
    };
    let what = format!(
        "{} is on a network file system ({kind}); expected a local one, or LAKE_URL of a storage account",
        folder.display()
    );
    Err(LakeError::Refused { what })
}

/// The type of the network file system that `folder`, an existing absolute path without links, lies on; `None` if it
/// is local as far as can be told.
///
/// # Errors
/// If the mounts cannot be read.
fn network_file_system(folder: &Path) -> io::Result<Option<String>> {
    let mounts = fs::read("/proc/self/mounts")?;
    Ok(file_system_of(folder, &mounts).filter(|kind| is_shared(kind)))
}

fn is_shared(kind: &str) -> bool {
    let kind = kind.strip_prefix("fuse.").unwrap_or(kind);
    SHARED.binary_search(&kind).is_ok()
}

/// The type of the mount nearest above `folder`; of several at one place the last, which hides the others.
fn file_system_of(folder: &Path, mounts: &[u8]) -> Option<String> {
    let mut nearest: Option<(PathBuf, String)> = None;
    for line in mounts.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ').skip(1);
        let (Some(place), Some(kind)) = (fields.next(), fields.next()) else { continue };
        let place = PathBuf::from(OsString::from_vec(unescape(place)));
        let hides = nearest.as_ref().is_none_or(|(best, _)| place.starts_with(best));
        if folder.starts_with(&place) && hides {
            nearest = Some((place, String::from_utf8_lossy(kind).into_owned()));
        }
    }
    nearest.map(|(_, kind)| kind)
}

/// The kernel writes blanks and backslashes as `\` and three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| str::from_utf8(digits).ok());
        let escaped = digits.filter(|_| byte == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        rest = if let Some(value) = escaped {
            bytes.push(value);
            &tail[3..]
        } else {
            bytes.push(byte);
            tail
        };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"overlay / overlay rw 0 0\n\
        /dev/sdb1 /data ext4 rw 0 0\n\
        server:/export /data/shared nfs4 rw 0 0\n\
        me@host: /data/my\\040files fuse.sshfs rw 0 0\n\
        /dev/sdc1 /data/shared/local xfs rw 0 0\n\
        //nas/x /srv cifs rw 0 0\n\
        tmpfs /srv tmpfs rw 0 0\n";

    #[test]
    fn the_nearest_mount_decides() {
        for (folder, kind, shared) in [
            ("/home/lake", "overlay", false),
            ("/data/lake", "ext4", false),
            ("/data/sharedx", "ext4", false),
            ("/data/shared/lake", "nfs4", true),
            ("/data/shared/local/lake", "xfs", false),
            ("/data/my files/lake", "fuse.sshfs", true),
            ("/srv/lake", "tmpfs", false),
        ] {
            let found = file_system_of(Path::new(folder), MOUNTS);
            assert_eq!(found.as_deref(), Some(kind), "{folder}");
            assert_eq!(found.is_some_and(|kind| is_shared(&kind)), shared, "{folder}");
        }
    }

    #[test]
    fn the_table_is_sorted_because_it_is_searched() {
        assert!(SHARED.is_sorted());
    }
}
