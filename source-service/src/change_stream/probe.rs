//! Asks MongoDB whether it would open this very stream at a position, without reading on from there.

use std::time::Duration;

use shared::{
    backoff::Backoff,
    exit::{ExitCode, Stop},
};
use tokio::time::Instant;

use super::{
    ChangeStream, FIRST_CONTACT_LIMIT, StreamOptions,
    open::{Opener, View},
    rights::{self, Right},
    unreachable_at_start,
};
use crate::{
    stream_error::{self, Phase, Verdict},
    token_record::Position,
};

/// A server that refuses a position does so at once; one that took it may search long for the first event in scope.
const SEARCH_LIMIT: Duration = Duration::from_secs(20);

/// The server takes the position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// The stream was open.
    Opened,
    /// It did not refuse, and was still looking for the first event when the limit was reached.
    Searching,
}

impl ChangeStream {
    /// Opens the stream at `position` with exactly the stages and options that the reader would use, and closes it again.
    ///
    /// # Errors
    /// The stop that a start from there would end with.
    pub fn probe(&self, options: &StreamOptions, position: &Position) -> Result<Acceptance, Stop> {
        let mut opener = Opener::new(self.client.clone(), options.clone());
        self.ask(async {
            let mut backoff = Backoff::default();
            let deadline = Instant::now() + FIRST_CONTACT_LIMIT;
            loop {
                let opened = tokio::time::timeout(SEARCH_LIMIT, opener.open(position, View::Usual)).await;
                let error = match opened {
                    Ok(Ok(_closed_when_dropped)) => return Ok(Acceptance::Opened),
                    Ok(Err(error)) => error,
                    Err(_elapsed) => return Ok(Acceptance::Searching),
                };
                match stream_error::classify(&error, Phase::Opening) {
                    // It was there, and found the first event.
                    Verdict::Oversize => return Ok(Acceptance::Opened),
                    Verdict::Stop(code, advice) => {
                        let at = format!("cluster time {}", position.cluster_time());
                        let mut text = stream_error::stop_text(advice, &error, &at);
                        if code == ExitCode::NotAllowed {
                            text += &rights::sentence(&self.client, &Right::to_watch(&options.scope)).await;
                        }
                        return Err(Stop::new(code, text));
                    }
                    Verdict::Reopen(_) => {
                        let (delay, cause) = (backoff.next_delay(), stream_error::short(&error));
                        if Instant::now() + delay > deadline {
                            return Err(unreachable_at_start(&cause));
                        }
                        self.status.stream_down(&cause);
                        tokio::time::sleep(delay).await;
                    }
                }
            }
        })
    }
}
