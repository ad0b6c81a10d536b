//! Free loopback ports.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};

/// A port on 127.0.0.1 that nobody listens on now.
///
/// The system hands out ephemeral ports in a wide, random-looking order, so that two programs that ask at once hardly
/// ever get the same one between this call and their server's `bind`. A server that loses that race says so in its log
/// and the start fails with that log's tail.
///
/// # Errors
/// If no socket can be opened at all.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("open a socket on 127.0.0.1")?;
    Ok(listener.local_addr().context("read the socket's port")?.port())
}
