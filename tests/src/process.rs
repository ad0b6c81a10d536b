//! Child processes that never outlive the test process, however it dies.
//!
//! Every child starts through `setpriv --pdeathsig KILL` (util-linux): the kernel kills it when its parent ends, by
//! `kill -9` too. The kernel takes for the parent the *thread* that forked, not the process (prctl(2),
//! `PR_SET_PDEATHSIG`), and the threads of a test or of a runtime end early. So one thread that lives as long as the
//! process starts all children. `setpriv` replaces itself by the program: its process id is the program's.
//!
//! `setpriv` is named by its path: then the standard library uses `posix_spawn`. For a name that has to be looked up in a `PATH` of the
//! child's own it forks, and that copies the page tables of the whole test process: 38 CPU seconds in a run of all tests.
//!
//! ```text
//!   test thread ── command ──▶ spawner thread ── spawn ─▶ setpriv → program
//!               ◀── Child ───
//! ```

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        OnceLock,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::wait;

/// How much of a log an error shows.
const TAIL_BYTES: u64 = 6_000;

type Spawned = std::io::Result<Child>;

/// The thread that spawns: the children's parent in the kernel's eyes.
fn spawner() -> &'static SyncSender<(Command, SyncSender<Spawned>)> {
    static SPAWNER: OnceLock<SyncSender<(Command, SyncSender<Spawned>)>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (commands, queue) = sync_channel::<(Command, SyncSender<Spawned>)>(1);
        thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for (mut command, reply) in queue {
                    reply.send(command.spawn()).expect("the caller waits for its child");
                }
            })
            .expect("the first thread of a test process can be made");
        commands
    })
}

fn setpriv() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join("setpriv"));
    places.find(|place| place.is_file()).context("there is no `setpriv` (Debian: apt-get install util-linux)")
}

/// A signal that a test sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Term,
    Kill,
    Stop,
    Cont,
}

impl Signal {
    fn flag(self) -> &'static str {
        match self {
            Self::Term => "-TERM",
            Self::Kill => "-KILL",
            Self::Stop => "-STOP",
            Self::Cont => "-CONT",
        }
    }
}

/// One running program with its log file. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `program`; standard output and error are appended to `log`.
    ///
    /// # Errors
    /// If the log cannot be opened or `setpriv` is not on the machine. A program that cannot be executed shows as an
    /// early end with `setpriv`'s message in the log.
    pub fn start(
        name: &str,
        program: &Path,
        arguments: &[String],
        environment: &[(String, String)],
        folder: &Path,
        log: &Path,
    ) -> Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(log);
        let output = output.with_context(|| format!("open the log {}", log.display()))?;
        let mut command = Command::new(setpriv()?);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        // Nothing of the caller's environment leaks in: a variable set in somebody's shell must not decide a test.
        command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
        for kept in ["PATH", "HOME", "TZ", "LANG"] {
            if let Some(value) = std::env::var_os(kept)
                && !environment.iter().any(|(name, _)| name == kept)
            {
                command.env(kept, value);
            }
        }
        // A group of its own: Ctrl-C on the terminal is for the parent, which ends its children in order.
        command.current_dir(folder).stdin(Stdio::null()).process_group(0);
        command.stdout(output.try_clone().context("share the log")?).stderr(output);

        let (reply, child) = sync_channel(1);
        spawner().send((command, reply)).expect("the spawner lives as long as the process");
        let child = child.recv().expect("the spawner answers every command");
        let child = child.context("start a child through `setpriv`")?;
        Ok(Self { name: name.to_owned(), child, log: log.to_path_buf(), ended: None })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends a signal. A process that has ended takes none, silently.
    ///
    /// # Errors
    /// If `kill` cannot be run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // The id is ours until we have waited for the child, so this can never hit a stranger.
        if self.has_ended()?.is_some() {
            return Ok(());
        }
        let sent = Command::new("kill").arg(signal.flag()).arg(self.child.id().to_string()).status();
        if !sent.context("run kill")?.success() {
            bail!("kill {} {}: refused", signal.flag(), self.name);
        }
        Ok(())
    }

    /// The exit status, if it has ended.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().with_context(|| format!("look at {}", self.name))?;
        }
        Ok(self.ended)
    }

    /// `kill -9`, and waits until the process is gone.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill_and_wait(&mut self) -> Result<()> {
        if self.ended.is_none() {
            self.child.kill().with_context(|| format!("kill {}", self.name))?;
            self.ended = Some(self.child.wait().with_context(|| format!("wait for {}", self.name))?);
        }
        Ok(())
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// If it has not ended within `limit`; the message shows the log's tail.
    pub async fn wait_for_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        let started = std::time::Instant::now();
        loop {
            if let Some(status) = self.has_ended()? {
                return Ok(status);
            }
            if started.elapsed() > limit {
                bail!("{what}: not within {limit:?}\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until `ready` says so; a process that ends first is an error at once.
    ///
    /// # Errors
    /// An early end or `limit`, both with the log's tail.
    pub async fn wait_until_ready<F, C>(&mut self, limit: Duration, mut ready: C) -> Result<()>
    where
        C: FnMut() -> F,
        F: Future<Output = bool>,
    {
        let name = self.name.clone();
        let waited = wait::until(&format!("{name} is ready"), limit, || {
            let ended = self.has_ended();
            let probe = ready();
            let name = &name;
            async move {
                if let Some(status) = ended? {
                    bail!("{name} ended before it was ready: {status}");
                }
                Ok(probe.await.then_some(()))
            }
        })
        .await;
        waited.with_context(|| {
            format!("start {name}; the log {} ends with\n{}", self.log.display(), self.log_tail())
        })
    }

    /// The end of the log, for messages.
    pub fn log_tail(&self) -> String {
        tail(&self.log).unwrap_or_else(|error| format!("(no log: {error})"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill_and_wait() {
            eprintln!("{error:#}");
        }
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn shell(script: &str, folder: &Path) -> Process {
        let arguments = ["-c".to_owned(), script.to_owned()];
        Process::start("sh", Path::new("/bin/sh"), &arguments, &[], folder, &folder.join("log")).unwrap()
    }

    #[tokio::test]
    async fn the_exit_code_and_the_log_are_the_programs_own() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell("echo hello; exit 22", folder.path());
        let status = process.wait_for_end(Duration::from_secs(5)).await.unwrap();
        assert_eq!(status.code(), Some(22));
        assert_eq!(process.log_tail(), "hello\n");
    }

    #[tokio::test]
    async fn a_child_survives_the_thread_that_asked_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        let mut process = thread::spawn(move || shell("exec sleep 60", &path)).join().unwrap();
        assert!(process.wait_for_end(Duration::from_millis(200)).await.is_err());
        process.kill_and_wait().unwrap();
    }

    #[tokio::test]
    async fn an_early_end_is_told_with_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell("echo cannot bind; exit 1", folder.path());
        let error = process.wait_until_ready(Duration::from_secs(5), || async { false }).await.unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("cannot bind") && text.contains("ended before"), "{text}");
    }
}
