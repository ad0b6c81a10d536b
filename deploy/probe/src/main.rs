//! The health check of images without a shell: `probe http://127.0.0.1:9464/readyz`.
//!
//! Exit code 0 if the answer's status is 200, 1 if it is another one or there is none, 64 if the command line is wrong.
//! The body (which names what is missing) goes to standard output: `docker inspect` shows it as the check's log.
//! Only the standard library is used: this program is copied into every image and must stay small and dull.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

/// For connecting and for each read; the orchestrator's own time limit is above it.
const TIME_LIMIT: Duration = Duration::from_secs(3);
/// As much of an answer as is read: a readiness report is far smaller, and a stranger's endless answer ends here.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// `sysexits.h`, like the services' own code for it.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((address, path)) = arguments.first().and_then(|url| parse(url)) else {
        report("usage: probe http://<IP address>:<port>/<path>");
        return ExitCode::from(USAGE);
    };
    match ask(address, &path) {
        Ok((status, body)) => {
            report(&format!("{status} {}", body.trim()));
            if status == 200 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            report(&format!("no answer from {address}: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// An address without a name in it: a health check that asked a DNS server would check that server too.
fn parse(url: &str) -> Option<(SocketAddr, String)> {
    let rest = url.strip_prefix("http://")?;
    let (address, path) = rest.split_once('/')?;
    Some((address.parse().ok()?, format!("/{path}")))
}

/// One GET; the status and the body.
fn ask(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, TIME_LIMIT)?;
    stream.set_read_timeout(Some(TIME_LIMIT))?;
    stream.set_write_timeout(Some(TIME_LIMIT))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other("that was no HTTP"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// A line for whoever looks at the check. A closed standard output must not change the verdict.
fn report(line: &str) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        // Nobody listens: the exit code says it.
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::{net::TcpListener, thread};

    use super::*;

    fn answer_with(answer: &'static str) -> std::io::Result<(u16, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let asked = ask(address, "/readyz");
        assert!(server.join().unwrap().starts_with("GET /readyz HTTP/1.0\r\n"));
        asked
    }

    #[test]
    fn status_and_body_are_reported() {
        let ready = answer_with("HTTP/1.1 200 OK\r\n\r\nready");
        assert_eq!(ready.unwrap(), (200, "ready".to_owned()));
        let not_ready = answer_with("HTTP/1.1 503 Service Unavailable\r\n\r\nmongodb");
        assert_eq!(not_ready.unwrap(), (503, "mongodb".to_owned()));
        assert!(answer_with("SSH-2.0-OpenSSH\r\n").is_err());
    }

    #[test]
    fn only_addresses_are_asked() {
        assert_eq!(
            parse("http://127.0.0.1:9464/readyz"),
            Some(("127.0.0.1:9464".parse().unwrap(), "/readyz".into()))
        );
        for wrong in ["", "127.0.0.1:9464/readyz", "https://127.0.0.1:9464/", "http://localhost:9464/readyz"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
