//! One HTTP/1.1 request over a plain loopback socket: admin ports, Azurite and the registry need no more.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// Connecting, and each read. The first request to a server in Java may wait for the compiler, and that for the other tests.
const TIME_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The body as text, for messages and metrics.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends `method path` to 127.0.0.1 and reads the whole answer. Blocking: calls last milliseconds on loopback.
///
/// # Errors
/// If nobody listens, or what comes back is not HTTP/1.1.
pub fn request(method: &str, port: u16, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
    send(method, port, path, headers, &[])
}

/// [`request`] with a body.
///
/// # Errors
/// As [`request`].
pub fn send(method: &str, port: u16, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream =
        TcpStream::connect_timeout(&address, TIME_LIMIT).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(TIME_LIMIT))?;
    stream.set_write_timeout(Some(TIME_LIMIT))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let message = [head.as_bytes(), body].concat();
    stream.write_all(&message).with_context(|| format!("send {method} {path}"))?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).with_context(|| format!("read the answer to {method} {path}"))?;
    parse(&bytes, method != "HEAD").with_context(|| format!("the answer to {method} {path}"))
}

/// GET without further headers.
///
/// # Errors
/// As [`request`].
pub fn get(port: u16, path: &str) -> Result<Response> {
    request("GET", port, path, &[])
}

/// The answer to HEAD announces a body that never comes.
fn parse(bytes: &[u8], has_body: bool) -> Result<Response> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").context("has no end of headers")?;
    let head = std::str::from_utf8(&bytes[..end]).context("has headers that are no text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let status = status.split(' ').nth(1).and_then(|code| code.parse().ok()).context("has no status")?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let response = Response { status, headers, body: bytes[end + 4..].to_vec() };
    if response.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Ok(Response { body: unchunk(&response.body)?, ..response });
    }
    let announced = response.header("content-length").and_then(|length| length.parse().ok());
    if let Some(length) = announced
        && has_body
        && response.body.len() < length
    {
        bail!("ended after {} of {length} bytes", response.body.len());
    }
    Ok(response)
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line =
            rest.windows(2).position(|window| window == b"\r\n").context("has a chunk without a size")?;
        let size = std::str::from_utf8(&rest[..line]).context("has a chunk size that is no text")?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).context("has a chunk size that is no number")?;
        let chunk = rest.get(line + 2..line + 2 + size).context("ends inside a chunk")?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(chunk);
        rest = rest.get(line + 2 + size + 2..).context("ends after a chunk")?;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn both_framings_are_read() {
        let plain = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: \"x\"\r\n\r\nok", true).unwrap();
        assert_eq!(
            (plain.status, plain.body.as_slice(), plain.header("etag")),
            (200, &b"ok"[..], Some("\"x\""))
        );
        let chunked = parse(
            b"HTTP/1.1 503 no\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            true,
        );
        let chunked = chunked.unwrap();
        assert_eq!((chunked.status, chunked.body.as_slice()), (503, &b"abcde"[..]));
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", true).is_err());
    }
}
