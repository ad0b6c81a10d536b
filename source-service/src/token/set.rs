//! `token set`: moves the position of a source that is stopped.
//!
//! ```text
//!  read ▸ can MongoDB begin there? ▸ does a source run? ▸ ── without --yes it ends here ──
//!       ▸ init_transactions ▸ read again: nobody has written? ▸ [gap marker +] token record ▸ commit ▸ read what is there
//! ```
//!
//! `init_transactions` fences whoever has the source's transactional id, and ends what it left open. A source that starts at the same
//! moment fences this command instead: then nothing was written, and that is said. What counts in the end is what can be read.

use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use shared::{
    cluster_time::ClusterTime,
    exit::{ExitCode, Stop},
    kafka_topics::TopicAdmin,
};

use super::{
    Answer,
    args::SetRequest,
    guard::{self, Stopped},
    report::{Facts, moment, span},
    stored::{TokenTopic, log_stop},
};
use crate::{
    batch,
    change_stream::ChangeStream,
    envelope::ValueFormat,
    gap_marker::{GapMarker, GapReason},
    metrics::StreamMetrics,
    publisher::{PublishError, Publisher, producer_config},
    recovery::{self, OwnTopics, Remembered},
    settings::SourceSettings,
    start_from::{self, StartFrom},
    status::Status,
    token_record::{Position, TokenRecord},
    topics::{TopicError, Topics},
    value_format,
};

pub(super) fn run(settings: &SourceSettings, request: &SetRequest) -> Result<Answer, Stop> {
    let topic = TokenTopic::open(&settings.kafka, &settings.names, &settings.source_id)?;
    let stream = ChangeStream::start(
        settings.mongo_uri.expose(),
        settings.stream.clone(),
        Status::default(),
        StreamMetrics::default(),
    )?;
    let first = topic.read()?;
    let plan = Plan::new(settings, &topic, &stream, &first, &request.to)?;
    let mut facts = plan.facts();
    match guard::stopped(&first, settings.token_interval, || topic.read())? {
        Stopped::InOrder => facts.add("source", "stopped: it ended in order"),
        Stopped::Silent(window) => {
            facts.add("source", format!("stopped: it has committed nothing for {} s", window.as_secs()));
        }
    }
    if request.yes {
        let offset = write(settings, &topic, &first, &plan)?;
        facts.add("written", format!("yes, offset {offset} of {}", topic.name));
    } else {
        facts.add("written", "no: this only said what would be done; repeat it with --yes");
    }
    Ok(facts.to_string().into())
}

/// What is to be written.
struct Plan {
    /// `None` if the position was lost.
    former: Option<Position>,
    former_run: u32,
    record: TokenRecord,
    unchecked: Vec<String>,
    control: String,
}

impl Plan {
    fn new(
        settings: &SourceSettings,
        topic: &TokenTopic,
        stream: &ChangeStream,
        first: &Remembered,
        to: &StartFrom,
    ) -> Result<Self, Stop> {
        let chosen = start_from::choose(stream, &settings.stream, to)?;
        let former_run = match &first.token {
            Some(record) => record.run,
            None => run_without_token(settings, topic)?,
        };
        let position = match (chosen.position, to) {
            // Its newest event is committed already, as far as a source has read: behind it.
            (Position::Time(now), StartFrom::Now) => {
                Position::Time(ClusterTime::new(now.seconds, now.increment + 1))
            }
            (position, _) => position,
        };
        let record = TokenRecord {
            instance: uuid::Uuid::new_v4().simple().to_string(),
            run: former_run + 1,
            position,
            scope: settings.stream.scope.record(),
            fingerprint: settings.stream.fingerprint(),
            key_format: settings.form.key_format,
            // Nothing is in flight: what was open ends with `init_transactions`, and without transactions the source has to be stopped.
            clean: true,
        };
        Ok(Self {
            former: first.token.as_ref().map(|record| record.position.clone()),
            former_run,
            record,
            unchecked: chosen.unchecked,
            control: settings.names.control(),
        })
    }

    fn to(&self) -> ClusterTime {
        self.record.position.cluster_time()
    }

    /// Whether changes are left out. Of a lost position nobody knows, so it is said too.
    fn is_gap(&self) -> bool {
        let order = |position: &Position| (position.cluster_time(), position.event_id().to_owned());
        self.former.as_ref().is_none_or(|former| order(&self.record.position) > order(former))
    }

    fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        let former = self.former.as_ref().map(Position::cluster_time);
        facts.add("from", former.map_or_else(|| "unknown: there is no token record".to_owned(), moment));
        facts.add("to", moment(self.to()));
        let between = |former: ClusterTime| {
            let seconds = i64::from(self.to().seconds) - i64::from(former.seconds);
            if self.to() == former {
                "some of that time's".to_owned()
            } else {
                format!("{} of", span(seconds.abs()))
            }
        };
        let effect = match former {
            None => format!(
                "GAP: what happened since the position was lost until then is not read; a marker in {} says so",
                self.control
            ),
            Some(former) if self.is_gap() => {
                format!("GAP: {} changes are not read; a marker in {} says so", between(former), self.control)
            }
            Some(_) if self.former.as_ref() == Some(&self.record.position) => "the same position".to_owned(),
            Some(former) => format!(
                "REPEAT: {} changes are read again and published a second time, as run {}",
                between(former),
                self.record.run
            ),
        };
        facts.add("effect", effect);
        facts.add("run", format!("{}, was {}", self.record.run, self.former_run));
        for unchecked in &self.unchecked {
            facts.add("unchecked", unchecked.as_str());
        }
        facts
    }
}

/// The run of a source whose token is gone but not its records.
fn run_without_token(settings: &SourceSettings, topic: &TokenTopic) -> Result<u32, Stop> {
    tracing::warn!(
        "there is no token record: looking for the source's own records in all topics under the prefix"
    );
    let own = OwnTopics { names: &settings.names, dead_letters: &settings.dead_letters };
    let run = recovery::highest_own_run(&topic.log, &own, &settings.source_id, |_| true);
    run.map_err(|error| log_stop(&error))?.ok_or_else(|| {
        Stop::new(
            ExitCode::Configuration,
            format!(
                "source {} has never run: there is no token record in {}, and no record of it. START_FROM says where its first start begins",
                settings.source_id, topic.name
            ),
        )
    })
}

/// Returns the record's offset.
fn write(
    settings: &SourceSettings,
    topic: &TokenTopic,
    first: &Remembered,
    plan: &Plan,
) -> Result<i64, Stop> {
    let connection = settings.kafka.client_config(&format!("atlas-source-{}", settings.source_id));
    // The marker is read by those who read the source's records.
    let format = value_format::settle(settings, &mut |_| {})?;
    let mut topics = prepared_topics(settings, topic)?;
    let config =
        producer_config(connection, &settings.source_id, settings.transaction_timeout, settings.delivery);
    let mut publisher =
        Publisher::start(&config, settings.transaction_timeout, settings.delivery).map_err(publish_stop)?;
    if topic.read()?.written != first.written {
        return Err(somebody_wrote());
    }
    let sent = send(settings, topic, plan, format, &mut topics, &mut publisher);
    // Whatever the answer was: what can be read is what was written.
    let there = topic.read()?;
    match (&there.token, there.written) {
        (Some(record), Some(written)) if record.instance == plan.record.instance => Ok(written.offset),
        _ if there.written != first.written => Err(somebody_wrote()),
        _ => Err(match sent {
            Err(error) => publish_stop(error),
            Ok(()) => Stop::new(ExitCode::Temporary, "the position was not written: repeat the command"),
        }),
    }
}

fn send(
    settings: &SourceSettings,
    topic: &TokenTopic,
    plan: &Plan,
    format: ValueFormat,
    topics: &mut Topics,
    publisher: &mut Publisher,
) -> Result<(), PublishError> {
    publisher.begin()?;
    if plan.is_gap() {
        let processed_at = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let marker = GapMarker {
            source_id: &settings.source_id,
            from: plan.former.as_ref().map(Position::cluster_time),
            to: &plan.record.position,
            reason: GapReason::PositionSet,
            scope: &plan.record.scope,
            processed_at: &processed_at,
        };
        marker.send(plan.record.run, format, topics, publisher)?;
    }
    batch::send_state(publisher, &topic.name, &settings.source_id, &plan.record.to_json())?;
    publisher.commit()
}

/// Those that a source makes before its first event: a lost token topic is made again.
fn prepared_topics(settings: &SourceSettings, topic: &TokenTopic) -> Result<Topics, Stop> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Stop::new(ExitCode::Temporary, format!("no runtime: {error}")))?;
    let connection = settings.kafka.client_config("atlas-token");
    let admin = TopicAdmin::new(&connection, Duration::from_secs(15)).map_err(|error| {
        Stop::new(ExitCode::Configuration, format!("the Kafka client refuses its configuration: {error}"))
    })?;
    let mut topics = Topics::new(
        settings.names.clone(),
        settings.topics.clone(),
        settings.accepted_counts.clone(),
        admin,
        runtime,
    );
    topics.prepare(topic.log.client(), &topic.name, &settings.dead_letters).map_err(|error| match error {
        TopicError::Stop(stop) => stop,
        TopicError::Unavailable(text) => Stop::new(ExitCode::Temporary, text),
    })?;
    Ok(topics)
}

fn somebody_wrote() -> Stop {
    Stop::new(
        ExitCode::Temporary,
        "a source with this SOURCE_ID has committed a position meanwhile: it runs. Nothing was changed. Stop it, then repeat",
    )
}

fn publish_stop(error: PublishError) -> Stop {
    let code = match &error {
        PublishError::NotAllowed(_) => ExitCode::NotAllowed,
        PublishError::Refused(_) | PublishError::TooLarge { .. } => ExitCode::Configuration,
        PublishError::Doubt(_) | PublishError::Fenced(_) => ExitCode::Temporary,
    };
    Stop::new(code, format!("the position was not changed: {error}"))
}
