//! Kafka Connect, one worker on its own, with Debezium's and MongoDB's connectors: whose records the profiles have to be like.

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result};

use super::{Kafka, KafkaJava, ServerProcess, is_a_server_process};
use crate::{folders, http, paths, ports::free_port};

/// One connector: its name and its properties, `connector.class` included.
#[derive(Clone, Debug)]
pub struct Connector {
    pub name: &'static str,
    pub properties: Vec<(&'static str, String)>,
}

/// A running worker.
#[derive(Debug)]
pub struct Connect {
    server: ServerProcess,
    port: u16,
    connectors: Vec<&'static str>,
}

is_a_server_process!(Connect);

impl Connect {
    /// Starts the connectors and waits until each has a task that runs: twenty seconds.
    ///
    /// # Errors
    /// If they were not fetched, the worker ends early, or a task does not run within the limit.
    pub async fn start(kafka: &Kafka, connectors: &[Connector]) -> Result<Self> {
        let jars = paths::fetched("connect/runtime", "--connectors")?;
        let plugins = paths::fetched("connect/plugins", "--connectors")?;
        // Of the broker's jars only the log's: Connect has clients of its own version.
        let logging = fs::read_dir(paths::fetched("kafka/libs", "")?).context("list the broker's jars")?;
        let mut class_path = format!("{}/*", jars.display());
        for jar in logging {
            let jar = jar.context("list the broker's jars")?.path();
            if jar.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("log4j-")) {
                write!(class_path, ":{}", jar.display()).context("a class path")?;
            }
        }
        let port = free_port()?;
        let folder = folders::new("atlas-connect-")?;
        let worker = [
            ("bootstrap.servers", kafka.bootstrap()),
            ("plugin.path", plugins.to_string_lossy().into_owned()),
            ("plugin.discovery", "only_scan".to_owned()),
            ("offset.storage.file.filename", "offsets".to_owned()),
            ("listeners", format!("http://127.0.0.1:{port}")),
            ("key.converter", "org.apache.kafka.connect.storage.StringConverter".to_owned()),
            ("value.converter", "org.apache.kafka.connect.storage.StringConverter".to_owned()),
        ];
        write_properties(folder.path(), "worker", &worker)?;
        fs::write(folder.path().join("log4j2.properties"), LOGGING).context("write the log settings")?;
        let KafkaJava { program, arguments: java } = KafkaJava::with_heap(256)?;
        let mut arguments: Vec<String> = java
            .into_iter()
            .filter(|argument| argument.starts_with("-X") && !argument.contains("Shared"))
            .collect();
        arguments.extend(
            ["-Dlog4j2.configurationFile=log4j2.properties", "-cp", &class_path, CLASS, "worker.properties"]
                .map(ToOwned::to_owned),
        );
        for connector in connectors {
            let common = [
                ("name", connector.name.to_owned()),
                ("tasks.max", "1".to_owned()),
                ("topic.creation.enable", "true".to_owned()),
                ("topic.creation.default.replication.factor", "1".to_owned()),
                ("topic.creation.default.partitions", "1".to_owned()),
            ];
            let all: Vec<_> = common.into_iter().chain(connector.properties.iter().cloned()).collect();
            write_properties(folder.path(), connector.name, &all)?;
            arguments.push(format!("{}.properties", connector.name));
        }
        let server = ServerProcess::start("connect", program, arguments, folder)?;
        let names = connectors.iter().map(|connector| connector.name).collect();
        let mut connect = Self { server, port, connectors: names };
        connect.wait_until_tasks_run().await?;
        Ok(connect)
    }

    async fn wait_until_tasks_run(&mut self) -> Result<()> {
        let (port, names) = (self.port, self.connectors.clone());
        let runs = move |name: &str| {
            let status = http::get(port, &format!("/connectors/{name}/tasks/0/status"));
            status.is_ok_and(|answer| answer.text().contains("\"RUNNING\""))
        };
        self.server
            .wait_until_ready(|| {
                let all = names.iter().all(|name| runs(name));
                async move { all }
            })
            .await
    }
}

const CLASS: &str = "org.apache.kafka.connect.cli.ConnectStandalone";

fn write_properties(folder: &std::path::Path, name: &str, properties: &[(&str, String)]) -> Result<()> {
    let mut text = String::new();
    for (name, value) in properties {
        writeln!(text, "{name}={value}").context("write a property")?;
    }
    fs::write(folder.join(format!("{name}.properties")), text)
        .with_context(|| format!("write {name}.properties"))
}

const LOGGING: &str = "\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
";
