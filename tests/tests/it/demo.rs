//! The demo, which is the first command of the README.
//!
//! Goal: it ends with 0, having proved what it shows, after a change to the services or the lake too. Method: the very program, with a short replay.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{process::Command, time::timeout};

/// It starts servers of its own, and takes half a minute on an idle machine.
const DEMO_LIMIT: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_one_proves_that_nothing_is_lost_or_doubled() -> Result<()> {
    let demo = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--rate", "300", "--steady-seconds", "3", "--full-speed-seconds", "1"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output =
        timeout(DEMO_LIMIT, demo).await.context("the demo does not end")?.context("start the demo")?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}\n{text}", output.status);
    ensure!(text.contains("definitions; 0 differences"), "{text}");
    Ok(())
}
