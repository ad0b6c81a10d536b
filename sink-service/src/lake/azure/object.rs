//! Blobs outside of the chains: written into a temporary file of this machine, sent in blocks, and committed in one step.

use std::{
    collections::HashMap,
    env, fs,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
};

use bytes::Bytes;
use uuid::Uuid;

use super::{AzureContainer, Condition, Content};
use crate::{
    lake::{ETag, LakeError},
    lake_path::LakePath,
};

/// 50,000 of them make a blob: 390 GiB.
const BLOCK_BYTES: u64 = 8 * 1024 * 1024;

/// See the module.
pub struct NewObject<'a> {
    lake: &'a AzureContainer,
    path: LakePath,
    /// Without a name: it is gone when it is closed.
    file: File,
}

impl AzureContainer {
    pub(in crate::lake) fn new_object(&self, path: &LakePath) -> Result<NewObject<'_>, LakeError> {
        let place = env::temp_dir().join(format!("atlas-lake-{}", Uuid::new_v4().simple()));
        let made = OpenOptions::new().read(true).write(true).create_new(true).open(&place);
        let file = made.and_then(|file| fs::remove_file(&place).map(|()| file)).map_err(of_this_machine)?;
        Ok(NewObject { lake: self, path: path.clone(), file })
    }
}

impl NewObject<'_> {
    pub(in crate::lake) fn file(&self) -> &File {
        &self.file
    }

    pub(in crate::lake) async fn publish(
        self,
        expected: Option<&ETag>,
        content_type: &str,
    ) -> Result<(), LakeError> {
        let Self { lake, path, file } = self;
        let client = lake.blob(&path).block_blob_client();
        let size = file.metadata().map_err(of_this_machine)?.len();
        let mut staged = Vec::new();
        let mut offset = 0;
        while offset < size {
            let length = BLOCK_BYTES.min(size - offset);
            let mut block = vec![0; usize::try_from(length).expect("a block fits the memory")];
            file.read_exact_at(&mut block, offset).map_err(of_this_machine)?;
            staged.push(lake.stage(&client, &path, Bytes::from(block)).await?);
            offset += length;
        }
        let condition = expected.map_or(Condition::Absent, Condition::Still);
        let content = Content { content_type, metadata: HashMap::new() };
        lake.commit_blocks(&client, &path, &[], &staged, content, condition).await.map(drop)
    }
}

fn of_this_machine(error: io::Error) -> LakeError {
    let cause = format!("a temporary file in {}: {error}", env::temp_dir().display());
    LakeError::Unavailable { cause, retry_after: None }
}
