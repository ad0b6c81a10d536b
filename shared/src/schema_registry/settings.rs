//! The settings of the schema registry.

use crate::settings::{Expected, Reader, Secrecy, Secret, Setting};

const GROUP: &str = "Schema registry";

/// Where it is.
pub const SCHEMA_REGISTRY_URL: Setting = Setting {
    secret: Secrecy::Address,
    ..Setting::public(
        "SCHEMA_REGISTRY_URL",
        None,
        "http://host:port or https://host:port, with the path of Confluent's interface if it has one, and without user and password",
        "Schema registry for records in Avro.",
        GROUP,
    )
};

/// Basic authentication.
pub const SCHEMA_REGISTRY_USERNAME: Setting = Setting::public(
    "SCHEMA_REGISTRY_USERNAME",
    None,
    "a user name, with SCHEMA_REGISTRY_PASSWORD",
    "Who logs in to the schema registry; in Confluent Cloud the API key.",
    GROUP,
);

/// Basic authentication.
pub const SCHEMA_REGISTRY_PASSWORD: Setting = Setting {
    secret: Secrecy::Whole,
    ..Setting::public(
        "SCHEMA_REGISTRY_PASSWORD",
        None,
        "a password, with SCHEMA_REGISTRY_USERNAME",
        "The password of SCHEMA_REGISTRY_USERNAME.",
        GROUP,
    )
};

/// Whom to trust.
pub const SCHEMA_REGISTRY_SSL_CA: Setting = Setting::public(
    "SCHEMA_REGISTRY_SSL_CA",
    None,
    "the path of a readable PEM file, with SCHEMA_REGISTRY_URL=https://…",
    "Certificates that sign the schema registry's one, besides the system's.",
    GROUP,
);

/// Which registry, and how to get in.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Without a slash at its end.
    pub(super) url: String,
    pub(super) login: Option<Login>,
    /// PEM.
    pub(super) ca: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Login {
    pub(super) username: String,
    pub(super) password: Secret,
}

impl RegistrySettings {
    /// The inner `None` if there is no registry; the outer one if a mistake was recorded.
    pub fn read(reader: &mut Reader) -> Option<Option<Self>> {
        if !reader.is_given(&SCHEMA_REGISTRY_URL) {
            let mut complete = true;
            // Someone who gives a password believes that it is asked for.
            for setting in [&SCHEMA_REGISTRY_USERNAME, &SCHEMA_REGISTRY_PASSWORD, &SCHEMA_REGISTRY_SSL_CA] {
                if reader.is_given(setting) {
                    reader.refuse(setting, "to be unset, or SCHEMA_REGISTRY_URL");
                    complete = false;
                }
            }
            return complete.then_some(None);
        }
        let url = reader.parsed(&SCHEMA_REGISTRY_URL, parse_url);
        let ca = if reader.is_given(&SCHEMA_REGISTRY_SSL_CA) {
            reader.parsed(&SCHEMA_REGISTRY_SSL_CA, read_pem).map(Some)
        } else {
            Some(None)
        };
        let login = Self::read_login(reader, url.as_ref());
        let url = url?;
        if url.scheme() != "https" && reader.is_given(&SCHEMA_REGISTRY_SSL_CA) {
            reader.refuse(&SCHEMA_REGISTRY_SSL_CA, "to be unset, or SCHEMA_REGISTRY_URL=https://…");
            return None;
        }
        Some(Some(Self { url: url.as_str().trim_end_matches('/').to_owned(), login: login?, ca: ca? }))
    }

    fn read_login(reader: &mut Reader, url: Option<&url::Url>) -> Option<Option<Login>> {
        if !reader.is_given(&SCHEMA_REGISTRY_USERNAME) && !reader.is_given(&SCHEMA_REGISTRY_PASSWORD) {
            return Some(None);
        }
        let username = reader.required(&SCHEMA_REGISTRY_USERNAME);
        let password = reader.required(&SCHEMA_REGISTRY_PASSWORD);
        let login = Login { username: username?, password: password? };
        if url.is_some_and(|url| url.scheme() != "https" && !is_loopback(url)) {
            reader.refuse(
                &SCHEMA_REGISTRY_URL,
                "https://… with SCHEMA_REGISTRY_PASSWORD: over http the password is sent in clear",
            );
            return None;
        }
        Some(Some(login))
    }
}

fn parse_url(text: &str) -> Result<url::Url, Expected> {
    let url = url::Url::parse(text).map_err(|_| Expected::AsDeclared)?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if matches!(url.scheme(), "http" | "https") && url.has_host() && plain {
        Ok(url)
    } else {
        Err(Expected::AsDeclared)
    }
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn read_pem(path: &str) -> Result<String, Expected> {
    match std::fs::read_to_string(path) {
        Ok(content) if content.contains("-----BEGIN ") => Ok(content),
        Ok(_) => Err(Expected::AsDeclared),
        Err(error) => Err(Expected::exactly(format!("the path of a readable PEM file ({error})"))),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::settings::Sources;

    const TABLE: crate::settings::Table = &[
        &SCHEMA_REGISTRY_URL,
        &SCHEMA_REGISTRY_USERNAME,
        &SCHEMA_REGISTRY_PASSWORD,
        &SCHEMA_REGISTRY_SSL_CA,
    ];

    fn read(pairs: &[(&str, &str)]) -> Result<Option<RegistrySettings>, String> {
        let environment = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let sources = Sources { environment: environment.collect(), ..Sources::default() };
        let mut reader = Reader::new(TABLE, &[], sources);
        let settings = RegistrySettings::read(&mut reader);
        reader.finish(settings).map(|(settings, _)| settings).map_err(|error| error.to_string())
    }

    #[test]
    fn a_registry_is_optional_and_its_parts_are_not_without_it() {
        assert!(read(&[]).unwrap().is_none());
        let error =
            read(&[("SCHEMA_REGISTRY_USERNAME", "a"), ("SCHEMA_REGISTRY_PASSWORD", "planted")]).unwrap_err();
        assert!(error.contains("SCHEMA_REGISTRY_USERNAME") && error.contains("SCHEMA_REGISTRY_PASSWORD"));
        assert!(!error.contains("planted"), "{error}");
    }

    #[test]
    fn the_url_loses_its_last_slash_and_keeps_its_path() {
        let url = |text| read(&[("SCHEMA_REGISTRY_URL", text)]).map(|settings| settings.unwrap().url);
        assert_eq!(url("http://registry:8081/").unwrap(), "http://registry:8081");
        assert_eq!(url("https://r/apis/ccompat/v7").unwrap(), "https://r/apis/ccompat/v7");
        for text in ["registry:8081", "ftp://registry", "http://user:planted@registry", "http://r/?a=planted"]
        {
            let error = url(text).unwrap_err();
            assert!(error.contains("SCHEMA_REGISTRY_URL") && !error.contains("planted"), "{error}");
        }
    }

    #[test]
    fn a_password_never_travels_in_clear() {
        let with_login = |url: &str| {
            read(&[
                ("SCHEMA_REGISTRY_URL", url),
                ("SCHEMA_REGISTRY_USERNAME", "atlas"),
                ("SCHEMA_REGISTRY_PASSWORD", "planted"),
            ])
        };
        assert!(with_login("http://registry:8081").unwrap_err().contains("in clear"));
        for url in ["https://registry:8081", "http://127.0.0.1:8081", "http://[::1]:8081", "http://localhost"]
        {
            let settings = with_login(url).unwrap().unwrap();
            assert_eq!(settings.login.as_ref().unwrap().username, "atlas");
            assert!(!format!("{settings:?}").contains("planted"));
        }
        let half =
            read(&[("SCHEMA_REGISTRY_URL", "https://registry"), ("SCHEMA_REGISTRY_USERNAME", "atlas")]);
        assert!(half.unwrap_err().contains("SCHEMA_REGISTRY_PASSWORD"));
    }
}
