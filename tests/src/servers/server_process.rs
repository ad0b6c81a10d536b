//! What every server is underneath: a process with a folder, which can be killed, frozen and started again.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use tempfile::TempDir;

use super::START_LIMIT;
use crate::process::{Process, Signal};

/// A running server. The folder goes when it is dropped.
#[derive(Debug)]
pub struct ServerProcess {
    process: Process,
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    folder: TempDir,
}

impl ServerProcess {
    /// Starts the program in its folder; the log is `<name>.log` there.
    pub(super) fn start(
        name: &'static str,
        program: PathBuf,
        arguments: Vec<String>,
        folder: TempDir,
    ) -> Result<Self> {
        let process = spawn(name, &program, &arguments, folder.path())?;
        Ok(Self { process, name, program, arguments, folder })
    }

    /// As it was, in the same folder, after a kill or a stop.
    pub(super) fn start_again(&mut self) -> Result<()> {
        self.process.kill_and_wait()?;
        self.process = spawn(self.name, &self.program, &self.arguments, self.folder.path())?;
        Ok(())
    }

    pub(super) async fn wait_until_ready<F, C>(&mut self, ready: C) -> Result<()>
    where
        F: Future<Output = bool>,
        C: FnMut() -> F,
    {
        self.process.wait_until_ready(START_LIMIT, ready).await
    }

    /// Where it runs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
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

    /// A clean shutdown.
    ///
    /// # Errors
    /// If it has not ended within 60 s.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.signal(Signal::Term)?;
        self.process.wait_for_end(Duration::from_secs(60)).await.map(|_status| ())
    }
}

fn spawn(name: &'static str, program: &Path, arguments: &[String], folder: &Path) -> Result<Process> {
    Process::start(name, program, arguments, &[], folder, &folder.join(format!("{name}.log")))
}

/// A server is its process, with an address.
macro_rules! is_a_server_process {
    ($server:ty) => {
        impl std::ops::Deref for $server {
            type Target = crate::servers::ServerProcess;

            fn deref(&self) -> &Self::Target {
                &self.server
            }
        }

        impl std::ops::DerefMut for $server {
            fn deref_mut(&mut self) -> &mut Self::Target {
                &mut self.server
            }
        }
    };
}
pub(super) use is_a_server_process;
