//! Whether the collections in scope keep the images that the settings ask for.
//!
//! A collection keeps pre- and post-images only if it is told to (`changeStreamPreAndPostImages`, MongoDB 6.0). With `required` the
//! stream ends at the first event without one, so a start looks first. It only looks: turning images on costs MongoDB space and
//! writes, and is its owner's to decide.
//!
//! <https://www.mongodb.com/docs/manual/changeStreams/#change-streams-with-document-pre--and-post-images>

use shared::{
    exit::{ExitCode, Stop},
    namespace::Namespace,
};

use super::{ChangeStream, StreamOptions, WIRE_OF_6_0};
use crate::snapshot::catalog::Listed;

/// So many commands are written out.
const COMMANDS_MAX: usize = 20;

/// The line for `mongosh` that makes a collection keep images, for changes from then on.
pub fn turn_images_on(namespace: &Namespace) -> String {
    format!(
        "db.getSiblingDB({}).runCommand({{collMod: {}, changeStreamPreAndPostImages: {{enabled: true}}}})",
        quoted(&namespace.db),
        quoted(&namespace.coll)
    )
}

/// JSON's strings are JavaScript's.
fn quoted(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

impl ChangeStream {
    /// Asks the server whether every collection in scope keeps the images that `FULL_DOCUMENT` or `FULL_DOCUMENT_BEFORE` requires; nothing
    /// if neither does.
    ///
    /// # Errors
    /// [`ExitCode::Configuration`] with the commands that turn them on; [`ExitCode::NotAllowed`] if collections may not be listed;
    /// [`ExitCode::Unreachable`].
    pub fn require_images(&self, options: &StreamOptions) -> Result<(), Stop> {
        // What an older server does not know it refuses when the stream is opened, and says so.
        if !options.requires_images() || self.server_facts()?.wire_version < WIRE_OF_6_0 {
            return Ok(());
        }
        let listed = self.list(&options.scope, "required images")?;
        let without: Vec<&Namespace> = without_images(&listed).collect();
        if without.is_empty() { Ok(()) } else { Err(images_missing(&without)) }
    }
}

/// The collections that keep none.
pub(crate) fn without_images(listed: &[Listed]) -> impl Iterator<Item = &Namespace> {
    listed.iter().filter(|collection| !collection.keeps_images).map(|collection| &collection.namespace)
}

fn images_missing(without: &[&Namespace]) -> Stop {
    let shown = without.iter().take(COMMANDS_MAX);
    let mut lines: Vec<String> = shown.map(|namespace| turn_images_on(namespace)).collect();
    if without.len() > COMMANDS_MAX {
        lines.push(format!("and {} more: source-service check names them", without.len() - COMMANDS_MAX));
    }
    Stop::new(
        ExitCode::Configuration,
        format!(
            "images are required, and {} of the collections in scope keep none: their first change would stop the source. Turn them on in \
             mongosh, leave these collections out of the scope, or set FULL_DOCUMENT and FULL_DOCUMENT_BEFORE to whenAvailable:\n{}",
            without.len(),
            lines.join("\n")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_bounded_and_names_are_quoted() {
        let names: Vec<Namespace> =
            (0..25).map(|number| Namespace::new("shop", format!("c{number:02}"))).collect();
        let all: Vec<&Namespace> = names.iter().collect();
        let text = images_missing(&all).message;
        assert_eq!(text.matches("collMod").count(), COMMANDS_MAX, "{text}");
        assert!(text.contains("and 5 more") && text.contains("25 of the collections"), "{text}");
        assert_eq!(
            turn_images_on(&Namespace::new("shop", "a\"b")),
            r#"db.getSiblingDB("shop").runCommand({collMod: "a\"b", changeStreamPreAndPostImages: {enabled: true}})"#
        );
    }
}
