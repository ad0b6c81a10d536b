//! What of a value may be seen.

use std::fmt;

/// What of a setting's value may be shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// All of it.
    Public,
    /// It is a URI: scheme, host and path may be shown, user-info and query never.
    Uri,
    /// It is an address in which no secret belongs, so that it has a flag. What is in it by mistake is masked as
    /// that of [`Self::Uri`].
    Address,
    /// `name=value,…`: the names only, because any property may be given here, a password too.
    Options,
    /// None of it.
    Whole,
}

const MASK: &str = "***";

impl Secrecy {
    /// The value as it may be printed.
    ///
    /// A URI is cut at its *last* `@`: a password with an unescaped `/` or `@` is invalid, and exactly then it is
    /// printed in a mistake. The query goes as a whole, because credentials travel there too (`sig=`,
    /// `authMechanismProperties=`). If an `@` follows a `?`, either may belong to a secret, and nothing is shown.
    #[must_use]
    pub fn mask(self, value: &str) -> String {
        match self {
            // A key where the path of its file belongs.
            Self::Public if value.contains("-----BEGIN") => MASK.to_owned(),
            Self::Public => value.to_owned(),
            Self::Whole => MASK.to_owned(),
            Self::Uri => mask_uri(value, false),
            Self::Address if is_path(value) => value.to_owned(),
            Self::Address => mask_uri(value, true),
            Self::Options => {
                let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
                let names: Vec<String> =
                    items.map(|item| format!("{}=…", option_name(item).unwrap_or_default())).collect();
                names.join(",")
            }
        }
    }

    /// Whether the setting has no flag but a `NAME_FILE`.
    #[must_use]
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Uri | Self::Whole)
    }
}

/// `has_container`: the user-info of `abfss://` is no user but the container's name.
fn mask_uri(value: &str, has_container: bool) -> String {
    let Some((scheme, rest)) = value.split_once("://") else { return MASK.to_owned() };
    if !scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')) {
        return MASK.to_owned();
    }
    let query = rest.find(['?', '#', '&']);
    if query.is_some_and(|query| rest[query..].contains('@')) {
        return format!("{scheme}://{MASK}");
    }
    let (shown, query) = query.map_or((rest, ""), |query| (&rest[..query], "?***"));
    match shown.rsplit_once('@') {
        Some((container, host))
            if has_container
                && matches!(scheme, "abfss" | "abfs")
                && container.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') =>
        {
            format!("{scheme}://{container}@{host}{query}")
        }
        Some((_, host)) => format!("{scheme}://{MASK}@{host}{query}"),
        None => format!("{scheme}://{shown}{query}"),
    }
}

/// Whether a text can hardly be anything but a path of the file system: no URI and no query, and it has a separator,
/// which tells it from most passwords.
pub(super) fn is_path(value: &str) -> bool {
    value.contains('/')
        && value.chars().all(|c| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | ' ' | '~'))
}

/// The name in `name=value` if it looks like one of librdkafka's. What follows a comma within a password does not:
/// it has neither a dot nor an underscore, or capitals.
pub(crate) fn option_name(item: &str) -> Option<&str> {
    const ONE_WORD: [&str; 4] = ["acks", "debug", "partitioner", "retries"];
    let name = item.split_once('=')?.0.trim();
    let legal = name.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '.' | '_'));
    (legal && (name.contains(['.', '_']) || ONE_WORD.contains(&name))).then_some(name)
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
            "mongodb://user:plan@planted@h1:1,h2:2/db?x=1",
        ] {
            assert_eq!(Secrecy::Uri.mask(uri), "mongodb://***@h1:1,h2:2/db?***");
        }
        assert_eq!(Secrecy::Uri.mask("mongodb://localhost:27017"), "mongodb://localhost:27017");
        assert_eq!(Secrecy::Uri.mask("user:planted@host"), "***");
        assert_eq!(Secrecy::Uri.mask("key=planted sb://h"), "***");
        for uri in ["mongodb://h/?x=plan@ted", "mongodb://user:planted?@h1:1/db?x=1"] {
            assert_eq!(Secrecy::Uri.mask(uri), "mongodb://***");
        }
    }

    #[test]
    fn an_address_shows_its_container_and_nothing_that_is_out_of_place() {
        for (address, shown) in [
            ("abfss://raw@acme.dfs.core.windows.net/x", "abfss://raw@acme.dfs.core.windows.net/x"),
            ("abfss://raw:planted@acme.example/x", "abfss://***@acme.example/x"),
            ("https://u@acme.example/raw?sig=planted", "https://***@acme.example/raw?***"),
            ("https://acme.example/raw&sig=planted", "https://acme.example/raw?***"),
            ("/var/lib/lake", "/var/lib/lake"),
            ("sv=1&sig=planted", "***"),
        ] {
            assert_eq!(Secrecy::Address.mask(address), shown);
        }
        assert_eq!(Secrecy::Public.mask("-----BEGIN PRIVATE KEY-----planted"), "***");
        assert!(!Secrecy::Address.is_secret() && !Secrecy::Options.is_secret());
    }

    #[test]
    fn options_show_their_names_only() {
        let options = "linger.ms=5, sasl.password=a,planted,planted=,acks=planted";
        assert_eq!(Secrecy::Options.mask(options), "linger.ms=…,sasl.password=…,=…,=…,acks=…");
    }
}
