//! What a storage account and a container say of themselves, as far as whoever may only use them can ask.

/// An answer, or why there is none; the text holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    Known(T),
    Unknown(String),
}

impl<T> Answer<T> {
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }
}

/// What bears on how the lake may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountFacts {
    /// `StorageV2`, `BlockBlobStorage` and so on.
    pub kind: Answer<String>,
    /// Whether it is a Data Lake account: one with hierarchical namespace.
    pub hierarchical: Answer<bool>,
    /// Whether a blob that is written over leaves a version.
    pub versions: Answer<bool>,
    /// Whether what is deleted, and on a flat account what is written over, is kept for a time.
    pub soft_delete: Answer<bool>,
    /// What keeps blobs of the container from being changed, if anything does.
    pub immutable: Answer<Option<&'static str>>,
}

impl AccountFacts {
    /// What keeps a copy of each blob that is written over. Soft delete does on a flat account only, and only a flat account
    /// has versions.
    pub fn keeps_what_is_replaced(&self) -> Option<&'static str> {
        if self.hierarchical.known() == Some(&true) {
            None
        } else if self.versions.known() == Some(&true) {
            Some("blob versioning")
        } else if (self.hierarchical.known(), self.soft_delete.known()) == (Some(&false), Some(&true)) {
            Some("soft delete for blobs")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_flat_account_keeps_what_is_replaced() {
        let unknown = || Answer::Unknown("403".to_owned());
        let facts = |hierarchical, versions, soft_delete| AccountFacts {
            kind: Answer::Unknown("403".to_owned()),
            hierarchical,
            versions,
            soft_delete,
            immutable: Answer::Known(None),
        };
        for (hierarchical, versions, soft_delete, kept) in [
            (Answer::Known(true), Answer::Known(false), Answer::Known(true), None),
            (Answer::Known(false), Answer::Known(false), Answer::Known(false), None),
            (Answer::Known(false), Answer::Known(true), unknown(), Some("blob versioning")),
            (Answer::Known(false), unknown(), Answer::Known(true), Some("soft delete for blobs")),
            // A version was seen: that is proof enough.
            (unknown(), Answer::Known(true), unknown(), Some("blob versioning")),
            // On a Data Lake account soft delete keeps nothing that is written over.
            (unknown(), unknown(), Answer::Known(true), None),
            (unknown(), unknown(), unknown(), None),
        ] {
            let facts = facts(hierarchical, versions, soft_delete);
            assert_eq!(facts.keeps_what_is_replaced(), kept, "{facts:?}");
        }
    }
}
