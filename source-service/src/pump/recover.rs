//! From a start or a doubt to a position: the order of the steps is what fences, and what makes the promise exact.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use shared::exit::{ExitCode, Stop};

use super::{Held, OnPositionLost, Pump, Session, setback::Setback};
use crate::{
    broker_check::{self, BrokerReport},
    metrics,
    publisher::{Delivery, Publisher},
    recovery::{self, Busy, OwnTopics, Remembered, Tails},
    settings::BrokerCheck,
    start_from::{self, StartFrom},
    status::{Stage, rfc3339},
    token_record::{Position, TOPIC_KEY_PREFIX, TokenRecord, key_format_name},
};

impl Pump {
    pub(super) fn recover(&mut self) -> Result<Session, Setback> {
        let begun = Instant::now();
        self.shown.stage(Stage::Recovering("reading what is committed".to_owned()));
        self.check_brokers()?;
        self.topics.prepare(self.log.client(), &self.token_topic, &self.settings.dead_letters)?;
        if self.announced && std::mem::take(&mut self.fenced) {
            // Before anything that would fence: if another instance has taken over, it must not be disturbed. Only then: after
            // any other doubt our own open transaction would hold the answer back until it times out.
            let remembered = self.read_tokens()?;
            self.still_ours(&remembered)?;
        }
        let delivery = self.settings.delivery;
        let publisher = Publisher::start(&self.producer_config, self.settings.transaction_timeout, delivery)?;
        let mut remembered = self.read_tokens()?;
        self.still_ours(&remembered)?;

        let topics = OwnTopics { names: self.topics.names(), dead_letters: &self.settings.dead_letters };
        let former = remembered.token.take();
        let lost = std::mem::take(&mut self.position_lost);
        let gap = former.as_ref().filter(|_| lost).map(|record| self.gap_behind(record)).transpose()?;
        let (position, run, clean) = match (&former, &gap) {
            (Some(record), Some(gap)) => (gap.to.clone(), record.run + 1, record.clean),
            (Some(record), None) => {
                // Events behind the position may be there already that another scope would not have let through, or the other way round: in one run
                // their ids would not rise any more.
                let another_scope = record.fingerprint != self.fingerprint && !record.clean;
                let run = record.run + u32::from(delivery == Delivery::AtLeastOnce && another_scope);
                if !self.announced
                    && !matches!(self.settings.start_from, StartFrom::Now | StartFrom::Snapshot)
                {
                    tracing::info!(
                        "the source has a position: START_FROM is for the very first start and has no effect"
                    );
                }
                (self.resumed(record)?, run, record.clean)
            }
            (None, _) => {
                let source_id = &self.settings.source_id;
                let own = recovery::own_record_without_token(&self.log, &topics, source_id, |busy| {
                    self.going_on(busy)
                })?;
                if let Some(place) = own {
                    return Err(Setback::Stop(self.without_token(&place.topic)));
                }
                (self.first_position()?, 1, true)
            }
        };
        let copies = match (&former, &gap) {
            (None, _) => self.settings.start_from == StartFrom::Snapshot,
            (Some(_), Some(_)) => self.settings.on_position_lost == OnPositionLost::Snapshot,
            (Some(_), None) => false,
        };
        let own = format!("{}/{run}", self.settings.source_id);
        let since = position.cluster_time().to_millis();
        let tails = recovery::read_tails(&self.log, &topics, &remembered.topics, &own, since, |busy| {
            self.going_on(busy)
        })?;
        self.copying.recovered(std::mem::take(&mut remembered.snapshot));
        self.copying.requests.recovered(std::mem::take(&mut remembered.requests), remembered.end);
        if copies {
            let collections = self.stream.collections(&self.settings.stream.scope).map_err(Setback::Stop)?;
            let names: BTreeSet<String> = collections.iter().map(ToString::to_string).collect();
            for name in self.settings.snapshot.filters.keys().filter(|name| !names.contains(*name)) {
                tracing::warn!(
                    collection = name,
                    "SNAPSHOT_FILTER_FILE names a collection that is not copied: misspelled, out of scope, or not there"
                );
            }
            self.copying.plan_copies(collections);
        }
        self.review_copies(&remembered.topics, &tails, &own, since)?;
        // Within a process a change waits for the next look, which ends it in order: a doubt must not cost the record of that.
        let counts = if self.announced {
            BTreeMap::new()
        } else {
            self.partition_counts(|topic| remembered.topics.contains_key(topic))?
        };
        let switched = self.topics.recovered(remembered.topics, &counts, clean)?;
        self.writer.begin_run(&own);

        let mut session = Session {
            publisher,
            tails: (!tails.is_empty()).then_some(tails),
            committed: position.clone(),
            pending: position,
            committed_at: Instant::now(),
            run,
            held: Held::default(),
            caught_up: false,
        };
        // The own token record, and with it what is to be copied, what was found of that, where the gap is and where keys go: all of it from
        // here on, or nothing.
        let mut states: Vec<_> = self.copying.unrecorded();
        states.extend(
            switched.iter().map(|(topic, record)| (format!("{TOPIC_KEY_PREFIX}{topic}"), record.to_json())),
        );
        self.commit_states(&mut session, false, &states, gap.as_ref())?;
        self.copying.recorded();
        if let Some(gap) = &gap {
            self.tell_gap(gap, run);
        }
        self.announced = true;
        self.tell_snapshot(false);
        let from = session.committed.cluster_time();
        tracing::info!(
            mode = if former.is_some() { "resuming" } else { "fresh" },
            cluster_time = %from,
            time = rfc3339(from),
            source_run = run,
            tails = session.tails.as_ref().map_or(0, Tails::len),
            took = ?begun.elapsed(),
            "position is known"
        );
        self.epoch = self.epoch.next();
        self.stream.open(self.epoch, session.committed.clone());
        self.shown.stage(Stage::Publishing);
        Ok(session)
    }

    pub(super) fn check_brokers(&mut self) -> Result<(), Setback> {
        let due = self.brokers_checked.is_none_or(|checked| checked.elapsed() >= broker_check::INTERVAL);
        if !due || self.settings.delivery == Delivery::AtLeastOnce {
            return Ok(());
        }
        if self.settings.broker_check == BrokerCheck::Skip {
            tracing::warn!("BROKER_CHECK=skip: nobody has checked that the brokers can keep exactly-once");
            metrics::broker_check_skipped(true);
            self.brokers_checked = Some(Instant::now());
            return Ok(());
        }
        metrics::broker_check_skipped(false);
        let report = match self.runtime.block_on(broker_check::check(&self.admin)) {
            // Brokers that were found able stop nothing by an odd answer while they come and go, only by a definite one.
            Err(stop) if self.brokers_checked.is_some() && stop.code == ExitCode::NotAllowed => {
                tracing::warn!(reason = stop.message, "brokers could not be checked again");
                self.brokers_checked = Some(Instant::now());
                return Ok(());
            }
            report => report.map_err(Setback::Stop)?,
        };
        match report {
            BrokerReport::Able => {
                self.brokers_checked = Some(Instant::now());
                Ok(())
            }
            // A broker that was checked before and is away for a while stops nothing.
            BrokerReport::Unknown(error) if self.brokers_checked.is_some() => {
                tracing::warn!(%error, "brokers could not be checked again");
                self.brokers_checked = Some(Instant::now());
                Ok(())
            }
            BrokerReport::Unknown(error) => Err(Setback::Doubt("brokers", error.to_string())),
        }
    }

    fn read_tokens(&self) -> Result<Remembered, Setback> {
        let (topic, source_id) = (&self.token_topic, &self.settings.source_id);
        Ok(recovery::read_tokens(&self.log, topic, source_id, |busy| self.going_on(busy))?)
    }

    /// Shows what recovery is at. Returns whether nobody has asked to stop.
    pub(super) fn going_on(&self, busy: Busy<'_>) -> bool {
        self.shown.stage(Stage::Recovering(busy.to_string()));
        !self.stop.is_cancelled()
    }

    /// After the first own record, a newer one of another instance means that it has taken over.
    fn still_ours(&self, remembered: &Remembered) -> Result<(), Setback> {
        if !self.announced {
            return Ok(());
        }
        match &remembered.token {
            Some(record) if record.instance == self.shown.identity.instance => Ok(()),
            Some(record) => Err(Setback::Stop(Stop::new(
                ExitCode::Fenced,
                format!(
                    "another instance ({}) with SOURCE_ID={} has taken over at cluster time {}. This one ends; if both were meant to run, give them different ids",
                    record.instance,
                    self.settings.source_id,
                    record.position.cluster_time()
                ),
            ))),
            None => Err(Setback::Stop(self.without_token(&self.token_topic))),
        }
    }

    fn without_token(&self, topic: &str) -> Stop {
        Stop::new(
            ExitCode::PositionLost,
            format!(
                "there is no token record of source {} in {}, but it has written before (see {topic}): its position is lost, and starting from now would leave a gap. \
                 Restore the topic, or start under another SOURCE_ID knowing about the gap",
                self.settings.source_id, self.token_topic
            ),
        )
    }

    /// Where the very first start begins: `START_FROM`.
    fn first_position(&self) -> Result<Position, Setback> {
        let settings = &self.settings;
        self.shown.stage(Stage::FirstPosition);
        let first = start_from::choose(&self.stream, &settings.stream, &settings.start_from)?;
        for unchecked in &first.unchecked {
            tracing::warn!(unchecked, "START_FROM could not be checked whole");
        }
        Ok(first.position)
    }

    /// Where a former run ended, as far as this one may go on there.
    fn resumed(&self, record: &TokenRecord) -> Result<Position, Setback> {
        if record.key_format != self.settings.form.key_format && !record.clean {
            return Err(Setback::Stop(Stop::new(
                ExitCode::Configuration,
                format!(
                    "The keys' format is {}, but was {} when the source last ran, and it did not end in order: events may be in doubt, and their keys must not move. \
                     Start with the former KEY_FORMAT or EVENT_PROFILE, stop in order, then change it",
                    key_format_name(self.settings.form.key_format),
                    key_format_name(record.key_format)
                ),
            )));
        }
        if record.fingerprint != self.fingerprint {
            tracing::warn!(cluster_time = %record.position.cluster_time(), "scope or options have changed: the stream is opened at the token's time");
        }
        Ok(record.position_for(&self.fingerprint))
    }
}
