//! The format of values, settled before the first event: with Avro the schema is registered, and its id is known from then on.
//! The registry may go away after that.

use shared::{
    avro::SUBJECT,
    exit::{ExitCode, Stop},
    schema_registry::{SchemaRegistry, first_contact},
};

use crate::{envelope::ValueFormat, settings::SourceSettings};

/// Waits for the registry, if one is needed. `on_wait` gets a sentence for people about each attempt that fails.
///
/// # Errors
/// 69 if it does not answer in time, 77 if it does not let us, 78 if its schema and ours do not go together.
pub fn settle(settings: &SourceSettings, on_wait: &mut dyn FnMut(&str)) -> Result<ValueFormat, Stop> {
    let Some(registry) = &settings.avro else { return Ok(ValueFormat::Json) };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Stop::new(ExitCode::Temporary, format!("no runtime: {error}")))?;
    let registry = SchemaRegistry::new(registry)?;
    let id = runtime.block_on(first_contact(&registry, async || registry.register().await, on_wait))?;
    tracing::info!(registry = registry.url(), subject = SUBJECT, %id, "values are Avro");
    Ok(ValueFormat::Avro(id))
}
