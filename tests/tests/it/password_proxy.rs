//! A stand-in for a registry with a password: passes on what carries the right `Authorization` header, and answers 401 to
//! everything else. Behind it is the real registry.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use azure_core::base64::encode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

pub(crate) struct PasswordProxy {
    port: u16,
    let_through: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl PasswordProxy {
    /// In front of a server on this machine.
    pub(crate) async fn start(to: u16, user: &str, password: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let expected =
            format!("authorization: basic {}", encode(format!("{user}:{password}"))).to_lowercase();
        let let_through = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&let_through);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (expected, counter) = (expected.clone(), Arc::clone(&counter));
                tokio::spawn(async move {
                    if let Err(error) = serve(client, to, &expected, &counter).await {
                        eprintln!("password proxy: {error:#}");
                    }
                });
            }
        });
        Ok(Self { port, let_through, task })
    }

    /// The server's URL with the proxy's address.
    pub(crate) fn url(&self, url: &str) -> String {
        let path = url.splitn(4, '/').nth(3).unwrap_or_default();
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// Connections that had the right password.
    pub(crate) fn let_through(&self) -> u32 {
        self.let_through.load(Ordering::Relaxed)
    }
}

impl Drop for PasswordProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Looks at the first request of a connection; the others of it come from the same client.
async fn serve(mut client: TcpStream, to: u16, expected: &str, let_through: &AtomicU32) -> Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let read = client.read_buf(&mut request).await?;
        if read == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&request).to_lowercase();
    if !head.lines().any(|line| line == expected) {
        let answer = "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: 45\r\nConnection: close\r\n\r\n{\"error_code\":40101,\"message\":\"Unauthorized\"}";
        return client.write_all(answer.as_bytes()).await.context("answer 401");
    }
    let_through.fetch_add(1, Ordering::Relaxed);
    let mut server = TcpStream::connect(("127.0.0.1", to)).await.context("connect to the registry")?;
    server.write_all(&request).await?;
    copy_bidirectional(&mut client, &mut server).await.map(|_| ()).context("pass on")
}
