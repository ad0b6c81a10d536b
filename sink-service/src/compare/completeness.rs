//! Waits until the lake has every change of a collection up to a time, by the rule that closes hours: the sources' positions first, and only
//! then the ends of the partitions, which the chains have to reach.

use std::time::{Duration, Instant};

use shared::{
    cluster_time::ClusterTime,
    exit::{ExitCode, Stop},
    kafka_position::{KafkaOffset, TopicPartition},
};

use crate::{
    hours::token_follower::Known, kafka_log::KafkaLog, lake::Lake, look_again::look_again,
    look_error::LookError, standing::standing, topic_content::TopicContent,
};

/// A wait that is longer is spoken of.
const TOLD_AFTER: Duration = Duration::from_secs(2);

const LOOK_INTERVAL: Duration = Duration::from_millis(500);

pub(super) struct Completeness<'a> {
    pub lake: &'a Lake,
    pub log: &'a KafkaLog,
    pub known: &'a Known,
    /// A wait that is longer is given up.
    pub patience: Duration,
}

/// A position speaks for what lies before it, so one at the very time is not enough.
fn source_behind(at: ClusterTime, time: ClusterTime) -> String {
    if at == time {
        format!(
            "the source is at {at} and has to be past it, as MongoDB's clock moves on: TOKEN_INTERVAL says how often it tells"
        )
    } else {
        format!("the source is behind: it is at {at}, MongoDB was at {time}")
    }
}

impl Completeness<'_> {
    /// Returns when every change up to `time` is in the lake.
    pub(super) async fn wait_for(
        &self,
        time: ClusterTime,
        partitions: &[TopicPartition],
        content: &TopicContent,
    ) -> Result<(), LookError> {
        let begun = Instant::now();
        let mut told = false;
        let mut wait = async |missing: String| {
            if begun.elapsed() >= self.patience {
                let what = format!(
                    "the lake is not complete after {} s: {missing}. Do source and sink run? With PUBLISH=sealed rows appear when their file ends; --wait gives it more time",
                    self.patience.as_secs()
                );
                return Err(LookError::from(Stop::new(ExitCode::Temporary, what)));
            }
            if !told && begun.elapsed() >= TOLD_AFTER {
                told = true;
                eprintln!("compare: waiting until the lake has what MongoDB had: {missing}");
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
            Ok(())
        };
        loop {
            let known = self.known.borrow().clone();
            match known.map(|known| known.of(content)) {
                None => wait("the sources' positions are being read".to_owned()).await?,
                Some(None) => {
                    let what =
                        format!("no source reads {content}: nobody can say up to when the lake is complete");
                    return Err(Stop::new(ExitCode::Configuration, what).into());
                }
                // A position speaks for what lies before it.
                Some(Some(at)) if at > time => break,
                Some(Some(at)) => wait(source_behind(at, time)).await?,
            }
        }
        for partition in partitions {
            let end = self.log.end(partition).await?;
            loop {
                let standing = look_again(async || standing(self.lake, partition).await).await?;
                let position = standing.map_or(KafkaOffset::ZERO, |standing| standing.position);
                if position >= end {
                    break;
                }
                wait(format!(
                    "the sink is behind: {partition} stands at offset {position} of {end} in Kafka"
                ))
                .await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_times_are_explained() {
        let (early, late) = (ClusterTime::new(7, 1), ClusterTime::new(7, 2));
        assert!(source_behind(late, late).contains("has to be past it"));
        assert!(source_behind(early, late).contains("is behind"));
    }
}
