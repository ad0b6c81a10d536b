//! How far the oplog reaches back, asked every few seconds on a thread of its own: the screen must not wait for MongoDB.

use std::{thread, time::Duration};

use shared::settings::Secret;
use tokio::sync::watch;

use crate::{
    change_stream::{ChangeStream, OplogStart, StreamOptions},
    metrics::StreamMetrics,
    status::Status,
};

/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(10);

/// The newest answer; `None` until there is one.
pub(super) struct OplogGauge(watch::Receiver<Option<OplogStart>>);

impl OplogGauge {
    /// Nothing is asked without an address.
    pub(super) fn start(mongo_uri: Option<&Secret>, options: &StreamOptions) -> Self {
        let (answers, newest) = watch::channel(None);
        if let Some(uri) = mongo_uri {
            let (uri, options) = (uri.clone(), options.clone());
            let spawned =
                thread::Builder::new().name("oplog-gauge".into()).spawn(move || ask(&uri, options, &answers));
            if let Err(error) = spawned {
                tracing::warn!(%error, "no thread for the oplog's headroom");
            }
        }
        Self(newest)
    }

    pub(super) fn newest(&self) -> Option<OplogStart> {
        self.0.borrow().clone()
    }
}

/// Until nobody listens any more.
fn ask(uri: &Secret, options: StreamOptions, answers: &watch::Sender<Option<OplogStart>>) {
    let stream = match ChangeStream::start(uri.expose(), options, Status::default(), StreamMetrics::default())
    {
        Ok(stream) => stream,
        Err(stop) => {
            answers.send_replace(Some(OplogStart::Unreadable(stop.message)));
            return;
        }
    };
    while !answers.is_closed() {
        answers.send_replace(Some(stream.oplog_start()));
        thread::sleep(INTERVAL);
    }
}
