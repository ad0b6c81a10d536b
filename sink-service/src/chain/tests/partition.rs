//! What a partition's state makes of its chain and of what the client hands out.

use rdkafka::{Timestamp, message::OwnedMessage};

use super::*;
use crate::{
    line_format::LineFormat,
    partition::{AssignmentEpoch, PartitionState},
    schema_check::SchemaChecks,
    uploads::Uploads,
    value_reader::ValueReader,
};

fn opening() -> PartitionState {
    let uploads = Uploads::new(1).of_topic();
    let epoch = AssignmentEpoch(1);
    PartitionState::opening(
        partition(),
        Some(content()),
        uploads,
        epoch,
        LineFormat::Envelope,
        SchemaChecks::default(),
    )
}

/// A regression: the client's old position became the end of the next batch, and records before it were never read.
#[test]
fn a_position_seen_while_the_chain_is_read_again_says_nothing() {
    run(async {
        let world = World::new(rows(&[HOUR_A; 3]), FilePolicy::default()).await;
        let chain = world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap();
        let mut state = opening();
        state.opened(TopicIdentity::default(), chain.clone());
        assert!(state.reopen().is_some());
        state.consumer_is_at(KafkaOffset::new(3), Instant::now());
        state.opened(TopicIdentity::default(), chain);
        let (_, batch, _) = state.freeze().unwrap();
        assert_eq!(batch.end(), KafkaOffset::ZERO);
    });
}

/// A regression: another writer's commit covered all our records but ended before the marker that we had passed.
#[test]
fn a_batch_follows_what_was_adopted_even_if_that_ends_earlier() {
    run(async {
        let log = Log { records: vec![(Kind::Row, HOUR_A), (Kind::Marker, HOUR_A), (Kind::Marker, HOUR_A)] };
        let world = World::new(log, FilePolicy::default()).await;
        let first = world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap();
        let mut theirs = first.clone();
        let mut batch = world.log.batch(KafkaOffset::ZERO, KafkaOffset::new(2), LineFormat::Envelope);
        let content = content();
        loop {
            let step = theirs.next_step(&mut batch, &world.context(&content, false)).unwrap();
            if matches!(step, Step::Done) {
                break;
            }
            perform(&world.lake, &mut theirs, step, &world.metrics).await.unwrap();
        }
        let mut state = opening();
        state.opened(TopicIdentity::default(), first);
        state.consumer_is_at(KafkaOffset::new(3), Instant::now());
        let (_, ours, _) = state.freeze().unwrap();
        assert_eq!(ours.end(), KafkaOffset::new(3));
        state.published(theirs, &ours, &world.metrics, Instant::now());
        let (chain, mut next, _) = state.freeze().unwrap();
        assert_eq!(next.start(), KafkaOffset::new(2));
        chain.next_step(&mut next, &world.context(&content, false)).unwrap();
    });
}

/// A regression: around a pause of its own librdkafka may hand a record out twice.
#[test]
fn a_record_that_comes_twice_is_taken_once() {
    run(async {
        let world = World::new(rows(&[HOUR_A; 8]), FilePolicy::default()).await;
        let chain = world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap();
        let mut state = opening();
        state.opened(TopicIdentity::default(), chain);
        let mut spares = Vec::new();
        let mut values = ValueReader::new(false);
        let mut take = |state: &mut PartitionState, offset: i64| {
            let message = OwnedMessage::new(
                Some(b"{}".to_vec()),
                None,
                "atlas.shop.orders".to_owned(),
                Timestamp::CreateTime(i64::from(HOUR_A) * 3_600_000),
                0,
                offset,
                None,
            );
            state.take(&message, Instant::now(), &mut values, &mut spares).unwrap();
        };
        let offsets =
            |batch: &Batch| batch.pending().iter().map(|entry| entry.offset.get()).collect::<Vec<_>>();
        for offset in [0, 1, 3, 1, 3, 2, 4] {
            take(&mut state, offset);
        }
        let (_, batch, _) = state.freeze().unwrap();
        assert_eq!(offsets(&batch), [0, 1, 3, 4], "twice in one buffer");
        for offset in [3, 4, 5] {
            take(&mut state, offset);
        }
        state.published(
            world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap(),
            &batch,
            &world.metrics,
            Instant::now(),
        );
        let (_, batch, _) = state.freeze().unwrap();
        assert_eq!(offsets(&batch), [5], "again while its batch is on its way");
    });
}
