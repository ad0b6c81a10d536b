//! `snapshot`: has a source that has a position already copy collections, while it streams or at its next start.
//!
//! ```text
//!  read the token topic ▸ may each collection be copied? ▸ ── without --yes it ends here ──
//!      ▸ one record per collection, outside of any transaction ▸ read what is there ▸ has a running source taken it up?
//! ```
//!
//! Nothing is fenced and nobody is stopped: the source finds the records, and begins the copies in a transaction of its own
//! ([`crate::snapshot::request`]). A source that is stopped finds them at its next start.

mod args;
mod status;

use std::{
    process::ExitCode as ProcessExit,
    time::{Duration, Instant},
};

use bson::Document;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use shared::{
    exit::{ExitCode, Stop},
    namespace::Namespace,
    process,
    settings::{SettingsError, Sources},
    telemetry,
};

pub use self::args::{AskRequest, SnapshotCommand, command, request};
use crate::{
    change_stream::ChangeStream,
    cli::SERVICE,
    metrics::StreamMetrics,
    recovery::Remembered,
    settings::SnapshotCommandSettings,
    snapshot::{
        catalog::Found,
        plan::{CollectionCopy, Ended},
        request::SnapshotRequest,
    },
    status::Status,
    token::{report::Facts, stored::TokenTopic},
};

/// Beside TOKEN_INTERVAL: how long a running source may take to find a request, and to ask MongoDB about it.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks; the broker tells nobody.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Of the write.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Does what was asked, and says with which code the process ends.
pub fn run(sources: Sources, request: &SnapshotCommand) -> ProcessExit {
    let done = match request {
        SnapshotCommand::Ask(ask_for) => with(SnapshotCommandSettings::read(sources), |settings| {
            telemetry::install(settings.process.log_format, "warn", "snapshot")?;
            ask(settings, ask_for)
        }),
        SnapshotCommand::Status { json } => with(SnapshotCommandSettings::read(sources), |settings| {
            telemetry::install(settings.process.log_format, "warn", "snapshot")?;
            status::run(settings, *json)
        }),
    };
    match done {
        Ok(text) => process::print(&text),
        Err(stop) => process::complain(SERVICE, &stop),
    }
}

fn with(
    settings: Result<SnapshotCommandSettings, SettingsError>,
    command: impl FnOnce(&SnapshotCommandSettings) -> Result<String, Stop>,
) -> Result<String, Stop> {
    command(&settings?)
}

fn ask(settings: &SnapshotCommandSettings, ask: &AskRequest) -> Result<String, Stop> {
    let topic = TokenTopic::open(&settings.kafka, &settings.names, &settings.source_id)?;
    let remembered = topic.read()?;
    let Some(record) = &remembered.token else {
        return Err(Stop::new(
            ExitCode::Configuration,
            format!(
                "source {} has no position: {} has no token record. START_FROM=snapshot lets its first start copy everything in scope",
                settings.source_id, topic.name
            ),
        ));
    };
    let stream = match &settings.mongo_uri {
        None => None,
        Some(uri) => Some(ChangeStream::start(
            uri.expose(),
            settings.stream.clone(),
            Status::default(),
            StreamMetrics::default(),
        )?),
    };
    let mut facts = Facts::default();
    facts.add("source", settings.source_id.as_str());
    let mut refused = Refused::default();
    let mut requests = Vec::new();
    for namespace in &ask.collections {
        if let Some(refusal) = refusal(settings, &remembered, namespace) {
            refused.add(namespace, refusal);
            continue;
        }
        let documents = match &stream {
            None => "documents: not known".to_owned(),
            Some(stream) => match look_at(stream, namespace)? {
                Ok(estimate) => format!("about {estimate} documents"),
                Err(why) => {
                    refused.add(namespace, Refusal::Never(why.why().to_owned()));
                    continue;
                }
            },
        };
        let filter = ask.filters.get(&namespace.to_string()).cloned();
        facts.add("copy", copy_text(namespace, &documents, filter.as_ref(), &remembered));
        requests.push(SnapshotRequest::new(namespace.clone(), filter));
    }
    refused.into_result()?;
    if stream.is_none() {
        let text = "not asked, because MONGO_URI is not set: the source finds out whether there are these collections";
        facts.add("MongoDB", text);
    }
    if record.fingerprint != settings.stream.fingerprint() {
        let text = "scope or options differ from those that the source last ran with: it judges the request by its own";
        facts.add("settings", text);
    }
    if !ask.yes {
        facts.add("asked", "no: this only said what would be asked for; repeat it with --yes");
        return Ok(facts.to_string());
    }
    write(settings, &topic.name, &requests)?;
    let there = topic.read()?;
    if !requests.iter().all(|request| is_there(request, &there)) {
        return Err(Stop::new(
            ExitCode::Temporary,
            "the request was not written, or somebody asked for the same collection at the same moment: look with `snapshot status`, then repeat",
        ));
    }
    facts.add("asked", "yes");
    facts.add("source says", taken_up(settings, &topic, &requests, there)?);
    Ok(facts.to_string())
}

/// Why a collection cannot be copied now.
enum Refusal {
    /// As things are.
    Never(String),
    Now(String),
}

/// All of them, to be said at once.
#[derive(Default)]
struct Refused {
    never: bool,
    texts: Vec<String>,
}

impl Refused {
    fn add(&mut self, namespace: &Namespace, refusal: Refusal) {
        let text = match refusal {
            Refusal::Never(text) => {
                self.never = true;
                text
            }
            Refusal::Now(text) => text,
        };
        self.texts.push(format!("{namespace}: {text}"));
    }

    fn into_result(self) -> Result<(), Stop> {
        if self.texts.is_empty() {
            return Ok(());
        }
        let code = if self.never { ExitCode::Configuration } else { ExitCode::Temporary };
        Err(Stop::new(code, format!("nothing was asked for. {}", self.texts.join("; "))))
    }
}

/// What settings and the token topic say against it.
fn refusal(
    settings: &SnapshotCommandSettings,
    remembered: &Remembered,
    namespace: &Namespace,
) -> Option<Refusal> {
    let never = |why: Ended| Some(Refusal::Never(why.why().to_owned()));
    if !settings.stream.scope.contains(&namespace.db, &namespace.coll) {
        return never(Ended::OutOfScope);
    }
    if !settings.stream.operations.has("insert") {
        return never(Ended::NoInserts);
    }
    let plan = &remembered.snapshot;
    if plan.find(namespace).is_some_and(|copy| !copy.is_done()) {
        return Some(Refusal::Now("it is being copied already: repeat this when it is done".to_owned()));
    }
    let open = |request: &&SnapshotRequest| request.namespace == *namespace && request.is_open(plan);
    let text = "it was asked for already, and waits for the source";
    remembered.requests.iter().find(open).map(|_| Refusal::Now(text.to_owned()))
}

/// How many documents it has, or why it cannot be copied.
fn look_at(stream: &ChangeStream, namespace: &Namespace) -> Result<Result<u64, Ended>, Stop> {
    let unknown = |cause: String| {
        let text = format!(
            "MongoDB does not say what {namespace} is: {cause}. Leave MONGO_URI out to ask without it"
        );
        Stop::new(ExitCode::Unreachable, text)
    };
    Ok(match stream.find_collection(namespace).map_err(unknown)? {
        Found::Collection => Ok(stream.cuts(namespace, 1).map_err(unknown)?.estimate),
        Found::Other => Err(Ended::NoCollection),
        Found::Nothing => Err(Ended::Gone),
    })
}

fn copy_text(
    namespace: &Namespace,
    documents: &str,
    filter: Option<&Document>,
    remembered: &Remembered,
) -> String {
    let filter = filter.map_or("", |_| ", those that the filter lets through");
    let before = match remembered.snapshot.find(namespace) {
        Some(CollectionCopy { finished_at: Some(finished), rows, .. }) => {
            format!("; copied before, {rows} rows until {}", status::instant(*finished))
        }
        _ => String::new(),
    };
    format!("{namespace}: {documents}{filter}{before}")
}

/// Plain records: they are requests, not state, and a transaction would need the source's id.
fn write(settings: &SnapshotCommandSettings, topic: &str, requests: &[SnapshotRequest]) -> Result<(), Stop> {
    let failed = |error: rdkafka::error::KafkaError| {
        let text = format!("{topic} cannot be written: {error}. The command needs WRITE and DESCRIBE on it");
        Stop::new(ExitCode::Temporary, text)
    };
    let mut config = settings.kafka.client_config("atlas-snapshot");
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("message.timeout.ms", TIMEOUT.as_millis().to_string());
    let producer: BaseProducer = config.create().map_err(failed)?;
    for request in requests {
        let (key, value) = (request.key(), request.to_json());
        let record = BaseRecord::to(topic).partition(0).key(&key).payload(&value);
        producer.send(record).map_err(|(error, _)| failed(error))?;
    }
    producer.flush(TIMEOUT).map_err(failed)
}

fn is_there(request: &SnapshotRequest, remembered: &Remembered) -> bool {
    let waits = remembered.requests.iter().any(|known| known.id == request.id);
    waits || !request.is_open(&remembered.snapshot)
}

/// Watches a source that runs take the requests up.
fn taken_up(
    settings: &SnapshotCommandSettings,
    topic: &TokenTopic,
    requests: &[SnapshotRequest],
    mut there: Remembered,
) -> Result<String, Stop> {
    let (begun, window) = (Instant::now(), settings.token_interval + TAKEN_UP_WITHIN);
    loop {
        if requests.iter().all(|request| !request.is_open(&there.snapshot)) {
            let refused: Vec<String> = requests
                .iter()
                .filter_map(|request| there.snapshot.find(&request.namespace))
                .filter_map(|copy| {
                    let why = copy.ended.filter(|_| copy.rows == 0)?;
                    Some(format!("{} is not copied: {}", copy.namespace, why.why()))
                })
                .collect();
            return if refused.is_empty() {
                Ok("it runs, and has begun; `snapshot status` says how far it is".to_owned())
            } else {
                Err(Stop::new(ExitCode::Configuration, refused.join("; ")))
            };
        }
        if there.token.as_ref().is_some_and(|record| record.clean) {
            return Ok("nothing: it is stopped, and begins when it is started".to_owned());
        }
        if begun.elapsed() >= window {
            let text = format!(
                "nothing for {} s: if it runs, it waits for MongoDB or Kafka; else it begins when it is started",
                window.as_secs()
            );
            return Ok(text);
        }
        std::thread::sleep(LOOK_AGAIN);
        there = topic.read()?;
    }
}
