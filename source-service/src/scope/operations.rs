//! `OPERATIONS`: which changes of documents are published. What happens to collections and databases always is.

use std::fmt;

use shared::settings::Expected;

/// Changes of documents, as the server names them.
const CHANGES: [&str; 4] = ["insert", "update", "replace", "delete"];

/// The changes that are left out; none by default. Kept as what is *not* wanted, so that an operation which a later server invents
/// is never lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    left_out: Vec<&'static str>,
}

impl Operations {
    /// All but those that `wanted` does not name.
    pub fn only(wanted: &[&'static str]) -> Self {
        Self { left_out: CHANGES.into_iter().filter(|change| !wanted.contains(change)).collect() }
    }

    pub fn left_out(&self) -> &[&'static str] {
        &self.left_out
    }

    pub fn has(&self, operation: &str) -> bool {
        !self.left_out.contains(&operation)
    }
}

/// As the setting has it, in one order.
impl fmt::Display for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted: Vec<&str> = CHANGES.into_iter().filter(|change| self.has(change)).collect();
        f.write_str(&wanted.join(","))
    }
}

/// An item of `OPERATIONS`.
///
/// # Errors
/// What was expected instead.
pub fn parse_operation(text: &str) -> Result<&'static str, Expected> {
    CHANGES.into_iter().find(|change| *change == text).ok_or(Expected::AsDeclared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_is_left_out_and_definitions_never_are() {
        let operations = Operations::only(&["delete", "insert"]);
        assert_eq!(operations.left_out(), ["update", "replace"]);
        assert_eq!(operations.to_string(), "insert,delete");
        assert!(operations.has("drop") && operations.has("invalidate") && !operations.has("update"));
        assert_eq!(Operations::default().to_string(), "insert,update,replace,delete");
        assert!(parse_operation("drop").is_err());
    }
}
