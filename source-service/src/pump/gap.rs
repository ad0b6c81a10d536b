//! What becomes of a position that MongoDB no longer has: `ON_POSITION_LOST`.
//!
//! Going on behind a gap is the operator's choice, made beforehand. The position behind the gap, a higher run and the marker that says
//! what is missing are one transaction. Until it is committed nothing is decided: the next attempt finds the old position lost again.

use chrono::{SecondsFormat, Utc};
use shared::{
    cluster_time::ClusterTime,
    exit::{ExitCode, Stop},
};

use super::Pump;
use crate::{
    change_stream::OplogStart,
    gap_marker::{GapMarker, GapReason},
    metrics,
    publisher::{PublishError, Publisher},
    status::rfc3339,
    token_record::{Position, TokenRecord},
};

/// `ON_POSITION_LOST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnPositionLost {
    /// Exit code 20; nothing is touched.
    Stop,
    /// Everything that MongoDB still has.
    ResumeAtOldest,
    /// From now on, and what is there is copied.
    Snapshot,
}

/// A gap that is about to be committed, or was.
#[derive(Clone, Debug)]
pub(super) struct Gap {
    /// Everything before it is published.
    from: ClusterTime,
    pub(super) to: Position,
}

impl Pump {
    /// Where to go on instead of a lost position.
    ///
    /// # Errors
    /// [`ExitCode::PositionLost`] if that cannot be told, and what MongoDB cannot be asked for.
    pub(super) fn gap_behind(&self, lost: &TokenRecord) -> Result<Gap, Stop> {
        let from = lost.position.cluster_time();
        let now = self.stream.server_time()?;
        if from > now {
            return Err(Stop::new(
                ExitCode::PositionLost,
                format!(
                    "the position is of {} ({from}), but MongoDB is only at {} ({now}): this is not the MongoDB that the position is of, and ON_POSITION_LOST does \
                     not decide about that. Look at MONGO_URI; for another MongoDB take another SOURCE_ID",
                    rfc3339(from),
                    rfc3339(now)
                ),
            ));
        }
        let to = match self.settings.on_position_lost {
            OnPositionLost::Snapshot => now,
            OnPositionLost::Stop | OnPositionLost::ResumeAtOldest => self.oldest_behind(from)?,
        };
        Ok(Gap { from, to: Position::Time(to) })
    }

    fn oldest_behind(&self, lost: ClusterTime) -> Result<ClusterTime, Stop> {
        match self.stream.oplog_start() {
            // The oplog reaches back further, and yet the position is not in it, as after a rollback: what came before it is published.
            OplogStart::At(first) if first <= lost => Ok(ClusterTime::new(lost.seconds, lost.increment + 1)),
            OplogStart::At(first) => Ok(first),
            OplogStart::Unreadable(why) => Err(Stop::new(
                ExitCode::PositionLost,
                format!(
                    "the position is lost, and ON_POSITION_LOST=resume-at-oldest cannot tell where the oplog begins ({why}): let the user in MONGO_URI find in \
                     local.oplog.rs, or take ON_POSITION_LOST=snapshot"
                ),
            )),
        }
    }

    /// Puts the marker into the open transaction.
    pub(super) fn send_gap(
        &mut self,
        gap: &Gap,
        run: u32,
        publisher: &mut Publisher,
    ) -> Result<(), PublishError> {
        let processed_at = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let marker = GapMarker {
            source_id: &self.settings.source_id,
            from: Some(gap.from),
            to: &gap.to,
            reason: GapReason::PositionLost,
            scope: &self.settings.stream.scope.record(),
            processed_at: &processed_at,
        };
        marker.send(run, self.writer.format(), &mut self.topics, publisher)
    }

    /// The gap is committed: nobody must be able to miss it.
    pub(super) fn tell_gap(&self, gap: &Gap, run: u32) {
        let to = gap.to.cluster_time();
        metrics::gap(GapReason::PositionLost);
        tracing::error!(
            from = %gap.from,
            from_time = rfc3339(gap.from),
            %to,
            to_time = rfc3339(to),
            source_run = run,
            marker = self.settings.names.control(),
            "GAP: MongoDB no longer had the position, and ON_POSITION_LOST says to go on: changes in between are missing"
        );
    }
}
