//! A stream that stands still although the cluster's time moves: it answers, and every answer is empty and of the same old time.
//!
//! An idle stream's token follows the oplog, to which a replica set writes at least every ten seconds. If it does not, the events that there may
//! be do not come either, and no error says so. It is opened again; should that not help, it says that it is down until it moves.

use std::time::{Duration, Instant};

use shared::cluster_time::ClusterTime;

/// What two looks at the stream tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    Yes,
    /// For people.
    No(String),
}

/// Three times as long as an idle replica set takes to write to its oplog.
const LIMIT: Duration = Duration::from_secs(30);

/// Since when the stream's token has not moved.
#[derive(Debug, Default)]
pub(super) struct Standstill {
    last: Option<(ClusterTime, Instant)>,
    suspected: bool,
}

impl Standstill {
    /// From a standstill on, until the token moves.
    pub(super) fn is_suspected(&self) -> bool {
        self.suspected
    }

    /// After each reply: the time of its token, and the newest time that the server knows of.
    pub(super) fn look_at(&mut self, token: ClusterTime, cluster: Option<ClusterTime>) -> Moved {
        self.look_at_when(token, cluster, Instant::now())
    }

    fn look_at_when(&mut self, token: ClusterTime, cluster: Option<ClusterTime>, now: Instant) -> Moved {
        let since = match self.last {
            Some((last, since)) if last == token => since,
            _ => {
                (self.last, self.suspected) = (Some((token, now)), false);
                return Moved::Yes;
            }
        };
        let behind = cluster.map_or(0, |cluster| cluster.seconds.saturating_sub(token.seconds));
        if now.duration_since(since) < LIMIT || Duration::from_secs(behind.into()) < LIMIT {
            return Moved::Yes;
        }
        // The next attempt has as long to move.
        (self.last, self.suspected) = (Some((token, now)), true);
        Moved::No(format!(
            "the stream stands still at cluster time {token}, {behind} s behind the cluster, although it answers"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_falls_behind_stands_still() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let time = |seconds| ClusterTime::new(seconds, 1);
        let mut stream = Standstill::default();
        assert_eq!(stream.look_at_when(time(100), Some(time(100)), begun), Moved::Yes);
        // The cluster's time stands, too: nothing is written anywhere.
        assert_eq!(stream.look_at_when(time(100), Some(time(100)), after(60)), Moved::Yes);
        // A server alone does not know.
        assert_eq!(stream.look_at_when(time(100), None, after(60)), Moved::Yes);
        assert!(matches!(stream.look_at_when(time(100), Some(time(131)), after(61)), Moved::No(_)));
        assert!(stream.is_suspected());
        // Opened again, it has as long to move.
        assert_eq!(stream.look_at_when(time(100), Some(time(140)), after(70)), Moved::Yes);
        assert!(matches!(stream.look_at_when(time(100), Some(time(162)), after(92)), Moved::No(_)));
        // Far behind, but it moves: it catches up.
        for seconds in 0..100 {
            let token = ClusterTime::new(101, u32::try_from(seconds).unwrap_or_default());
            assert_eq!(stream.look_at_when(token, Some(time(10_000)), after(100 + seconds)), Moved::Yes);
            assert!(!stream.is_suspected());
        }
    }
}
