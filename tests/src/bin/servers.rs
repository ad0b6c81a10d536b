//! Real servers for trying the services by hand: prints their settings and runs until Ctrl-C.
//!
//! ```text
//! cargo run -p pipeline-tests --bin servers -- --azurite
//! ```

use std::io::Write as _;

use anyhow::{Context, Result};
use clap::Parser;
use pipeline_tests::servers::{
    Azurite, AzuriteStorage, Kafka, KafkaOptions, Mongod, MongodOptions, Registry,
};

/// Starts a MongoDB replica set of one and a Kafka broker on free loopback ports; they end with this program.
#[derive(Parser)]
struct Arguments {
    /// Also Azurite, with blobs in memory.
    #[arg(long)]
    azurite: bool,
    /// Also a schema registry.
    #[arg(long)]
    registry: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (mongod, kafka) =
        tokio::try_join!(Mongod::start(MongodOptions::default()), Kafka::start(KafkaOptions::default()))?;
    let azurite = if arguments.azurite { Some(Azurite::start(AzuriteStorage::Memory).await?) } else { None };

    let registry = if arguments.registry { Some(Registry::start().await?) } else { None };

    let mut settings =
        vec![("MONGO_URI".to_owned(), mongod.uri()), ("KAFKA_BROKERS".to_owned(), kafka.bootstrap())];
    settings.extend(azurite.iter().flat_map(|azurite| azurite.sink_settings("lake")));
    settings.extend(registry.iter().map(|registry| ("SCHEMA_REGISTRY_URL".to_owned(), registry.url())));
    let mut out = std::io::stdout();
    for (name, value) in settings {
        writeln!(out, "export {name}='{value}'").context("print a setting")?;
    }
    writeln!(out, "# logs: {} {}", mongod.log().display(), kafka.log().display())
        .context("print the logs")?;
    writeln!(out, "# Ctrl-C ends them").context("print the last line")?;
    tokio::signal::ctrl_c().await.context("wait for Ctrl-C")
}
