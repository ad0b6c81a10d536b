//! The schema registry: where readers of Avro records find the schema by its id. Confluent's interface, which Apicurio,
//! Redpanda and others offer too.
//!
//! ```text
//!   source, at start:  latest of the subject ─▶ the same schema? its id : can it be read with ours? ─▶ register ─▶ id
//!   sink:              id of a record ─▶ schema ─▶ ours, or not
//! ```
//!
//! The source needs it at its start only; a sink for each id that it has not met before. It is waited for like any other
//! dependency ([`first_contact`]), and asked through `schema_registry_converter`, which knows its interface.

mod settings;
#[cfg(test)]
mod tests;

use std::{error::Error as _, time::Duration};

use apache_avro::{Schema, schema_compatibility::SchemaCompatibility};
use reqwest::Certificate;
use schema_registry_converter::{
    async_impl::schema_registry::{
        SrSettings, get_schema_by_id, get_schema_by_subject_and_version, post_schema,
    },
    error::SRCError,
    schema_registry_common::{RawError, RegisteredSchema, SchemaType, SuppliedSchema},
};
use tokio::time::Instant;

pub use settings::{
    RegistrySettings, SCHEMA_REGISTRY_PASSWORD, SCHEMA_REGISTRY_SSL_CA, SCHEMA_REGISTRY_URL,
    SCHEMA_REGISTRY_USERNAME,
};

use crate::{
    avro::{self, SUBJECT, SchemaId},
    backoff::Backoff,
    exit::{ExitCode, Stop},
};

/// Of one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long the registry may take to answer for the first time.
pub const FIRST_CONTACT_LIMIT: Duration = Duration::from_secs(60);
/// The longest pause between two attempts, so that a wait is spoken of at least this often.
const WAIT_TOLD_EVERY: Duration = Duration::from_secs(10);

/// What the registry did not do, by what the caller does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Wait, and ask again.
    #[error("{0}")]
    Unavailable(String),
    /// The user or its rights have to be changed.
    #[error("{0}")]
    Denied(String),
    /// The subject's schema and ours cannot follow one another.
    #[error("{0}")]
    Incompatible(String),
    /// What was asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// A setting, or the registry, has to be changed.
    #[error("{0}")]
    Refused(String),
}

/// What an id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdMeans {
    /// Our schema: a record can be read.
    ChangeEvent,
    /// Another schema.
    Foreign,
    /// The registry does not know the id.
    Nothing,
}

/// A registry, and how to ask it. Asks nobody before it is told to.
#[derive(Clone, Debug)]
pub struct SchemaRegistry {
    client: SrSettings,
    /// For messages: without credentials, since the URL has none.
    url: String,
}

impl SchemaRegistry {
    /// # Errors
    /// 78 if the certificates of `SCHEMA_REGISTRY_SSL_CA` cannot be used.
    pub fn new(settings: &RegistrySettings) -> Result<Self, Stop> {
        let refused = |cause: String| {
            Stop::new(
                ExitCode::Configuration,
                format!(
                    "cannot set up the connection to the schema registry: {cause}; check SCHEMA_REGISTRY_SSL_CA"
                ),
            )
        };
        let mut http = reqwest::Client::builder();
        if let Some(pem) = &settings.ca {
            let certificates =
                Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| refused(error.to_string()))?;
            http = http.tls_certs_merge(certificates);
        }
        let mut client = SrSettings::new_builder(settings.url.clone());
        client.set_timeout(REQUEST_LIMIT);
        if let Some(login) = &settings.login {
            client.set_basic_authorization(&login.username, Some(login.password.expose()));
        }
        let client = client.build_with(http).map_err(|error| refused(deepest(&error)))?;
        Ok(Self { client, url: settings.url.clone() })
    }

    /// Where it is, for messages.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The id of our schema. It is registered if it is not the subject's latest, provided that records of the latest can be
    /// read with ours; the registry's own rule of compatibility holds on top of that.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn register(&self) -> Result<SchemaId, RegistryError> {
        match self.latest().await {
            Ok(latest) if avro::is_change_event(&latest.schema) => return Ok(SchemaId::new(latest.id)),
            Ok(latest) => check_compatible(&latest)?,
            Err(RegistryError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let schema = SuppliedSchema::new(Some(SUBJECT.to_owned()), SchemaType::Avro, avro::SCHEMA.to_owned());
        let registered = post_schema(&self.client, SUBJECT.to_owned(), schema).await;
        registered.map(|schema| SchemaId::new(schema.id)).map_err(|error| judge(&error))
    }

    /// What a record's schema id stands for.
    ///
    /// # Errors
    /// See [`RegistryError`]; [`RegistryError::NotFound`] if the registry knows neither the id nor [`SUBJECT`]: then it is
    /// most likely not the one that the source uses.
    pub async fn meaning(&self, id: SchemaId) -> Result<IdMeans, RegistryError> {
        match get_schema_by_id(id.get(), &self.client).await.map_err(|error| judge(&error)) {
            Ok(schema) if avro::is_change_event(&schema.schema) => Ok(IdMeans::ChangeEvent),
            Ok(_) => Ok(IdMeans::Foreign),
            Err(RegistryError::NotFound(_)) => self.latest().await.map(|_| IdMeans::Nothing),
            Err(error) => Err(error),
        }
    }

    /// The latest schema of [`SUBJECT`]; `None` if no source has registered one yet.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn known(&self) -> Result<Option<(SchemaId, IdMeans)>, RegistryError> {
        match self.latest().await {
            Ok(latest) => {
                let ours = avro::is_change_event(&latest.schema);
                let means = if ours { IdMeans::ChangeEvent } else { IdMeans::Foreign };
                Ok(Some((SchemaId::new(latest.id), means)))
            }
            Err(RegistryError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn latest(&self) -> Result<RegisteredSchema, RegistryError> {
        get_schema_by_subject_and_version(&self.client, SUBJECT, None).await.map_err(|error| judge(&error))
    }

    /// The end of a process that cannot go on with this answer.
    #[must_use]
    pub fn stop(&self, error: &RegistryError) -> Stop {
        let (code, advice) = match error {
            RegistryError::Unavailable(_) => {
                (ExitCode::Unreachable, "check SCHEMA_REGISTRY_URL and the network")
            }
            RegistryError::Denied(_) => (
                ExitCode::NotAllowed,
                "check SCHEMA_REGISTRY_USERNAME and SCHEMA_REGISTRY_PASSWORD, and that this user may read, and for the source write, the subject",
            ),
            RegistryError::Incompatible(_) => (
                ExitCode::Configuration,
                "Readers of the one could not read records of the other. Find out who registered the subject's latest version; if it is not needed, delete it, or use another registry or context",
            ),
            RegistryError::NotFound(_) => (
                ExitCode::Configuration,
                "check that SCHEMA_REGISTRY_URL is the registry that the source uses",
            ),
            RegistryError::Refused(_) => (
                ExitCode::Configuration,
                "check SCHEMA_REGISTRY_URL, with the path under which Confluent's interface is served, and SCHEMA_REGISTRY_SSL_CA",
            ),
        };
        let url = &self.url;
        Stop::new(code, format!("the schema registry at {url}, subject {SUBJECT}: {error}. {advice}"))
    }
}

/// Asks until there is an answer, at most [`FIRST_CONTACT_LIMIT`]. `on_wait` gets a sentence for people about each attempt
/// that fails, and the log gets it too.
///
/// # Errors
/// 69, 77 or 78, and what to look at.
pub async fn first_contact<T>(
    registry: &SchemaRegistry,
    ask: impl AsyncFn() -> Result<T, RegistryError>,
    on_wait: &mut dyn FnMut(&str),
) -> Result<T, Stop> {
    first_contact_within(registry, FIRST_CONTACT_LIMIT, ask, on_wait).await
}

async fn first_contact_within<T>(
    registry: &SchemaRegistry,
    limit: Duration,
    ask: impl AsyncFn() -> Result<T, RegistryError>,
    on_wait: &mut dyn FnMut(&str),
) -> Result<T, Stop> {
    let begun = Instant::now();
    let mut backoff = Backoff::default();
    loop {
        let cause = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(RegistryError::Unavailable(cause)) => cause,
            Err(error) => return Err(registry.stop(&error)),
        };
        let pause = backoff.next_delay().min(WAIT_TOLD_EVERY);
        if begun.elapsed() + pause >= limit {
            return Err(registry.stop(&RegistryError::Unavailable(cause)));
        }
        let waited = Duration::from_secs(begun.elapsed().as_secs());
        tracing::warn!(registry = registry.url, cause, ?waited, "the schema registry does not answer yet");
        on_wait(&format!("the schema registry does not answer yet: {cause}"));
        tokio::time::sleep(pause).await;
    }
}

/// Whether somebody who reads with our schema can read records of the latest one: what Confluent calls BACKWARD. Asked here
/// too, because a registry may be set to allow anything.
fn check_compatible(latest: &RegisteredSchema) -> Result<(), RegistryError> {
    let version = latest.version.map_or_else(String::new, |version| format!(" (version {version})"));
    let incompatible = |cause: String| {
        RegistryError::Incompatible(format!(
            "its latest schema{version} is not compatible with ours: {cause}"
        ))
    };
    if latest.schema_type != SchemaType::Avro {
        return Err(incompatible("it is not Avro".to_owned()));
    }
    let theirs = Schema::parse_str(&latest.schema).map_err(|error| incompatible(error.to_string()))?;
    SchemaCompatibility::can_read(&theirs, avro::schema())
        .map(|_| ())
        .map_err(|error| incompatible(error.to_string()))
}

/// The status is in the text only, and the registry's own code in the cause.
fn judge(error: &SRCError) -> RegistryError {
    let answer = error.source().and_then(|source| source.downcast_ref::<RawError>());
    let status =
        error.error.rsplit_once("with status ").and_then(|(_, rest)| rest.get(..3)?.parse::<u16>().ok());
    let text = match (status, answer) {
        (Some(status), Some(RawError { error_code: 0, .. }) | None) => format!("HTTP status {status}"),
        (Some(status), Some(answer)) => format!("HTTP status {status}: {}", answer.message),
        (None, _) => deepest(error),
    };
    match (status, answer.map(|answer| answer.error_code)) {
        (Some(401 | 403 | 407), _) => RegistryError::Denied(text),
        // 40401, 40402, 40403: no such subject, version, schema. Any other 404 is not this interface.
        (Some(404), Some(40_401..=40_403)) => RegistryError::NotFound(text),
        (Some(409), _) => RegistryError::Incompatible(text),
        (Some(408 | 425 | 429 | 500..=599), _) => RegistryError::Unavailable(text),
        (None, _) if error.retriable && !text.contains("certificate") => RegistryError::Unavailable(text),
        _ => RegistryError::Refused(text),
    }
}

/// The cause behind the causes: "connection refused" says more than "error sending request".
fn deepest(error: &SRCError) -> String {
    let mut cause = error.source();
    while let Some(next) = cause.and_then(std::error::Error::source) {
        cause = Some(next);
    }
    cause.map_or_else(|| error.error.clone(), ToString::to_string)
}
