//! Whether a source with this id runs: found out by looking, so that one that runs is not disturbed.
//!
//! A source that ended in order says so in its last record. Of any other one it can only be seen that it is silent: it commits its position
//! every TOKEN_INTERVAL when MongoDB's clock has moved, which an idle replica set sees to: its `periodicNoopIntervalSecs` of 10 seconds
//! let up to 20 pass after a write (seen on 6.0.5). What is missed in this way does no harm: writing fences it, and it ends.

use std::time::{Duration, Instant};

use shared::exit::{ExitCode, Stop};

use crate::recovery::Remembered;

/// Beside TOKEN_INTERVAL: MongoDB's own interval, and room for a commit.
const MARGIN: Duration = Duration::from_secs(25);
/// Between two looks; the broker tells nobody.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How it was found that no source runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Its last record says so.
    InOrder,
    /// It has committed nothing for this long.
    Silent(Duration),
}

/// Watches the token topic, from what was read at first.
///
/// # Errors
/// [`ExitCode::Temporary`] if a source runs; else why the topic cannot be read.
pub(super) fn stopped(
    first: &Remembered,
    token_interval: Duration,
    mut read: impl FnMut() -> Result<Remembered, Stop>,
) -> Result<Stopped, Stop> {
    let mut last = first.clone();
    let begun = Instant::now();
    let window = token_interval + MARGIN;
    let mut told = false;
    loop {
        if last.token.as_ref().is_some_and(|record| record.clean) {
            return Ok(Stopped::InOrder);
        }
        if last.written != first.written {
            let instance = last.token.as_ref().map_or("unknown", |record| record.instance.as_str());
            return Err(Stop::new(
                ExitCode::Temporary,
                format!(
                    "a source with this SOURCE_ID is running: its instance {instance} committed a position while this command looked. Nothing was changed. \
                     Stop it, then repeat"
                ),
            ));
        }
        if begun.elapsed() >= window {
            return Ok(Stopped::Silent(window));
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(
                up_to = ?window,
                "the source did not end in order, or still runs: looking whether it commits anything"
            );
        }
        std::thread::sleep(LOOK_AGAIN);
        last = read()?;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use shared::{cluster_time::ClusterTime, source_watermark::ScopeRecord};

    use super::*;
    use crate::{
        envelope::KeyFormat,
        recovery::Written,
        token_record::{Position, TokenRecord},
    };

    fn remembered(offset: i64, clean: bool) -> Remembered {
        Remembered {
            token: Some(TokenRecord {
                instance: "5a".to_owned(),
                run: 1,
                position: Position::Time(ClusterTime::new(7, 2)),
                scope: ScopeRecord::default(),
                fingerprint: String::new(),
                key_format: KeyFormat::Plain,
                clean,
            }),
            written: Some(Written { offset, at_ms: None }),
            ..Remembered::default()
        }
    }

    #[test]
    fn an_orderly_end_is_believed_at_once() {
        let never = || panic!("nothing to look for");
        assert_eq!(stopped(&remembered(7, true), Duration::ZERO, never).unwrap(), Stopped::InOrder);
    }

    #[test]
    fn a_source_that_commits_is_running_and_one_that_ends_meanwhile_is_not() {
        let first = remembered(7, false);
        let mut looks = [remembered(7, false), remembered(9, false)].into_iter();
        let stop = stopped(&first, Duration::ZERO, || Ok(looks.next().unwrap())).unwrap_err();
        assert_eq!(stop.code, ExitCode::Temporary);
        assert!(stop.message.contains("instance 5a"), "{stop}");
        let ended = stopped(&first, Duration::ZERO, || Ok(remembered(9, true)));
        assert_eq!(ended.unwrap(), Stopped::InOrder);
    }
}
