//! Free loopback ports.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use rand::RngExt;

/// Below the range from which systems take the ports of outgoing connections (32768 and up on Linux, 49152 and up elsewhere): servers here have
/// thousands of these, and one could take a port between this call and a server's `bind`.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A port on 127.0.0.1 that nobody listens on now.
///
/// One after the other from a random one on: this process gives none out twice, and another that asks at once is most likely elsewhere. A
/// server that loses that race says so in its log and the start fails with that log's tail.
///
/// # Errors
/// If there is none.
pub fn free_port() -> Result<u16> {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU16::new(rand::rng().random_range(0..PORTS.end - PORTS.start)));
    for _ in 0..100 {
        let port = PORTS.start + next.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener.local_addr().context("read the socket's port")?.port());
        }
    }
    bail!("no free port on 127.0.0.1 among 100 of {PORTS:?}")
}
