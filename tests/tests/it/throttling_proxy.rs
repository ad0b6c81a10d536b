//! A stand-in for a storage account that has too much to do: it refuses a request with a status and a `Retry-After`, and writes down
//! when it was asked for anything. Behind it is the real Azurite.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What it answers instead of passing a request on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    /// What has to be in the request's first line.
    pub(crate) of: &'static str,
    /// Status and reason.
    pub(crate) status: &'static str,
    /// `x-ms-error-code`.
    pub(crate) code: &'static str,
    pub(crate) retry_after: Duration,
}

#[derive(Default)]
struct State {
    next: Option<Refusal>,
    refused: Option<Refused>,
}

/// A request that was refused, and what came since.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    at: Instant,
    /// Its first line.
    pub(crate) line: String,
    /// How long after it each request came, and its first line.
    pub(crate) since: Vec<(Duration, String)>,
}

pub(crate) struct ThrottlingProxy {
    port: u16,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl ThrottlingProxy {
    /// In front of a server on this machine; everything passes at first.
    pub(crate) async fn start(to: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Err(error) = serve(client, to, &state).await {
                        eprintln!("throttling proxy: {error:#}");
                    }
                });
            }
        });
        Ok(Self { port, state, task })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Refuses the next request that fits, and only that one.
    pub(crate) fn refuse_next(&self, refusal: Refusal) {
        *locked(&self.state) = State { next: Some(refusal), refused: None };
    }

    /// The last refusal; `None` until there was one.
    pub(crate) fn refused(&self) -> Option<Refused> {
        locked(&self.state).refused.clone()
    }
}

impl Drop for ThrottlingProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn judge(&mut self, line: &str) -> Option<Refusal> {
        if let Some(Refused { at, since, .. }) = &mut self.refused {
            since.push((at.elapsed(), line.to_owned()));
        }
        let refusal = self.next.take_if(|refusal| line.contains(refusal.of))?;
        self.refused = Some(Refused { at: Instant::now(), line: line.to_owned(), since: Vec::new() });
        Some(refusal)
    }
}

/// One request, on a connection of its own.
async fn serve(mut client: TcpStream, to: u16, state: &Mutex<State>) -> Result<()> {
    let mut request = Vec::new();
    let (head, length) = loop {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).into_owned();
            break (end + 4, content_length(&head)?);
        }
    };
    while request.len() < head + length {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line_end = request.windows(2).position(|window| window == b"\r\n").context("a request line")? + 2;
    // A blob's name is one segment for some clients: its slashes are encoded.
    let line = String::from_utf8_lossy(&request[..line_end]).trim().replace("%2F", "/");
    let refusal = locked(state).judge(&line);
    if let Some(Refusal { status, code, retry_after, .. }) = refusal {
        let answer = format!(
            "HTTP/1.1 {status}\r\nx-ms-error-code: {code}\r\nretry-after: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            retry_after.as_secs()
        );
        return client.write_all(answer.as_bytes()).await.context("refuse");
    }
    let mut server = TcpStream::connect(("127.0.0.1", to)).await.context("connect to Azurite")?;
    server.write_all(&request[..line_end]).await?;
    // Then the answer's end is the connection's.
    server.write_all(b"connection: close\r\n").await?;
    server.write_all(&request[line_end..]).await?;
    tokio::io::copy(&mut server, &mut client).await.context("pass on")?;
    client.shutdown().await.context("close")
}

fn content_length(head: &str) -> Result<usize> {
    let head = head.to_ascii_lowercase();
    let value = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    value.map_or(Ok(0), |text| text.trim().parse().context("a content length"))
}
