//! Whole chains, on both targets: the product's own steps and its own loop, interrupted at every place.
//!
//! The chain's unit tests let many writers step in any order on a directory. Here each single step of a chain with rolls is
//! the last one of its writer, loses its reply, or arrives late; and each time another one goes on from what it reads.

use std::collections::BTreeSet;

use sink_service::{chain::Chain, lake::Lake};
use tokio::time::timeout;

use crate::{
    facts::is_conflict,
    proxy::{self, Fault, hold},
    sink::{END, LIMIT, Sink, batch_from, check, name_of},
    target::{Ground, Target},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chains_on_a_directory() {
    let target = Target::directory();
    let steps = all_steps(&target).await;
    a_writer_that_dies_after_any_step_is_followed_by_another(&target, &steps).await;
    every_step_may_be_another_writers(&target).await;
    a_step_whose_reply_is_lost_is_adopted(&target, &steps).await;
    a_writer_that_slept_since_any_step_is_refused(&target, &steps).await;
    writers_that_start_at_once_make_one_chain(&target).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chains_on_azurite() {
    let target = Target::azurite().await;
    let steps = all_steps(&target).await;
    a_writer_that_dies_after_any_step_is_followed_by_another(&target, &steps).await;
    every_step_may_be_another_writers(&target).await;
    a_step_whose_reply_is_lost_is_adopted(&target, &steps).await;
    a_writer_that_slept_since_any_step_is_refused(&target, &steps).await;
    writers_that_start_at_once_make_one_chain(&target).await;
    // One commit for each step, and the one that makes the head.
    a_lost_reply_of_any_commit_is_read_back(&target, steps.len() + 1).await;
    a_late_commit_of_any_step_is_refused(&target, steps.len() + 1).await;
}

/// Does the first `count` steps of the whole chain as one writer; returns their names and what the writer believes.
async fn steps_of_one_writer(sink: &Sink, count: usize) -> (Vec<&'static str>, Chain) {
    let mut chain = sink.open().await;
    let mut names = Vec::new();
    while chain.position() < END {
        let mut batch = batch_from(chain.position());
        while let Some(step) = sink.next_step(&chain, &mut batch) {
            if names.len() == count {
                return (names, chain);
            }
            names.push(name_of(&step));
            sink.perform(&mut chain, step).await.unwrap();
        }
    }
    (names, chain)
}

/// The names of all steps; each kind that there is must be among them.
async fn all_steps(target: &Target) -> Vec<&'static str> {
    let ground = target.ground();
    let (names, _) = steps_of_one_writer(&Sink::over(ground.prepared().await).await, usize::MAX).await;
    let kinds: BTreeSet<&str> = names.iter().copied().collect();
    let wanted = ["append", "append and seal", "create", "create and seal", "mark", "move", "seal"];
    assert_eq!(kinds, BTreeSet::from(wanted), "{names:?}");
    names
}

async fn finish(ground: &Ground, what: &str) -> Lake {
    let sink = Sink::over(ground.prepared().await).await;
    let chain = sink.open().await;
    timeout(LIMIT, sink.finish(chain)).await.expect(what);
    ground.open()
}

/// A writer dies after each step; another one finishes.
async fn a_writer_that_dies_after_any_step_is_followed_by_another(target: &Target, names: &[&str]) {
    for count in 0..=names.len() {
        let ground = target.ground();
        let dead = Sink::over(ground.prepared().await).await;
        let (done, _) = steps_of_one_writer(&dead, count).await;
        assert_eq!(done, names[..count]);
        drop(dead);
        let what = format!("dead after {done:?}");
        check(&finish(&ground, &what).await, &what).await;
    }
}

/// No writer ever does two steps: each dies after its first.
async fn every_step_may_be_another_writers(target: &Target) {
    let ground = target.ground();
    let mut writers = 0;
    loop {
        let sink = Sink::over(ground.prepared().await).await;
        let mut chain = sink.open().await;
        let mut batch = batch_from(chain.position());
        let Some(step) = sink.next_step(&chain, &mut batch) else { break };
        sink.perform(&mut chain, step).await.unwrap();
        writers += 1;
        assert!(writers < 100, "no end comes");
    }
    check(&ground.open(), "a writer for each step").await;
}

/// The step happened, its writer does not know: it goes on from what it believed before, and finds its own work.
async fn a_step_whose_reply_is_lost_is_adopted(target: &Target, names: &[&str]) {
    for count in 0..names.len() {
        let ground = target.ground();
        let sink = Sink::over(ground.prepared().await).await;
        let (_, chain) = steps_of_one_writer(&sink, count).await;
        let mut batch = batch_from(chain.position());
        let step = sink.next_step(&chain, &mut batch).unwrap();
        let what = format!("the reply of {} is lost", name_of(&step));
        sink.perform(&mut chain.clone(), step).await.unwrap();
        let chain = timeout(LIMIT, sink.publish(chain, batch)).await.expect(&what);
        timeout(LIMIT, sink.finish(chain)).await.expect(&what);
        check(&ground.open(), &what).await;
    }
}

/// A writer wakes up after another one has done everything: its step is refused, whichever it is, and it reads back.
async fn a_writer_that_slept_since_any_step_is_refused(target: &Target, names: &[&str]) {
    for count in 0..names.len() {
        let ground = target.ground();
        let sleeper = Sink::over(ground.prepared().await).await;
        let (_, chain) = steps_of_one_writer(&sleeper, count).await;
        let mut batch = batch_from(chain.position());
        let step = sleeper.next_step(&chain, &mut batch).unwrap();
        let what = format!("{} comes late", name_of(&step));
        finish(&ground, &what).await;
        let late = sleeper.perform(&mut chain.clone(), step).await;
        assert!(is_conflict(&late), "{what}: {late:?}");
        check(&ground.open(), &what).await;
        let chain = timeout(LIMIT, sleeper.publish(chain, batch)).await.expect(&what);
        timeout(LIMIT, sleeper.finish(chain)).await.expect(&what);
        check(&ground.open(), &what).await;
    }
}

const ROUNDS_MIN: usize = 12;
/// They meet in about one round of fifty.
const ROUNDS_MAX: usize = 2000;

/// All find nothing, all make the head, all create the first file, and all go on to the end.
async fn writers_that_start_at_once_make_one_chain(target: &Target) {
    let mut most_writers = 0;
    for round in 0..ROUNDS_MAX {
        // Enough rounds, and one at least in which they really stood in each other's way: on a slow machine that takes longer.
        if round >= ROUNDS_MIN && most_writers > 1 {
            break;
        }
        let ground = target.ground();
        let sinks = [
            Sink::over(ground.prepared().await).await,
            Sink::over(ground.prepared().await).await,
            Sink::over(ground.prepared().await).await,
        ];
        let run = |sink: Sink| async move {
            let chain = sink.open().await;
            sink.finish(chain).await
        };
        let [a, b, c] = sinks.map(|sink| tokio::spawn(timeout(LIMIT, run(sink))));
        for writer in [a, b, c] {
            let chain = writer.await.unwrap().expect("it ends");
            assert_eq!(chain.position(), END);
        }
        most_writers = most_writers.max(check(&ground.open(), &format!("round {round}")).await.len());
    }
    assert!(most_writers > 1, "they never met");
}

/// For real: the request is carried out, the connection breaks before the answer. The first commit makes the head.
async fn a_lost_reply_of_any_commit_is_read_back(target: &Target, commits: usize) {
    for count in 0..commits {
        let ground = target.ground();
        ground.prepared().await;
        let mut faults: Vec<Fault> = (0..count).map(|_| Fault::Pass).collect();
        faults.push(Fault::LoseAnswer);
        let lossy = ground.through(proxy::start(target.azurite_port(), faults).await);
        let what = format!("the answer of commit {count} is lost");
        check(&finish(&lossy, &what).await, &what).await;
    }
}

/// For real: the request is still on its way when another writer has finished the whole chain.
async fn a_late_commit_of_any_step_is_refused(target: &Target, commits: usize) {
    for count in 0..commits {
        let ground = target.ground();
        ground.prepared().await;
        let (fault, mut late) = hold();
        let mut faults: Vec<Fault> = (0..count).map(|_| Fault::Pass).collect();
        faults.push(fault);
        let slow = ground.through(proxy::start(target.azurite_port(), faults).await);
        let what = format!("commit {count} is late");
        let (told, slow_ground) = (what.clone(), slow.clone());
        let writer = tokio::spawn(async move { finish(&slow_ground, &told).await });
        timeout(LIMIT, late.taken()).await.expect(&what);
        finish(&ground, &what).await;
        let status = late.deliver().await;
        assert!([400, 404, 409, 412].contains(&status), "{what}: {status}");
        writer.await.unwrap();
        check(&ground.open(), &what).await;
    }
}
