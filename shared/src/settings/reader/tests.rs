#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::time::Duration;

use bytesize::ByteSize;

use super::super::{Answer, Secrecy, Secret};
use super::*;
use crate::exit::{ExitCode, Stop};
use crate::telemetry::LogFormat;

const fn row(name: &'static str, default: Option<&'static str>, secret: Secrecy) -> Setting {
    Setting { name, default, secret, expects: "something declared", help: "Helps.", group: "Group" }
}

const NAMES: Setting = row("NAMES", None, Secrecy::Public);
const COUNT: Setting = row("COUNT", Some("3"), Secrecy::Public);
const STRICT: Setting = row("STRICT", Some("no"), Secrecy::Public);
const SIZE: Setting = row("SIZE", Some("8MiB"), Secrecy::Public);
const PAUSE: Setting = row("PAUSE", None, Secrecy::Public);
const FORMAT: Setting = row("FORMAT", None, Secrecy::Public);
const URI: Setting = row("URI", None, Secrecy::Uri);
const PASSWORD: Setting = row("PASSWORD", None, Secrecy::Whole);
const TABLE: Table = &[&NAMES, &COUNT, &STRICT, &SIZE, &PAUSE, &FORMAT, &URI, &PASSWORD];
const OLD: &[OldName] = &[
    OldName { name: "ITEMS", answer: Answer::Means(&NAMES) },
    OldName { name: "PASS", answer: Answer::Means(&PASSWORD) },
    OldName { name: "TOKEN_PATH", answer: Answer::Replaced("the position is kept in Kafka") },
    OldName { name: "FILTER", answer: Answer::Refused("nothing: leave it unset") },
];

fn environment(pairs: &[(&str, &str)]) -> Sources {
    let environment = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Sources { environment: environment.collect(), ..Sources::default() }
}

fn file(content: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

fn mistakes(reader: Reader) -> Vec<String> {
    let error = reader.finish(None::<()>).unwrap_err();
    error.mistakes.iter().map(ToString::to_string).collect()
}

/// CFG-01: five mistakes are five lines, missing ones too, and none shows a secret.
#[test]
fn every_mistake_is_reported_at_once_and_no_secret_is_shown() {
    let mut reader = Reader::new(
        TABLE,
        OLD,
        environment(&[
            ("COUNT", "4x"),
            ("STRICT", "ture"),
            ("PAUSE", "5"),
            ("FORMAT", "xml"),
            ("URI", "http://me:planted@h/?sig=planted"),
            ("PASSWORD", "planted"),
        ]),
    );
    assert_eq!(reader.required::<Vec<String>>(&NAMES), None);
    assert_eq!(reader.bounded::<u32>(&COUNT, 1..=9), None);
    assert_eq!(reader.required::<bool>(&STRICT), None);
    assert_eq!(reader.optional::<Duration>(&PAUSE), None);
    assert_eq!(reader.choice::<LogFormat>(&FORMAT), None);
    assert_eq!(reader.optional::<u16>(&URI), None);
    assert_eq!(reader.required::<u16>(&PASSWORD), None);
    let error = reader.finish(None::<()>).unwrap_err();
    let stop = Stop::from(error);
    assert_eq!(stop.code, ExitCode::Configuration);
    let lines: Vec<&str> = stop.message.lines().collect();
    assert_eq!(
        lines,
        [
            "7 mistakes in the settings:",
            "NAMES is not set: expected something declared",
            "COUNT=\"4x\": expected something declared",
            "STRICT=\"ture\": expected true, false, 1, 0, yes or no",
            "PAUSE=\"5\": expected a duration with its unit, such as 5s, 250ms or 1h",
            "FORMAT=\"xml\": expected json or human",
            "URI=\"http://***@h/?***\": expected something declared",
            "PASSWORD=\"***\": expected something declared",
        ]
    );
}

#[test]
fn the_first_layer_that_is_set_wins() {
    let config = file("names = ['file']\ncount = 7\nsize = '1MiB'\npassword = 'from toml'\nformat = ''\n");
    let secret = file("  from file\n");
    let mut sources = environment(&[("NAMES", " env , two"), ("COUNT", "  "), ("STRICT", "1")]);
    sources.environment.insert("PASSWORD_FILE".into(), secret.path().display().to_string());
    sources.flags.insert("STRICT", "0".into());
    sources.config_file = Some(config.path().to_owned());
    let mut reader = Reader::new(TABLE, OLD, sources);
    assert_eq!(reader.required(&NAMES), Some(vec!["env".to_owned(), "two".to_owned()]));
    assert_eq!(reader.required(&COUNT), Some(7_u32), "a blank variable is not set");
    assert_eq!(reader.required(&STRICT), Some(false));
    assert_eq!(reader.required(&SIZE), Some(ByteSize::mib(1)));
    assert_eq!(reader.required(&PASSWORD), Some(Secret::new("from file")));
    assert_eq!(reader.optional::<String>(&FORMAT), None);
    assert!(reader.is_given(&SIZE) && !reader.is_given(&PAUSE));
    let (_, effective) = reader.finish(Some(())).unwrap();
    let text = effective.to_string();
    let json = effective.to_json().to_string();
    assert!(!text.contains("from ") && !json.contains("from file") && !json.contains("from toml"), "{text}");
    let origins: Vec<String> = effective.settings.iter().map(|setting| setting.origin.to_string()).collect();
    assert_eq!(
        origins,
        ["environment", "config file", "flag", "config file", "not set", "not set", "not set", "secret file"]
    );
}

#[test]
fn bounds_are_kept() {
    let mut reader = Reader::new(TABLE, OLD, environment(&[("COUNT", "10")]));
    assert_eq!(reader.bounded(&COUNT, 1_u32..=9), None);
    assert_eq!(mistakes(reader), ["COUNT=\"10\": expected something declared"]);
}

#[test]
fn a_secret_file_must_be_readable_and_the_only_source() {
    let secret = file("x");
    let path = secret.path().display().to_string();
    let reader = Reader::new(TABLE, OLD, environment(&[("PASSWORD", "planted"), ("PASSWORD_FILE", &path)]));
    let lines = mistakes(reader);
    assert!(lines[0].ends_with("expected either PASSWORD or PASSWORD_FILE, not both"), "{lines:?}");
    assert!(!lines[0].contains("planted"));
    let reader = Reader::new(TABLE, OLD, environment(&[("URI_FILE", "planted")]));
    let lines = mistakes(reader);
    assert!(lines[0].starts_with("URI_FILE=\"***\": expected the path of a readable file"), "{lines:?}");
    let reader = Reader::new(TABLE, OLD, environment(&[("URI_FILE", "/no/such-file")]));
    assert!(mistakes(reader)[0].starts_with("URI_FILE=\"/no/such-file\": expected the path of"));
}

#[test]
fn unknown_keys_of_the_file_are_refused_with_the_nearest_name() {
    let config =
        file("nmaes = 'a'\nNAMES = 'b'\nwhatever = 1\nitems = 'x'\nfilter = 'x'\ncount = { a = 1 }\n");
    let sources = Sources { config_file: Some(config.path().to_owned()), ..Sources::default() };
    let lines = mistakes(Reader::new(TABLE, OLD, sources)).join("\n");
    assert!(lines.contains(": expected names instead of nmaes\n"), "{lines}");
    assert!(lines.contains(": expected names instead of NAMES\n"), "{lines}");
    assert!(lines.contains(": expected settings' names in lower case instead of whatever"), "{lines}");
    assert!(lines.contains(": expected names instead of its old name items\n"), "{lines}");
    assert!(lines.contains(": expected no filter, but nothing: leave it unset"), "{lines}");
    assert!(lines.contains("count in ") && lines.contains("plain value"), "{lines}");
    assert_eq!(lines.lines().count(), 6, "{lines}");
}

#[test]
fn a_broken_file_names_the_line_but_never_quotes_it() {
    let config = file("count = 1\npassword = 'planted\n");
    let sources = Sources { config_file: Some(config.path().to_owned()), ..Sources::default() };
    let lines = mistakes(Reader::new(TABLE, OLD, sources));
    assert!(lines[0].contains("line 2") && !lines[0].contains("planted"), "{lines:?}");
}

/// CFG-04: names that users know are accepted, or answered with what takes their place.
#[test]
fn old_names_are_answered() {
    let mut reader =
        Reader::new(TABLE, OLD, environment(&[("ITEMS", "a,b"), ("TOKEN_PATH", "x"), ("CUONT", "1")]));
    assert_eq!(reader.required(&NAMES), Some(vec!["a".to_owned(), "b".to_owned()]));
    let (_, effective) = reader.finish(Some(())).unwrap();
    assert_eq!(
        effective.warnings,
        [
            "ITEMS is taken for NAMES: please use that name",
            "TOKEN_PATH has no effect: the position is kept in Kafka",
            "CUONT is no setting: did you mean COUNT?",
        ]
    );
    let both = Reader::new(TABLE, OLD, environment(&[("ITEMS", "a"), ("NAMES", "b")])).effective();
    assert_eq!(both.warnings, ["ITEMS is ignored because NAMES is set"]);
}

/// To ignore it would change what is captured.
#[test]
fn a_refused_name_is_a_mistake() {
    let reader = Reader::new(TABLE, OLD, environment(&[("FILTER", "insert")]));
    assert!(reader.effective().warnings.is_empty());
    assert_eq!(mistakes(reader), ["FILTER=\"insert\": expected nothing: leave it unset"]);
    let blank = Reader::new(TABLE, OLD, environment(&[("FILTER", " ")]));
    assert!(blank.finish(Some(())).is_ok());
}

#[test]
fn an_old_name_of_a_secret_may_be_a_file_too() {
    let secret = file("from file");
    let path = secret.path().display().to_string();
    let mut reader = Reader::new(TABLE, OLD, environment(&[("PASS_FILE", &path)]));
    assert_eq!(reader.required(&PASSWORD), Some(Secret::new("from file")));
    assert_eq!(reader.effective().warnings, ["PASS is taken for PASSWORD: please use that name"]);
}
