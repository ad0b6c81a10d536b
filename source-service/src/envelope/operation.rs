//! What a change event says was done.

use std::fmt;

/// MongoDB's operation types. Which of them name a document is told by the event, not by the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation<'a> {
    Insert,
    Update,
    Replace,
    Delete,
    Drop,
    Rename,
    DropDatabase,
    Invalidate,
    Create,
    CreateIndexes,
    DropIndexes,
    Modify,
    ShardCollection,
    ReshardCollection,
    RefineCollectionShardKey,
    /// One that a later server invented; it is passed on under its own name.
    Unknown(&'a str),
}

impl<'a> Operation<'a> {
    pub fn from_name(name: &'a str) -> Self {
        match name {
            "insert" => Self::Insert,
            "update" => Self::Update,
            "replace" => Self::Replace,
            "delete" => Self::Delete,
            "drop" => Self::Drop,
            "rename" => Self::Rename,
            "dropDatabase" => Self::DropDatabase,
            "invalidate" => Self::Invalidate,
            "create" => Self::Create,
            "createIndexes" => Self::CreateIndexes,
            "dropIndexes" => Self::DropIndexes,
            "modify" => Self::Modify,
            "shardCollection" => Self::ShardCollection,
            "reshardCollection" => Self::ReshardCollection,
            "refineCollectionShardKey" => Self::RefineCollectionShardKey,
            other => Self::Unknown(other),
        }
    }

    /// As the server wrote it.
    pub const fn name(self) -> &'a str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Drop => "drop",
            Self::Rename => "rename",
            Self::DropDatabase => "dropDatabase",
            Self::Invalidate => "invalidate",
            Self::Create => "create",
            Self::CreateIndexes => "createIndexes",
            Self::DropIndexes => "dropIndexes",
            Self::Modify => "modify",
            Self::ShardCollection => "shardCollection",
            Self::ReshardCollection => "reshardCollection",
            Self::RefineCollectionShardKey => "refineCollectionShardKey",
            Self::Unknown(name) => name,
        }
    }

    /// Whether an event of this type is always about one document: without a `documentKey` it is not whole.
    pub const fn needs_document_key(self) -> bool {
        matches!(self, Self::Insert | Self::Update | Self::Replace | Self::Delete)
    }
}

impl fmt::Display for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
