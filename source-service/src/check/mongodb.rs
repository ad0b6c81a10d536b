//! MongoDB: the server, what its user may do, the position, and what the settings ask for beyond the stream itself.

use shared::{
    check::CONTACT_LIMIT,
    cluster_time::ClusterTime,
    exit::{ExitCode, Stop},
    namespace::Namespace,
};

use super::{Report, Step};
use crate::{
    change_stream::{
        ChangeStream, FullDocument, FullDocumentBefore, OplogStart, ServerFacts, ServerKind, WIRE_OF_4_2,
        WIRE_OF_5_0, WIRE_OF_6_0, turn_images_on,
    },
    metrics::StreamMetrics,
    pump::OnPositionLost,
    recovery::Remembered,
    settings::SourceSettings,
    snapshot::catalog::Listed,
    start_from::StartFrom,
    status::{Status, rfc3339},
    token::{
        check::{self, Findings},
        report::{moment, span},
        stored::TokenTopic,
    },
    token_record::Position,
};

/// So many collections without images are named.
const NAMED_MAX: usize = 100;
/// In so many collections a row is read.
const TRIED_MAX: usize = 200;

const POSITION: &str = "position";
const WATCH: &str = "right to watch";
const SNAPSHOT: &str = "snapshot";
const IMAGES: &str = "images";

/// Returns the collections in scope; `None` if they cannot be listed. `committed` is `None` if Kafka did not say.
pub(super) fn look(
    settings: &SourceSettings,
    committed: Option<(&TokenTopic, &Remembered)>,
    report: &mut Report,
) -> Option<Vec<Listed>> {
    let options = settings.stream.clone();
    let stream = match ChangeStream::start(
        settings.mongo_uri.expose(),
        options,
        Status::default(),
        StreamMetrics::default(),
    ) {
        Ok(stream) => stream,
        Err(stop) => {
            report.stop(Step::MongoUri, "MongoDB", &stop);
            return None;
        }
    };
    // With a pipeline or required images MongoDB is asked before Kafka's topics are.
    let early = settings.stream.pipeline.is_some() || settings.stream.requires_images();
    let contact = if early { Step::Pipeline } else { Step::Stream };
    let facts = match stream.server_facts_within(CONTACT_LIMIT) {
        Ok(facts) => facts,
        Err(stop) => {
            report.stop(contact, "MongoDB", &stop);
            return None;
        }
    };
    if !server(&facts, contact, report) {
        return None;
    }
    versions(settings, &facts, report);
    pipeline(settings, &stream, report);
    user(&stream, report);
    watch_and_position(settings, &stream, committed, report);
    let listed = stream.list(&settings.stream.scope, "this check");
    images(settings, &listed, &facts, report);
    snapshot(settings, &stream, &listed, report);
    listed.ok()
}

/// Whether it has change streams at all.
fn server(facts: &ServerFacts, contact: Step, report: &mut Report) -> bool {
    let took = facts.took.as_millis();
    match &facts.kind {
        ServerKind::Alone => {
            report.missing(
                (contact, ExitCode::Configuration),
                "MongoDB",
                format!(
                    "{} stands alone: change streams need a replica set or a sharded cluster",
                    facts.version
                ),
                ["start mongod with --replSet and run rs.initiate() once".to_owned()],
            );
            false
        }
        ServerKind::Sharded => {
            report.ok("MongoDB", format!("{}, sharded cluster, answers within {took} ms", facts.version));
            true
        }
        ServerKind::ReplicaSet { name, primary } => {
            let primary = primary.as_deref().unwrap_or("none now");
            let found =
                format!("{}, replica set {name}, primary {primary}, answers within {took} ms", facts.version);
            report.ok("MongoDB", found);
            true
        }
    }
}

/// What the settings ask for, and since which version there is.
fn versions(settings: &SourceSettings, facts: &ServerFacts, report: &mut Report) {
    const WHAT: &str = "MongoDB version";
    let options = &settings.stream;
    let new_documents = matches!(options.full_document, FullDocument::WhenAvailable | FullDocument::Required);
    let asked = [
        (true, WIRE_OF_4_2, "4.2", "going on behind invalidate (startAfter)", "use MongoDB 4.2 or later"),
        (
            new_documents,
            WIRE_OF_6_0,
            "6.0",
            "FULL_DOCUMENT=whenAvailable and required",
            "set FULL_DOCUMENT=updateLookup",
        ),
        (
            options.full_document_before != FullDocumentBefore::Off,
            WIRE_OF_6_0,
            "6.0",
            "FULL_DOCUMENT_BEFORE",
            "set FULL_DOCUMENT_BEFORE=off",
        ),
        (
            settings.start_from == StartFrom::Snapshot,
            WIRE_OF_5_0,
            "5.0",
            "START_FROM=snapshot (readConcern snapshot outside of transactions)",
            "set START_FROM=now",
        ),
    ];
    let mut all = true;
    for (_, wire, since, what, instead) in asked.into_iter().filter(|(asked, ..)| *asked) {
        if facts.wire_version < wire {
            all = false;
            let found = format!("{} is older than {since}, which has {what}", facts.version);
            report.missing((Step::Stream, ExitCode::Configuration), WHAT, found, [instead.to_owned()]);
        }
    }
    if facts.wire_version < WIRE_OF_6_0 {
        let found = format!(
            "{} does not report creates, changes of indexes and the like (6.0 does): atlas.control has drops and renames only",
            facts.version
        );
        report.warning(WHAT, found, []);
    } else if all {
        report.ok(WHAT, format!("{} has all that the settings ask for", facts.version));
    }
}

fn pipeline(settings: &SourceSettings, stream: &ChangeStream, report: &mut Report) {
    if settings.stream.pipeline.is_none() {
        return;
    }
    match stream.prove_pipeline(&settings.stream) {
        Ok(()) => report.ok("PIPELINE_FILE", "takes events of our own, and lets their _id through"),
        Err(stop) => report.stop(Step::Pipeline, "PIPELINE_FILE", &stop),
    }
}

fn user(stream: &ChangeStream, report: &mut Report) {
    match stream.grants() {
        Ok(Some(grants)) => report.ok("MongoDB user", grants.user),
        Ok(None) => report.ok("MongoDB user", "none: MONGO_URI has no user"),
        Err(why) => report.unknown("MongoDB user", why, []),
    }
}

fn watch_and_position(
    settings: &SourceSettings,
    stream: &ChangeStream,
    committed: Option<(&TokenTopic, &Remembered)>,
    report: &mut Report,
) {
    let found = committed.map(|(topic, remembered)| check::look(settings, stream, topic, remembered));
    match found {
        None => {
            watch_now(settings, stream, report);
            report.unknown(POSITION, "Kafka does not say where the source stands", []);
        }
        // MongoDB could not even be asked for the time.
        Some(Err(stop)) => report.stop(Step::Stream, WATCH, &stop),
        Some(Ok(findings)) => judge(settings, stream, &findings, report),
    }
}

fn judge(settings: &SourceSettings, stream: &ChangeStream, findings: &Findings, report: &mut Report) {
    match &findings.verdict {
        Ok(_) => watched(settings, report),
        Err(stop) if stop.code == ExitCode::NotAllowed => report.stop(Step::Stream, WATCH, stop),
        // The position or a setting is refused, which says nothing about the right.
        Err(_) => watch_now(settings, stream, report),
    }
    let position = match (findings.time(), findings.is_first_start()) {
        (Some(time), true) => format!("none yet: a first start would begin at {}", moment(time)),
        (Some(time), false) => moment(time),
        (None, _) => "lost".to_owned(),
    };
    oplog(findings, report);
    match &findings.verdict {
        Ok(_) => report.ok(POSITION, format!("{position}: a start would begin there")),
        Err(stop) if stop.code == ExitCode::NotAllowed => {
            report.unknown(POSITION, format!("{position}; whether MongoDB still has it cannot be asked"), []);
        }
        Err(stop) if stop.code == ExitCode::PositionLost && goes_on(settings, findings) => {
            let found = format!("lost: {}", stop.message);
            report.warning(
                POSITION,
                found,
                ["ON_POSITION_LOST says to go on behind a gap, with a marker".to_owned()],
            );
        }
        Err(stop) => report.stop(Step::Stream, POSITION, stop),
    }
    for unchecked in &findings.unchecked {
        report.unknown(POSITION, unchecked.as_str(), []);
    }
}

/// Whether a start goes on although its position is lost.
fn goes_on(settings: &SourceSettings, findings: &Findings) -> bool {
    !findings.is_first_start() && settings.on_position_lost != OnPositionLost::Stop
}

/// Opens the stream at the server's own time.
fn watch_now(settings: &SourceSettings, stream: &ChangeStream, report: &mut Report) {
    let now = stream.server_time();
    match now.and_then(|now: ClusterTime| stream.probe(&settings.stream, &Position::Time(now))) {
        Ok(_) => watched(settings, report),
        Err(stop) => report.stop(Step::Stream, WATCH, &stop),
    }
}

fn watched(settings: &SourceSettings, report: &mut Report) {
    report.ok(WATCH, format!("the stream on {} was opened, and closed again", settings.stream.scope));
}

fn oplog(findings: &Findings, report: &mut Report) {
    const WHAT: &str = "oplog";
    match &findings.oplog {
        OplogStart::At(first) => {
            let window = i64::from(findings.now.seconds) - i64::from(first.seconds);
            let place = match findings.headroom_seconds() {
                Some(headroom @ 0..) if !findings.is_first_start() => {
                    format!("; the position has {} of it before it", span(headroom))
                }
                _ => String::new(),
            };
            #[expect(clippy::cast_precision_loss, reason = "hours with one digit")]
            let hours = window as f64 / 3600.0;
            report.ok(WHAT, format!("reaches back {hours:.1} h, to {}{place}", rfc3339(*first)));
        }
        OplogStart::Unreadable(why) => report.unknown(
            WHAT,
            format!("how far it reaches back cannot be read: {why}"),
            ["grant find on local.oplog.rs (deploy/mongodb/oplog-start.json), or look at rs.printReplicationInfo()"
                .to_owned()],
        ),
    }
}

fn images(
    settings: &SourceSettings,
    listed: &Result<Vec<Listed>, Stop>,
    facts: &ServerFacts,
    report: &mut Report,
) {
    let options = &settings.stream;
    if !options.asks_for_images() || facts.wire_version < WIRE_OF_6_0 {
        return;
    }
    let listed = match listed {
        Ok(listed) => listed,
        Err(stop) if options.requires_images() => return report.stop(Step::Images, IMAGES, stop),
        Err(stop) => return report.unknown(IMAGES, stop.message.as_str(), []),
    };
    let without: Vec<&Namespace> =
        listed.iter().filter(|one| !one.keeps_images).map(|one| &one.namespace).collect();
    if without.is_empty() {
        report.ok(IMAGES, format!("all {} collections in scope keep them", listed.len()));
        return;
    }
    let lines = without.iter().take(NAMED_MAX).map(|namespace| turn_images_on(namespace));
    let lines =
        lines.chain((without.len() > NAMED_MAX).then(|| format!("and {} more", without.len() - NAMED_MAX)));
    let found = format!("{} of {} collections in scope keep none; in mongosh:", without.len(), listed.len());
    if options.requires_images() {
        report.missing((Step::Images, ExitCode::Configuration), IMAGES, found, lines);
    } else {
        report.warning(IMAGES, found, lines);
    }
}

fn snapshot(
    settings: &SourceSettings,
    stream: &ChangeStream,
    listed: &Result<Vec<Listed>, Stop>,
    report: &mut Report,
) {
    if settings.start_from != StartFrom::Snapshot {
        return;
    }
    let listed = match listed {
        Ok(listed) => listed,
        Err(stop) => return report.stop(Step::Snapshot, SNAPSHOT, stop),
    };
    for collection in listed.iter().take(TRIED_MAX) {
        if let Err(stop) = stream.try_row(&collection.namespace) {
            report.stop(Step::Snapshot, SNAPSHOT, &stop);
            return;
        }
    }
    let tried = listed.len().min(TRIED_MAX);
    report.ok(SNAPSHOT, format!("a row could be read in {tried} of {} collections in scope", listed.len()));
}
