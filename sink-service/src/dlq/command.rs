//! The commands: what is chosen, and what would come of it.

use std::{
    collections::HashMap,
    io::{Write as _, stdout},
    path::Path,
    time::Duration,
};

use chrono::{SecondsFormat, Utc};
use rdkafka::{ClientConfig, error::KafkaError};
use shared::{
    dead_letter::DeadLetterReason,
    exit::{ExitCode, Stop},
    kafka_client::{self, FIRST_CONTACT_LIMIT},
    schema_registry::SchemaRegistry,
    topic_name::TopicNames,
};
use tokio::runtime::Runtime;

use super::{
    Action, DlqError, DlqRequest,
    book::Book,
    filter::State,
    letter::{Content, Letter, Origin},
    report::{Outlook, Row, print_content, print_done, print_list, print_plan},
    standing::Standings,
    writing::{Doing, Job, LETTERS_MAX, chunks},
};
use crate::{
    kafka_log::{KafkaLog, LogError},
    known_partitions::{known_partitions, refuse_unknown},
    lake_layout::OpenLake,
    lake_start::open_existing_lake,
    record::{RecordView, Verdict},
    record_reader::RecordReader,
    schema_check::SchemaChecks,
    settings::SinkSettings,
    topic_reader::TopicReader,
};

/// Does what was asked for, and prints it.
///
/// # Errors
/// If it cannot be done; what was done until then stands.
pub fn run(runtime: &Runtime, settings: &SinkSettings, request: &DlqRequest) -> Result<(), Stop> {
    let repaired = match &request.action {
        Action::Retry { with_value: Some(path), .. } => Some(read_value(path)?),
        _ => None,
    };
    kafka_client::connect_check(&settings.kafka, FIRST_CONTACT_LIMIT)?;
    let lake = open_existing_lake(runtime, settings)?;
    let refused =
        |error: KafkaError| Stop::new(ExitCode::Configuration, format!("the Kafka client refuses: {error}"));
    let kafka = settings.kafka.client_config("atlas-sink-dlq-command");
    let log = KafkaLog::new(&kafka, &settings.group).map_err(refused)?;
    let reader = TopicReader::new(&kafka, &settings.group).map_err(refused)?;
    let registry = settings.registry.as_ref().map(SchemaRegistry::new).transpose()?;
    let desk = Desk {
        dead_letters: &settings.dead_letters,
        kafka,
        log: &log,
        reader: &reader,
        lake: &lake,
        standings: Standings::new(&lake),
        records: RecordReader::new(registry),
        schemas: &settings.schema_checks,
        topics: HashMap::new(),
        names: &settings.names,
    };
    runtime.block_on(desk.serve(request, repaired.as_deref())).map_err(Stop::from)
}

fn read_value(path: &Path) -> Result<Vec<u8>, Stop> {
    let cannot = |error| Stop::new(ExitCode::Usage, format!("--with-value {}: {error}", path.display()));
    std::fs::read(path).map_err(cannot)
}

fn unprintable(error: std::io::Error) -> Stop {
    Stop::new(ExitCode::Defect, format!("the result cannot be printed: {error}"))
}

/// What a topic is that a record would go back to.
#[derive(Clone, Copy)]
struct Target {
    partitions: i32,
    /// `None`: for ever.
    retention: Option<Duration>,
}

pub(super) struct Desk<'a> {
    pub dead_letters: &'a str,
    pub kafka: ClientConfig,
    log: &'a KafkaLog,
    reader: &'a TopicReader,
    pub lake: &'a OpenLake,
    standings: Standings<'a>,
    records: RecordReader,
    schemas: &'a SchemaChecks,
    topics: HashMap<String, Option<Target>>,
    names: &'a TopicNames,
}

impl Desk<'_> {
    async fn serve(mut self, request: &DlqRequest, repaired: Option<&[u8]>) -> Result<(), DlqError> {
        let mut book = Book::new(self.dead_letters, self.log, self.reader);
        book.catch_up().await?;
        self.refuse_unknown_topics(&book, &request.filter.topics).await?;
        let mut chosen = Vec::new();
        for letter in book.letters.values().filter(|letter| request.filter.lets(letter)) {
            let mark = book.mark(&letter.key);
            let state =
                State::of(mark, if mark.is_some() { State::Open } else { self.standings.of(letter).await? });
            if request.filter.lets_state(state) {
                chosen.push((letter.clone(), state));
            }
        }
        chosen.sort_by(|(a, _), (b, _)| {
            (&a.failed_at, &a.origin, &a.key).cmp(&(&b.failed_at, &b.origin, &b.key))
        });
        let missing = request.filter.keys.iter().find(|key| !book.letters.contains_key(*key));
        if let Some(key) = missing {
            let what = format!("{} holds no letter with the key {key}; see dlq list", self.dead_letters);
            return Err(Stop::new(ExitCode::Usage, what).into());
        }
        match &request.action {
            Action::List => {
                let rows: Vec<Row<'_>> = chosen.iter().map(|each| row(&book, each)).collect();
                print_list(&rows, request.output, &mut stdout().lock()).map_err(unprintable)?;
                if book.foreign > 0 {
                    tracing::warn!(
                        records = book.foreign,
                        topic = self.dead_letters,
                        "records that are no letters of ours"
                    );
                }
                Ok(())
            }
            Action::Show { value_only } => self.show(&book, &chosen, *value_only, request).await,
            Action::Retry { yes, with_value: _ } => {
                if repaired.is_some() && chosen.len() != 1 {
                    let what = format!("--with-value is for one letter, and {} were chosen", chosen.len());
                    return Err(Stop::new(ExitCode::Usage, what).into());
                }
                self.retry(&mut book, &chosen, repaired, *yes, request).await
            }
            Action::Drop { yes, because } => {
                self.drop_letters(&mut book, &chosen, because, *yes, request).await
            }
        }
    }

    /// A topic that only a dead letter still names is one to look for, too.
    async fn refuse_unknown_topics(&self, book: &Book<'_>, topics: &[String]) -> Result<(), DlqError> {
        let named = |topic: &str| book.letters.values().any(|letter| letter.topic() == Some(topic));
        let asked: Vec<String> = topics.iter().filter(|topic| !named(topic)).cloned().collect();
        if asked.is_empty() {
            return Ok(());
        }
        let there = known_partitions(self.lake, self.reader, self.names, |_| true).await;
        Ok(refuse_unknown(&asked, &there.map_err(Stop::from)?)?)
    }

    async fn show(
        &self,
        book: &Book<'_>,
        chosen: &[(Letter, State)],
        value_only: bool,
        request: &DlqRequest,
    ) -> Result<(), DlqError> {
        for each in chosen {
            let content = book.contents(&[&each.0])?.pop().flatten();
            let mut to = stdout().lock();
            if value_only {
                let value = content.and_then(|content| content.value).ok_or_else(|| {
                    Stop::new(ExitCode::OffsetGap, format!("{} has no value, or no longer", each.0.key))
                })?;
                to.write_all(&value).and_then(|()| to.flush()).map_err(unprintable)?;
            } else {
                print_content(&row(book, each), content.as_ref(), request.output, &mut to)
                    .map_err(unprintable)?;
            }
        }
        Ok(())
    }

    async fn retry(
        mut self,
        book: &mut Book<'_>,
        chosen: &[(Letter, State)],
        repaired: Option<&[u8]>,
        yes: bool,
        request: &DlqRequest,
    ) -> Result<(), DlqError> {
        let mut plan = Vec::with_capacity(chosen.len());
        let mut sendable = Vec::new();
        let open: Vec<&Letter> =
            chosen.iter().filter(|(_, state)| *state == State::Open).map(|(letter, _)| letter).collect();
        let mut outlooks = HashMap::new();
        for chunk in chunks(&open) {
            for (letter, content) in chunk.iter().zip(book.contents(chunk)?) {
                outlooks.insert(letter.key.as_str(), self.outlook(letter, content.as_ref(), repaired).await?);
            }
        }
        for (letter, state) in chosen {
            let outlook =
                outlooks.remove(letter.key.as_str()).unwrap_or_else(|| Outlook::Leave(why_not(*state)));
            if matches!(outlook, Outlook::Do(_)) {
                sendable.push(letter);
            }
            plan.push((letter, *state, outlook));
        }
        print_plan("send", &plan, request.output, &mut stdout().lock()).map_err(unprintable)?;
        if !yes {
            return rehearsed(sendable.len());
        }
        let (mut done, mut by_others) = (0, 0);
        for chunk in chunks(&sendable) {
            let contents = book.contents(chunk)?;
            let letters: Vec<Job<'_>> = chunk
                .iter()
                .zip(&contents)
                .filter_map(|(letter, content)| Some(Job { letter, content: Some(content.as_ref()?) }))
                .collect();
            let count = self.transact(book, &letters, Doing::Retry { repaired }).await?;
            done += count;
            by_others += letters.len() - count;
        }
        print_done("sent back", done, by_others, request.output, &mut stdout().lock())
            .map_err(unprintable)?;
        Ok(())
    }

    async fn drop_letters(
        self,
        book: &mut Book<'_>,
        chosen: &[(Letter, State)],
        because: &str,
        yes: bool,
        request: &DlqRequest,
    ) -> Result<(), DlqError> {
        let plan = chosen.iter().map(|(letter, state)| {
            let outlook = match state {
                State::Open | State::Unknown => Outlook::Do("a marker: dropped".to_owned()),
                other => Outlook::Leave(why_not(*other)),
            };
            (letter, *state, outlook)
        });
        let plan: Vec<_> = plan.collect();
        print_plan("drop", &plan, request.output, &mut stdout().lock()).map_err(unprintable)?;
        let wanted = plan.iter().filter(|(.., outlook)| matches!(outlook, Outlook::Do(_)));
        let wanted: Vec<&Letter> = wanted.map(|(letter, ..)| *letter).collect();
        if !yes {
            return rehearsed(wanted.len());
        }
        let (mut done, mut by_others) = (0, 0);
        for chunk in wanted.chunks(LETTERS_MAX) {
            let letters: Vec<Job<'_>> = chunk.iter().map(|letter| Job { letter, content: None }).collect();
            let count = self.transact(book, &letters, Doing::Drop { because }).await?;
            done += count;
            by_others += letters.len() - count;
        }
        print_done("dropped", done, by_others, request.output, &mut stdout().lock()).map_err(unprintable)?;
        Ok(())
    }

    /// What would come of sending an open letter back.
    async fn outlook(
        &mut self,
        letter: &Letter,
        content: Option<&Content>,
        repaired: Option<&[u8]>,
    ) -> Result<Outlook, DlqError> {
        let leave = |why: String| Ok(Outlook::Leave(why));
        let Some(Origin { partition, .. }) = &letter.origin else {
            return leave(match letter.reason.as_str() {
                "oversize" => "a letter of the source, in whose topic a stub stands: raise TOPIC_MAX_MESSAGE_BYTES and copy the collection again (source-service snapshot), then drop it".to_owned(),
                _ => "a letter of the source: its event is no record yet. Copy the collection again (source-service snapshot), then drop it".to_owned(),
            });
        };
        let Some(content) = content else { return leave("no longer in Kafka".to_owned()) };
        let Some(topic_content) = self.standings.topic_content(partition).await? else {
            return leave("the chain has no rows yet".to_owned());
        };
        let target = self.target(&partition.topic).await?;
        let Some(target) = target.filter(|target| partition.partition < target.partitions) else {
            return leave(format!("{partition} is not in Kafka any more"));
        };
        if let (Some(retention), Some(timestamp)) = (target.retention, letter.original_timestamp) {
            let age = Utc::now().timestamp_millis().saturating_sub(timestamp);
            let limit = retention.mul_f64(0.9);
            if Duration::from_millis(u64::try_from(age).unwrap_or_default()) > limit {
                return leave(format!(
                    "it is of {}, and {} keeps records for {}: the broker could delete it before a sink reads it. Raise retention.ms first",
                    moment(timestamp),
                    partition.topic,
                    hours(retention)
                ));
            }
        }
        let mut record = RecordView {
            value: repaired.or(content.value.as_deref()),
            timestamp: letter.original_timestamp,
            ..RecordView::default()
        };
        for (name, value) in &content.headers {
            if let Some(value) = value {
                record.set_header(name, value);
            }
        }
        let inspected = self.records.inspect(&record, &partition.topic, &topic_content).await?;
        let inspected = self.schemas.judge(&topic_content, inspected);
        Ok(match inspected.verdict {
            Verdict::DeadLetter { reason, error } => Outlook::Leave(format!(
                "it would be a dead letter again ({}: {error}): repair it (--with-value), or drop it",
                reason.as_str()
            )),
            Verdict::Tombstone => Outlook::Do(format!("to {partition}, without a value")),
            Verdict::Line { .. } => {
                let unchecked = letter.reason == DeadLetterReason::SchemaViolation.as_str()
                    && self.schemas.of(&topic_content).is_none();
                let unless = if unchecked {
                    ", unless the sinks' SCHEMA_CHECK_DIR forbids it: here is no schema"
                } else {
                    ""
                };
                Outlook::Do(format!(
                    "to {partition}, a row of {}{unless}",
                    self.standings.hour(inspected.hour)
                ))
            }
        })
    }

    async fn target(&mut self, topic: &str) -> Result<Option<Target>, DlqError> {
        if let Some(known) = self.topics.get(topic) {
            return Ok(*known);
        }
        let partitions = self.reader.topics()?.into_iter().find(|(name, _)| name == topic);
        let target = match partitions {
            None => None,
            Some((_, partitions)) => match self.log.topic_configs(topic).await {
                Ok(configs) => {
                    let retention = configs.get("retention.ms").and_then(|text| text.parse::<u64>().ok());
                    Some(Target { partitions, retention: retention.map(Duration::from_millis) })
                }
                Err(LogError::NoTopic(_)) => None,
                Err(error) => return Err(error.into()),
            },
        };
        self.topics.insert(topic.to_owned(), target);
        Ok(target)
    }
}

fn row<'a>(book: &'a Book<'_>, (letter, state): &'a (Letter, State)) -> Row<'a> {
    Row { letter, state: *state, mark: book.mark(&letter.key) }
}

fn rehearsed(count: usize) -> Result<(), DlqError> {
    let what = if count > 0 { "Nothing was written. Say --yes to do it" } else { "Nothing to do" };
    writeln!(std::io::stderr(), "{what}").map_err(unprintable)?;
    Ok(())
}

fn why_not(state: State) -> String {
    let why = match state {
        State::Void => "its record is a row of the lake",
        State::NotSettled => "the sink has not moved past its record yet: it may become a row",
        State::Retried => "it was sent back already",
        State::Dropped => "it was dropped",
        State::Unknown => "no chain says whether its record is a row",
        State::Open => "it is open",
    };
    why.to_owned()
}

fn moment(millis: i64) -> String {
    let at = chrono::DateTime::from_timestamp_millis(millis);
    at.map_or_else(|| format!("{millis} ms"), |at| at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

fn hours(duration: Duration) -> String {
    format!("{:.1} h", duration.as_secs_f64() / 3600.0)
}
