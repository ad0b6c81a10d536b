//! What the process is doing, for `/readyz`, `/status` and the last log line.
//!
//! The pump and the reader say what changed; whoever asks takes the newest view. Nothing here decides anything.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;
use shared::cluster_time::ClusterTime;
use tokio::sync::watch;

use crate::snapshot::plan::Progress;

/// How far the pump is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In words for `/readyz`: what is waited for.
    Recovering(String),
    /// MongoDB is asked where the very first start begins.
    FirstPosition,
    Publishing,
    Stopping,
}

/// Totals since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub events: u64,
    pub transactions: u64,
    /// Events that a recovery found to be committed already.
    pub skipped: u64,
    pub recoveries: u64,
    /// Rows of snapshots.
    pub rows: u64,
}

#[derive(Clone, Debug)]
struct View {
    stage: Stage,
    /// `None` while the stream is up.
    stream_down: Option<String>,
    position: Option<ClusterTime>,
    run: u32,
    totals: Totals,
    last_error: Option<String>,
    last_commit: Option<DateTime<Utc>>,
    snapshot: Option<(Progress, Option<Duration>)>,
}

/// A handle on the one view; cheap to clone.
#[derive(Clone, Debug)]
pub struct Status {
    view: watch::Sender<View>,
}

impl Default for Status {
    fn default() -> Self {
        let view = View {
            stage: Stage::Recovering("starting".to_owned()),
            stream_down: Some("not opened yet".to_owned()),
            position: None,
            run: 0,
            totals: Totals::default(),
            last_error: None,
            last_commit: None,
            snapshot: None,
        };
        Self { view: watch::Sender::new(view) }
    }
}

impl Status {
    pub fn stage(&self, stage: Stage) {
        self.view.send_modify(|view| view.stage = stage);
    }

    pub fn stream_up(&self) {
        self.view.send_if_modified(|view| view.stream_down.take().is_some());
    }

    pub fn stream_down(&self, cause: &str) {
        self.view.send_modify(|view| {
            view.stream_down = Some(cause.to_owned());
            view.last_error = Some(format!("change stream: {cause}"));
        });
    }

    pub fn error(&self, text: &str) {
        self.view.send_modify(|view| view.last_error = Some(text.to_owned()));
    }

    pub fn committed(&self, position: ClusterTime, run: u32, totals: Totals) {
        self.view.send_modify(|view| {
            view.position = Some(position);
            view.run = run;
            view.totals = totals;
            view.last_commit = Some(Utc::now());
        });
    }

    pub fn snapshot(&self, progress: Progress, eta: Option<Duration>) {
        self.view.send_modify(|view| view.snapshot = Some((progress, eta)));
    }

    /// Why no events flow; empty when they do.
    pub fn not_ready(&self) -> Vec<String> {
        let view = self.view.borrow();
        let mut reasons = Vec::new();
        match &view.stage {
            Stage::Recovering(what) => reasons.push(format!("kafka: {what}")),
            Stage::FirstPosition => reasons.push("mongodb: asked where to begin".to_owned()),
            Stage::Stopping => reasons.push("stopping".to_owned()),
            Stage::Publishing => {}
        }
        if let Some(cause) = &view.stream_down {
            reasons.push(format!("mongodb: {cause}"));
        }
        reasons
    }

    /// For `/status`. `identity` says who this is; it has no secret.
    pub fn to_json(&self, identity: &Identity) -> serde_json::Value {
        let view = self.view.borrow();
        let position = view.position.map(|position| {
            let age = Utc::now().timestamp() - i64::from(position.seconds);
            json!({ "clusterTime": position.to_string(), "time": rfc3339(position), "ageSeconds": age })
        });
        json!({
            "service": "source",
            "version": env!("CARGO_PKG_VERSION"),
            "sourceId": identity.source_id,
            "instance": identity.instance,
            "run": view.run,
            "scope": identity.scope,
            "stage": match &view.stage {
                Stage::Recovering(_) | Stage::FirstPosition => "recovering",
                Stage::Publishing => "publishing",
                Stage::Stopping => "stopping",
            },
            "stream": { "up": view.stream_down.is_none(), "cause": view.stream_down },
            "position": position,
            "lastCommit": view.last_commit.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)),
            "events": view.totals.events,
            "transactions": view.totals.transactions,
            "skippedAfterRecovery": view.totals.skipped,
            "recoveries": view.totals.recoveries,
            "snapshot": view.snapshot.map(|(progress, eta)| json!({
                "done": progress.collections == progress.collections_done,
                "collections": progress.collections,
                "collectionsDone": progress.collections_done,
                "rows": progress.rows,
                "estimate": progress.estimate,
                "etaSeconds": eta.map(|eta| eta.as_secs()),
            })),
            "lastError": view.last_error,
        })
    }
}

/// Who this process is.
#[derive(Clone, Debug)]
pub struct Identity {
    pub source_id: String,
    /// Random per process start.
    pub instance: String,
    pub scope: String,
}

/// The whole second of a cluster time, UTC.
pub fn rfc3339(time: ClusterTime) -> String {
    DateTime::from_timestamp(i64::from(time.seconds), 0)
        .map_or_else(|| time.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_kafka_and_stream_are() {
        let status = Status::default();
        assert_eq!(status.not_ready(), ["kafka: starting", "mongodb: not opened yet"]);
        status.stage(Stage::FirstPosition);
        assert_eq!(status.not_ready(), ["mongodb: asked where to begin", "mongodb: not opened yet"]);
        status.stage(Stage::Publishing);
        status.stream_up();
        assert!(status.not_ready().is_empty());
        status.stream_down("HostUnreachable");
        assert_eq!(status.not_ready(), ["mongodb: HostUnreachable"]);
    }
}
