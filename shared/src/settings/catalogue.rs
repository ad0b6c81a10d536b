//! Everything that one service can be told, and the way from there to its typed settings.

use super::{Effective, OldName, Reader, SettingsError, Sources, Table};
use crate::kafka_client::KAFKA_OLD_NAMES;

/// A service's settings, and the names that are answered with others.
#[derive(Clone, Copy, Debug)]
pub struct Catalogue {
    pub table: Table,
    /// Beside those of the Kafka client, which both services have.
    pub old_names: &'static [OldName],
}

impl Catalogue {
    /// Reads everything with `read`, and says every mistake at once.
    ///
    /// # Errors
    /// All mistakes.
    pub fn read<T>(
        &self,
        sources: Sources,
        read: impl FnOnce(&mut Reader) -> Option<T>,
    ) -> Result<(T, Effective), SettingsError> {
        let mut reader = self.reader(sources);
        let settings = read(&mut reader);
        reader.finish(settings)
    }

    /// What holds, for `config show`, and the mistakes in it.
    pub fn effective<T>(
        &self,
        sources: Sources,
        read: impl FnOnce(&mut Reader) -> Option<T>,
    ) -> (Effective, Option<SettingsError>) {
        let mut reader = self.reader(sources);
        let settings = read(&mut reader);
        let effective = reader.effective();
        (effective, reader.finish(settings).err())
    }

    fn reader(&self, sources: Sources) -> Reader {
        let old_names: Vec<OldName> = KAFKA_OLD_NAMES.iter().chain(self.old_names).copied().collect();
        Reader::new(self.table, &old_names, sources)
    }
}
