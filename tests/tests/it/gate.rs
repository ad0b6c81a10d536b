//! A door in front of a server on this machine, to be shut and opened: a client sees a server that is down and comes back, and the server
//! need not start again for it, which takes a registry ten seconds.

use anyhow::Result;
use pipeline_tests::ports::free_port;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

pub(crate) struct Gate {
    port: u16,
    to: u16,
    open: Option<JoinHandle<()>>,
}

impl Gate {
    /// Shut: connections are refused.
    pub(crate) fn shut_before(to: u16) -> Result<Self> {
        Ok(Self { port: free_port()?, to, open: None })
    }

    /// The server's URL with the gate's address.
    pub(crate) fn url(&self, url: &str) -> String {
        let path = url.splitn(4, '/').nth(3).unwrap_or_default();
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    pub(crate) async fn open(&mut self) -> Result<()> {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await?;
        let to = self.to;
        self.open = Some(tokio::spawn(async move {
            // Dropped with the task, and the connections with it.
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await {
                        // Ends with an error when either side is gone: that is what a gate is for.
                        copy_bidirectional(&mut client, &mut server).await.ok();
                    }
                });
            }
        }));
        Ok(())
    }

    pub(crate) async fn shut(&mut self) {
        if let Some(open) = self.open.take() {
            open.abort();
            // The port is free again when the task is gone.
            open.await.ok();
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            open.abort();
        }
    }
}
