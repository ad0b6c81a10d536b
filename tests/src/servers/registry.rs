//! Apicurio Registry 3.3, a real schema registry with Confluent's interface.

use anyhow::{Context, Result, bail};

use super::{ServerProcess, is_a_server_process};
use crate::{folders, http, paths, ports::free_port};

/// Where Confluent's interface is served.
const INTERFACE: &str = "/apis/ccompat/v7";

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    server: ServerProcess,
    port: u16,
}

is_a_server_process!(Registry);

impl Registry {
    /// Starts an empty one and waits until it answers: ten seconds.
    ///
    /// # Errors
    /// If it was not fetched, ends early, or does not answer within the limit.
    pub async fn start() -> Result<Self> {
        let java = paths::fetched("jre/bin/java", "")?;
        let program = paths::fetched("registry/quarkus-run.jar", "--registry")?;
        let (port, management_port) = (free_port()?, free_port()?);
        let arguments = [
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Dquarkus.http.host=127.0.0.1",
            &format!("-Dquarkus.http.port={port}"),
            "-Dquarkus.management.host=127.0.0.1",
            &format!("-Dquarkus.management.port={management_port}"),
            "-Dapicurio.storage.kind=sql",
            "-Dapicurio.storage.sql.kind=h2",
            // A file in the server's folder, written a moment after each commit: it survives a stop, and a `kill -9` that is
            // not at once.
            "-Dapicurio.datasource.url=jdbc:h2:file:./registry",
            "-jar",
            &program.to_string_lossy(),
        ]
        .map(ToOwned::to_owned)
        .to_vec();
        let server = ServerProcess::start("registry", java, arguments, folders::new("atlas-registry-")?)?;
        let mut registry = Self { server, port };
        registry.wait_until_it_answers().await?;
        Ok(registry)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// For `SCHEMA_REGISTRY_URL`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}{INTERFACE}", self.port)
    }

    /// Starts again on the same port and data, after a kill or a stop.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.server.start_again()?;
        self.wait_until_it_answers().await
    }

    /// The schema of an id, as it was registered.
    ///
    /// # Errors
    /// If the registry does not know it.
    pub fn schema(&self, id: u32) -> Result<String> {
        let answer = http::get(self.port, &format!("{INTERFACE}/schemas/ids/{id}"))?;
        if answer.status != 200 {
            bail!("the registry answers {} for schema {id}", answer.status);
        }
        let json: serde_json::Value = serde_json::from_slice(&answer.body)?;
        json["schema"].as_str().map(ToOwned::to_owned).context("the answer has no schema")
    }

    /// Registers a schema in Avro under a subject; its id.
    ///
    /// # Errors
    /// If the registry refuses it.
    pub fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        let body = serde_json::json!({ "schema": schema, "schemaType": "AVRO" });
        let answer = self.send("POST", &format!("/subjects/{subject}/versions"), &body)?;
        let id = answer["id"].as_u64().context("the answer has no id")?;
        Ok(u32::try_from(id)?)
    }

    /// Sets which schemas may follow one another in a subject: `BACKWARD`, `NONE` and so on.
    ///
    /// # Errors
    /// If the registry refuses it.
    pub fn set_compatibility(&self, subject: &str, rule: &str) -> Result<()> {
        let body = serde_json::json!({ "compatibility": rule });
        self.send("PUT", &format!("/config/{subject}"), &body).map(|_| ())
    }

    fn send(&self, method: &str, path: &str, body: &serde_json::Value) -> Result<serde_json::Value> {
        let path = format!("{INTERFACE}{path}");
        let headers = [("Content-Type", "application/vnd.schemaregistry.v1+json")];
        let answer = http::send(method, self.port, &path, &headers, &serde_json::to_vec(body)?)?;
        if answer.status != 200 {
            bail!("the registry answers {} to {method} {path}: {}", answer.status, answer.text());
        }
        serde_json::from_slice(&answer.body).context("the answer is no JSON")
    }

    async fn wait_until_it_answers(&mut self) -> Result<()> {
        let port = self.port;
        let ready = || async move {
            http::get(port, &format!("{INTERFACE}/subjects")).is_ok_and(|answer| answer.status == 200)
        };
        self.server.wait_until_ready(ready).await
    }
}
