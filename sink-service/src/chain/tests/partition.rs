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

/// Publishes what the partition holds, staged or not, as a flush does.
async fn flush(world: &World, state: &mut PartitionState, drain: bool) {
    let content = content();
    let (mut chain, mut batch, _) = state.freeze().unwrap();
    loop {
        let context = StepContext { drain, ..world.context(&content, drain) };
        let step = chain.next_step(&mut batch, &context).unwrap();
        if matches!(step, Step::Done) {
            break;
        }
        perform(&world.lake, &mut chain, step, &world.metrics).await.unwrap();
    }
    state.published(chain, &batch, &world.metrics, Instant::now());
}

/// A row, in the hour that the log has it in.
fn take_row(state: &mut PartitionState, offset: i64) {
    let time = Timestamp::CreateTime(i64::from(HOUR_A) * 3_600_000);
    let message =
        OwnedMessage::new(Some(b"{}".to_vec()), None, "atlas.shop.orders".to_owned(), time, 0, offset, None);
    state.take(&message, Instant::now(), &mut ValueReader::new(false), &mut Vec::new()).unwrap();
}

#[test]
fn an_empty_partition_is_at_its_end_when_it_was_read() {
    run(async {
        let world = World::new(rows(&[]), FilePolicy::default()).await;
        let mut state = opening();
        assert!(!state.at_end(), "before its end is known");
        state.opened(
            TopicIdentity::default(),
            world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap(),
        );
        assert!(!state.at_end());
        state.end_at(KafkaOffset::ZERO);
        assert!(state.at_end() && !state.end_due());
    });
}

/// Of a log that ends with markers only the position behind them is the end, and it is published at once.
#[test]
fn the_end_is_reached_when_it_is_durable_and_stays_where_it_was() {
    for publishing in [Publishing::Rolling, Publishing::Sealed] {
        run(async {
            let log = Log { records: vec![(Kind::Row, HOUR_A), (Kind::Row, HOUR_A), (Kind::Marker, HOUR_A)] };
            let world = World::new(log, FilePolicy { publishing, ..FilePolicy::default() }).await;
            let mut state = opening();
            state.opened(
                TopicIdentity::default(),
                world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap(),
            );
            state.end_at(KafkaOffset::new(3));
            take_row(&mut state, 0);
            state.consumer_is_at(KafkaOffset::new(1), Instant::now());
            assert!(!state.end_due() && !state.at_end());
            // A flush on the way; where files are sealed that is staged only.
            flush(&world, &mut state, false).await;
            take_row(&mut state, 1);
            state.consumer_is_at(KafkaOffset::new(2), Instant::now());
            assert!(!state.end_due(), "the marker was not passed yet");
            state.consumer_is_at(KafkaOffset::new(3), Instant::now());
            assert!(state.end_due() && !state.at_end(), "read is not durable");
            // What is written meanwhile does not move it.
            state.end_at(KafkaOffset::new(9));
            flush(&world, &mut state, true).await;
            assert!(state.at_end() && !state.end_due(), "{publishing:?}");
        });
    }
}

#[test]
fn rows_that_are_staged_have_not_reached_the_end() {
    run(async {
        let policy = FilePolicy { publishing: Publishing::Sealed, ..FilePolicy::default() };
        let world = World::new(rows(&[HOUR_A; 2]), policy).await;
        let mut state = opening();
        state.opened(
            TopicIdentity::default(),
            world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap(),
        );
        state.end_at(KafkaOffset::new(2));
        take_row(&mut state, 0);
        take_row(&mut state, 1);
        state.consumer_is_at(KafkaOffset::new(2), Instant::now());
        // An ordinary flush came first.
        flush(&world, &mut state, false).await;
        assert!(state.end_due() && !state.at_end());
        flush(&world, &mut state, true).await;
        assert!(state.at_end());
    });
}

/// A change of a source of ours.
fn take_change(state: &mut PartitionState, offset: i64, number: i64) {
    use rdkafka::message::{Header, OwnedHeaders};
    let seconds = u64::from(HOUR_A) * 3600;
    let (id, time) = (format!("82{seconds:08X}00000001{number:08}"), format!("{seconds}.1"));
    let mut headers = OwnedHeaders::new();
    for (key, value) in [
        ("event-id", id.as_str()),
        ("source", "a/1"),
        ("cluster-time", &time),
        ("database", "shop"),
        ("collection", "orders"),
    ] {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    let (topic, value) = ("atlas.shop.orders".to_owned(), Some(b"{}".to_vec()));
    let message = OwnedMessage::new(value, None, topic, Timestamp::NotAvailable, 0, offset, Some(headers));
    state.take(&message, Instant::now(), &mut ValueReader::new(false), &mut Vec::new()).unwrap();
}

/// What a start finds of a chain of thirty changes.
#[test]
fn a_chain_is_held_against_the_log_before_anything_is_published() {
    run(async {
        let world = World::new(rows(&[HOUR_A; 40]), FilePolicy::default()).await;
        let read = async || world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap();
        let mut state = opening();
        state.opened(TopicIdentity::default(), read().await);
        assert_eq!(state.begin_reading(KafkaOffset::ZERO), KafkaOffset::ZERO, "the chain begins");
        (0..30).for_each(|offset| take_change(&mut state, offset, offset));
        flush(&world, &mut state, false).await;

        let again = async |log_start: u64| {
            let mut state = opening();
            assert_eq!(state.opened(TopicIdentity::default(), read().await), KafkaOffset::new(30));
            let from = state.begin_reading(KafkaOffset::new(log_start));
            (state, from.get())
        };
        assert_eq!(again(20).await.1, 20, "what has expired is not read");
        assert_eq!(again(30).await.1, 30);
        let (mut state, from) = again(0).await;
        assert_eq!(from, 14);
        state.end_at(KafkaOffset::new(30));
        assert!(!state.at_end() && state.freeze().is_none(), "not before it was looked at");
        (14..30).for_each(|offset| take_change(&mut state, offset, offset));
        state.consumer_is_at(KafkaOffset::new(29), Instant::now());
        state.judge_passed_look_back().unwrap();
        assert!(!state.at_end());
        state.consumer_is_at(KafkaOffset::new(30), Instant::now());
        state.judge_passed_look_back().unwrap();
        assert!(state.at_end());
        let (_, batch, _) = state.freeze().unwrap();
        assert!(batch.pending().is_empty(), "nothing is taken twice");

        let (mut state, _) = again(0).await;
        (14..29).for_each(|offset| take_change(&mut state, offset, offset));
        take_change(&mut state, 29, 77);
        state.consumer_is_at(KafkaOffset::new(30), Instant::now());
        let stop = state.judge_passed_look_back().unwrap_err();
        assert!(stop.message.contains("offset 29"), "{stop:?}");
    });
}

/// Where files appear once, the current one is not there as a rule.
#[test]
fn a_chain_whose_file_is_not_there_is_held_against_the_log_by_its_head() {
    run(async {
        let policy = FilePolicy { publishing: Publishing::Sealed, ..FilePolicy::default() };
        let world = World::new(rows(&[HOUR_A; 40]), policy).await;
        let read = async || world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap();
        let mut state = opening();
        state.opened(TopicIdentity::default(), read().await);
        (0..8).for_each(|offset| take_change(&mut state, offset, offset));
        flush(&world, &mut state, true).await;
        assert!(state.idle_chain().unwrap().file().is_some());
        take_change(&mut state, 8, 8);
        flush(&world, &mut state, false).await;
        let chain = read().await;
        assert!(chain.file().is_none(), "its rows are staged");
        let mut state = opening();
        assert_eq!(state.opened(TopicIdentity::default(), chain), KafkaOffset::new(8));
        assert_eq!(state.begin_reading(KafkaOffset::ZERO), KafkaOffset::ZERO);
        take_change(&mut state, 7, 70);
        state.consumer_is_at(KafkaOffset::new(8), Instant::now());
        assert!(state.judge_passed_look_back().is_err());
    });
}
