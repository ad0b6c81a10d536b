//! Azurite 3.37, Azure's own storage emulator: the blob endpoint, which is the one the lake is written through.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::{Entra, ServerProcess, is_a_server_process};
use crate::{folders, http, paths, ports::free_port};

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
    /// In the server's folder: survives [`Azurite::restart`] after a clean stop, which writes the index.
    Folder,
}

/// A running Azurite.
#[derive(Debug)]
pub struct Azurite {
    server: ServerProcess,
    port: u16,
}

is_a_server_process!(Azurite);

impl Azurite {
    /// Starts an empty one and waits until it answers.
    ///
    /// # Errors
    /// If it was not fetched, Node is missing, it ends early, or does not answer within the limit.
    pub async fn start(storage: AzuriteStorage) -> Result<Self> {
        let mut server = Self::spawn(storage, &[])?;
        server.wait_until_it_answers().await?;
        Ok(server)
    }

    /// One that speaks TLS and takes tokens too.
    ///
    /// # Errors
    /// As [`Azurite::start`].
    pub async fn start_with_tokens(entra: &Entra) -> Result<Self> {
        let [certificate, key] = entra.certificate().map(|path| path.to_string_lossy().into_owned());
        let mut server = Self::spawn(
            AzuriteStorage::Memory,
            &["--oauth", "basic", "--cert", &certificate, "--key", &key],
        )?;
        let port = server.port;
        let listens = || async move { std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() };
        server.server.wait_until_ready(listens).await?;
        Ok(server)
    }

    fn spawn(storage: AzuriteStorage, more: &[&str]) -> Result<Self> {
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
        arguments.extend(more.iter().map(ToString::to_string));
        let server = ServerProcess::start("azurite", node, arguments, folder)?;
        Ok(Self { server, port })
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

    /// Starts again on the same port; blobs are still there with [`AzuriteStorage::Folder`] after a clean stop.
    ///
    /// # Errors
    /// As [`Azurite::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.server.start_again()?;
        self.wait_until_it_answers().await
    }

    async fn wait_until_it_answers(&mut self) -> Result<()> {
        let port = self.port;
        // Any answer will do: an unsigned request is refused, but by a server that serves.
        self.server
            .wait_until_ready(|| async move { http::get(port, &format!("/{ACCOUNT}?comp=list")).is_ok() })
            .await
    }
}

pub(super) fn find_node() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(node) =
        std::env::split_paths(&path).map(|folder| folder.join("node")).find(|node| node.is_file())
    else {
        bail!("node is missing; type: apt-get install -y --no-install-recommends nodejs");
    };
    Ok(node)
}
