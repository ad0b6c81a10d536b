//! Tokens of Microsoft Entra ID, got by the official credentials.

use std::{fs, sync::Arc};

use async_trait::async_trait;
use azure_core::{
    cloud::{CloudConfiguration, CustomConfiguration},
    credentials::{AccessToken, Secret, SecretBytes, TokenCredential},
    error::ErrorKind,
    http::{
        ClientOptions, Context, Request, RetryOptions, StatusCode,
        policies::{Policy, PolicyResult},
    },
    time::{Duration, OffsetDateTime},
};
use azure_identity::{
    AzureCliCredential, AzureCliCredentialOptions, ClientAssertionCredentialOptions,
    ClientCertificateCredential, ClientCertificateCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions,
    UserAssignedId, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use tokio::sync::Mutex;

use crate::lake::{AzureTarget, Entra, EntraIdentity, TargetError};

/// The same in every cloud: <https://learn.microsoft.com/azure/storage/blobs/authorize-access-azure-active-directory>.
const SCOPE: &str = "https://storage.azure.com/.default";

/// A token is replaced this long before its end.
const RENEWED_BEFORE: Duration = Duration::minutes(5);

/// Puts a token into each request. One that is refused is replaced once: it may have been withdrawn before its end.
pub(super) struct TokenPolicy {
    identity: EntraIdentity,
    cloud: Arc<CloudConfiguration>,
    /// Held while a token is asked for, so that many requests ask once.
    held: Mutex<Held>,
}

struct Held {
    credential: Arc<dyn TokenCredential>,
    /// Not all credentials keep one: that of the Azure CLI starts a program each time.
    token: Option<AccessToken>,
}

impl TokenPolicy {
    /// # Errors
    /// If the certificate cannot be read, or an identity's name is malformed.
    pub(super) fn new(target: &AzureTarget, entra: &Entra) -> Result<Self, TargetError> {
        let cloud = Arc::new(cloud_of(target, entra.authority.as_deref()));
        let credential = credential_of(&entra.identity, &cloud)?;
        let held = Mutex::new(Held { credential, token: None });
        Ok(Self { identity: entra.identity.clone(), cloud, held })
    }

    /// Puts the token that is held, or another one if that is `refused` or about to end, into the request; and gives it back.
    async fn authorise(
        &self,
        request: &mut Request,
        refused: Option<&AccessToken>,
    ) -> azure_core::Result<AccessToken> {
        let mut held = self.held.lock().await;
        if let (Some(refused), Some(token)) = (refused, &held.token)
            && refused.token.secret() == token.token.secret()
        {
            // A new credential, because nobody can empty the cache of the old one.
            let fresh = credential_of(&self.identity, &self.cloud).map_err(|error| {
                azure_core::Error::with_error(ErrorKind::Credential, error, "no credential")
            })?;
            *held = Held { credential: fresh, token: None };
        }
        let end = OffsetDateTime::now_utc() + RENEWED_BEFORE;
        let token = match held.token.take().filter(|token| token.expires_on > end) {
            Some(token) => token,
            None => held.credential.get_token(&[SCOPE], None).await?,
        };
        held.token = Some(token.clone());
        request.insert_header("authorization", format!("Bearer {}", token.token.secret()));
        Ok(token)
    }
}

impl std::fmt::Debug for TokenPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenPolicy").field("mode", &self.identity.mode()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Policy for TokenPolicy {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let (following, rest) = next.split_first().expect("a transport always follows");
        let token = self.authorise(request, None).await?;
        let answer = following.send(ctx, request, rest).await?;
        let status = answer.status();
        if !matches!(status, StatusCode::Unauthorized | StatusCode::Forbidden) {
            return Ok(answer);
        }
        tracing::info!(
            status = u16::from(status),
            "the storage service refuses our token: another one is asked for"
        );
        self.authorise(request, Some(&token)).await?;
        request.body_mut().reset().await?;
        following.send(ctx, request, rest).await
    }
}

/// Where tokens come from: what was said, else by the cloud of the account's host name.
fn cloud_of(target: &AzureTarget, authority: Option<&str>) -> CloudConfiguration {
    let host = target.endpoint.host_str().unwrap_or_default();
    match authority {
        Some(authority) => {
            let mut custom = CustomConfiguration::default();
            authority.clone_into(&mut custom.authority_host);
            CloudConfiguration::Custom(custom)
        }
        None if host.ends_with(".chinacloudapi.cn") => CloudConfiguration::AzureChina,
        None if host.ends_with(".usgovcloudapi.net") => CloudConfiguration::AzureGovernment,
        None => CloudConfiguration::AzurePublic,
    }
}

fn credential_of(
    identity: &EntraIdentity,
    cloud: &Arc<CloudConfiguration>,
) -> Result<Arc<dyn TokenCredential>, TargetError> {
    let options = || ClientOptions {
        cloud: Some(Arc::clone(cloud)),
        // Repeating has one place, and that is not here.
        retry: RetryOptions::none(),
        ..Default::default()
    };
    let malformed =
        |error: azure_core::Error| TargetError::Identity { mode: identity.mode(), cause: error.to_string() };
    Ok(match identity {
        EntraIdentity::WorkloadIdentity { tenant, client, token_file } => {
            let options = WorkloadIdentityCredentialOptions {
                credential_options: ClientAssertionCredentialOptions { client_options: options() },
                client_id: Some(client.clone()),
                tenant_id: Some(tenant.clone()),
                token_file_path: Some(token_file.clone()),
            };
            WorkloadIdentityCredential::new(Some(options)).map_err(malformed)?
        }
        EntraIdentity::ManagedIdentity { client } => {
            // The machine's own service asks to be asked again: the credential knows how.
            let client_options = ClientOptions { cloud: Some(Arc::clone(cloud)), ..Default::default() };
            let user_assigned_id = client.clone().map(UserAssignedId::ClientId);
            let options = ManagedIdentityCredentialOptions { user_assigned_id, client_options };
            ManagedIdentityCredential::new(Some(options)).map_err(malformed)?
        }
        EntraIdentity::ClientSecret { tenant, client, secret } => {
            let options = ClientSecretCredentialOptions { client_options: options() };
            let secret = Secret::new(secret.expose().to_owned());
            ClientSecretCredential::new(tenant, client.clone(), secret, Some(options)).map_err(malformed)?
        }
        EntraIdentity::ClientCertificate { tenant, client, certificate, password } => {
            let bytes = fs::read(certificate).map_err(|error| TargetError::Identity {
                mode: identity.mode(),
                cause: format!("{}: {error}", certificate.display()),
            })?;
            let options = ClientCertificateCredentialOptions {
                client_options: options(),
                password: password.as_ref().map(|password| Secret::new(password.expose().to_owned())),
            };
            let bytes = SecretBytes::new(bytes);
            ClientCertificateCredential::new(tenant.clone(), client.clone(), bytes, Some(options))
                .map_err(malformed)?
        }
        EntraIdentity::AzureCli { tenant } => {
            let options = AzureCliCredentialOptions { tenant_id: tenant.clone(), ..Default::default() };
            AzureCliCredential::new(Some(options)).map_err(malformed)?
        }
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::lake::LakeTarget;

    fn authority(url: &str, given: Option<&str>) -> String {
        let LakeTarget::Azure(target) = LakeTarget::parse(url, None).unwrap() else { panic!("{url}") };
        match cloud_of(&target, given) {
            CloudConfiguration::Custom(custom) => custom.authority_host,
            cloud => format!("{cloud:?}"),
        }
    }

    #[test]
    fn tokens_come_from_the_accounts_cloud() {
        assert_eq!(authority("https://acme.blob.core.windows.net/raw", None), "AzurePublic");
        assert_eq!(authority("abfss://raw@acme.dfs.core.chinacloudapi.cn/", None), "AzureChina");
        assert_eq!(authority("abfss://raw@acme.dfs.core.usgovcloudapi.net/", None), "AzureGovernment");
        let given = Some("https://login.example.com");
        assert_eq!(authority("https://acme.blob.core.windows.net/raw", given), "https://login.example.com");
    }
}
