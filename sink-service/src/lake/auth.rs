//! How to get into a lake on Azure.

use std::path::PathBuf;

use shared::settings::Secret;

use super::TargetError;

/// `LAKE_AUTH` chooses, never the presence of a key.
#[derive(Clone, Debug)]
pub enum LakeAuth {
    /// A shared access signature: the query string, with or without `?`.
    Sas(Secret),
    /// The account's key, base64.
    SharedKey(Secret),
    /// Tokens of Microsoft Entra ID.
    Entra(Entra),
}

/// Who asks Microsoft Entra ID for tokens, and where.
#[derive(Clone, Debug)]
pub struct Entra {
    pub identity: EntraIdentity,
    /// `https://host`; `None`: by the cloud that the account's host name is of.
    pub authority: Option<String>,
}

/// See <https://learn.microsoft.com/azure/storage/blobs/authorize-access-azure-active-directory>.
#[derive(Clone, Debug)]
pub enum EntraIdentity {
    /// A Kubernetes service account, which a federated credential trusts.
    WorkloadIdentity {
        tenant: String,
        client: String,
        token_file: PathBuf,
    },
    /// Of the machine; the system's own without `client`.
    ManagedIdentity {
        client: Option<String>,
    },
    ClientSecret {
        tenant: String,
        client: String,
        secret: Secret,
    },
    /// PKCS #12, with its key.
    ClientCertificate {
        tenant: String,
        client: String,
        certificate: PathBuf,
        password: Option<Secret>,
    },
    /// Whoever is logged in with `az login`: for a developer's machine.
    AzureCli {
        tenant: Option<String>,
    },
}

impl EntraIdentity {
    /// As `LAKE_AUTH` names it.
    pub const fn mode(&self) -> &'static str {
        match self {
            Self::WorkloadIdentity { .. } => "workload-identity",
            Self::ManagedIdentity { .. } => "managed-identity",
            Self::ClientSecret { .. } => "client-secret",
            Self::ClientCertificate { .. } => "client-certificate",
            Self::AzureCli { .. } => "azure-cli",
        }
    }
}

impl LakeAuth {
    /// # Errors
    /// If there is no signature in it. The storage client checks the rest.
    pub fn sas(text: &str) -> Result<Self, TargetError> {
        let query = text.split_once('?').map_or(text, |(_, query)| query);
        let signed = query.split('&').any(|pair| {
            pair.split_once('=')
                .is_some_and(|(name, value)| name.eq_ignore_ascii_case("sig") && !value.is_empty())
        });
        if signed {
            Ok(Self::Sas(Secret::new(text)))
        } else {
            Err(TargetError::Sas { problem: "it has no sig" })
        }
    }

    /// # Errors
    /// If it is not base64.
    pub fn shared_key(text: &str) -> Result<Self, TargetError> {
        match azure_core::base64::decode(text) {
            Ok(key) if !key.is_empty() => Ok(Self::SharedKey(Secret::new(text))),
            _ => Err(TargetError::SharedKey),
        }
    }
}
