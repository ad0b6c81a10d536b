//! Faults between us and the Blob service: lost answers, late requests, foreign blocks, a server that is gone.

use std::time::Duration;

use azure_storage_blob::{BlobClient, models::BlobClientGetPropertiesResultHeaders};
use sink_service::lake::LakeError;

use crate::{
    azure_credentials::signature,
    facts::{append, content, create, is_conflict, path, state},
    proxy::{self, Fault, hold},
    target::Target,
};

const BUSY: &str = "HTTP/1.1 503 busy\r\nx-ms-error-code: ServerBusy\r\nretry-after: 7\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";
const BUSY_UNTIL: &str = "HTTP/1.1 503 busy\r\nx-ms-error-code: ServerBusy\r\ndate: Fri, 27 Nov 2026 21:00:00 GMT\r\n\
    retry-after: Fri, 27 Nov 2026 21:00:11 GMT\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const TIMED_OUT: &str = "HTTP/1.1 500 slow\r\nx-ms-error-code: OperationTimedOut\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_on_the_way_to_azurite_are_told_for_what_they_are() {
    let target = Target::azurite().await;
    lost_answers_are_unknown_and_reading_back_shows_the_step(&target).await;
    a_late_commit_is_refused(&target).await;
    foreign_blocks_are_never_published(&target).await;
    refusals_and_doubts_are_told_apart(&target).await;
    no_connection_means_not_sent(&target).await;
    every_commit_repeats_the_content_type(&target).await;
}

async fn every_commit_repeats_the_content_type(target: &Target) {
    let ground = target.ground();
    let lake = ground.prepared().await;
    let at = path("shop/orders/a.jsonl");
    let mut now = create(&lake, &at, &["1\n"]).await.unwrap();
    for lines in [&["2\n"][..], &[]] {
        now = append(&lake, &at, &now, lines).await.unwrap();
        // Asked for with the bare client: our interface does not show it.
        let url = format!("{}?{}", ground.blob_url(&at), signature("r"));
        let blob = BlobClient::new(url.parse().unwrap(), None, None).unwrap();
        let content_type = blob.get_properties(None).await.unwrap().content_type().unwrap();
        assert_eq!(content_type.as_deref(), Some("application/x-ndjson"));
    }
}

async fn lost_answers_are_unknown_and_reading_back_shows_the_step(target: &Target) {
    let ground = target.ground();
    let direct = ground.prepared().await;
    let faults = vec![Fault::LoseAnswer, Fault::LoseAnswer, Fault::LoseAnswer, Fault::LoseAnswer];
    let lossy = ground.through(proxy::start(target.azurite_port(), faults).await).open();
    let at = path("shop/orders/a.jsonl");

    let created = create(&lossy, &at, &["1\n"]).await;
    assert!(matches!(created, Err(LakeError::Unknown { .. })), "{created:?}");
    let found = state(&direct, &at).await;
    assert_eq!(content(&direct, &at).await, "1\n");
    // The naive repetition is refused, not done twice.
    assert!(is_conflict(&create(&direct, &at, &["1\n"]).await));

    let appended = append(&lossy, &at, &found, &["2\n"]).await;
    assert!(matches!(appended, Err(LakeError::Unknown { .. })), "{appended:?}");
    assert!(is_conflict(&append(&direct, &at, &found, &["2\n"]).await));
    let found = state(&direct, &at).await;
    append(&direct, &at, &found, &["3\n"]).await.unwrap();
    assert_eq!(content(&direct, &at).await, "1\n2\n3\n");

    let head = path("_chain/atlas.shop.orders/p0.json");
    let created = lossy.create_document(&head, b"{\"n\":1}".to_vec()).await;
    assert!(matches!(created, Err(LakeError::Unknown { .. })), "{created:?}");
    let read = direct.read_document(&head).await.unwrap().unwrap();
    let replaced = lossy.replace_document(&head, b"{\"n\":2}".to_vec(), &read.etag).await;
    assert!(matches!(replaced, Err(LakeError::Unknown { .. })), "{replaced:?}");
    assert_eq!(direct.read_document(&head).await.unwrap().unwrap().bytes, b"{\"n\":2}");
}

async fn a_late_commit_is_refused(target: &Target) {
    let ground = target.ground();
    let direct = ground.prepared().await;
    let at = path("shop/orders/a.jsonl");
    let first = create(&direct, &at, &["1\n"]).await.unwrap();

    let (fault, mut late) = hold();
    let zombie = ground.through(proxy::start(target.azurite_port(), vec![fault]).await).open();
    let (zombie_at, zombie_state) = (at.clone(), first.clone());
    let step = tokio::spawn(async move { append(&zombie, &zombie_at, &zombie_state, &["late\n"]).await });
    late.taken().await;
    // The zombie gives up (killed, or past its time limit), but its request is still on the way.
    step.abort();
    append(&direct, &at, &first, &["2\n"]).await.unwrap();
    let status = late.deliver().await;
    assert!([400, 409, 412].contains(&status), "{status}");
    assert_eq!(content(&direct, &at).await, "1\n2\n");

    // A late create, after somebody else's.
    let other = path("shop/orders/b.jsonl");
    let (fault, mut late) = hold();
    let zombie = ground.through(proxy::start(target.azurite_port(), vec![fault]).await).open();
    let zombie_at = other.clone();
    let step = tokio::spawn(async move { create(&zombie, &zombie_at, &["late\n"]).await });
    late.taken().await;
    create(&direct, &other, &["b\n"]).await.unwrap();
    let status = late.deliver().await;
    assert!([400, 409, 412].contains(&status), "{status}");
    assert!(is_conflict(&step.await.unwrap()));
    assert_eq!(content(&direct, &other).await, "b\n");
}

async fn foreign_blocks_are_never_published(target: &Target) {
    let ground = target.ground();
    let direct = ground.prepared().await;
    let at = path("shop/orders/a.jsonl");
    let first = create(&direct, &at, &["1\n"]).await.unwrap();

    // Blocks that a writer staged before it died do not get into the next one's commit.
    let (fault, mut late) = hold();
    let dead = ground.through(proxy::start(target.azurite_port(), vec![fault]).await).open();
    let (dead_at, dead_state) = (at.clone(), first.clone());
    let step = tokio::spawn(async move { append(&dead, &dead_at, &dead_state, &["dead\n"]).await });
    late.taken().await;
    step.abort();
    let second = append(&direct, &at, &first, &["2\n"]).await.unwrap();
    assert_eq!(second.block_count(), 2);
    assert_eq!(content(&direct, &at).await, "1\n2\n");

    // And a commit discards what a living one has staged: its own commit is then one more conflict.
    let (fault, mut late_too) = hold();
    let slow = ground.through(proxy::start(target.azurite_port(), vec![fault]).await).open();
    let (slow_at, slow_state) = (at.clone(), second.clone());
    let step = tokio::spawn(async move { append(&slow, &slow_at, &slow_state, &["slow\n"]).await });
    late_too.taken().await;
    let third = append(&direct, &at, &second, &["3\n"]).await.unwrap();
    late_too.deliver().await;
    let result = step.await.unwrap();
    assert!(is_conflict(&result), "{result:?}");
    late.deliver().await;
    append(&direct, &at, &third, &["4\n"]).await.unwrap();
    assert_eq!(content(&direct, &at).await, "1\n2\n3\n4\n");
}

async fn refusals_and_doubts_are_told_apart(target: &Target) {
    let ground = target.ground();
    let direct = ground.prepared().await;
    let at = path("shop/orders/a.jsonl");
    // In seconds, and as a date. Nothing more is sent until then.
    for (fault, seconds) in [(BUSY, 7), (BUSY_UNTIL, 11)] {
        let lake =
            ground.through(proxy::start(target.azurite_port(), vec![Fault::Answer(fault)]).await).open();
        let busy = create(&lake, &at, &["1\n"]).await;
        let Err(LakeError::Unavailable { retry_after, .. }) = busy else { panic!("{busy:?}") };
        assert_eq!(retry_after, Some(Duration::from_secs(seconds)));
        let kept = lake.file(&at).await;
        let Err(LakeError::Unavailable { cause, retry_after }) = kept else { panic!("{kept:?}") };
        assert!(
            cause.contains("not sent") && retry_after > Some(Duration::from_secs(seconds - 2)),
            "{cause}"
        );
    }
    let faults = vec![Fault::Answer(TIMED_OUT)];
    let lake = ground.through(proxy::start(target.azurite_port(), faults).await).open();
    let slow = create(&lake, &at, &["1\n"]).await;
    assert!(matches!(slow, Err(LakeError::Unknown { .. })), "{slow:?}");
    assert!(direct.file(&at).await.unwrap().is_none(), "nothing was repeated behind our back");
    create(&lake, &at, &["1\n"]).await.unwrap();
}

async fn no_connection_means_not_sent(target: &Target) {
    let ground = target.ground();
    let lake = ground.prepared().await;
    let at = path("shop/orders/a.jsonl");
    let made = create(&lake, &at, &["1\n"]).await.unwrap();
    let nobody = ground.through(pipeline_tests::ports::free_port().unwrap()).open();
    for result in [
        create(&nobody, &path("shop/orders/b.jsonl"), &[]).await.map(drop),
        append(&nobody, &at, &made, &[]).await.map(drop),
        nobody.file(&at).await.map(drop),
        nobody.create_document(&path("_chain/x/p0.json"), Vec::new()).await.map(drop),
        nobody.list_files(&path("shop")).await.map(drop),
        nobody.prepare().await,
    ] {
        assert!(matches!(result, Err(LakeError::Unavailable { .. })), "{result:?}");
    }
}
