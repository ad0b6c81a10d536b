//! What a lake's layout asks of a target.

use shared::{kafka_position::KafkaOffset, namespace::Namespace};
use sink_service::{
    compression::Compression, event_hour::EventHour, lake_layout::begin, layout::Layout,
    settings::LayoutSetting, topic_content::TopicContent,
};

use crate::{
    facts::{content, create},
    target::Ground,
};

/// Every character that a template may have, at each end of a name.
const ALL_CHARACTERS: &str = "az.AZ-09/~a_=,+/{db}~+{coll}_=,-+~/{yyyy}.{MM}/-{dd}=,/+{HH}~";

fn told(template: &str) -> LayoutSetting {
    LayoutSetting { layout: Layout::parse(template).unwrap(), given: true }
}

/// Whatever a template has in it, its files are made, listed and read at their place, and nobody else's.
pub(crate) async fn a_file_lies_where_its_layout_puts_it(ground: Ground) {
    let lake = ground.prepared().await;
    let layout = told(ALL_CHARACTERS).layout;
    let (hour, first) = (EventHour::from_calendar(2026, 3, 4, 5).unwrap(), KafkaOffset::new(7));
    let mut folders = Vec::new();
    for (db, coll) in [("shop", "orders"), ("shop", "orders+"), ("shop~+orders", "a b/%2f"), ("é~", "..")] {
        let folder = layout.folder(&TopicContent::Data(Namespace::new(db, coll)));
        let at = folder.data_file(hour, 0, first, Compression::None);
        create(&lake, &at, &["1\n"]).await.unwrap();
        lake.create_document(&folder.manifest(hour), b"{}".to_vec()).await.unwrap();
        assert_eq!(content(&lake, &at).await, "1\n");
        folders.push((folder, at));
    }
    for (folder, at) in &folders {
        let listed = lake.list_files(folder.path()).await.unwrap();
        let paths: Vec<&str> = listed.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, [at.as_str()]);
        let listed = lake.list_files(&folder.hour(hour)).await.unwrap();
        assert_eq!(listed.len(), 1, "{}", folder.hour(hour));
        let mut names = lake.list_names(folder.path()).await.unwrap();
        names.sort();
        assert_eq!(names, [folder.manifest(hour), at.clone()]);
        assert!(names.iter().all(|name| folder.hour_of(name) == Some(hour)));
    }
}

/// Writers that begin a lake at once agree on one layout.
pub(crate) async fn of_two_layouts_one_begins_the_lake(ground: Ground) {
    let (a, b) = (ground.prepared().await, ground.prepared().await);
    let (hive, other) = (told("hive"), told(ALL_CHARACTERS));
    let begun = tokio::join!(begin(&a, &hive), begin(&b, &other), begin(&a, &other), begin(&b, &hive));
    let winner = begun.0.unwrap();
    for begun in [begun.1, begun.2, begun.3] {
        assert_eq!(begun.unwrap(), winner);
    }
    for told in [&hive, &other] {
        assert_eq!(begin(&ground.prepared().await, told).await.unwrap(), winner);
    }
}
