//! Azurite 3.37, Azure's own storage emulator: the blob endpoint, which is the one the lake is written through.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use tempfile::TempDir;

use super::START_LIMIT;
use crate::{
    folders, http, paths,
    ports::free_port,
    process::{Process, Signal},
};

/// Azurite's public, documented account; it exists in every Azurite and nowhere else.
pub const ACCOUNT: &str = "devstoreaccount1";
/// The documented key of [`ACCOUNT`].
pub const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Where blobs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AzuriteStorage {
    /// Gone with the process; the faster one.
    Memory,
    /// In the server's folder: survives [`Azurite::restart`].
    Folder,
}

/// A running Azurite.
#[derive(Debug)]
pub struct Azurite {
    process: Process,
    port: u16,
    node: PathBuf,
    arguments: Vec<String>,
    folder: TempDir,
}

impl Azurite {
    /// Starts an empty one and waits until it answers.
    ///
    /// # Errors
    /// If it was not fetched, Node is missing, it ends early, or does not answer within the limit.
    pub async fn start(storage: AzuriteStorage) -> Result<Self> {
        let program = paths::fetched("azurite/node_modules/azurite/dist/src/blob/main.js", "--azurite")?;
        let node = find_node()?;
        let port = free_port()?;
        let folder = folders::new("atlas-azurite-")?;
        let mut arguments = vec![program.to_string_lossy().into_owned()];
        let flags = [
            "--blobHost",
            "127.0.0.1",
            "--skipApiVersionCheck",
            "--disableTelemetry",
            "--silent",
            "--blobPort",
        ];
        arguments.extend(flags.iter().map(ToString::to_string));
        arguments.push(port.to_string());
        match storage {
            AzuriteStorage::Memory => arguments.push("--inMemoryPersistence".to_owned()),
            AzuriteStorage::Folder => arguments.extend(["-l".to_owned(), "blobs".to_owned()]),
        }
        let process = spawn(&node, &arguments, folder.path())?;
        let mut server = Self { process, port, node, arguments, folder };
        server.wait_until_it_answers().await?;
        Ok(server)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The blob endpoint of [`ACCOUNT`], without a closing slash: `http://127.0.0.1:<port>/devstoreaccount1`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    /// The sink's settings for a lake in `container`, which the sink makes.
    pub fn sink_settings(&self, container: &str) -> Vec<(String, String)> {
        [
            ("LAKE_URL", format!("abfss://{container}@{ACCOUNT}.dfs.core.windows.net/")),
            ("LAKE_ENDPOINT", self.endpoint()),
            ("LAKE_AUTH", "shared-key".to_owned()),
            ("ADLS_SHARED_KEY", ACCOUNT_KEY.to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill_and_wait()
    }

    /// `SIGSTOP`: the server hangs, its sockets stay open.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn sigstop(&mut self) -> Result<()> {
        self.process.signal(Signal::Stop)
    }

    /// `SIGCONT`.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn sigcont(&mut self) -> Result<()> {
        self.process.signal(Signal::Cont)
    }

    /// A clean shutdown: Azurite writes its index to the folder only then.
    ///
    /// # Errors
    /// If it has not ended within 30 s.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.signal(Signal::Term)?;
        self.process.wait_for_end(Duration::from_secs(30)).await.map(|_status| ())
    }

    /// Starts again on the same port; blobs are still there with [`AzuriteStorage::Folder`] after a clean stop.
    ///
    /// # Errors
    /// As [`Azurite::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill_and_wait()?;
        self.process = spawn(&self.node, &self.arguments, self.folder.path())?;
        self.wait_until_it_answers().await
    }

    async fn wait_until_it_answers(&mut self) -> Result<()> {
        let port = self.port;
        // Any answer will do: an unsigned request is refused, but by a server that serves.
        self.process
            .wait_until_ready(START_LIMIT, || async move {
                http::get(port, &format!("/{ACCOUNT}?comp=list")).is_ok()
            })
            .await
    }
}

fn spawn(node: &Path, arguments: &[String], folder: &Path) -> Result<Process> {
    Process::start("azurite", node, arguments, &[], folder, &folder.join("azurite.log"))
}

fn find_node() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(node) =
        std::env::split_paths(&path).map(|folder| folder.join("node")).find(|node| node.is_file())
    else {
        bail!("node is missing; type: apt-get install -y --no-install-recommends nodejs");
    };
    Ok(node)
}
