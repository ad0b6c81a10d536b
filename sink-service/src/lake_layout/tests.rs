//! On the real local directory.
#![expect(clippy::unwrap_used, reason = "tests")]

use shared::{
    kafka_position::{KafkaOffset, TopicPartition},
    namespace::Namespace,
};
use tempfile::TempDir;

use super::*;
use crate::{compression::Compression, publish::tests::first_head};

const DOTTED: &str = "{db}.{coll}/{yyyy}/{MM}/{dd}/{HH}";

fn told(layout: &str) -> LayoutSetting {
    LayoutSetting { layout: Layout::parse(layout).unwrap(), given: true }
}

async fn lake() -> (Lake, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(&LakeTarget::Directory(folder.path().to_owned()), None).unwrap();
    lake.prepare().await.unwrap();
    (lake, folder)
}

/// As a writer leaves it: with a file that lies where `layout` puts it, if it has one.
async fn make_head(lake: &Lake, partition: i32, layout: Option<&str>) {
    let partition = TopicPartition::new("atlas.shop.orders", partition);
    let mut head = first_head(&partition);
    if let Some(layout) = layout {
        let namespace = Namespace::new("shop", "orders");
        let folder = Layout::parse(layout).unwrap().folder(&TopicContent::Data(namespace.clone()));
        let path =
            folder.data_file(EventHour::EPOCH, partition.partition, KafkaOffset::ZERO, Compression::Gzip);
        (head.db, head.coll) = (Some(namespace.db), Some(namespace.coll));
        (head.path, head.first) = (Some(path), Some(KafkaOffset::ZERO));
    }
    lake.create_document(&LakePath::head(&partition), head.to_bytes()).await.unwrap();
}

async fn record(lake: &Lake) -> Option<String> {
    let document = lake.read_document(&LakePath::layout()).await.unwrap();
    document.map(|document| String::from_utf8(document.bytes).unwrap())
}

#[tokio::test]
async fn the_first_one_decides_and_the_others_are_told() {
    let (lake, folder) = lake().await;
    assert_eq!(found(&lake, &told(DOTTED)).await.unwrap(), None);
    assert!(record(&lake).await.is_none(), "looking changes nothing");
    assert_eq!(begin(&lake, &told(DOTTED)).await.unwrap(), told(DOTTED).layout);
    let written = record(&lake).await;
    assert_eq!(written.as_deref(), Some(r#"{"version":1,"layout":"{db}.{coll}/{yyyy}/{MM}/{dd}/{HH}"}"#));

    for again in [DOTTED, "hive"] {
        assert_eq!(begin(&lake, &told(again)).await.unwrap(), told(DOTTED).layout, "{again}");
        assert_eq!(record(&lake).await, written, "{again}");
    }
    let target = LakeTarget::Directory(folder.path().to_owned());
    assert!(agreed(&target, told(DOTTED).layout, &told(DOTTED)).is_ok());
    let stop = agreed(&target, told(DOTTED).layout, &told("hive")).unwrap_err();
    assert_eq!(stop.code, ExitCode::LakeDiffers);
    for part in [DOTTED, "LAYOUT=hive is set", "Nothing was changed", "LAKE_URL"] {
        assert!(stop.message.contains(part), "{part} in {}", stop.message);
    }
    let unset = LayoutSetting { given: false, ..told("hive") };
    let stop = agreed(&target, told(DOTTED).layout, &unset).unwrap_err();
    assert!(stop.message.contains("LAYOUT=hive holds where it is not set"), "{}", stop.message);
}

#[tokio::test]
async fn writers_that_begin_at_once_agree() {
    for _ in 0..20 {
        let (lake, _folder) = lake().await;
        let tolds = [DOTTED, "hive", "{coll}/{db}/{yyyy}/{MM}/{dd}/{HH}", DOTTED].map(told);
        let begun = futures::future::join_all(tolds.iter().map(|told| begin(&lake, told))).await;
        let begun: Vec<Layout> = begun.into_iter().map(Result::unwrap).collect();
        assert!(begun.windows(2).all(|pair| pair[0] == pair[1]), "{begun:?}");
        assert_eq!(found(&lake, &told("hive")).await.unwrap().as_ref(), begun.first());
    }
}

#[tokio::test]
async fn a_lake_of_before_there_were_records_is_hive() {
    // With a file, and without any yet.
    for file in [Some("hive"), None] {
        let (lake, _folder) = lake().await;
        make_head(&lake, 0, None).await;
        make_head(&lake, 1, file).await;
        assert_eq!(begin(&lake, &told(DOTTED)).await.unwrap(), Layout::hive());
        assert!(record(&lake).await.is_none(), "whoever was told otherwise changes nothing");
        assert_eq!(begin(&lake, &told("hive")).await.unwrap(), Layout::hive());
        assert_eq!(record(&lake).await.as_deref(), Some(r#"{"version":1,"layout":"hive"}"#));
    }
}

#[tokio::test]
async fn a_record_that_was_lost_is_noticed_and_made_again() {
    let (lake, _folder) = lake().await;
    make_head(&lake, 0, None).await;
    make_head(&lake, 1, Some(DOTTED)).await;
    for wrong in ["hive", "{coll}/{db}/{yyyy}/{MM}/{dd}/{HH}"] {
        let error = begin(&lake, &told(wrong)).await.unwrap_err();
        let is_named = error.to_string().contains("shop.orders/1970/01/01/00/events-");
        assert!(matches!(error, LakeError::Damaged { .. }) && is_named, "{error}");
        assert!(record(&lake).await.is_none());
    }
    assert_eq!(begin(&lake, &told(DOTTED)).await.unwrap(), told(DOTTED).layout);
    assert!(record(&lake).await.is_some());
}

#[tokio::test]
async fn a_record_that_cannot_be_read_stops_everybody() {
    for bytes in [
        "",
        "{}",
        r#"{"version":2,"layout":"hive"}"#,
        r#"{"version":1,"layout":"{db}-{coll}/{yyyy}/{MM}/{dd}/{HH}"}"#,
    ] {
        let (lake, _folder) = lake().await;
        lake.create_document(&LakePath::layout(), bytes.as_bytes().to_vec()).await.unwrap();
        for layout in ["hive", DOTTED] {
            let error = begin(&lake, &told(layout)).await.unwrap_err();
            let is_it = matches!(&error, LakeError::Damaged { path, .. } if *path == LakePath::layout());
            assert!(is_it, "{error}");
            assert_eq!(error.exit_code(ExitCode::Unreachable), ExitCode::LakeDiffers);
        }
    }
}
