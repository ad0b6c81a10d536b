//! What of MongoDB is read: the deployment, databases, or collections, less what is excluded; and the stream that covers just that.
//!
//! One stream serves any scope, because every cursor walks the whole oplog on the server. The narrowest stream that holds the scope is
//! opened; if it holds more, [`filter`] cuts it down on the server. [`Scope::contains`] says the same of a name without a server.

pub mod filter;
pub mod operations;
mod selection;

use shared::{
    name_pattern::NamePattern, namespace::Namespace, settings::Expected, source_watermark::ScopeRecord,
};

use self::selection::Selection;
pub use self::selection::{CollectionPattern, Item};

/// Their changes are the server's own business; `$changeStream` refuses or leaves them out too.
const INTERNAL_DATABASES: [&str; 3] = ["admin", "local", "config"];
/// So are theirs.
const INTERNAL_COLLECTIONS: &str = "system.";

/// The databases and collections that are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Empty means the whole deployment.
    included: Selection,
    excluded: Selection,
}

/// What the stream is opened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Deployment,
    Database(String),
    Collection(Namespace),
}

/// The excludes leave nothing to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("every database and collection to be read is excluded")]
pub struct NothingLeft;

impl Scope {
    /// Items in any order, also twice. A collection of a database that is named as a whole adds nothing.
    ///
    /// # Errors
    /// [`NothingLeft`], as far as it can be told without looking at names.
    pub fn new(
        included: impl IntoIterator<Item = Item>,
        excluded: impl IntoIterator<Item = Item>,
    ) -> Result<Self, NothingLeft> {
        let (asked, excluded) = (Selection::new(included), Selection::new(excluded));
        let whole = asked.is_empty() || asked.is_everything();
        let included = if whole { Selection::default() } else { asked.without(&excluded) };
        if excluded.is_everything() || !whole && included.is_empty() {
            return Err(NothingLeft);
        }
        Ok(Self { included, excluded })
    }

    pub fn target(&self) -> Target {
        let databases = self.included.databases.iter().map(NamePattern::exact);
        let mut all = databases.chain(self.included.collections.iter().map(|one| one.db.exact()));
        let Some(Some(first)) = all.next() else { return Target::Deployment };
        if !all.all(|other| other == Some(first)) {
            return Target::Deployment;
        }
        match (self.included.databases.as_slice(), self.included.collections.as_slice()) {
            ([], [CollectionPattern { coll: NamePattern::Exact(coll), .. }]) => {
                Target::Collection(Namespace::new(first, coll))
            }
            _ => Target::Database(first.to_owned()),
        }
    }

    /// Whether changes of this collection are read.
    pub fn contains(&self, db: &str, coll: &str) -> bool {
        let internal = INTERNAL_DATABASES.contains(&db) || coll.starts_with(INTERNAL_COLLECTIONS);
        let included = self.included.is_empty() || self.included.contains(db, coll);
        !internal && included && !self.excluded.contains(db, coll)
    }

    /// Whether a collection of this database may be in scope: then what happens to the database as a whole is read.
    pub fn touches(&self, db: &str) -> bool {
        let included = self.included.is_empty() || self.included.touches(db);
        !INTERNAL_DATABASES.contains(&db) && included && !self.excluded.contains_whole(db)
    }

    /// The name of a collection that could be in scope, for trying things out.
    pub fn example(&self) -> Namespace {
        let collection = self.included.collections.first();
        let db = collection.map(|one| &one.db).or_else(|| self.included.databases.first());
        Namespace::new(
            db.map_or_else(|| "db".to_owned(), NamePattern::example),
            collection.map_or_else(|| "coll".to_owned(), |one| one.coll.example()),
        )
    }

    /// In clear, for the token record.
    pub fn record(&self) -> ScopeRecord {
        ScopeRecord {
            databases: self.included.databases.iter().map(|database| database.text().to_owned()).collect(),
            collections: self.included.collections.iter().map(ToString::to_string).collect(),
            excludes: self.excluded.names().collect(),
        }
    }
}

/// For people: `deployment`, or the names; then what is excluded.
impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.included.is_empty() {
            f.write_str("deployment")?;
        } else {
            f.write_str(&self.included.names().collect::<Vec<_>>().join(","))?;
        }
        if !self.excluded.is_empty() {
            write!(f, " without {}", self.excluded.names().collect::<Vec<_>>().join(","))?;
        }
        Ok(())
    }
}

/// An item of `MONGO_DATABASES`.
///
/// # Errors
/// What was expected instead.
pub fn parse_database(text: &str) -> Result<Item, Expected> {
    database(text).map(Item::Databases)
}

/// An item of `MONGO_COLLECTIONS`.
///
/// # Errors
/// What was expected instead.
pub fn parse_collection(text: &str) -> Result<Item, Expected> {
    let (db, coll) = text.split_once('.').ok_or(Expected::AsDeclared)?;
    let db = database(db)?;
    if coll.starts_with(INTERNAL_COLLECTIONS) {
        return Err(Expected::exactly("no internal collection (system.…)"));
    }
    Ok(Item::Collections(CollectionPattern { db, coll: collection_name(coll)? }))
}

/// An item of `MONGO_EXCLUDE`. What is internal is never read: excluding it is superfluous, not wrong.
///
/// # Errors
/// What was expected instead.
pub fn parse_exclude(text: &str) -> Result<Item, Expected> {
    match text.split_once('.') {
        None => Ok(Item::Databases(database_name(text)?)),
        Some((db, coll)) => {
            Ok(Item::Collections(CollectionPattern { db: database_name(db)?, coll: collection_name(coll)? }))
        }
    }
}

fn database(text: &str) -> Result<NamePattern, Expected> {
    if INTERNAL_DATABASES.contains(&text) {
        return Err(Expected::exactly("no internal database (admin, local, config)"));
    }
    database_name(text)
}

/// MongoDB's own rule for database names.
fn database_name(text: &str) -> Result<NamePattern, Expected> {
    let refused = |c: char| matches!(c, '/' | '\\' | '.' | ' ' | '"' | '$' | '<' | '>' | ':' | '|' | '\0');
    if text.is_empty() || text.len() > 63 || text.contains(refused) {
        return Err(Expected::AsDeclared);
    }
    Ok(NamePattern::new(text))
}

fn collection_name(text: &str) -> Result<NamePattern, Expected> {
    if text.is_empty() || text.contains(['$', '\0']) {
        return Err(Expected::AsDeclared);
    }
    Ok(NamePattern::new(text))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn items(list: &str, parse: fn(&str) -> Result<Item, Expected>) -> Vec<Item> {
        list.split(',').filter(|text| !text.is_empty()).map(|text| parse(text).unwrap()).collect()
    }

    /// As the three settings give it.
    fn read(databases: &str, collections: &str, excludes: &str) -> Result<Scope, NothingLeft> {
        let included = [items(databases, parse_database), items(collections, parse_collection)].concat();
        Scope::new(included, items(excludes, parse_exclude))
    }

    pub(super) fn scope(databases: &str, collections: &str, excludes: &str) -> Scope {
        read(databases, collections, excludes).unwrap()
    }

    #[test]
    fn the_narrowest_stream_is_opened() {
        let target = |databases, collections| scope(databases, collections, "").target();
        let shop = || Target::Database("shop".to_owned());
        assert_eq!(target("", ""), Target::Deployment);
        assert_eq!(target("*", "shop.a"), Target::Deployment);
        assert_eq!(target("shop", ""), shop());
        assert_eq!(target("", "shop.*"), shop());
        assert_eq!(target("", "shop.a.b"), Target::Collection(Namespace::new("shop", "a.b")));
        assert_eq!(target("", "shop.a,shop.b"), shop());
        assert_eq!(target("", "shop.a*"), shop());
        assert_eq!(target("shop", "shop.a"), shop());
        assert_eq!(target("shop,crm", ""), Target::Deployment);
        assert_eq!(target("", "shop.a,crm.b"), Target::Deployment);
        assert_eq!(target("sh*p", ""), Target::Deployment);
        assert_eq!(target("", "*.a"), Target::Deployment);
        let left = scope("", "shop.a,shop.b", "shop.b,crm");
        assert_eq!(left.target(), Target::Collection(Namespace::new("shop", "a")));
    }

    #[test]
    fn a_scope_contains_what_is_included_and_not_excluded() {
        let scope = scope("crm,eu_*", "shop.or*,shop.a.b,*.audit", "crm.tmp_?,eu_x,*.or_old");
        for (db, coll) in [
            ("crm", "a"),
            ("crm", "tmp_"),
            ("eu_de", "x"),
            ("shop", "orders"),
            ("shop", "a.b"),
            ("hr", "audit"),
        ] {
            assert!(scope.contains(db, coll), "{db}.{coll}");
        }
        for (db, coll) in [
            ("crm", "tmp_1"),
            ("eu_x", "audit"),
            ("eu", "x"),
            ("shop", "a"),
            ("shop", "or_old"),
            ("hr", "audits"),
            ("crm", "system.views"),
            ("admin", "audit"),
        ] {
            assert!(!scope.contains(db, coll), "{db}.{coll}");
        }
        assert!(
            scope.touches("crm") && scope.touches("hr") && !scope.touches("eu_x") && !scope.touches("local")
        );
    }

    #[test]
    fn excludes_that_leave_nothing_are_refused() {
        for (databases, collections, excludes) in [
            ("", "", "*"),
            ("", "", "*.*"),
            ("shop", "", "shop"),
            ("", "shop.a,crm.b", "shop,crm.?"),
            ("", "s*.a", "s*.a*"),
        ] {
            let left = read(databases, collections, excludes);
            assert_eq!(left, Err(NothingLeft), "{databases} {collections} {excludes}");
        }
        // Two different patterns are not held against each other.
        assert!(read("", "s?.a", "s*.a").is_ok());
    }

    /// It stands in the fingerprint, where two scopes must not look alike.
    #[test]
    fn a_scope_says_what_it_is() {
        assert_eq!(scope("", "", "").to_string(), "deployment");
        assert_eq!(scope("b,a", "b.x,c.y", "").to_string(), "a.*,b.*,c.y");
        assert_eq!(scope("", "", "crm,shop.tmp*").to_string(), "deployment without crm.*,shop.tmp*");
        let record = scope("a", "c.y*", "a.t,d").record();
        assert_eq!((record.databases, record.collections), (vec!["a".to_owned()], vec!["c.y*".to_owned()]));
        assert_eq!(record.excludes, ["d.*", "a.t"]);
    }

    #[test]
    fn names_are_neither_impossible_nor_internal() {
        for name in ["admin", "a.b", "", "a b", "a$"] {
            assert!(parse_database(name).is_err(), "{name}");
        }
        for name in ["shop", "shop.", ".a", "local.a", "shop.a$", "shop.system.views"] {
            assert!(parse_collection(name).is_err(), "{name}");
        }
        for name in ["admin", "shop.system.views", "*.tmp", "sh?p"] {
            assert!(parse_exclude(name).is_ok(), "{name}");
        }
    }
}
