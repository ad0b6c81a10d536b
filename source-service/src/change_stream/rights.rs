//! Which rights on MongoDB the source needs, and which of them its user lacks.
//!
//! A server that refuses says which command it refuses, not which right is missing. The user's own privileges, which everybody may ask
//! for, say the rest. The roles that grant exactly these rights are files in `deploy/mongodb`.

use std::fmt;

use bson::{Document, doc};
use mongodb::Client;
use shared::namespace::Namespace;

use crate::scope::{Scope, Target};

/// What a right is on. MongoDB's own rule: one on a database covers its collections, one on all databases covers everything but
/// the server's own collections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    Everything,
    Database(String),
    Collection(Namespace),
}

/// One action on one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    pub action: &'static str,
    pub resource: Resource,
}

impl Right {
    fn on(action: &'static str, resource: &Resource) -> Self {
        Self { action, resource: resource.clone() }
    }

    /// To read the stream that covers this scope.
    pub fn to_watch(scope: &Scope) -> Vec<Self> {
        let resource = match scope.target() {
            Target::Deployment => Resource::Everything,
            Target::Database(name) => Resource::Database(name),
            Target::Collection(name) => Resource::Collection(name),
        };
        vec![Self::on("changeStream", &resource), Self::on("find", &resource)]
    }

    /// To see which collections there are and which of them keep images. It is a right on whole databases.
    pub fn to_list(scope: &Scope) -> Vec<Self> {
        let resource = match scope.target() {
            Target::Deployment => Resource::Everything,
            Target::Database(name) | Target::Collection(Namespace { db: name, .. }) => {
                Resource::Database(name)
            }
        };
        vec![Self::on("listCollections", &resource)]
    }

    /// To read the rows of a collection.
    pub fn to_read(namespace: &Namespace) -> Self {
        Self::on("find", &Resource::Collection(namespace.clone()))
    }

    fn is_granted_by(&self, privilege: &Privilege) -> bool {
        privilege.actions.iter().any(|action| action == self.action)
            && match (&self.resource, &privilege.on) {
                (_, Granted::Any) => true,
                (_, Granted::Other) => false,
                (Resource::Everything, Granted::Names { db, coll }) => db.is_empty() && coll.is_empty(),
                (Resource::Database(name), Granted::Names { db, coll }) => {
                    (db.is_empty() || db == name) && coll.is_empty()
                }
                (Resource::Collection(name), Granted::Names { db, coll }) => {
                    (db.is_empty() || *db == name.db) && (coll.is_empty() || *coll == name.coll)
                }
            }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on ", self.action)?;
        match &self.resource {
            Resource::Everything => f.write_str("all databases, {db: \"\", collection: \"\"}"),
            Resource::Database(name) => write!(f, "database {name}, {{db: {name:?}, collection: \"\"}}"),
            Resource::Collection(name) => write!(f, "collection {name}"),
        }
    }
}

/// What a privilege is on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Granted {
    /// `anyResource`.
    Any,
    /// An empty name stands for all.
    Names { db: String, coll: String },
    /// The cluster, and what later versions have.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Privilege {
    on: Granted,
    actions: Vec<String>,
}

/// The user that this client is, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    /// `name@database`.
    pub user: String,
    privileges: Vec<Privilege>,
}

impl Grants {
    /// Those of `rights` that the user does not have.
    pub fn lacking<'a>(&self, rights: &'a [Right]) -> Vec<&'a Right> {
        let granted = |right: &Right| self.privileges.iter().any(|one| right.is_granted_by(one));
        rights.iter().filter(|right| !granted(right)).collect()
    }
}

/// `None` if the client is nobody: where there is no access control, that is no matter.
///
/// # Errors
/// MongoDB's.
pub(super) async fn grants(client: &Client) -> mongodb::error::Result<Option<Grants>> {
    let command = doc! { "connectionStatus": 1, "showPrivileges": true };
    Ok(grants_of(&client.database("admin").run_command(command).await?))
}

fn grants_of(reply: &Document) -> Option<Grants> {
    let info = reply.get_document("authInfo").ok()?;
    let user = info.get_array("authenticatedUsers").ok()?.first()?.as_document()?;
    let privileges = info.get_array("authenticatedUserPrivileges").ok()?.iter().filter_map(|privilege| {
        let privilege = privilege.as_document()?;
        let actions = privilege.get_array("actions").ok()?.iter();
        let resource = privilege.get_document("resource").ok()?;
        let on = match (resource.get_str("db"), resource.get_str("collection")) {
            (Ok(db), Ok(coll)) => Granted::Names { db: db.to_owned(), coll: coll.to_owned() },
            _ if resource.get_bool("anyResource").unwrap_or(false) => Granted::Any,
            _ => Granted::Other,
        };
        Some(Privilege {
            on,
            actions: actions.filter_map(|action| Some(action.as_str()?.to_owned())).collect(),
        })
    });
    Some(Grants {
        user: format!("{}@{}", user.get_str("user").ok()?, user.get_str("db").ok()?),
        privileges: privileges.collect(),
    })
}

/// A sentence about what is missing, to stand behind a refusal; empty if that cannot be told.
pub(super) async fn sentence(client: &Client, rights: &[Right]) -> String {
    match grants(client).await {
        Ok(Some(grants)) => lacking_sentence(&grants, rights),
        Ok(None) | Err(_) => String::new(),
    }
}

/// What is missing, and where the role is that has it.
pub fn lacking_sentence(grants: &Grants, rights: &[Right]) -> String {
    let lacking: Vec<String> = grants.lacking(rights).iter().map(ToString::to_string).collect();
    if lacking.is_empty() {
        return String::new();
    }
    format!(
        ". User {} lacks: {}. The role that grants it is in deploy/mongodb",
        grants.user,
        lacking.join("; ")
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn grants(resource: Document, actions: &[&str]) -> Grants {
        let actions: Vec<&str> = actions.to_vec();
        grants_of(&doc! { "authInfo": {
            "authenticatedUsers": [{ "user": "atlas", "db": "admin" }],
            "authenticatedUserPrivileges": [{ "resource": resource, "actions": actions }],
        } })
        .unwrap()
    }

    #[test]
    fn a_wider_privilege_covers_a_narrower_right() {
        let on = |db: &str, coll: &str| doc! { "db": db, "collection": coll };
        let collection = Resource::Collection(Namespace::new("shop", "orders"));
        let database = Resource::Database("shop".to_owned());
        let rows = [
            (on("", ""), [true, true, true]),
            (on("shop", ""), [true, true, false]),
            (on("shop", "orders"), [true, false, false]),
            (on("", "orders"), [true, false, false]),
            (on("crm", ""), [false, false, false]),
            (doc! { "anyResource": true }, [true, true, true]),
            (doc! { "cluster": true }, [false, false, false]),
        ];
        for (resource, expected) in rows {
            let grants = grants(resource.clone(), &["find"]);
            let rights = [&collection, &database, &Resource::Everything].map(|on| Right::on("find", on));
            let granted =
                rights.each_ref().map(|right| grants.lacking(std::slice::from_ref(right)).is_empty());
            assert_eq!(granted, expected, "{resource}");
            assert!(!grants.lacking(&[Right::on("changeStream", &collection)]).is_empty());
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let grants = grants(doc! { "db": "shop", "collection": "" }, &["find"]);
        let watch =
            ["changeStream", "find"].map(|action| Right::on(action, &Resource::Database("shop".into())));
        let text = lacking_sentence(&grants, &watch);
        assert!(text.contains("atlas@admin lacks: changeStream on database shop"), "{text}");
        assert!(!text.contains("find"), "{text}");
        assert_eq!(lacking_sentence(&grants, &watch[1..]), "");
        assert_eq!(grants_of(&doc! { "authInfo": { "authenticatedUsers": [] } }), None);
    }
}
