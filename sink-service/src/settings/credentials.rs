//! `LAKE_AUTH`, and what each way in needs.

use shared::settings::{Expected, Reader, Secret, Setting};

use super::table::{
    ADLS_SAS, ADLS_SHARED_KEY, AZURE_AUTHORITY_HOST, AZURE_CLIENT_CERTIFICATE_PASSWORD,
    AZURE_CLIENT_CERTIFICATE_PATH, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET, AZURE_FEDERATED_TOKEN_FILE,
    AZURE_TENANT_ID, LAKE_AUTH,
};
use crate::lake::{Entra, EntraIdentity, LakeAuth, LakeTarget, TargetError};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum AuthMode {
    WorkloadIdentity,
    ManagedIdentity,
    ClientSecret,
    ClientCertificate,
    AzureCli,
    Sas,
    SharedKey,
}

/// The outer `None` if a mistake was recorded, the inner one if no credential is needed.
pub(super) fn read_auth(reader: &mut Reader, lake: Option<&LakeTarget>) -> Option<Option<LakeAuth>> {
    let mode: Option<AuthMode> = reader.optional_choice(&LAKE_AUTH);
    let credential = |reader: &mut Reader, setting, parse: fn(&str) -> Result<LakeAuth, TargetError>| {
        let given = reader.is_given(setting);
        given.then(|| reader.parsed(setting, |text| parse(text).map_err(|_| Expected::AsDeclared)))
    };
    // `Some(None)`: it is given, and a mistake was recorded.
    let sas = credential(reader, &ADLS_SAS, LakeAuth::sas);
    let key = credential(reader, &ADLS_SHARED_KEY, LakeAuth::shared_key);
    let authority = read_authority(reader);
    if matches!(lake, Some(LakeTarget::Directory(_)) | None) {
        return if reader.is_given(&LAKE_AUTH) && mode.is_none() { None } else { Some(None) };
    }
    let Some(mode) = mode else {
        if sas.is_some() && key.is_some() {
            reader.refuse(&LAKE_AUTH, "sas or shared-key, because both ADLS_SAS and ADLS_SHARED_KEY are set");
        } else if !reader.is_given(&LAKE_AUTH) {
            reader.refuse(&LAKE_AUTH, format!("{}, for a lake on Azure", LAKE_AUTH.expects));
        }
        return None;
    };
    let entra = |identity: Option<EntraIdentity>| {
        Some(LakeAuth::Entra(Entra { identity: identity?, authority: authority? }))
    };
    let auth = match mode {
        AuthMode::Sas => sas.unwrap_or_else(|| missing(reader, &ADLS_SAS)),
        AuthMode::SharedKey => key.unwrap_or_else(|| missing(reader, &ADLS_SHARED_KEY)),
        AuthMode::WorkloadIdentity => entra(workload_identity(reader)),
        AuthMode::ManagedIdentity => {
            entra(Some(EntraIdentity::ManagedIdentity { client: reader.optional(&AZURE_CLIENT_ID) }))
        }
        AuthMode::ClientSecret => entra(client_secret(reader)),
        AuthMode::ClientCertificate => entra(client_certificate(reader)),
        AuthMode::AzureCli => {
            entra(Some(EntraIdentity::AzureCli { tenant: reader.optional(&AZURE_TENANT_ID) }))
        }
    };
    auth.map(Some)
}

fn missing<T>(reader: &mut Reader, setting: &Setting) -> Option<T> {
    reader.refuse(setting, setting.expects);
    None
}

// All that is missing is recorded before any of it is missed.

fn workload_identity(reader: &mut Reader) -> Option<EntraIdentity> {
    let (tenant, client) = (reader.required(&AZURE_TENANT_ID), reader.required(&AZURE_CLIENT_ID));
    let token_file = reader.required(&AZURE_FEDERATED_TOKEN_FILE);
    Some(EntraIdentity::WorkloadIdentity { tenant: tenant?, client: client?, token_file: token_file? })
}

fn client_secret(reader: &mut Reader) -> Option<EntraIdentity> {
    let (tenant, client) = (reader.required(&AZURE_TENANT_ID), reader.required(&AZURE_CLIENT_ID));
    let secret: Option<Secret> = reader.required(&AZURE_CLIENT_SECRET);
    Some(EntraIdentity::ClientSecret { tenant: tenant?, client: client?, secret: secret? })
}

fn client_certificate(reader: &mut Reader) -> Option<EntraIdentity> {
    let (tenant, client) = (reader.required(&AZURE_TENANT_ID), reader.required(&AZURE_CLIENT_ID));
    let certificate = reader.required(&AZURE_CLIENT_CERTIFICATE_PATH);
    let password = reader.optional(&AZURE_CLIENT_CERTIFICATE_PASSWORD);
    Some(EntraIdentity::ClientCertificate {
        tenant: tenant?,
        client: client?,
        certificate: certificate?,
        password,
    })
}

/// The outer `None` if a mistake was recorded.
fn read_authority(reader: &mut Reader) -> Option<Option<String>> {
    if !reader.is_given(&AZURE_AUTHORITY_HOST) {
        return Some(None);
    }
    let host = reader.parsed(&AZURE_AUTHORITY_HOST, |text| {
        let url = url::Url::parse(text).map_err(|_| Expected::AsDeclared)?;
        let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        if url.scheme() == "https" && bare { Ok(text.to_owned()) } else { Err(Expected::AsDeclared) }
    });
    host.map(Some)
}
