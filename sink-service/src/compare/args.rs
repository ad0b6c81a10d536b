//! What `compare` is asked for.

use std::time::Duration;

use clap::{Arg, ArgGroup, ArgMatches, Command};
use shared::{
    command_line::{flag, with_settings},
    settings::{FromSetting as _, Table},
};

use crate::{
    span::{topic_argument, topics_of},
    verify::Output,
};

/// What is to be compared, and how to show it.
#[derive(Clone, Debug)]
pub struct CompareRequest {
    /// Empty for all.
    pub topics: Vec<String>,
    /// In percent of the documents, chosen by a hash of their `_id`: the same ones every time.
    pub sample: f64,
    /// How long one round may wait until the lake is complete.
    pub patience: Duration,
    pub output: Output,
}

impl CompareRequest {
    pub fn whole(topics: Vec<String>, output: Output) -> Self {
        Self { topics, sample: 100.0, patience: PATIENCE, output }
    }
}

const PATIENCE: Duration = Duration::from_secs(5 * 60);

const EXAMPLES: &str = "\
Examples:
  Every collection that has a topic or a chain (one that never had a change has neither):
    MONGO_URI_FILE=/run/secrets/mongo sink-service compare --all

  One hundredth of a large collection, for a script:
    sink-service compare --topic atlas.shop.orders --sample 1 --json

The lake must hold the collection from its beginning (START_FROM=snapshot), and its rows their documents \
(FULL_DOCUMENT other than default). MongoDB's user needs to read the collections. Sources and sinks have to run: the \
lake is waited for until it has everything that MongoDB had when it was read.

Exit code 0 if everything agrees, 25 if it does not, 75 if a document changed too often to be compared or the lake did \
not come so far in time.";

pub fn compare_command(table: Table) -> Command {
    let about = "Compare the lake with MongoDB, document by document";
    with_settings(Command::new("compare").about(about), table)
        .arg(flag("all", "Every data topic under the prefix").conflicts_with("topic"))
        .arg(topic_argument())
        .group(ArgGroup::new("what").args(["all", "topic"]).required(true))
        .arg(
            Arg::new("sample")
                .long("sample")
                .value_name("PERCENT")
                .default_value("100")
                .value_parser(percent)
                .help("So many of the documents, always the same ones"),
        )
        .arg(
            Arg::new("wait")
                .long("wait")
                .value_name("DURATION")
                .value_parser(|text: &str| {
                    Duration::from_setting(text).map_err(|_| "expected a duration, such as 10m")
                })
                .help("How long to wait for the lake to have what MongoDB had; 5m if not given"),
        )
        .arg(flag("json", "One JSON object instead of a table"))
        .after_help(EXAMPLES)
}

pub fn compare_request(matches: &ArgMatches) -> CompareRequest {
    CompareRequest {
        topics: topics_of(matches),
        sample: matches.get_one("sample").copied().unwrap_or(100.0),
        patience: matches.get_one("wait").copied().unwrap_or(PATIENCE),
        output: Output::asked_for(matches),
    }
}

fn percent(text: &str) -> Result<f64, &'static str> {
    let percent = text.trim_end_matches('%').parse().ok().filter(|percent| (0.01..=100.0).contains(percent));
    percent.ok_or("expected a percentage from 0.01 to 100")
}
