#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use shared::{kafka_position::KafkaOffset, namespace::Namespace};

use super::*;
use crate::compression::Compression;

/// Each of another kind; all are let through.
const TEMPLATES: [&str; 12] = [
    "hive",
    "{db}/{coll}/{yyyy}/{MM}/{dd}/{HH}",
    "{db}.{coll}/{yyyy}/{MM}/{dd}/{HH}",
    "{coll}.{db}/{yyyy}{MM}{dd}{HH}",
    "{db}_{coll}/{dd}/{HH}.{MM}/{yyyy}",
    "raw/{coll}/db={db}/dt={yyyy}-{MM}-{dd}/hr={HH}",
    "{db}=x={coll}-y/of/{yyyy}/{MM}/{dd}/{HH}/events",
    "a~{coll}~{db}/{yyyy}-{MM}/{dd}T{HH}",
    "lake,v1/{db},{coll}/{yyyy}/{MM}/{dd}/{HH}",
    "{coll}+{db}/h{HH}d{dd}m{MM}y{yyyy}",
    "{db}.x{coll}/{yyyy}/{MM}/{dd}/{HH}",
    "{db}_._{coll}/{yyyy}/{MM}/{dd}/{HH}",
];

fn data(db: impl Into<String>, coll: impl Into<String>) -> TopicContent {
    TopicContent::Data(Namespace::new(db, coll))
}

fn layouts() -> Vec<Layout> {
    TEMPLATES.iter().map(|template| Layout::parse(template).unwrap()).collect()
}

fn folder(template: &str, db: &str, coll: &str) -> String {
    Layout::parse(template).unwrap().folder(&data(db, coll)).path().as_str().to_owned()
}

fn mistakes(template: &str) -> Vec<LayoutMistake> {
    Layout::parse(template).expect_err(template)
}

#[test]
fn a_template_says_where_a_file_lies() {
    let layout = Layout::parse("raw/{coll}/db={db}/dt={yyyy}-{MM}-{dd}/hr={HH}").unwrap();
    let hour = EventHour::from_calendar(2026, 3, 4, 5).unwrap();
    let folder = layout.folder(&data("shop", "orders.eu"));
    let file = folder.data_file(hour, 1, KafkaOffset::new(42), Compression::Gzip);
    assert_eq!(
        file.as_str(),
        "raw/orders.eu/db=shop/dt=2026-03-04/hr=05/events-20260304-05-p0001-00000000000000000042.jsonl.gz"
    );
    assert!(folder.is_at(&file, 1, KafkaOffset::new(42)));
    assert!(!folder.is_at(&file, 2, KafkaOffset::new(42)) && !folder.is_at(&file, 1, KafkaOffset::new(43)));
    assert!(!Layout::hive().folder(&data("shop", "orders.eu")).is_at(&file, 1, KafkaOffset::new(42)));
    assert_eq!(layout.to_string(), "raw/{coll}/db={db}/dt={yyyy}-{MM}-{dd}/hr={HH}");
    assert_eq!(folder.manifest(hour).as_str(), "raw/orders.eu/db=shop/dt=2026-03-04/hr=05/_manifest.json");
}

#[test]
fn hive_is_a_template_too() {
    assert_eq!(Layout::parse(HIVE), Ok(Layout::hive()));
    assert_eq!(Layout::hive().to_string(), "hive");
    let hour = EventHour::from_calendar(2026, 3, 4, 5).unwrap();
    assert_eq!(
        Layout::hive().folder(&data("shop", "orders")).hour(hour).as_str(),
        "shop/orders/year=2026/month=03/day=04/hour=05"
    );
}

#[test]
fn names_in_one_folder_are_kept_apart() {
    let dotted = "{db}.{coll}/{yyyy}/{MM}/{dd}/{HH}";
    assert_eq!(folder(dotted, "shop", "orders.eu"), "shop.orders.eu");
    assert_eq!(folder(dotted, "shop.orders", "eu"), "shop-x2eorders.eu");
    let lines = "{db}_{coll}/{yyyy}/{MM}/{dd}/{HH}";
    assert_eq!(folder(lines, "my_shop", "my_orders"), "my-x5fshop_my_orders");
    assert_eq!(folder(lines, "my", "shop_my_orders"), "my_shop_my_orders");
    assert_eq!(folder("{db}={coll}/{yyyy}/{MM}/{dd}/{HH}", "a=b", "c=d"), "a-x3db=c-x3dd");
    // Two of the longest fit a folder's name all the same.
    let long = "é".repeat(200);
    assert_eq!(folder(dotted, &long, &long).len(), SEGMENT_LEN_MAX + 1);
    assert_ne!(folder(dotted, &long, &long), folder(dotted, &long, &format!("{long}é")));
}

#[test]
fn what_lies_elsewhere_is_of_no_hour() {
    let layout = Layout::parse("{db}/{coll}/{yyyy}/{MM}/{dd}/{HH}").unwrap();
    let hour_of = |path: &str| layout.hour_of(&LakePath::new(path).unwrap());
    assert_eq!(hour_of("2024/2025/2026/01/02/03/x"), EventHour::from_calendar(2026, 1, 2, 3));
    for elsewhere in [
        // Of another depth, although it could be read.
        "2024/2026/01/02/03/x",
        "a/b/c/2026/01/02/03/x",
        "a/b/2026/01/02/03/_gen-1/x",
        "_chain/files/a/b/2026/01/02/03/x",
        "a/b/2026/01/02/24/x",
        "a/b/2026/02/30/03/x",
        "a/b/1969/01/02/03/x",
        "a/b/2026/1/02/03/x",
        "a/b/2026/01/02/003/x",
        "a/b/2026/01/02/+3/x",
        "a/b/2026/01/02/3é/x",
        "a/b/year=2026/month=01/day=02/hour=03/x",
        "x",
    ] {
        assert_eq!(hour_of(elsewhere), None, "{elsewhere}");
    }
}

#[test]
fn a_template_that_could_mix_something_up_is_refused() {
    use LayoutMistake as M;
    use Placeholder as P;
    let time = "{yyyy}/{MM}/{dd}/{HH}";
    assert_eq!(mistakes("{db}/{coll}/{yyyy}/{MM}/{dd}"), [M::Missing(P::Hour)]);
    assert_eq!(mistakes(&format!("{{coll}}/{time}")), [M::Missing(P::Database)]);
    assert_eq!(mistakes(&format!("{{db}}/{time}")), [M::Missing(P::Collection)]);
    assert_eq!(mistakes(&format!("{{db}}/{{coll}}/{time}/{{HH}}")), [M::Twice(P::Hour)]);
    assert_eq!(mistakes(&format!("{{db}}/{{db}}.{{coll}}/{time}")), [M::Twice(P::Database)]);
    for not_apart in ["{db}-{coll}", "{db}{coll}", "{coll}-{db}", "{db}x{coll}", "{db}0.{coll}"] {
        assert_eq!(mistakes(&format!("{not_apart}/{time}")), [M::NotApart(not_apart.to_owned())]);
    }
    for (early, of) in [
        (format!("{time}/{{db}}/{{coll}}"), P::Year),
        ("{db}/{HH}/{coll}/{yyyy}/{MM}/{dd}".to_owned(), P::Hour),
        ("{db}/{coll}.{dd}/{yyyy}/{MM}/{HH}".to_owned(), P::Day),
    ] {
        assert_eq!(mistakes(&early), [M::TimeFirst(of)], "{early}");
    }
    for folder in ["_chain", "_control", "_raw", ".raw", "_{db}"] {
        let template = format!("{folder}/{{db}}/{{coll}}/{time}");
        assert!(mistakes(&template).contains(&M::Hidden(folder.to_owned())), "{folder}");
    }
    for folder in ["raw.", "a..b"] {
        let template = format!("{folder}/{{db}}/{{coll}}/{time}");
        assert_eq!(mistakes(&template), [M::Dots(folder.to_owned())]);
    }
    assert!(mistakes(&format!("../{{db}}/{{coll}}/{time}")).contains(&M::Dots("..".to_owned())));
    for template in [
        format!("/{{db}}/{{coll}}/{time}"),
        format!("{{db}}//{{coll}}/{time}"),
        format!("{{db}}/{{coll}}/{time}/"),
    ] {
        assert_eq!(mistakes(&template), [M::NoName], "{template}");
    }
    for (character, template) in [
        ('%', "{db}/{coll}/%Y/{yyyy}/{MM}/{dd}/{HH}"),
        (' ', "{db}/{coll}/a b/{yyyy}/{MM}/{dd}/{HH}"),
        ('\\', "{db}\\{coll}/{yyyy}/{MM}/{dd}/{HH}"),
        (':', "{db}:{coll}/{yyyy}/{MM}/{dd}/{HH}"),
        ('é', "é/{db}/{coll}/{yyyy}/{MM}/{dd}/{HH}"),
        ('}', "{db}/{coll}}/{yyyy}/{MM}/{dd}/{HH}"),
    ] {
        assert!(mistakes(template).contains(&M::Character(character)), "{template}");
    }
    for (unknown, template) in [
        ("{database}", "{database}/{db}/{coll}/{yyyy}/{MM}/{dd}/{HH}"),
        ("{mm}", "{db}/{coll}/{yyyy}/{MM}/{dd}/{HH}/{mm}"),
        ("{{db}", "{{db}}/{db}/{coll}/{yyyy}/{MM}/{dd}/{HH}"),
        ("{HH", "{db}/{coll}/{yyyy}/{MM}/{dd}/{HH}/{HH"),
    ] {
        assert!(mistakes(template).contains(&M::Unknown(unknown.to_owned())), "{template}");
    }
    let long = "x".repeat(TEXT_LEN_MAX + 1);
    assert_eq!(mistakes(&format!("{long}/{{db}}/{{coll}}/{time}")), [M::LongText(long.clone())]);
    let deep = "x/".repeat(TEMPLATE_LEN_MAX);
    assert!(matches!(mistakes(&format!("{deep}{{db}}/{{coll}}/{time}"))[..], [M::Long(_)]));
    // All of them at once, each once.
    assert_eq!(
        mistakes("_a/{db}-{coll}/%Y/%m"),
        [
            M::Hidden("_a".to_owned()),
            M::NotApart("{db}-{coll}".to_owned()),
            M::Character('%'),
            M::Missing(P::Year),
            M::Missing(P::Month),
            M::Missing(P::Day),
            M::Missing(P::Hour),
        ]
    );
}

/// Few letters, so that what would collide does; and long ones.
const NAME: &str = "[abx._=,~+-]{1,6}|[a-zA-Z0-9_./\\- x2e]{1,12}|\\PC{1,30}|é{30,90}|[ab._-]{90,110}|a{64,66}-h[0-9a-f]{32}";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn folders_are_safe_and_differ(a in (NAME, NAME), b in (NAME, NAME)) {
        for layout in layouts() {
            let folder = |(db, coll): &(String, String)| layout.folder(&data(db.clone(), coll.clone()));
            let (one, other) = (folder(&a), folder(&b));
            prop_assert_eq!(one.path().as_str().split('/').count(), layout.0.place.len());
            for part in one.path().as_str().split('/') {
                prop_assert!(!part.is_empty() && part.len() <= SEGMENT_LEN_MAX + TEXT_LEN_MAX);
                prop_assert!(!part.starts_with(['_', '.']) && !part.ends_with('.') && !part.contains(".."), "{part}");
            }
            prop_assert_eq!(a == b, one.path() == other.path(), "{}: {}", layout, one.path());
            // Nobody's folder lies in another's.
            let inside = one.path().as_str().starts_with(&format!("{}/", other.path()));
            prop_assert!(!inside, "{}: {} in {}", layout, one.path(), other.path());
        }
    }

    /// The same names, cut at every place in two: what a template that does not keep them apart would mix up.
    #[test]
    fn no_other_cut_of_the_same_text_is_the_same_folder(text in "[ab._=-]{2,8}|[abx2e-]{2,12}") {
        for layout in layouts() {
            let mut folders = BTreeSet::new();
            let mut count = 0;
            for first_end in 1..text.len() {
                for second_start in first_end..text.len() {
                    count += 1;
                    let namespace = data(&text[..first_end], &text[second_start..]);
                    folders.insert(layout.folder(&namespace).path().as_str().to_owned());
                }
            }
            let names: BTreeSet<(&str, &str)> = (1..text.len())
                .flat_map(|end| (end..text.len()).map(move |start| (end, start)))
                .map(|(end, start)| (&text[..end], &text[start..]))
                .collect();
            prop_assert!(count >= names.len());
            prop_assert_eq!(folders.len(), names.len(), "{}: {:?}", layout, folders);
        }
    }

    #[test]
    fn a_path_says_its_hour(names in (NAME, NAME), hour in 0_u32..=70_389_527, other in 0_u32..=70_389_527) {
        let numbered = |number: u32| EventHour::from_millis(i64::from(number) * 3_600_000).unwrap();
        let (hour, other) = (numbered(hour), numbered(other));
        for layout in layouts() {
            let folder = layout.folder(&data(names.0.clone(), names.1.clone()));
            for path in [
                folder.data_file(hour, 7, KafkaOffset::new(9), Compression::Zstd),
                folder.manifest(hour),
                folder.success(hour),
            ] {
                prop_assert_eq!(folder.hour_of(&path), Some(hour), "{}", path);
                prop_assert!(path.as_str().len() <= 900);
            }
            let control = layout.folder(&TopicContent::Control);
            let path = control.data_file(hour, 0, KafkaOffset::new(9), Compression::None);
            prop_assert!(path.as_str().starts_with("_control/year="), "{}", path);
            prop_assert!(control.is_at(&path, 0, KafkaOffset::new(9)));
            prop_assert_eq!((control.hour_of(&path), layout.hour_of(&path)), (Some(hour), Some(hour)));
            prop_assert_eq!(hour == other, folder.hour(hour) == folder.hour(other));
            prop_assert_eq!(Layout::parse(&layout.to_string()), Ok(layout));
        }
    }
}
