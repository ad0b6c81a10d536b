//! Several writers step in any order, are refused, lose replies and die.
//!
//! Each writer is what a sink is for one partition: a chain as it believes it to be, and a batch. The schedule is drawn
//! by proptest; a failing one is shrunk and kept under `proptest-regressions/`.

use proptest::prelude::*;

use super::*;

/// One sink, as far as this partition is concerned.
struct Sink {
    mode: Mode,
    chain: Option<Chain>,
    /// What it believed before a reply was lost.
    before: Option<Chain>,
    batch: Option<Batch>,
    /// The highest `next` that it saw confirmed.
    confirmed: KafkaOffset,
}

/// What the schedule lets happen to one writer.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// Reads some more records and does its next step.
    Step { reads: u64 },
    /// Does its next step, but never hears of it.
    LostReply,
    /// Its request is lost on the way.
    LostRequest,
    /// Publishes its position although no record stands before it.
    Position,
    /// Publishes what it has, as if it gave the partition up.
    Drain,
    /// Dies and is started again.
    Crash,
}

impl Sink {
    fn new(mode: Mode) -> Self {
        Self { mode, chain: None, before: None, batch: None, confirmed: KafkaOffset::ZERO }
    }

    async fn take(&mut self, turn: Turn, world: &World) {
        if matches!(turn, Turn::Crash) {
            *self = Self::new(self.mode);
            return;
        }
        let Some(chain) = &mut self.chain else {
            let mut chain = world.read(self.confirmed, KafkaOffset::ZERO).await.unwrap();
            if let Some(before) = self.before.take().filter(|before| before.version() == chain.version()) {
                chain.go_on_staging(before);
            }
            // Else it is read again from where the chain ends.
            self.batch = self.batch.take().filter(|batch| batch.start() <= chain.reached());
            self.chain = Some(chain);
            return;
        };
        self.confirmed = self.confirmed.max(chain.next());
        let (publishing, line_format) = self.mode;
        let reads = if let Turn::Step { reads } = turn { reads } else { 1 };
        let batch = self.batch.get_or_insert_with(|| {
            let start = chain.reached();
            let end = KafkaOffset::new((start.get() + reads).min(world.log.end().get()));
            world.log.batch(start, end.max(start), line_format)
        });
        let publish_position = matches!(turn, Turn::Position);
        let (content, drain) = (content(), matches!(turn, Turn::Drain));
        let policy = FilePolicy { publishing, line_format, ..world.policy };
        let context = StepContext { policy, drain, ..world.context(&content, publish_position) };
        let step = chain.next_step(batch, &context).unwrap();
        if matches!(step, Step::Done) {
            self.batch = None;
            return;
        }
        match turn {
            Turn::LostRequest => self.chain = None,
            Turn::LostReply => {
                // Whatever comes of it, the writer does not hear it and reads back.
                let outcome = perform(&world.lake, &mut chain.clone(), step, &world.metrics).await;
                assert!(matches!(outcome, Ok(()) | Err(LakeError::Conflict)), "{outcome:?}");
                self.before = self.chain.take();
            }
            _ => match perform(&world.lake, chain, step, &world.metrics).await {
                Ok(()) => {}
                Err(LakeError::Conflict) => self.chain = None,
                Err(error) => panic!("{error}"),
            },
        }
    }
}

fn log() -> impl Strategy<Value = Log> {
    let kind = prop_oneof![5 => Just(Kind::Row), 2 => Just(Kind::DeadLetter), 1 => Just(Kind::Tombstone), 1 => Just(Kind::Marker)];
    // Hours go forward and back: a foreign producer's may.
    proptest::collection::vec((kind, 400_000_u32..400_003), 0..14).prop_map(|records| Log { records })
}

fn schedule() -> impl Strategy<Value = Vec<(usize, Turn)>> {
    let turn = prop_oneof![
        6 => (1_u64..5).prop_map(|reads| Turn::Step { reads }),
        1 => Just(Turn::LostReply),
        1 => Just(Turn::LostRequest),
        1 => Just(Turn::Position),
        1 => Just(Turn::Drain),
        1 => Just(Turn::Crash),
    ];
    proptest::collection::vec((0_usize..3, turn), 0..60)
}

fn policy() -> impl Strategy<Value = FilePolicy> {
    let sizes = (
        prop_oneof![Just(None), (1_u64..400).prop_map(Some)],
        prop_oneof![Just(None), (1_u64..5).prop_map(Some)],
    );
    sizes.prop_map(|(bytes, rows)| FilePolicy { bytes, rows, ..FilePolicy::default() })
}

/// How a sink publishes, and which lines it writes.
type Mode = (Publishing, LineFormat);

/// Of each sink: all alike, or as if they were restarted one by one with the other setting.
fn modes() -> impl Strategy<Value = [Mode; 3]> {
    use LineFormat::{Envelope, Flat};
    use Publishing::{Rolling, Sealed};
    let mode = || (prop_oneof![Just(Rolling), Just(Sealed)], prop_oneof![Just(Envelope), Just(Flat)]);
    prop_oneof![
        1 => Just([(Rolling, Envelope); 3]),
        1 => Just([(Sealed, Flat); 3]),
        3 => [mode(), mode(), mode()],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn three_writers_make_one_chain_whatever_happens(
        log in log(), turns in schedule(), policy in policy(), modes in modes()
    ) {
        run(async {
            let world = World::new(log, FilePolicy { publishing: modes[0].0, line_format: modes[0].1, ..policy }).await;
            let mut sinks = modes.map(Sink::new);
            for (index, turn) in turns {
                sinks[index].take(turn, &world).await;
                if modes.iter().all(|(publishing, _)| *publishing == Publishing::Sealed) {
                    let files = world.lake.list_files(TopicFolder::of(&content()).path()).await.unwrap();
                    assert!(files.iter().all(|file| file.metadata.sealed), "no file is seen before it has ended");
                }
            }
            let chain = world.drain().await;
            world.check(&chain).await;
            // A zombie that goes on afterwards changes nothing.
            for sink in &mut sinks {
                for _ in 0..4 {
                    sink.take(Turn::Step { reads: 3 }, &world).await;
                }
            }
            let chain = world.drain().await;
            world.check(&chain).await;
        });
    }
}

/// Goal: seal, head and create may each be the last thing that a writer did. Method: a writer is stopped after every
/// number of steps, another one goes on.
#[test]
fn a_roll_that_is_interrupted_at_any_step_is_finished_by_another_writer() {
    run(async {
        for (stop_after, policy) in
            (0..12).flat_map(|count| [(count, FilePolicy::default()), (count, sealed())])
        {
            let world = World::new(rows(&[HOUR_A, HOUR_A, HOUR_B, HOUR_B]), policy).await;
            let mut sink = Sink::new((policy.publishing, policy.line_format));
            for _ in 0..stop_after {
                sink.take(Turn::Step { reads: 2 }, &world).await;
            }
            let chain = world.drain().await;
            world.check(&chain).await;
        }
    });
}
