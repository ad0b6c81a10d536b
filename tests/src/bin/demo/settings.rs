//! What can be chosen about a demo: flags, or the environment that `make demo NAME=value` sets.

use std::{env, str::FromStr, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

/// Replays a year of real flights through MongoDB, Kafka and the lake, and proves that nothing was lost or doubled.
///
/// Starts its own mongod, Kafka and services on free loopback ports; all of them end with it.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Arguments {
    /// Changes per second in the steady part [environment: RATE, default: 1000].
    #[arg(long)]
    rate: Option<u32>,
    /// Where the lake is [environment: LAKE, default: file].
    #[arg(long)]
    lake: Option<LakeKind>,
    /// Seconds at the steady rate; latency is measured here [environment: STEADY_SECONDS, default: 20].
    #[arg(long)]
    steady_seconds: Option<u64>,
    /// Seconds as fast as it can; ends earlier if all flights have been replayed
    /// [environment: FULL_SPEED_SECONDS, default: 45].
    #[arg(long)]
    full_speed_seconds: Option<u64>,
}

/// The two targets of the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LakeKind {
    /// A directory of this machine.
    #[value(alias = "directory")]
    File,
    /// A container in Azurite.
    Azurite,
}

impl FromStr for LakeKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ValueEnum::from_str(text, true)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Changes per second.
    pub(crate) rate: u32,
    pub(crate) lake: LakeKind,
    pub(crate) steady: Duration,
    pub(crate) full_speed: Duration,
}

impl Settings {
    /// Reads flags, then the environment, then the defaults. Help and mistakes in flags end the program.
    ///
    /// # Errors
    /// A variable that cannot be read as what it should be.
    pub(crate) fn read() -> Result<Self> {
        let given = Arguments::parse();
        let rate = choose(given.rate, "RATE", 1000)?;
        anyhow::ensure!(rate > 0, "RATE must be above 0");
        Ok(Self {
            rate,
            lake: choose(given.lake, "LAKE", LakeKind::File)?,
            steady: Duration::from_secs(choose(given.steady_seconds, "STEADY_SECONDS", 20)?),
            full_speed: Duration::from_secs(choose(given.full_speed_seconds, "FULL_SPEED_SECONDS", 45)?),
        })
    }
}

fn choose<T: FromStr>(flag: Option<T>, variable: &str, default: T) -> Result<T> {
    if let Some(value) = flag {
        return Ok(value);
    }
    match env::var(variable).ok().filter(|text| !text.is_empty()) {
        Some(text) => {
            text.parse().ok().with_context(|| format!("{variable}={text} cannot be used; see --help"))
        }
        None => Ok(default),
    }
}
