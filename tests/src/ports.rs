//! Free loopback ports.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result, bail};
use rand::RngExt;

/// Below the range from which systems take the ports of outgoing connections (32768 and up on Linux, 49152 and up elsewhere): servers here have
/// thousands of these, and one could take a port between this call and a server's `bind`.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A port on 127.0.0.1 that nobody listens on now.
///
/// Chosen at random, so that two programs that ask at once hardly ever get the same one before their servers bind. A server that loses that
/// race says so in its log and the start fails with that log's tail.
///
/// # Errors
/// If there is none.
pub fn free_port() -> Result<u16> {
    let mut random = rand::rng();
    for _ in 0..100 {
        let port = random.random_range(PORTS);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener.local_addr().context("read the socket's port")?.port());
        }
    }
    bail!("no free port on 127.0.0.1 among 100 of {PORTS:?}")
}
