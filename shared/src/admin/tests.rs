#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::*;

const BUILD: BuildInfo = BuildInfo { service: "it", version: "1.2.3", commit: None };

fn start(live_within: Duration) -> (AdminServer, HealthReporter) {
    let (reporter, health) = HealthReporter::new();
    let recorder = metrics::builder().build_recorder();
    let addr = "127.0.0.1:0".parse().unwrap();
    let server = AdminServer::start(addr, health, live_within, recorder.handle(), BUILD).unwrap();
    (server, reporter)
}

/// One request; the status code and everything after it.
fn request(server: &AdminServer, line: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.local_addr()).unwrap();
    write!(stream, "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

/// OBS-08: a dependency that is down makes the process not ready, with the reason, and leaves it live.
#[test]
fn ready_follows_the_loop_and_live_does_not_depend_on_others() {
    let (server, reporter) = start(Duration::from_secs(60));
    let (code, body) = request(&server, "GET /readyz");
    assert_eq!((code, body.contains("starting")), (503, true), "{body}");
    reporter.not_ready("waiting for mongodb");
    let (code, body) = request(&server, "GET /readyz");
    assert_eq!((code, body.contains("waiting for mongodb")), (503, true), "{body}");
    assert_eq!(request(&server, "GET /livez").0, 200);
    reporter.ready();
    assert_eq!(request(&server, "GET /readyz").0, 200);
}

#[test]
fn a_loop_that_hangs_is_neither_live_nor_ready() {
    let (server, reporter) = start(Duration::ZERO);
    reporter.ready();
    let (code, body) = request(&server, "GET /livez");
    assert_eq!((code, body.contains("has not moved")), (503, true), "{body}");
    assert_eq!(request(&server, "GET /readyz").0, 503);
}

#[test]
fn status_shows_the_service_members_and_cannot_be_overwritten_by_them() {
    let (server, reporter) = start(Duration::from_secs(60));
    reporter.status(json!({ "lag": 7, "service": "forged" }));
    let (code, answer) = request(&server, "GET /status");
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((code, &body["lag"], &body["service"]), (200, &json!(7), &json!("it")));
    assert_eq!((&body["ready"], &body["reason"]), (&json!(false), &json!("starting")));
    let (code, page) = request(&server, "GET /");
    assert!(code == 200 && page.contains("text/html") && page.contains("not ready"), "{page}");
}

#[test]
fn metrics_have_the_text_format_and_nothing_can_be_changed() {
    let (server, _reporter) = start(Duration::from_secs(60));
    let (code, text) = request(&server, "GET /metrics");
    assert!(code == 200 && text.contains("text/plain; version=0.0.4"), "{text}");
    assert!(text.contains("process_cpu_seconds_total") && text.contains("cdc_build_info"), "{text}");
    for line in ["POST /status", "PUT /", "DELETE /metrics"] {
        assert_eq!(request(&server, line).0, 405, "{line}");
    }
    assert_eq!(request(&server, "GET /debug").0, 404);
}

#[test]
fn a_port_in_use_is_named() {
    let (server, _reporter) = start(Duration::from_secs(60));
    let (_reporter, health) = HealthReporter::new();
    let handle = metrics::builder().build_recorder().handle();
    let stop = AdminServer::start(server.local_addr(), health, Duration::ZERO, handle, BUILD).unwrap_err();
    assert_eq!(stop.code, ExitCode::Configuration);
    assert!(stop.message.contains(&server.local_addr().to_string()), "{stop}");
}

#[test]
fn nothing_answers_after_the_server_was_dropped() {
    let (server, _reporter) = start(Duration::from_secs(60));
    let addr = server.local_addr();
    drop(server);
    assert!(TcpStream::connect(addr).is_err());
}
