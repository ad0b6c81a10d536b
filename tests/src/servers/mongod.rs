//! A real mongod 6.0.5: a replica set of one, which is what change streams and transactions need.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Context, Result};
use mongodb::{
    Client,
    bson::{Document, doc},
    options::ClientOptions,
};

use super::{ServerProcess, is_a_server_process};
use crate::{folders, paths, ports::free_port, wait};

/// How the server is started; the default suits most tests.
#[derive(Clone, Debug)]
pub struct MongodOptions {
    /// Megabytes; 1 with `syncdelay` 1 s loses a resume point after a few megabytes written, on purpose.
    pub oplog_size_mb: u32,
    /// Seconds between checkpoints; the oplog is cut only after one.
    pub syncdelay_s: Option<u32>,
    /// Allows `configureFailPoint`: any server error on demand.
    pub test_commands: bool,
    /// WiredTiger's cache in gigabytes.
    pub cache_gb: f32,
    /// Asks everybody for a user and a password, and knows [`ROOT`]. Without it everybody may do everything.
    pub auth: bool,
    /// Without it the server stands alone, as no deployment of ours may.
    pub replica_set: bool,
}

/// The user that a server with [`MongodOptions::auth`] has from the start, and its password.
const ROOT: (&str, &str) = ("root", "root-of-tests");

/// Members of a replica set with access control know each other by a key; of one member it can be anything.
const KEY: &str = "YXRsYXMtbGFrZS10ZXN0cw";

impl Default for MongodOptions {
    fn default() -> Self {
        Self {
            oplog_size_mb: 512,
            syncdelay_s: None,
            test_commands: true,
            cache_gb: 0.25,
            auth: false,
            replica_set: true,
        }
    }
}

/// A running mongod.
#[derive(Debug)]
pub struct Mongod {
    server: ServerProcess,
    port: u16,
    auth: bool,
}

is_a_server_process!(Mongod);

impl Mongod {
    /// Starts with an empty data folder and waits until it is the writable primary.
    ///
    /// # Errors
    /// If it was not fetched, ends early, or is not writable within the limit.
    pub async fn start(options: MongodOptions) -> Result<Self> {
        let program = paths::fetched("mongod/bin/mongod", "")?;
        let port = free_port()?;
        let folder = folders::new("atlas-mongod-")?;
        std::fs::create_dir(folder.path().join("data")).context("make mongod's data folder")?;
        let mut arguments: Vec<String> = ["--bind_ip", "127.0.0.1", "--dbpath", "data"]
            .iter()
            .map(ToString::to_string)
            .chain(["--port".to_owned(), port.to_string()])
            .chain(["--oplogSize".to_owned(), options.oplog_size_mb.to_string()])
            .chain(["--wiredTigerCacheSizeGB".to_owned(), options.cache_gb.to_string()])
            .chain(["--setParameter".to_owned(), "diagnosticDataCollectionEnabled=false".to_owned()])
            // No socket file in /tmp that a killed server would leave behind.
            .chain(["--nounixsocket".to_owned()])
            .collect();
        if options.replica_set {
            arguments.extend(["--replSet", "rs0"].map(str::to_owned));
        }
        if let Some(seconds) = options.syncdelay_s {
            arguments.extend(["--syncdelay".to_owned(), seconds.to_string()]);
        }
        if options.test_commands {
            arguments.extend(["--setParameter".to_owned(), "enableTestCommands=1".to_owned()]);
        }
        if options.auth {
            write_key(&folder.path().join("key"))?;
            arguments.extend(["--auth", "--keyFile", "key"].map(str::to_owned));
        }
        let server = ServerProcess::start("mongod", program, arguments, folder)?;
        let mut server = Self { server, port, auth: options.auth };
        if options.replica_set {
            server.initiate().await?;
        }
        server.wait_until_writable().await?;
        if options.auth {
            server.make_root().await?;
        }
        Ok(server)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// For the services and for drivers; with access control, as its root.
    pub fn uri(&self) -> String {
        let (user, password) = ROOT;
        if self.auth {
            self.uri_of(user, password)
        } else {
            format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", self.port)
        }
    }

    /// For whoever is this user of `admin`.
    pub fn uri_of(&self, user: &str, password: &str) -> String {
        format!("mongodb://{user}:{password}@127.0.0.1:{}/?replicaSet=rs0", self.port)
    }

    /// A client with the driver's defaults.
    ///
    /// # Errors
    /// If the driver refuses the address.
    pub async fn client(&self) -> Result<Client> {
        Client::with_uri_str(self.uri()).await.context("make a MongoDB client")
    }

    /// Runs a command on `admin`, over a connection of its own.
    ///
    /// # Errors
    /// The server's.
    pub async fn admin_command(&self, command: Document) -> Result<Document> {
        let text = format!("{command}");
        let client = self.direct_client().await?;
        let reply = client.database("admin").run_command(command).await;
        reply.with_context(|| format!("run {text}"))
    }

    /// Starts again on the same port and data, after a kill or a stop, and waits until it is writable.
    ///
    /// # Errors
    /// As [`Mongod::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.server.start_again()?;
        self.wait_until_writable().await
    }

    /// Until there is a user, everybody on this machine may make the first one.
    async fn make_root(&self) -> Result<()> {
        let (user, password) = ROOT;
        let client = self.client_without_user().await?;
        let command = doc! { "createUser": user, "pwd": password, "roles": ["root"] };
        client.database("admin").run_command(command).await.context("make the first user")?;
        Ok(())
    }

    async fn initiate(&mut self) -> Result<()> {
        let port = self.port;
        let client = self.client_without_user().await?;
        self.server
            .wait_until_ready(|| {
                let client = client.clone();
                async move {
                    let members = vec![doc! { "_id": 0, "host": format!("127.0.0.1:{port}") }];
                    let config = doc! { "_id": "rs0", "members": members };
                    client.database("admin").run_command(doc! { "replSetInitiate": config }).await.is_ok()
                }
            })
            .await
    }

    async fn wait_until_writable(&mut self) -> Result<()> {
        // `hello` is answered to everybody.
        let client = self.client_without_user().await?;
        self.server
            .wait_until_ready(|| {
                let client = client.clone();
                async move {
                    let hello = client.database("admin").run_command(doc! { "hello": 1 }).await;
                    hello.is_ok_and(|reply| reply.get_bool("isWritablePrimary").unwrap_or(false))
                }
            })
            .await
    }

    /// A client that speaks to this server whatever its state, and gives up soon.
    async fn direct_client(&self) -> Result<Client> {
        let (user, password) = ROOT;
        if self.auth { self.direct(&format!("{user}:{password}@")).await } else { self.direct("").await }
    }

    async fn client_without_user(&self) -> Result<Client> {
        self.direct("").await
    }

    async fn direct(&self, user: &str) -> Result<Client> {
        let uri = format!("mongodb://{user}127.0.0.1:{}/?directConnection=true", self.port);
        let mut options = ClientOptions::parse(uri).await.context("read the server's address")?;
        options.server_selection_timeout = Some(Duration::from_secs(1));
        options.connect_timeout = Some(Duration::from_secs(1));
        Client::with_options(options).context("make a MongoDB client")
    }
}

/// mongod takes a key only from a file that nobody else may read.
fn write_key(path: &Path) -> Result<()> {
    fs::write(path, KEY).context("write mongod's key file")?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).context("close mongod's key file")
}

/// Waits until the replica set acknowledges a majority write: what a workload needs after a restart.
///
/// # Errors
/// If it does not within `limit`.
pub async fn wait_for_majority_write(client: &Client, database: &str, limit: Duration) -> Result<()> {
    let collection = client.database(database).collection::<Document>("majority-probe");
    wait::until("a majority write succeeds", limit, || async {
        Ok(collection.insert_one(doc! {}).await.ok())
    })
    .await
    .map(|_acknowledged| ())
}
