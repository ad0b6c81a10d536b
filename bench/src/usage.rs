//! What a process has used so far, as the kernel counts it: `/proc/<pid>/stat` and `/proc/<pid>/status` (proc(5)).

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// Clock ticks per second in `/proc`. `USER_HZ` is 100 on every Linux that Rust supports.
const TICKS_PER_SECOND: u64 = 100;

/// User and system time of all threads, also of those that have ended.
///
/// # Errors
/// If there is no such process.
pub(crate) fn cpu_time(process_id: u32) -> Result<Duration> {
    let path = format!("/proc/{process_id}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The name, in brackets, may hold anything; numbers begin behind its last bracket, with field 3.
    let (_, fields) = text.rsplit_once(')').context("a process without a name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks =
        |field: usize| fields[field - 3].parse::<u64>().with_context(|| format!("field {field} of {path}"));
    Ok(Duration::from_millis((ticks(14)? + ticks(15)?) * 1000 / TICKS_PER_SECOND))
}

/// The largest resident set so far, in bytes.
///
/// # Errors
/// If there is no such process.
pub(crate) fn peak_memory(process_id: u32) -> Result<u64> {
    let path = format!("/proc/{process_id}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().context("VmHWM")?;
    Ok(kilobytes * 1024)
}

/// The load of the last minute, for judging whether a figure was taken on a quiet machine.
///
/// # Errors
/// If the kernel does not tell.
pub(crate) fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
