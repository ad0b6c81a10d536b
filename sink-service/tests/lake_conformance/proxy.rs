//! A proxy in front of Azurite that makes real faults: it loses answers and delivers requests late. It also stands in for what
//! Azurite does not have: headers that a real account answers with are added to Azurite's answers.
//!
//! It takes one request per connection, one connection at a time: each lake behind it does one thing at a time. Faults
//! befall the committing requests (Put Block List, Put Blob) in the order given; everything else passes.

use std::collections::VecDeque;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

pub(crate) enum Fault {
    /// Nothing befalls it; the next one is meant.
    Pass,
    /// The request is carried out, the answer lost.
    LoseAnswer,
    /// The request waits on its way; its client may be gone when it arrives.
    Hold(Held),
    /// The request does not arrive; the answer is this one.
    Answer(&'static str),
}

pub(crate) struct Held {
    /// Told that the request has been taken from its client.
    taken: oneshot::Sender<()>,
    release: oneshot::Receiver<()>,
    /// Told the status that the late request got.
    status: oneshot::Sender<u16>,
}

/// The test's end of a [`Held`] request.
pub(crate) struct Late {
    taken: oneshot::Receiver<()>,
    release: oneshot::Sender<()>,
    status: oneshot::Receiver<u16>,
}

pub(crate) fn hold() -> (Fault, Late) {
    let (taken, taken_end) = oneshot::channel();
    let (release, release_end) = oneshot::channel();
    let (status, status_end) = oneshot::channel();
    let held = Held { taken, release: release_end, status };
    (Fault::Hold(held), Late { taken: taken_end, release, status: status_end })
}

impl Late {
    pub(crate) async fn taken(&mut self) {
        (&mut self.taken).await.unwrap();
    }

    /// Delivers the request and returns the status that it got.
    pub(crate) async fn deliver(self) -> u16 {
        self.release.send(()).unwrap();
        self.status.await.unwrap()
    }
}

/// A header that Azurite does not send.
#[derive(Clone, Copy)]
pub(crate) struct Added {
    /// What the first line of the requests has in it whose answers get it.
    pub(crate) to: &'static str,
    /// `name: value`; takes the place of one of this name.
    pub(crate) header: &'static str,
}

/// Starts a proxy and returns its port. It ends with the test's runtime.
pub(crate) async fn start(upstream: u16, faults: Vec<Fault>) -> u16 {
    start_with(upstream, faults, Vec::new()).await
}

/// The same, with headers added to answers.
pub(crate) async fn start_with(upstream: u16, faults: Vec<Fault>, added: Vec<Added>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut faults = VecDeque::from(faults);
        loop {
            let (client, _) = listener.accept().await.unwrap();
            serve(client, upstream, &mut faults, &added).await;
        }
    });
    port
}

async fn serve(mut client: TcpStream, upstream: u16, faults: &mut VecDeque<Fault>, added: &[Added]) {
    // A client that closes without a request, or in the middle of one, has changed its mind.
    let Some(request) = read_request(&mut client).await else { return };
    let fault = if is_commit(&request) { faults.pop_front() } else { None };
    match fault {
        None | Some(Fault::Pass) => {
            let answer = with_headers(forward(upstream, &request).await, &request, added);
            // The client may have gone; then nobody misses the answer.
            if client.write_all(&answer).await.is_ok() {
                client.shutdown().await.unwrap_or_default();
            }
        }
        Some(Fault::LoseAnswer) => {
            let answer = forward(upstream, &request).await;
            assert_eq!(status(&answer), 201, "the step must have happened");
        }
        Some(Fault::Answer(answer)) => client.write_all(answer.as_bytes()).await.unwrap(),
        Some(Fault::Hold(held)) => {
            // Delivered later, whatever happens to the client; meanwhile others are served.
            tokio::spawn(async move {
                held.taken.send(()).unwrap();
                held.release.await.unwrap();
                let answer = forward(upstream, &request).await;
                held.status.send(status(&answer)).unwrap();
                if client.write_all(&answer).await.is_ok() {
                    client.shutdown().await.unwrap_or_default();
                }
            });
        }
    }
}

async fn read_request(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    loop {
        if let Some(end) = find(&request, b"\r\n\r\n") {
            let body = content_length(&request[..end]);
            if request.len() >= end + 4 + body {
                return Some(request);
            }
        }
        if client.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
}

/// Sends the request on a connection of its own, which the server closes after the answer.
async fn forward(upstream: u16, request: &[u8]) -> Vec<u8> {
    let mut server = TcpStream::connect(("127.0.0.1", upstream)).await.unwrap();
    let line_end = find(request, b"\r\n").unwrap() + 2;
    server.write_all(&request[..line_end]).await.unwrap();
    server.write_all(b"connection: close\r\n").await.unwrap();
    server.write_all(&request[line_end..]).await.unwrap();
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await.unwrap();
    answer
}

fn with_headers(answer: Vec<u8>, request: &[u8], added: &[Added]) -> Vec<u8> {
    let first = String::from_utf8_lossy(&request[..find(request, b"\r\n").unwrap()]).into_owned();
    let mut added = added.iter().filter(|added| first.contains(added.to)).peekable();
    if added.peek().is_none() {
        return answer;
    }
    let end = find(&answer, b"\r\n\r\n").unwrap();
    let mut head: Vec<String> =
        String::from_utf8_lossy(&answer[..end]).split("\r\n").map(str::to_owned).collect();
    for Added { header, .. } in added {
        let name = header.split(':').next().unwrap();
        head.retain(|line| !line.to_ascii_lowercase().starts_with(&format!("{name}:")));
        head.push((*header).to_owned());
    }
    [head.join("\r\n").as_bytes(), &answer[end..]].concat()
}

fn is_commit(request: &[u8]) -> bool {
    let head = String::from_utf8_lossy(&request[..find(request, b"\r\n\r\n").unwrap()]).to_ascii_lowercase();
    let first = head.lines().next().unwrap();
    first.starts_with("put ") && (first.contains("comp=blocklist") || head.contains("x-ms-blob-type:"))
}

fn status(answer: &[u8]) -> u16 {
    String::from_utf8_lossy(answer).split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap()
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    value.map_or(0, |text| text.trim().parse().unwrap())
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
