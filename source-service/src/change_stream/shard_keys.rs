//! Which fields of documents are part of their keys: those of shard keys, which a sharded cluster has in `config.collections`.

use bson::{Document, doc};
use futures::StreamExt as _;
use mongodb::error::{Error, ErrorKind};
use shared::{
    exit::{ExitCode, Stop},
    namespace::Namespace,
};

use super::ChangeStream;
use crate::{field_policy::FieldPolicy, stream_error};

/// [Unauthorized](https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml), and Atlas's own.
const NOT_ALLOWED: [i32; 2] = [13, 8000];

impl ChangeStream {
    /// Refuses a policy that hides a field of a shard key. Where this user may not read which those are, the first event of such a
    /// collection does; nothing is published of it either way.
    ///
    /// # Errors
    /// [`ExitCode::Configuration`]; what no waiting heals; [`ExitCode::Unreachable`].
    pub fn check_field_policy(&self, policy: &FieldPolicy) -> Result<(), Stop> {
        let answer = self.ask_patiently(async || match self.sharded_collections().await {
            Err(error) if is_not_allowed(&error) => Ok(Err(stream_error::short(&error))),
            other => other.map(Ok),
        })?;
        match answer {
            Ok(collections) => {
                let hidden: Vec<String> =
                    collections.iter().filter_map(|collection| hidden_key(policy, collection)).collect();
                if hidden.is_empty() {
                    return Ok(());
                }
                let text = format!(
                    "FIELD_POLICY_FILE cannot be kept: {}. Keys identify documents and are published as they are: take these fields out \
                     of the rules, or the collections out of the scope. The position was not touched",
                    hidden.join("; ")
                );
                Err(Stop::new(ExitCode::Configuration, text))
            }
            Err(cause) => {
                tracing::info!(
                    cause,
                    "shard keys cannot be read from config.collections: a field of one that FIELD_POLICY_FILE hides stops the source at the collection's first event"
                );
                Ok(())
            }
        }
    }

    /// None on a replica set.
    async fn sharded_collections(&self) -> mongodb::error::Result<Vec<Document>> {
        let collections = self.client.database("config").collection::<Document>("collections");
        // Before 5.0 those that were dropped stay in the list.
        let found = collections.find(doc! { "dropped": { "$ne": true } }).projection(doc! { "key": 1 });
        let mut cursor = found.await?;
        let mut all = Vec::new();
        while let Some(collection) = cursor.next().await {
            all.push(collection?);
        }
        Ok(all)
    }
}

fn is_not_allowed(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Command(command) if NOT_ALLOWED.contains(&command.code))
}

fn hidden_key(policy: &FieldPolicy, collection: &Document) -> Option<String> {
    let (db, coll) = collection.get_str("_id").ok()?.split_once('.')?;
    let namespace = Namespace::new(db, coll);
    let mut fields = collection.get_document("key").ok()?.keys();
    fields.find_map(|field| {
        let rule = policy.rule_on(&namespace, field)?;
        Some(format!("{rule} hides {field} of {namespace}, a field of its shard key"))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_field_of_a_shard_key_is_not_to_be_hidden() {
        let text = "[[rule]]\nnamespace = \"shop.*\"\npath = [\"region.code\", \"email\"]\naction = \"hash\"";
        let policy = FieldPolicy::parse(text).unwrap();
        let hidden = |name: &str, key: Document| hidden_key(&policy, &doc! { "_id": name, "key": key });
        for key in
            [doc! { "x": 1, "region": "hashed" }, doc! { "region.code": 1 }, doc! { "email": 1, "_id": 1 }]
        {
            let text = hidden("shop.orders", key).unwrap();
            assert!(text.contains("rule 1 (line 1) hides ") && text.contains("of shop.orders"), "{text}");
        }
        assert_eq!(hidden("shop.orders", doc! { "_id": "hashed", "region.name": 1 }), None);
        assert_eq!(hidden("crm.orders", doc! { "email": 1 }), None);
    }
}
