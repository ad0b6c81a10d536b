//! What a server says of itself.

use std::time::{Duration, Instant};

use bson::doc;
use mongodb::Client;
use shared::exit::{ExitCode, Stop};

use super::{
    ChangeStream,
    rights::{self, Grants},
};

/// `maxWireVersion` of the first release of a version (`src/mongo/db/wire_version.h`).
pub const WIRE_OF_4_2: i32 = 8;
pub const WIRE_OF_5_0: i32 = 13;
pub const WIRE_OF_6_0: i32 = 17;

/// What kind of deployment it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerKind {
    ReplicaSet {
        name: String,
        primary: Option<String>,
    },
    Sharded,
    /// Change streams need one of the others.
    Alone,
}

/// The answers to `hello` and `buildInfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    pub version: String,
    pub wire_version: i32,
    pub kind: ServerKind,
    /// Of one question and its answer.
    pub took: Duration,
}

impl ChangeStream {
    /// Asks who answers, waiting for it as long as a start may.
    ///
    /// # Errors
    /// What no waiting heals, or [`ExitCode::Unreachable`].
    pub fn server_facts(&self) -> Result<ServerFacts, Stop> {
        self.ask_patiently(async || facts(&self.client).await)
    }

    /// The same, waiting `limit` at most.
    ///
    /// # Errors
    /// As [`Self::server_facts`].
    pub fn server_facts_within(&self, limit: Duration) -> Result<ServerFacts, Stop> {
        self.runtime.block_on(async {
            let asked = tokio::time::timeout(limit, facts(&self.client)).await;
            match asked {
                Ok(Ok(facts)) => Ok(facts),
                Ok(Err(error)) => Err(stop_of(&error)),
                Err(_elapsed) => Err(unreachable("it did not answer")),
            }
        })
    }

    /// Who this client is to the server, and what it may do there. `None` if it is nobody, as where there is no access control.
    ///
    /// # Errors
    /// MongoDB's, in words.
    pub fn grants(&self) -> Result<Option<Grants>, String> {
        self.runtime.block_on(async {
            rights::grants(&self.client).await.map_err(|error| crate::stream_error::short(&error))
        })
    }
}

fn stop_of(error: &mongodb::error::Error) -> Stop {
    use crate::stream_error::{self, Phase, Verdict};
    match stream_error::classify(error, Phase::Opening) {
        Verdict::Stop(code, advice) => Stop::new(code, stream_error::stop_text(advice, error, "none yet")),
        Verdict::Reopen(_) | Verdict::Oversize => unreachable(&stream_error::short(error)),
    }
}

fn unreachable(cause: &str) -> Stop {
    let text = format!("MongoDB cannot be reached: check MONGO_URI, the network and TLS. Cause: {cause}");
    Stop::new(ExitCode::Unreachable, text)
}

async fn facts(client: &Client) -> mongodb::error::Result<ServerFacts> {
    let admin = client.database("admin");
    let begun = Instant::now();
    admin.run_command(doc! { "ping": 1 }).await?;
    let took = begun.elapsed();
    let hello = admin.run_command(doc! { "hello": 1 }).await?;
    let build = admin.run_command(doc! { "buildInfo": 1 }).await?;
    let kind = match (hello.get_str("setName"), hello.get_str("msg")) {
        (Ok(name), _) => ServerKind::ReplicaSet {
            name: name.to_owned(),
            primary: hello.get_str("primary").ok().map(str::to_owned),
        },
        (_, Ok("isdbgrid")) => ServerKind::Sharded,
        _ => ServerKind::Alone,
    };
    Ok(ServerFacts {
        version: build.get_str("version").unwrap_or("unknown").to_owned(),
        wire_version: hello.get_i32("maxWireVersion").unwrap_or(0),
        kind,
        took,
    })
}
