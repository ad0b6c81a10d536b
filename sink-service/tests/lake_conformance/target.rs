//! The two targets, and fresh ground on them for each promise.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use pipeline_tests::servers::{
    Azurite, AzuriteStorage,
    azurite::{ACCOUNT, ACCOUNT_KEY},
};
use shared::settings::Secret;
use sink_service::{
    lake::{Lake, LakeAuth, LakeTarget},
    lake_path::LakePath,
};
use tempfile::TempDir;

pub(crate) enum Target {
    Directory(Arc<TempDir>),
    Azurite(Arc<Azurite>),
}

/// An empty lake that can be opened several times, as several processes do.
#[derive(Clone)]
pub(crate) struct Ground {
    url: String,
    endpoint: Option<String>,
    auth: Option<LakeAuth>,
    /// Keeps the server or folder alive.
    _target: Keep,
}

#[derive(Clone)]
enum Keep {
    Directory(#[expect(dead_code, reason = "held, not read")] Arc<TempDir>),
    Azurite(#[expect(dead_code, reason = "held, not read")] Arc<Azurite>),
}

static GROUNDS: AtomicU64 = AtomicU64::new(0);

impl Target {
    pub(crate) fn directory() -> Self {
        Self::Directory(Arc::new(tempfile::tempdir().unwrap()))
    }

    pub(crate) async fn azurite() -> Self {
        Self::Azurite(Arc::new(Azurite::start(AzuriteStorage::Memory).await.unwrap()))
    }

    pub(crate) fn ground(&self) -> Ground {
        let number = GROUNDS.fetch_add(1, Ordering::Relaxed);
        match self {
            Self::Directory(root) => Ground {
                url: format!("file://{}/lake-{number}", root.path().display()),
                endpoint: None,
                auth: None,
                _target: Keep::Directory(Arc::clone(root)),
            },
            Self::Azurite(server) => Ground {
                url: format!("abfss://lake-{number}@{ACCOUNT}.dfs.core.windows.net/base/of it"),
                endpoint: Some(server.endpoint()),
                auth: Some(LakeAuth::SharedKey(Secret::new(ACCOUNT_KEY))),
                _target: Keep::Azurite(Arc::clone(server)),
            },
        }
    }

    pub(crate) fn azurite_port(&self) -> u16 {
        match self {
            Self::Azurite(server) => server.port(),
            Self::Directory(_) => panic!("a directory has no port"),
        }
    }
}

impl Ground {
    /// As one more process sees the lake; nothing is requested yet.
    pub(crate) fn open(&self) -> Lake {
        let target = LakeTarget::parse(&self.url, self.endpoint.as_deref()).unwrap();
        Lake::open(&target, self.auth.as_ref()).unwrap()
    }

    pub(crate) async fn prepared(&self) -> Lake {
        let lake = self.open();
        lake.prepare().await.unwrap();
        lake
    }

    /// The same lake, reached through another port.
    pub(crate) fn through(&self, port: u16) -> Self {
        Self { endpoint: Some(format!("http://127.0.0.1:{port}/{ACCOUNT}")), ..self.clone() }
    }

    /// `LAKE_URL`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The address of a blob of this lake.
    pub(crate) fn blob_url(&self, at: &LakePath) -> String {
        let container = self.url.trim_start_matches("abfss://").split('@').next().unwrap();
        format!("{}/{container}/base/of%20it/{at}", self.endpoint.as_ref().unwrap())
    }

    pub(crate) fn with(&self, auth: LakeAuth) -> Self {
        Self { auth: Some(auth), ..self.clone() }
    }
}
