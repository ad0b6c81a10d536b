//! What an error of the change stream means: one function, by server code **and** phase.
//!
//! The code alone does not decide. 280 while opening says that the token is not in the oplog; 15 and 50811 mean a damaged
//! token when a stream is opened and something else later; a network error is never a reason to stop. The rows are those of
//! MongoDB's own connector, Debezium and Redpanda Connect, checked against a real server where one could be brought to answer
//! so; the table is in the tests.

use std::time::Duration;

use mongodb::error::{Error, ErrorKind};
use shared::exit::ExitCode;

/// What the reader was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The `aggregate` that opens the stream; the position given is at stake.
    Opening,
    /// A `getMore` on an open stream.
    Streaming,
}

/// What to do about an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Open again from the last token that was delivered; after a back-off, without limit.
    Reopen(Cause),
    /// The next event is larger than what MongoDB can send; read it in another way.
    Oversize,
    /// Nothing heals by itself.
    Stop(ExitCode, &'static str),
}

/// A label of metrics; bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Network,
    Election,
    CursorGone,
    Server,
    Standstill,
}

impl Cause {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Election => "election",
            Self::CursorGone => "cursor-gone",
            Self::Server => "server",
            Self::Standstill => "standstill",
        }
    }
}

const POSITION_LOST: &str = "the place to continue from is no longer in MongoDB's oplog: changes since then cannot be read from it any more. \
     Nothing was skipped. Look at how long the oplog reaches back and why the source was away for longer. To go on behind a gap, which a \
     marker in the control topic tells of, set ON_POSITION_LOST=resume-at-oldest, or snapshot to copy what is there";
const NOT_ALLOWED: &str = "MongoDB does not let this user read the change stream: the user in MONGO_URI must exist, its password be right, and \
     it needs the actions changeStream and find on everything in scope";
const NO_REPLICA_SET: &str = "change streams need a replica set or a sharded cluster; this server is neither. \
     Start mongod with --replSet and run rs.initiate() once";
/// The stop on a [`Verdict::Oversize`].
pub const OVERSIZE: &str = "the next event is larger than the 16 MB that MongoDB can send, with the documents that are asked for. Everything before it is \
     published, and nothing was skipped. OVERSIZE=stub publishes it without its documents; FULL_DOCUMENT=default or FULL_DOCUMENT_BEFORE=off make events smaller; \
     MongoDB 6.0.9 or later sends such events whole";
const BAD_PIPELINE: &str = "MongoDB refuses the stream's stages or options";
const NO_OPTION: &str = "this server does not know an option of the stream: FULL_DOCUMENT_BEFORE and FULL_DOCUMENT=whenAvailable need \
     MongoDB 6.0; set FULL_DOCUMENT_BEFORE=off and FULL_DOCUMENT=updateLookup for older ones";
const NO_IMAGE: &str = "a required image of a document is missing: turn changeStreamPreAndPostImages on for every collection in scope, \
     or set FULL_DOCUMENT and FULL_DOCUMENT_BEFORE to whenAvailable";
const ID_ALTERED: &str = "the pipeline alters _id, which is the resume token: let _id through as it is";
const STAGE_FAILED: &str = "a stage of PIPELINE_FILE fails on an event, or cannot be run at all: nothing was skipped, and the stream waits there. \
     Change the stage so that it takes every event (a $match before it, $ifNull, $convert with onError) and start again";
const BAD_URI: &str = "MONGO_URI cannot be used";

/// Judges an error of the driver.
pub fn classify(error: &Error, phase: Phase) -> Verdict {
    match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => Verdict::Stop(ExitCode::NotAllowed, NOT_ALLOWED),
        ErrorKind::Command(command) => {
            let resumable = error.contains_label("ResumableChangeStreamError");
            by_code(command.code, &command.message, resumable, phase)
        }
        ErrorKind::InvalidArgument { .. } => Verdict::Stop(ExitCode::Configuration, BAD_URI),
        // Server selection, DNS, I/O, a pool that was cleared: somebody is away.
        _ => Verdict::Reopen(Cause::Network),
    }
}

fn by_code(code: i32, message: &str, resumable: bool, phase: Phase) -> Verdict {
    use ExitCode::{Configuration, NotAllowed, PositionLost};

    match (code, phase) {
        // ChangeStreamHistoryLost; also a `startAtOperationTime` before the oplog.
        // 464: what the position was of is gone.
        (286 | 464, _) => Verdict::Stop(PositionLost, POSITION_LOST),
        // A fatal error of the stream. One cause can be told by its text: a pipeline that changed the token. A token of another scope never
        // gets here: recovery opens at its time instead.
        (280, _) if message.contains(ID_FIELD) => Verdict::Stop(Configuration, ID_ALTERED),
        (280, _) => Verdict::Stop(PositionLost, POSITION_LOST),
        // ConversionFailure: only an expression converts, and only a pipeline has one.
        (241, _) => Verdict::Stop(Configuration, STAGE_FAILED),
        // A token that cannot be decoded, or the wrong kind of resume: only when opening is the token meant.
        (260 | 50811 | 50795 | 15, Phase::Opening) => Verdict::Stop(PositionLost, POSITION_LOST),
        (13 | 18 | 8000, _) => Verdict::Stop(NotAllowed, NOT_ALLOWED),
        (40573, _) => Verdict::Stop(Configuration, NO_REPLICA_SET),
        (10334 | 17419 | 17420, _) => Verdict::Oversize,
        (47 | 51770, Phase::Streaming) => Verdict::Stop(Configuration, NO_IMAGE),
        (40415 | 31145, Phase::Opening) => Verdict::Stop(Configuration, NO_OPTION),
        (2 | 9 | 14 | 20 | 72 | 73 | 168 | 40218 | 40324, Phase::Opening) => {
            Verdict::Stop(Configuration, BAD_PIPELINE)
        }
        // CursorNotFound, CursorKilled.
        (43 | 237, _) => Verdict::Reopen(Cause::CursorGone),
        // NotWritablePrimary and its relatives, stepdown, shutdown.
        (189 | 91 | 7 | 6 | 9001 | 10107 | 11600 | 11602 | 13435 | 13436 | 10058 | 89, _) => {
            Verdict::Reopen(Cause::Election)
        }
        _ if resumable => Verdict::Reopen(Cause::Election),
        // What is not known to be fatal is waited for: MaxTimeMSExpired (50), retry errors (462), overload, …
        _ => Verdict::Reopen(Cause::Server),
    }
}

/// The text of a stop: what happened, what to do, and the server's words, which hold no document.
pub fn stop_text(advice: &str, error: &Error, position: &str) -> String {
    format!("{advice}. Position: {position}. MongoDB says: {}", short(error))
}

/// Whether waiting is all that this error asks for: somebody is away, or the primary moves.
pub fn is_passing(error: &Error) -> bool {
    matches!(
        classify(error, Phase::Opening),
        Verdict::Reopen(Cause::Network | Cause::Election | Cause::CursorGone)
    )
}

/// An option of the stage that this server does not know.
pub fn is_unknown_option(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Command(command) if command.code == 40415)
}

/// A stage that this server does not know.
pub fn is_unknown_stage(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Command(command) if command.code == 40324)
}

/// The code of an error that the user's pipeline may have raised by what it found in an event. Such an error repeats itself.
pub fn code_of_a_stage(error: &Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) if is_of_a_stage(command.code, &command.code_name) => Some(command.code),
        _ => None,
    }
}

/// The verdict on an error of [`code_of_a_stage`] that has repeated itself.
pub const REPEATED: Verdict = Verdict::Stop(ExitCode::Configuration, STAGE_FAILED);

/// BadValue, FailedToParse, TypeMismatch, PathNotViable, ConversionFailure; and the assertions without a name, of which nearly every
/// expression has some.
fn is_of_a_stage(code: i32, name: &str) -> bool {
    matches!(code, 2 | 9 | 14 | 28 | 241) || name.starts_with("Location")
}

/// An error of the driver in one line of bounded length, without any document.
pub fn short(error: &Error) -> String {
    let text = match error.kind.as_ref() {
        ErrorKind::Command(command) => server_text(command.code, &command.code_name, &command.message),
        // The driver quotes what it could not read.
        ErrorKind::Bson(_) | ErrorKind::BsonDeserialization(_) | ErrorKind::InvalidResponse { .. } => {
            "a reply that the driver cannot read; the rest is left out, because it may quote documents"
                .to_owned()
        }
        kind => kind.to_string(),
    };
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line
}

/// What fails while it runs over documents may quote them: a stage its values, some of them the whole event, an altered `_id` too, and a
/// document that is too large its first field. So only what is known to say nothing of documents is shown.
fn server_text(code: i32, name: &str, message: &str) -> String {
    let quotes = message.contains(RUNNING) && !QUOTES_NOTHING.contains(&code)
        || message.contains(ID_FIELD)
        || message.contains(FIRST_ELEMENT);
    if quotes {
        format!("{name} ({code}); the rest is left out, because it may quote documents")
    } else {
        format!("{name} ({code}): {message}")
    }
}

/// Of the position, the cursor, the collection or the server: 286 ChangeStreamHistoryLost, 280 ChangeStreamFatalError, 43 CursorNotFound,
/// 237 CursorKilled, 175 QueryPlanKilled, 136 CappedPositionLost, 239 SnapshotTooOld, 246 SnapshotUnavailable, 26 NamespaceNotFound,
/// 50 MaxTimeMSExpired, 262 ExceededTimeLimit, 13 Unauthorized, and those of elections and shutdowns.
const QUOTES_NOTHING: [i32; 20] =
    [286, 280, 43, 237, 175, 136, 239, 246, 26, 50, 262, 13, 91, 189, 10107, 11600, 11602, 13435, 13436, 133];

/// In what the server says of a pipeline that was taken and failed on an event ("PlanExecutor error during aggregation" at the opening,
/// "Executor error during getMore" later).
const RUNNING: &str = "Executor error";
/// In what it says of a document that is too large.
const FIRST_ELEMENT: &str = "First element";
/// In what it says of a pipeline that altered `_id`.
const ID_FIELD: &str = "_id field";

/// How long the server may stay silent before the stream counts as down: it answers every second when all is well.
pub const SILENCE_UNTIL_DOWN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table() {
        use ExitCode::{Configuration, NotAllowed, PositionLost};
        use Phase::{Opening, Streaming};
        let stop = |code| Some(code);
        let rows: &[(i32, &str, Phase, Option<ExitCode>)] = &[
            (286, "resume point may no longer be in the oplog", Opening, stop(PositionLost)),
            (286, "", Streaming, stop(PositionLost)),
            (464, "", Opening, stop(PositionLost)),
            (280, "cannot resume stream", Opening, stop(PositionLost)),
            (
                280,
                "Encountered an event whose _id field, which contains the resume token, was modified by the pipeline",
                Streaming,
                stop(Configuration),
            ),
            (260, "", Opening, stop(PositionLost)),
            (15, "", Opening, stop(PositionLost)),
            (15, "", Streaming, None),
            (50811, "KeyString format error", Opening, stop(PositionLost)),
            (13, "", Streaming, stop(NotAllowed)),
            (18, "", Opening, stop(NotAllowed)),
            (40573, "", Opening, stop(Configuration)),
            (47, "", Streaming, stop(Configuration)),
            (40415, "", Opening, stop(Configuration)),
            (40324, "", Opening, stop(Configuration)),
            (20, "$limit is not permitted in a $changeStream pipeline", Opening, stop(Configuration)),
            (40218, "", Opening, stop(Configuration)),
            (241, "Unsupported conversion from object to string", Opening, stop(Configuration)),
            (241, "", Streaming, stop(Configuration)),
            // A stage may have raised these; the reader sees whether they repeat themselves.
            (17124, "The argument to $size must be an array", Streaming, None),
            (2, "can't $divide by zero", Streaming, None),
            (43, "", Streaming, None),
            (237, "", Streaming, None),
            (50, "", Streaming, None),
            (189, "", Streaming, None),
            (91, "", Opening, None),
            (11602, "", Streaming, None),
            (10107, "", Opening, None),
            (13435, "", Streaming, None),
            (6, "", Streaming, None),
            (26, "", Opening, None),
            (9999, "", Streaming, None),
        ];
        for (code, message, phase, expected) in rows {
            let found = match by_code(*code, message, false, *phase) {
                Verdict::Stop(exit, _) => Some(exit),
                Verdict::Reopen(_) => None,
                Verdict::Oversize => panic!("code {code} while {phase:?}"),
            };
            assert_eq!(found, *expected, "code {code} while {phase:?}");
        }
    }
    /// Texts of MongoDB 6.0.5.
    #[test]
    fn what_quotes_documents_is_left_out() {
        let opening = "PlanExecutor error during aggregation :: caused by ::";
        let streaming = "Executor error during getMore :: caused by ::";
        for (code, name, message) in [
            (241, "ConversionFailure", "Failed to parse number 'geheim' in $convert with no onError value"),
            (
                40228,
                "Location40228",
                "'replacement document' must evaluate to an object. Input document: {v: 'geheim'}",
            ),
            (
                10334,
                "BSONObjectTooLarge",
                "BSONObj size: 20000000 is invalid. First element: name: \"geheim\"",
            ),
            (47, "NoMatchingDocument", "the pre-image was not found for event: { fullDocument: 'geheim' }"),
            (
                280,
                "ChangeStreamFatalError",
                "Encountered an event whose _id field … Expected: geheim but found: {}",
            ),
        ] {
            for running in [opening, streaming] {
                let text = server_text(code, name, &format!("{running} {message}"));
                assert!(!text.contains("geheim") && text.contains(name), "{text}");
            }
        }
        let lost = format!("{streaming} Resume of change stream was not possible");
        assert!(server_text(286, "ChangeStreamHistoryLost", &lost).contains("not possible"));
        assert!(
            server_text(168, "InvalidPipelineOperator", "Unrecognized expression '$bar'").contains("'$bar'")
        );
    }
}
