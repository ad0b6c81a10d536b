//! What of a value may be seen.

use std::fmt;

/// What of a setting's value may be shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// All of it.
    Public,
    /// It is a URI: scheme, host and path may be shown, user-info and query never.
    Uri,
    /// None of it.
    Whole,
}

const MASK: &str = "***";

impl Secrecy {
    /// The value as it may be printed.
    ///
    /// A URI is cut at its *last* `@`: a password with an unescaped `/`, `?` or `@` is invalid, and exactly then
    /// it is printed in a mistake. The query goes as a whole, because credentials travel there too
    /// (`sig=`, `authMechanismProperties=`).
    #[must_use]
    pub fn mask(self, value: &str) -> String {
        match self {
            Self::Public => value.to_owned(),
            Self::Whole => MASK.to_owned(),
            Self::Uri => {
                let Some((scheme, rest)) = value.split_once("://") else { return MASK.to_owned() };
                if !scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')) {
                    return MASK.to_owned();
                }
                let (user_info, rest) = match rest.rsplit_once('@') {
                    Some((_, rest)) => ("***@", rest),
                    None => ("", rest),
                };
                match rest.split_once(['?', '#']) {
                    Some((shown, _)) => format!("{scheme}://{user_info}{shown}?{MASK}"),
                    None => format!("{scheme}://{user_info}{rest}"),
                }
            }
        }
    }

    /// Whether the setting has no flag but a `NAME_FILE`.
    #[must_use]
    pub fn is_secret(self) -> bool {
        self != Self::Public
    }
}

/// A value that is never printed. [`Secret::expose`] is the only way to it, so that uses can be searched for.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_form_of_a_secret_is_printed() {
        let secret = Secret::new("planted");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(Secrecy::Whole.mask("Endpoint=sb://h/;SharedAccessKey=planted"), "***");
        for uri in [
            "mongodb://user:planted@h1:1,h2:2/db?x=planted",
            "mongodb://user:planted/@h1:1,h2:2/db?tls=true",
            "mongodb://user:plan@planted?@h1:1,h2:2/db?x=1",
        ] {
            assert_eq!(Secrecy::Uri.mask(uri), "mongodb://***@h1:1,h2:2/db?***");
        }
        assert_eq!(Secrecy::Uri.mask("mongodb://localhost:27017"), "mongodb://localhost:27017");
        assert_eq!(Secrecy::Uri.mask("user:planted@host"), "***");
        assert_eq!(Secrecy::Uri.mask("key=planted sb://h"), "***");
        assert_eq!(Secrecy::Uri.mask("mongodb://h/?x=planted@y"), "mongodb://***@y");
    }
}
