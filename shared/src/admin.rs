//! The admin port: what operators, probes and Prometheus may ask a running process. Read-only.
//!
//! ```text
//!   owning loop ── HealthReporter ──▶ watch channel ──▶ admin thread: GET /livez /readyz /metrics /status /
//! ```
//!
//! The loop that owns the work publishes its state; the server only shows the latest one and shares nothing
//! else with it, so a slow scrape cannot hold up the pipeline. The server has a thread and a small runtime of
//! its own: it answers even while the service blocks inside a Kafka call.
//!
//! - `/livez` is about this process alone: its loop has moved within a bound. A dependency that is down must not
//!   fail it, or an outage would become a restart storm.
//! - `/readyz` is 503 with the reason while starting, waiting for a dependency or draining.
//! - `/status` is the state as JSON, without secrets; `/` shows the same to people.

mod metrics;
mod page;

use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use metrics::{SECONDS_BUCKETS, install_recorder};

use crate::exit::{ExitCode, Stop};

/// What runs, as `cdc_build_info` and the status page tell it.
#[derive(Clone, Copy, Debug)]
pub struct BuildInfo {
    /// `source-service` or `sink-service`.
    pub service: &'static str,
    pub version: &'static str,
    pub commit: Option<&'static str>,
}

/// What the owning loop publishes.
#[derive(Clone, Debug)]
pub struct Health {
    /// When the loop last went round.
    pub heartbeat: Instant,
    /// `Err` says what is waited for.
    pub ready: Result<(), String>,
    /// Service-specific members of `/status`: a JSON object.
    pub status: Value,
}

/// The owning loop's end. Publishing never blocks and needs nobody to listen.
#[derive(Debug)]
pub struct HealthReporter(watch::Sender<Health>);

impl HealthReporter {
    /// Not ready, because it starts.
    #[must_use]
    pub fn new() -> (Self, watch::Receiver<Health>) {
        let starting = Health {
            heartbeat: Instant::now(),
            ready: Err("starting".to_owned()),
            status: Value::Object(serde_json::Map::new()),
        };
        let (sender, receiver) = watch::channel(starting);
        (Self(sender), receiver)
    }

    /// The loop moves. Cheap enough for each turn.
    pub fn beat(&self) {
        self.0.send_modify(|health| health.heartbeat = Instant::now());
    }

    /// Ready, and moving.
    pub fn ready(&self) {
        self.0.send_modify(|health| {
            health.heartbeat = Instant::now();
            // Turns of a healthy loop must not allocate.
            if health.ready.is_err() {
                health.ready = Ok(());
            }
        });
    }

    /// Moving, but waiting for something: `reason` names it, and says what an operator can do.
    pub fn not_ready(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.0.send_modify(|health| {
            health.heartbeat = Instant::now();
            health.ready = Err(reason);
        });
    }

    /// The service's members of `/status`: an object, without secrets.
    pub fn status(&self, status: Value) {
        self.0.send_modify(|health| {
            health.heartbeat = Instant::now();
            health.status = status;
        });
    }
}

/// The running server. Stopping it is the last thing a process does: until then it says "draining".
#[derive(Debug)]
pub struct AdminServer {
    local_addr: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Binds at once, so that a port in use is found before anything else is begun, and serves on its own thread.
    ///
    /// `live_within` bounds the age of the last heartbeat. Port 0 takes a free port: see [`Self::local_addr`].
    ///
    /// # Errors
    /// [`ExitCode::Configuration`] if the address cannot be bound.
    pub fn start(
        addr: SocketAddr,
        health: watch::Receiver<Health>,
        live_within: Duration,
        recorder: PrometheusHandle,
        build: BuildInfo,
    ) -> Result<Self, Stop> {
        let cannot_serve = |error: std::io::Error| {
            Stop::new(
                ExitCode::Configuration,
                format!("ADMIN_ADDR={addr} cannot be served: {error}; choose another address or port"),
            )
        };
        let listener = TcpListener::bind(addr).map_err(cannot_serve)?;
        listener.set_nonblocking(true).map_err(cannot_serve)?;
        let local_addr = listener.local_addr().map_err(cannot_serve)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot_serve)?;
        let shown = Shown { health, live_within, recorder, build, started: SystemTime::now() };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("admin".into())
            .spawn(move || {
                if let Err(error) = runtime.block_on(serve(listener, shown, stopped)) {
                    tracing::error!(%error, "admin port is no longer served");
                }
            })
            .map_err(cannot_serve)?;
        tracing::info!(%local_addr, "admin port is served");
        Ok(Self { local_addr, stop, thread: Some(thread) })
    }

    /// Where it really listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin thread has panicked");
        }
    }
}

#[derive(Clone)]
struct Shown {
    health: watch::Receiver<Health>,
    live_within: Duration,
    recorder: PrometheusHandle,
    build: BuildInfo,
    started: SystemTime,
}

async fn serve(listener: TcpListener, shown: Shown, stop: CancellationToken) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let recorder = shown.recorder.clone();
    let server = axum::serve(listener, router(shown));
    // Open keep-alive connections must not hold up the end of the process, so there is no graceful part.
    tokio::select! {
        result = server => result,
        () = metrics::upkeep(recorder) => Ok(()),
        () = stop.cancelled() => Ok(()),
    }
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .route("/status", get(status))
        .route("/", get(status_page))
        .with_state(shown)
}

async fn livez(State(shown): State<Shown>) -> Response {
    match shown.live() {
        Ok(()) => (StatusCode::OK, "live\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn readyz(State(shown): State<Shown>) -> Response {
    let (code, body) = match shown.ready() {
        Ok(()) => (StatusCode::OK, json!({ "ready": true })),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, json!({ "ready": false, "reason": reason })),
    };
    (code, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

async fn scrape(State(shown): State<Shown>) -> Response {
    let mut text = shown.recorder.render();
    text.push_str(&metrics::of_process(shown.build));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn status(State(shown): State<Shown>) -> Response {
    let body = format!("{:#}\n", shown.status());
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn status_page(State(shown): State<Shown>) -> Html<String> {
    Html(page::render(shown.build.service, &shown.status()))
}

impl Shown {
    fn live(&self) -> Result<(), String> {
        let age = self.health.borrow().heartbeat.elapsed();
        if age <= self.live_within {
            Ok(())
        } else {
            let (age, bound) = (age.as_secs(), self.live_within.as_secs());
            Err(format!("the loop has not moved for {age} s, more than {bound} s"))
        }
    }

    /// A loop that hangs is not ready either, whatever it said last.
    fn ready(&self) -> Result<(), String> {
        self.live()?;
        self.health.borrow().ready.clone()
    }

    /// The service's members, and those that every process has.
    fn status(&self) -> Value {
        let started = chrono::DateTime::<chrono::Utc>::from(self.started);
        let uptime = self.started.elapsed().unwrap_or_default();
        let mut status = json!({
            "service": self.build.service,
            "version": self.build.version,
            "commit": self.build.commit,
            "started": started.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            "uptimeSeconds": uptime.as_secs(),
            "live": self.live().is_ok(),
            "ready": self.ready().is_ok(),
            "reason": self.ready().err(),
        });
        if let (Value::Object(all), Value::Object(own)) = (&mut status, &self.health.borrow().status) {
            for (name, value) in own {
                all.entry(name.as_str()).or_insert_with(|| value.clone());
            }
        }
        status
    }
}

#[cfg(test)]
#[path = "admin/tests.rs"]
mod tests;
