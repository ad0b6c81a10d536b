//! A lake of which one part is slow: a proxy in front of Azurite that keeps the uploads of one collection waiting, and counts.
//!
//! A mock, for no emulator can be told to be slow in one place. Everything else passes as it came, each request on a connection of
//! its own.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A running proxy. It ends with the runtime.
#[derive(Debug)]
pub struct SlowLake {
    port: u16,
    kept: watch::Sender<Option<String>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    waiting: AtomicUsize,
}

impl SlowLake {
    /// Lets everything pass at first.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(upstream: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("listen")?;
        let port = listener.local_addr().context("a port")?.port();
        let (kept, waits) = watch::channel(None);
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (waits, counts) = (waits.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    if let Err(error) = serve(client, upstream, waits, &counts).await {
                        eprintln!("slow lake: {error:#}");
                    }
                });
            }
        });
        Ok(Self { port, kept, counts })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Uploads whose path contains this wait from now on.
    pub fn keep(&self, path: &str) {
        self.kept.send_replace(Some(path.to_owned()));
    }

    /// Everything goes on.
    pub fn release(&self) {
        self.kept.send_replace(None);
    }

    /// Uploads of data files that wait now.
    pub fn waiting(&self) -> usize {
        self.counts.waiting.load(Ordering::Relaxed)
    }

    /// The most uploads of data files that there were at the same time.
    pub fn most_at_once(&self) -> usize {
        self.counts.most_at_once.load(Ordering::Relaxed)
    }
}

async fn serve(
    mut client: TcpStream,
    upstream: u16,
    mut waits: watch::Receiver<Option<String>>,
    counts: &Counts,
) -> Result<()> {
    // A client that closes without a request has changed its mind.
    let Some(request) = read_request(&mut client).await? else { return Ok(()) };
    let line_end = find(&request, b"\r\n").context("a request line")? + 2;
    // A blob's name is one segment for some clients: its slashes are encoded.
    let line = String::from_utf8_lossy(&request[..line_end]).replace("%2F", "/");
    let is_upload = line.starts_with("PUT ") && line.contains("/events-");
    if is_upload {
        let at_once = counts.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        counts.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        counts.waiting.fetch_add(1, Ordering::Relaxed);
        // The other end is gone when the test is over.
        let passes = |kept: &Option<String>| kept.as_ref().is_none_or(|path| !line.contains(path.as_str()));
        drop(waits.wait_for(passes).await);
        counts.waiting.fetch_sub(1, Ordering::Relaxed);
    }
    let answer = forward(upstream, &request, line_end).await;
    // Before the answer: with it the next one may begin.
    if is_upload {
        counts.at_once.fetch_sub(1, Ordering::Relaxed);
    }
    // The client may be gone; then nobody misses the answer.
    if client.write_all(&answer?).await.is_ok() {
        client.shutdown().await.unwrap_or_default();
    }
    Ok(())
}

/// Head and body; `None` if the client has closed before the end.
async fn read_request(client: &mut TcpStream) -> Result<Option<Vec<u8>>> {
    let mut request = Vec::new();
    let mut length = None;
    loop {
        if length.is_none()
            && let Some(end) = find(&request, b"\r\n\r\n")
        {
            length = Some(end + 4 + content_length(&request[..end])?);
        }
        if length.is_some_and(|length| request.len() >= length) {
            return Ok(Some(request));
        }
        if client.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return Ok(None);
        }
    }
}

/// The server closes the connection after its answer, and says so in it.
async fn forward(upstream: u16, request: &[u8], line_end: usize) -> Result<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", upstream)).await.context("connect to Azurite")?;
    server.write_all(&request[..line_end]).await.context("send a request")?;
    server.write_all(b"connection: close\r\n").await.context("send a request")?;
    server.write_all(&request[line_end..]).await.context("send a request")?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await.context("read an answer")?;
    Ok(answer)
}

fn content_length(head: &[u8]) -> Result<usize> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    value.map_or(Ok(0), |text| text.trim().parse().context("a content length"))
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
