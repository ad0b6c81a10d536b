//! The promises that do not depend on the target.

use std::io::Write as _;

use bytes::Bytes;
use futures::future::BoxFuture;
use shared::kafka_position::{KafkaOffset, TopicPartition};
use sink_service::{
    file_metadata::{METADATA_LIMIT_BYTES, WriterId},
    lake::{ETag, FileState, Lake, LakeError},
    lake_path::LakePath,
};

use crate::{
    facts::{TOPIC, after, append, content, create, is_conflict, nothing, path, read, rewrite, state},
    layouts::{a_file_lies_where_its_layout_puts_it, of_two_layouts_one_begins_the_lake},
    target::{Ground, Target},
};

type Promise = fn(Ground) -> BoxFuture<'static, ()>;

macro_rules! promises {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), |ground| Box::pin($name(ground)))),*]
    };
}

/// Runs every promise on fresh ground and names those that were broken.
pub(crate) async fn keep_all(target: &Target) {
    let all: &[(&str, Promise)] = &promises![
        preparing_twice_is_harmless,
        a_missing_object_is_none,
        of_two_creators_one_wins,
        a_document_is_replaced_only_as_it_was_read,
        a_stale_state_is_refused,
        of_two_appends_to_one_state_one_wins,
        a_writer_adopts_what_another_wrote,
        bytes_and_metadata_appear_in_one_step,
        a_recommit_without_bytes_seals,
        a_recommit_repeats_everything,
        an_empty_file_is_a_file,
        large_flushes_come_back_whole,
        a_growing_file_is_readable_up_to_its_state,
        a_rebuilt_file_is_a_conflict_for_its_readers,
        a_rewrite_is_seen_whole_or_not_at_all,
        a_rewrite_makes_a_missing_file,
        what_is_staged_is_seen_when_it_is_published,
        of_two_rewrites_one_wins,
        an_object_is_seen_whole_or_not_at_all,
        of_two_objects_one_wins,
        what_is_removed_is_gone_and_may_be_made_again,
        listings_show_data_files_in_order_and_nothing_else,
        a_file_lies_where_its_layout_puts_it,
        of_two_layouts_one_begins_the_lake,
        metadata_over_the_limit_is_refused,
        two_writers_lose_and_double_nothing,
    ];
    let mut broken = Vec::new();
    for (name, promise) in all {
        if let Err(error) = tokio::spawn(promise(target.ground())).await {
            broken.push(format!("{name}: {error}"));
        }
    }
    assert!(broken.is_empty(), "broken promises: {broken:#?}");
}

async fn preparing_twice_is_harmless(ground: Ground) {
    ground.prepared().await.prepare().await.unwrap();
    ground.prepared().await;
}

async fn a_missing_object_is_none(ground: Ground) {
    let lake = ground.prepared().await;
    let at = path("shop/orders/a.jsonl");
    assert!(lake.file(&at).await.unwrap().is_none());
    assert!(lake.read_document(&path("_chain/atlas.a.b/p0.json")).await.unwrap().is_none());
    assert!(lake.list_files(&path("shop/orders")).await.unwrap().is_empty());
    let elsewhere = create(&lake, &path("shop/orders/b.jsonl"), &["1\n"]).await.unwrap();
    let appended = append(&lake, &at, &elsewhere, &["2\n"]).await;
    assert!(is_conflict(&appended), "an append never creates: {appended:?}");
    let gone = lake.create_document(&path("_chain/x/p0.json"), b"{}".to_vec()).await.unwrap();
    assert!(is_conflict(&lake.replace_document(&path("_chain/x/p1.json"), b"{}".to_vec(), &gone).await));
}

async fn of_two_creators_one_wins(ground: Ground) {
    let (a, b) = (ground.prepared().await, ground.prepared().await);
    for round in 0..10 {
        let at = path(&format!("shop/orders/{round}.jsonl"));
        let results = tokio::join!(create(&a, &at, &["a\n"]), create(&b, &at, &["b\n"]));
        let winner = match &results {
            (Ok(_), Err(LakeError::Conflict)) => "a\n",
            (Err(LakeError::Conflict), Ok(_)) => "b\n",
            other => panic!("{other:?}"),
        };
        assert_eq!(content(&a, &at).await, winner);
        let head = path(&format!("_chain/{TOPIC}/p{round}.json"));
        let results = tokio::join!(
            a.create_document(&head, b"{\"by\":\"a\"}".to_vec()),
            b.create_document(&head, b"{\"by\":\"b\"}".to_vec())
        );
        assert_eq!(u8::from(results.0.is_ok()) + u8::from(results.1.is_ok()), 1, "{results:?}");
        assert!(is_conflict(&results.0) || is_conflict(&results.1), "{results:?}");
    }
}

async fn a_document_is_replaced_only_as_it_was_read(ground: Ground) {
    let (a, b) = (ground.prepared().await, ground.prepared().await);
    let head = LakePath::head(&TopicPartition::new(TOPIC, 0));
    let made = a.create_document(&head, b"{\"n\":1}".to_vec()).await.unwrap();
    let read = b.read_document(&head).await.unwrap().unwrap();
    assert_eq!((read.bytes.as_slice(), &read.etag), (b"{\"n\":1}".as_slice(), &made));
    let second = b.replace_document(&head, b"{\"n\":2}".to_vec(), &read.etag).await.unwrap();
    assert!(is_conflict(&a.replace_document(&head, b"{\"n\":3}".to_vec(), &made).await));
    let third = a.replace_document(&head, b"{\"n\":3}".to_vec(), &second).await.unwrap();
    let read = b.read_document(&head).await.unwrap().unwrap();
    assert_eq!((read.bytes.as_slice(), read.etag), (b"{\"n\":3}".as_slice(), third));
}

async fn a_stale_state_is_refused(ground: Ground) {
    let lake = ground.prepared().await;
    let at = path("shop/orders/a.jsonl");
    let first = create(&lake, &at, &["1\n"]).await.unwrap();
    let second = append(&lake, &at, &first, &["2\n"]).await.unwrap();
    let stale = append(&lake, &at, &first, &["x\n"]).await;
    assert!(is_conflict(&stale), "{stale:?}");
    let recommit = append(&lake, &at, &first, &[]).await;
    assert!(is_conflict(&recommit), "{recommit:?}");
    assert_eq!(content(&lake, &at).await, "1\n2\n");
    append(&lake, &at, &second, &["3\n"]).await.unwrap();
    assert_eq!(content(&lake, &at).await, "1\n2\n3\n");
}

async fn of_two_appends_to_one_state_one_wins(ground: Ground) {
    let (a, b) = (ground.prepared().await, ground.prepared().await);
    let at = path("shop/orders/a.jsonl");
    create(&a, &at, &["0\n"]).await.unwrap();
    for _ in 0..10 {
        let now = state(&a, &at).await;
        let before = content(&a, &at).await;
        // The loser's staged blocks, if any, are discarded by the winner's commit.
        let results = tokio::join!(append(&a, &at, &now, &["a\n"]), append(&b, &at, &now, &["b\n"]));
        let winner = match &results {
            (Ok(_), Err(LakeError::Conflict)) => "a\n",
            (Err(LakeError::Conflict), Ok(_)) => "b\n",
            other => panic!("{other:?}"),
        };
        assert_eq!(content(&b, &at).await, before + winner);
    }
}

async fn a_writer_adopts_what_another_wrote(ground: Ground) {
    let at = path("shop/orders/a.jsonl");
    let mut expected = String::new();
    for (round, line) in ["1\n", "2\n", "3\n", "4\n"].into_iter().enumerate() {
        // Each round is another process.
        let lake = ground.prepared().await;
        let done = match lake.file(&at).await.unwrap() {
            None => create(&lake, &at, &[line]).await.unwrap(),
            Some(found) => append(&lake, &at, &found, &[line]).await.unwrap(),
        };
        expected.push_str(line);
        assert_eq!(done.metadata.rows, round as u64 + 1);
        let reread = state(&lake, &at).await;
        assert_eq!((reread.etag, reread.metadata), (done.etag.clone(), done.metadata.clone()));
        assert_eq!(content(&lake, &at).await, expected);
    }
}

async fn bytes_and_metadata_appear_in_one_step(ground: Ground) {
    // Method: a reader looks as often as it can while a writer appends; whatever it sees must fit together.
    let (writer, reader) = (ground.prepared().await, ground.prepared().await);
    let at = path("shop/orders/a.jsonl");
    let mut now = create(&writer, &at, &["line 0\n"]).await.unwrap();
    let writing = async {
        for round in 1..40 {
            let line = format!("line {round}\n");
            now = append(&writer, &at, &now, &[line.as_str()]).await.unwrap();
        }
    };
    let reading = async {
        let mut seen = 0;
        while seen < 40 {
            let text = content(&reader, &at).await;
            let rows = text.lines().count();
            assert!(rows >= seen, "a file never shrinks");
            seen = rows;
        }
    };
    tokio::join!(writing, reading);
}

async fn a_recommit_without_bytes_seals(ground: Ground) {
    let lake = ground.prepared().await;
    let at = path("shop/orders/a.jsonl");
    let open = create(&lake, &at, &["1\n", "2\n"]).await.unwrap();
    let mut sealed = open.metadata.clone();
    sealed.sealed = true;
    sealed.next = KafkaOffset::new(17);
    let done = lake.append(&at, &open, &[], &sealed).await.unwrap();
    assert_ne!(done.etag, open.etag);
    assert_eq!(state(&lake, &at).await.metadata, sealed);
    assert_eq!(content(&lake, &at).await, "1\n2\n");
    let late = append(&lake, &at, &open, &["late\n"]).await;
    assert!(is_conflict(&late), "{late:?}");
}

async fn a_recommit_repeats_everything(ground: Ground) {
    let lake = ground.prepared().await;
    let at = path("shop/orders/a.jsonl");
    let mut now = create(&lake, &at, &["1\n"]).await.unwrap();
    let mut metadata = now.metadata.clone();
    metadata.dead_letters = [KafkaOffset::new(1), KafkaOffset::new(5)].into_iter().collect();
    for round in 2..5 {
        metadata.next = KafkaOffset::new(round);
        now = lake.append(&at, &now, &[], &metadata).await.unwrap();
        assert_eq!(state(&lake, &at).await.metadata, metadata);
    }
    // What a step leaves out is gone, so nothing of an older step can survive by accident.
    metadata.dead_letters = [].into_iter().collect();
    lake.append(&at, &now, &[], &metadata).await.unwrap();
    assert_eq!(state(&lake, &at).await.metadata, metadata);
}

async fn an_empty_file_is_a_file(ground: Ground) {
    let lake = ground.prepared().await;
    let at = path("shop/orders/a.jsonl");
    let mut metadata = nothing(WriterId::random());
    metadata.next = KafkaOffset::new(5);
    metadata.sealed = true;
    let made = lake.create_file(&at, &[], &metadata).await.unwrap();
    assert_eq!(content(&lake, &at).await, "");
    let again = lake.create_file(&at, &[], &metadata).await;
    assert!(is_conflict(&again), "{again:?}");
    append(&lake, &at, &made, &["1\n"]).await.unwrap();
    assert_eq!(content(&lake, &at).await, "1\n");
}

async fn large_flushes_come_back_whole(ground: Ground) {
    let lake = ground.prepared().await;
    let at = path("shop/orders/a.jsonl");
    // More than two blocks, and neither blocks nor reading chunks end where pieces do.
    let line = format!("{}\n", "x".repeat(999_983));
    let lines: Vec<&str> = std::iter::repeat_n(line.as_str(), 18).collect();
    let made = create(&lake, &at, &lines).await.unwrap();
    let grown = append(&lake, &at, &made, &["tail\n"]).await.unwrap();
    let text = content(&lake, &at).await;
    assert!(text == line.repeat(18) + "tail\n");
    let again = append(&lake, &at, &state(&lake, &at).await, &["tail\n"]).await.unwrap();
    assert_eq!(again.metadata.rows, grown.metadata.rows + 1);
}

async fn a_growing_file_is_readable_up_to_its_state(ground: Ground) {
    let (writer, other) = (ground.prepared().await, ground.prepared().await);
    let at = path("shop/orders/a.jsonl");
    let line = format!("{}\n", "y".repeat(1_999_999));
    let lines: Vec<&str> = std::iter::repeat_n(line.as_str(), 5).collect();
    let old = create(&writer, &at, &lines).await.unwrap();
    let mut reader = other.read_file(&at, &old).await.unwrap();
    let mut now = old.clone();
    let mut text = String::new();
    // Before every chunk the file grows.
    loop {
        now = append(&writer, &at, &now, &["more\n"]).await.unwrap();
        let Some(chunk) = reader.next_chunk().await.unwrap() else { break };
        text.push_str(str::from_utf8(&chunk).unwrap());
    }
    assert!(text == line.repeat(5));
    assert!(read(&other, &at, &old).await == line.repeat(5), "an old state stays readable");
}

async fn a_rebuilt_file_is_a_conflict_for_its_readers(ground: Ground) {
    let lake = ground.prepared().await;
    let at = path("shop/orders/a.jsonl");
    let open = create(&lake, &at, &["1\n"]).await.unwrap();
    rewrite(&lake, &at, Some(&open.etag), &["9\n"]).await.unwrap();
    let mut reader = match lake.read_file(&at, &open).await {
        Err(LakeError::Conflict) => return,
        other => other.unwrap(),
    };
    let chunk = reader.next_chunk().await;
    assert!(is_conflict(&chunk), "{chunk:?}");
}

async fn a_rewrite_is_seen_whole_or_not_at_all(ground: Ground) {
    let lake = ground.prepared().await;
    let at = path("shop/orders/a.jsonl");
    let old = create(&lake, &at, &["1\n", "2\n"]).await.unwrap();
    let lines = ["one\n", "two\n", "three\n"];
    let mut unfinished = lake.rewrite(&at, &old.metadata.topic_partition).await.unwrap();
    unfinished.add(Bytes::from_static(b"one\n")).await.unwrap();
    assert_eq!(content(&lake, &at).await, "1\n2\n");
    assert_eq!(lake.list_files(&path("shop/orders")).await.unwrap().len(), 1);
    let sight = lake.look(&at).await.unwrap().unwrap();
    assert_eq!((&sight.etag, sight.file.is_ok()), (&old.etag, true));

    let new = rewrite(&lake, &at, Some(&old.etag), &lines).await.unwrap();
    assert_eq!(content(&lake, &at).await, lines.concat());
    assert_eq!(state(&lake, &at).await.metadata, new.metadata);
    assert!(is_conflict(&append(&lake, &at, &old, &["3\n"]).await), "of the old content");
    append(&lake, &at, &new, &["4\n"]).await.unwrap();
    assert_eq!(content(&lake, &at).await, format!("{}4\n", lines.concat()));
    drop(unfinished);
}

async fn a_rewrite_makes_a_missing_file(ground: Ground) {
    let lake = ground.prepared().await;
    let at = path("shop/orders/a.jsonl");
    assert!(lake.look(&at).await.unwrap().is_none());
    rewrite(&lake, &at, None, &["1\n"]).await.unwrap();
    assert_eq!(content(&lake, &at).await, "1\n");
    assert!(is_conflict(&rewrite(&lake, &at, None, &["2\n"]).await), "it is there now");
    assert_eq!(content(&lake, &at).await, "1\n");
    let empty = path("shop/orders/b.jsonl");
    rewrite(&lake, &empty, None, &[]).await.unwrap();
    assert_eq!(content(&lake, &empty).await, "");
}

async fn what_is_staged_is_seen_when_it_is_published(ground: Ground) {
    let (lake, other) = (ground.prepared().await, ground.prepared().await);
    let at = path("shop/orders/a.jsonl");
    let writer = WriterId::random();
    let metadata = after(&nothing(writer), &["1\n", "2\n"], writer);
    let mut staged = lake.stage_file(&at, &metadata.topic_partition).await.unwrap();
    lake.stage_more(&mut staged, Bytes::from_static(b"1\n")).await.unwrap();
    // As if this piece had been given up, or its reply had been lost: it is not part of what goes on.
    lake.stage_more(&mut staged.clone(), Bytes::from_static(b"lost\n")).await.unwrap();
    lake.stage_more(&mut staged, Bytes::from_static(b"2\n")).await.unwrap();
    let mut theirs = other.stage_file(&at, &metadata.topic_partition).await.unwrap();
    other.stage_more(&mut theirs, Bytes::from_static(b"3\n")).await.unwrap();
    assert!(lake.file(&at).await.unwrap().is_none());
    assert!(lake.list_names(&path("shop")).await.unwrap().is_empty());

    lake.publish_staged(staged, None, &metadata).await.unwrap();
    assert_eq!(content(&lake, &at).await, "1\n2\n");
    let second = other.publish_staged(theirs, None, &after(&nothing(writer), &["3\n"], writer)).await;
    assert!(is_conflict(&second), "{second:?}");
    assert_eq!(content(&other, &at).await, "1\n2\n");
}

async fn of_two_rewrites_one_wins(ground: Ground) {
    let (a, b) = (ground.prepared().await, ground.prepared().await);
    let at = path("shop/orders/a.jsonl");
    let mut etag = create(&a, &at, &["0\n"]).await.unwrap().etag;
    for _ in 0..10 {
        let results =
            tokio::join!(rewrite(&a, &at, Some(&etag), &["a\n"]), rewrite(&b, &at, Some(&etag), &["b\n"]));
        let (winner, text) = match results {
            (Ok(winner), Err(LakeError::Conflict)) => (winner, "a\n"),
            (Err(LakeError::Conflict), Ok(winner)) => (winner, "b\n"),
            // On Azure each commit discards what the other one has staged: then nobody wins, and nothing is changed.
            (Err(LakeError::Conflict), Err(LakeError::Conflict)) => continue,
            other => panic!("{other:?}"),
        };
        assert_eq!(content(&a, &at).await, text);
        etag = winner.etag;
    }
}

async fn put_object(
    lake: &Lake,
    at: &LakePath,
    expected: Option<&ETag>,
    content: &[u8],
) -> Result<(), LakeError> {
    let object = lake.new_object(at).await?;
    object.file().write_all(content).unwrap();
    object.publish(expected, "application/octet-stream").await
}

async fn object_content(lake: &Lake, at: &LakePath) -> Vec<u8> {
    let object = lake.object(at).await.unwrap().unwrap();
    lake.read_object(at, &object, 0..object.size).await.unwrap().to_vec()
}

async fn an_object_is_seen_whole_or_not_at_all(ground: Ground) {
    let lake = ground.prepared().await;
    let at = path("shop/orders/hour=01/events.parquet");
    assert!(lake.object(&at).await.unwrap().is_none());
    let unfinished = lake.new_object(&at).await.unwrap();
    unfinished.file().write_all(b"half of").unwrap();
    assert!(lake.object(&at).await.unwrap().is_none());
    assert!(lake.list_names(&path("shop/orders")).await.unwrap().is_empty());
    // More than one block.
    let large: Vec<u8> = (0..9 * 1024 * 1024_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    put_object(&lake, &at, None, &large).await.unwrap();
    let first = lake.object(&at).await.unwrap().unwrap();
    assert!(object_content(&lake, &at).await == large);
    assert!(lake.read_object(&at, &first, 5..9).await.unwrap() == large[5..9]);
    assert_eq!(lake.list_names(&path("shop/orders")).await.unwrap(), std::slice::from_ref(&at));
    assert!(lake.list(&path("shop/orders")).await.unwrap().files.is_empty(), "it is no data file");

    assert!(is_conflict(&put_object(&lake, &at, None, b"again").await), "it is there");
    put_object(&lake, &at, Some(&first.etag), b"the next").await.unwrap();
    assert_eq!(object_content(&lake, &at).await, b"the next");
    assert!(is_conflict(&lake.read_object(&at, &first, 0..4).await), "another one by now");
    assert!(
        is_conflict(&put_object(&lake, &at, Some(&first.etag), b"late").await),
        "of what was there before"
    );
    assert!(is_conflict(&unfinished.publish(None, "application/octet-stream").await));
    assert_eq!(object_content(&lake, &at).await, b"the next");
}

async fn of_two_objects_one_wins(ground: Ground) {
    let (a, b) = (ground.prepared().await, ground.prepared().await);
    let at = path("shop/orders/events.parquet");
    let mut etag = None;
    for _ in 0..10 {
        let results =
            tokio::join!(put_object(&a, &at, etag.as_ref(), b"a"), put_object(&b, &at, etag.as_ref(), b"b"));
        let content = match results {
            (Ok(()), Err(LakeError::Conflict)) => b"a",
            (Err(LakeError::Conflict), Ok(())) => b"b",
            // On Azure each commit discards what the other one has staged: then nobody wins, and nothing is changed.
            (Err(LakeError::Conflict), Err(LakeError::Conflict)) => continue,
            other => panic!("{other:?}"),
        };
        assert_eq!(object_content(&a, &at).await, content);
        etag = a.object(&at).await.unwrap().map(|object| object.etag);
    }
}

async fn what_is_removed_is_gone_and_may_be_made_again(ground: Ground) {
    let lake = ground.prepared().await;
    let partition = TopicPartition::new(TOPIC, 0);
    let document = path("shop/orders/year=2026/month=11/day=20/hour=07/_manifest.json");
    let old = lake.create_document(&document, b"{\"n\":1}".to_vec()).await.unwrap();
    let new = lake.replace_document(&document, b"{\"n\":2}".to_vec(), &old).await.unwrap();
    let stale = lake.remove_document(&document, &old).await;
    assert!(matches!(stale, Err(LakeError::Conflict)), "{stale:?}");
    let at = path("shop/orders/year=2026/month=11/day=20/hour=07/a.jsonl");
    for round in 0..2 {
        create(&lake, &at, &["1\n"]).await.unwrap();
        // Twice: what is gone is no error.
        for _ in 0..2 {
            lake.remove_file(&at, &partition).await.unwrap();
            lake.remove_document(&document, &new).await.unwrap();
        }
        assert!(lake.file(&at).await.unwrap().is_none(), "round {round}");
        assert!(lake.look(&at).await.unwrap().is_none());
        assert!(lake.read_document(&document).await.unwrap().is_none());
        let names = lake.list_names(&path("shop")).await.unwrap();
        assert!(names.is_empty(), "{names:?}");
    }
    lake.create_document(&document, b"{}".to_vec()).await.unwrap();
}

async fn listings_show_data_files_in_order_and_nothing_else(ground: Ground) {
    let lake = ground.prepared().await;
    let names = ["shop/orders/hour=02/b.jsonl", "shop/orders/hour=01/c.jsonl", "shop/orders/hour=01/a.jsonl"];
    for name in names {
        create(&lake, &path(name), &["1\n"]).await.unwrap();
    }
    create(&lake, &path("shop/orders2/hour=01/x.jsonl"), &["1\n"]).await.unwrap();
    let reprinted = path(names[2]).in_generation(3);
    create(&lake, &reprinted, &["1\n"]).await.unwrap();
    lake.create_document(&path("shop/orders/hour=01/_manifest.json"), b"{}".to_vec()).await.unwrap();
    lake.create_document(&path(&format!("_chain/{TOPIC}/p0.json")), b"{}".to_vec()).await.unwrap();
    let listed = lake.list_files(&path("shop/orders")).await.unwrap();
    let found: Vec<&str> = listed.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(found, [names[2], names[1], names[0]]);
    for file in &listed {
        assert_eq!(file.metadata, state(&lake, &file.path).await.metadata);
    }
    assert!(lake.list_files(&path("shop/ord")).await.unwrap().is_empty(), "a folder is not a prefix");
    // What only a manifest names is for those who ask for it.
    let all = lake.list_names(&path("shop/orders")).await.unwrap();
    assert!(all.len() == 4 && !all.contains(&reprinted), "{all:?}");
    let (_, apart) = lake.list_names_with_reprints(&path("shop/orders")).await.unwrap();
    assert_eq!(apart, std::slice::from_ref(&reprinted));
    let (_, apart) = lake.list_with_reprints(&path("shop")).await.unwrap();
    assert_eq!(apart.files.iter().map(|file| &file.path).collect::<Vec<_>>(), [&reprinted]);
}

async fn metadata_over_the_limit_is_refused(ground: Ground) {
    let at = path("shop/orders/a.jsonl");
    let mut metadata = nothing(WriterId::random());
    metadata.next = KafkaOffset::new(100_000);
    let mut letters = 0;
    while metadata.encoded_len() <= METADATA_LIMIT_BYTES {
        metadata.dead_letters.push(KafkaOffset::new(letters));
        letters += 2;
    }
    // Not before: this takes a while, in which Azurite would close a connection that nobody uses, unseen by us until the next request.
    let lake = ground.prepared().await;
    let refused = lake.create_file(&at, &[], &metadata).await;
    assert!(matches!(refused, Err(LakeError::Refused { .. })), "{refused:?}");
    metadata.dead_letters = (0..letters / 2 - 1).map(|i| KafkaOffset::new(i * 2)).collect();
    lake.create_file(&at, &[], &metadata).await.unwrap();
    assert_eq!(state(&lake, &at).await.metadata, metadata);
}

async fn two_writers_lose_and_double_nothing(ground: Ground) {
    // Method: two writers append 200 lines each to one file, reading back whenever the other was first.
    const LINES: usize = 200;
    let at = path("shop/orders/a.jsonl");
    ground.prepared().await;
    let writers = ["a", "b"].map(|name| {
        let (ground, at) = (ground.clone(), at.clone());
        tokio::spawn(async move {
            let (lake, writer) = (ground.open(), WriterId::random());
            let mut conflicts = 0;
            let mut known = None;
            for number in 0..LINES {
                let line = format!("{name} {number}\n");
                loop {
                    let lines = [line.as_str()];
                    let pieces = [Bytes::copy_from_slice(line.as_bytes())];
                    let result = match &known {
                        None => {
                            lake.create_file(&at, &pieces, &after(&nothing(writer), &lines, writer)).await
                        }
                        Some(state) => {
                            lake.append(&at, state, &pieces, &after(&state.metadata, &lines, writer)).await
                        }
                    };
                    match result {
                        Ok(state) => {
                            known = Some(state);
                            break;
                        }
                        Err(LakeError::Conflict) => {
                            conflicts += 1;
                            known = read_back(&lake, &at).await;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                // Lets the other one in, so that both meet all the time.
                tokio::task::yield_now().await;
            }
            conflicts
        })
    });
    let mut conflicts = 0;
    for writer in writers {
        conflicts += writer.await.unwrap();
    }
    assert!(conflicts > 0, "they never met");
    let text = content(&ground.open(), &at).await;
    for name in ["a", "b"] {
        let found: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix(name)).map(str::trim).collect();
        let expected: Vec<String> = (0..LINES).map(|number| number.to_string()).collect();
        assert_eq!(found, expected, "every line of {name} once and in order");
    }
}

/// Tries again when the rival was faster than properties and block list together, as the publishing loop does.
async fn read_back(lake: &Lake, at: &LakePath) -> Option<FileState> {
    loop {
        match lake.file(at).await {
            Ok(found) => return found,
            Err(LakeError::Unavailable { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}
