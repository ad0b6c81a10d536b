//! A file ends when it has as many blocks as the policy allows. Azure takes 50,000; the policy's own number has a test beside it, here it is small.
//!
//! The blocks are those that the lake has, not those that this process has written. A directory has none: nothing ends there.

use sink_service::{chain::Chain, lake::Lake, layout::Layout, topic_content::TopicContent};

use crate::{
    sink::{Sink, batch_from, check, name_of},
    target::{Ground, Target},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_on_azurite_end_at_their_last_block() {
    let target = Target::azurite().await;
    // A file for each batch, or for each of its hours; with two blocks, as without a limit, for each hour.
    assert_eq!(rows_of_files(&target.ground(), 1).await, [2, 2, 2, 1, 1, 1, 1, 1]);
    assert_eq!(rows_of_files(&target.ground(), 2).await, [4, 3, 1, 1, 2]);
    assert_eq!(second_append_of_another_process(&target, 2).await, "append and seal");
    assert_eq!(second_append_of_another_process(&target, 3).await, "append");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_in_a_directory_have_no_blocks() {
    let target = Target::directory();
    assert_eq!(rows_of_files(&target.ground(), 45_000).await, [4, 3, 1, 1, 2]);
    assert_eq!(second_append_of_another_process(&target, 3).await, "append");
}

/// Everything is written by one process; no file has more blocks than it may.
async fn rows_of_files(ground: &Ground, blocks: usize) -> Vec<u64> {
    let sink = Sink::over(ground.prepared().await).await.with_blocks(blocks);
    let chain = sink.open().await;
    sink.finish(chain).await;
    let lake = ground.open();
    check(&lake, &format!("{blocks} blocks at most")).await;
    let mut files = files(&lake).await;
    files.sort_by_key(|(first, ..)| *first);
    assert!(files.iter().all(|(_, _, count)| *count <= blocks), "{files:?}");
    files.into_iter().map(|(_, rows, _)| rows).collect()
}

/// First offset, rows and blocks.
async fn files(lake: &Lake) -> Vec<(u64, u64, usize)> {
    let content = TopicContent::Data(shared::namespace::Namespace::new("shop", "orders"));
    let mut files = Vec::new();
    for listed in lake.list_files(Layout::hive().folder(&content).path()).await.unwrap() {
        let file = lake.file(&listed.path).await.unwrap().unwrap();
        files.push((file.metadata.first.get(), file.metadata.rows, file.block_count()));
    }
    files
}

/// One process has made the file; what the next one does with it, which has written no block itself.
async fn second_append_of_another_process(target: &Target, blocks: usize) -> &'static str {
    let ground = target.ground();
    let first = Sink::over(ground.prepared().await).await.with_blocks(blocks);
    let chain = first.open().await;
    let batch = batch_from(chain.position());
    let chain: Chain = first.publish(chain, batch).await;
    assert!(!chain.file().unwrap().metadata.sealed);
    drop((chain, first));

    let second = Sink::over(ground.open()).await.with_blocks(blocks);
    let mut chain = second.open().await;
    let mut batch = batch_from(chain.position());
    loop {
        let step = second.next_step(&chain, &mut batch).unwrap();
        let name = name_of(&step);
        // That the file is there may not have been marked yet.
        if name != "mark" {
            return name;
        }
        second.perform(&mut chain, step).await.unwrap();
    }
}
