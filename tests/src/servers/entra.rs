//! A stand-in for Microsoft Entra ID, which cannot be had here: it hands out tokens that Azurite accepts, over TLS, and in the way that a machine's own
//! identity service does. Its certificates are of an authority of its own.

use std::{fs::Permissions, os::unix::fs::PermissionsExt, path::PathBuf};

use anyhow::{Context, Result};
use openssl::{
    asn1::Asn1Time,
    bn::BigNum,
    hash::MessageDigest,
    nid::Nid,
    pkcs12::Pkcs12,
    pkey::{PKey, Private},
    rsa::Rsa,
    x509::{
        X509, X509Name,
        extension::{BasicConstraints, SubjectAlternativeName},
    },
};

use super::{ServerProcess, azurite::find_node, is_a_server_process};
use crate::{folders, paths::repository, ports::free_port};

/// The password of [`Entra::client_certificate`].
pub const CERTIFICATE_PASSWORD: &str = "open-sesame";

/// Whether somebody is logged in with the Azure CLI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Az {
    LoggedIn,
    LoggedOut,
}

/// See the module.
#[derive(Debug)]
pub struct Entra {
    server: ServerProcess,
    folder: PathBuf,
    port: u16,
    machine_port: u16,
}

is_a_server_process!(Entra);

impl Entra {
    /// # Errors
    /// If Node is missing, or it does not serve.
    pub async fn start() -> Result<Self> {
        let folder = folders::new("atlas-entra-")?;
        let place = folder.path().to_owned();
        let authority = Issued::new("authority", None)?;
        let server = Issued::new("127.0.0.1", Some(&authority))?;
        std::fs::write(place.join("authority.pem"), authority.certificate.to_pem()?)?;
        std::fs::write(place.join("server.pem"), server.certificate.to_pem()?)?;
        std::fs::write(place.join("server.key"), server.key.private_key_to_pem_pkcs8()?)?;
        let client = Issued::new("client", None)?;
        let mut packed = Pkcs12::builder();
        packed.name("client").pkey(&client.key).cert(&client.certificate);
        std::fs::write(place.join("client.pfx"), packed.build2(CERTIFICATE_PASSWORD)?.to_der()?)?;

        let (port, machine_port) = (free_port()?, free_port()?);
        let program = repository().join("tests/servers/entra.mjs");
        let arguments = vec![
            program.to_string_lossy().into_owned(),
            "serve".to_owned(),
            port.to_string(),
            machine_port.to_string(),
        ];
        let process = ServerProcess::start("entra", find_node()?, arguments, folder)?;
        let mut entra = Self { server: process, folder: place, port, machine_port };
        let listens = || async move { std::net::TcpStream::connect(("127.0.0.1", machine_port)).is_ok() };
        entra.server.wait_until_ready(listens).await?;
        Ok(entra)
    }

    /// For `AZURE_AUTHORITY_HOST`.
    pub fn authority_host(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Where a machine's identity is asked for: `IDENTITY_ENDPOINT`.
    pub fn machine_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/msi/token", self.machine_port)
    }

    /// For `SSL_CERT_FILE`.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    /// Of a server on loopback, and its key.
    pub fn certificate(&self) -> [PathBuf; 2] {
        ["server.pem", "server.key"].map(|name| self.folder.join(name))
    }

    /// Of an application, with its key, under [`CERTIFICATE_PASSWORD`].
    pub fn client_certificate(&self) -> PathBuf {
        self.folder.join("client.pfx")
    }

    /// A folder to put before `PATH`: its `az` answers as the Azure CLI does.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn folder_with_az(&self, az: Az) -> Result<PathBuf> {
        let bin = self.folder.join(format!("bin-{az:?}"));
        std::fs::create_dir_all(&bin)?;
        let script = match az {
            Az::LoggedIn => {
                let (node, program) = (find_node()?, repository().join("tests/servers/entra.mjs"));
                format!("#!/bin/sh\nexec {} {} az\n", node.display(), program.display())
            }
            Az::LoggedOut => {
                "#!/bin/sh\necho \"ERROR: Please run 'az login' to setup account.\" >&2\nexit 1\n".to_owned()
            }
        };
        let path = bin.join("az");
        std::fs::write(&path, script)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).context("az")?;
        Ok(bin)
    }

    /// What was asked for so far, a line each.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn asked(&self) -> Result<Vec<String>> {
        Ok(std::fs::read_to_string(self.log())?.lines().map(ToOwned::to_owned).collect())
    }
}

struct Issued {
    certificate: X509,
    key: PKey<Private>,
}

impl Issued {
    fn new(name: &str, issuer: Option<&Self>) -> Result<Self> {
        let key = PKey::from_rsa(Rsa::generate(2048)?)?;
        let mut subject = X509Name::builder()?;
        subject.append_entry_by_nid(Nid::COMMONNAME, name)?;
        let subject = subject.build();
        let mut builder = X509::builder()?;
        builder.set_version(2)?;
        let serial = BigNum::from_u32(rand::random::<u32>() | 1)?.to_asn1_integer()?;
        builder.set_serial_number(&serial)?;
        builder.set_subject_name(&subject)?;
        builder.set_issuer_name(issuer.map_or(&*subject, |issuer| issuer.certificate.subject_name()))?;
        builder.set_pubkey(&key)?;
        builder.set_not_before(&*Asn1Time::days_from_now(0)?)?;
        builder.set_not_after(&*Asn1Time::days_from_now(2)?)?;
        match issuer {
            None => builder.append_extension(BasicConstraints::new().critical().ca().build()?)?,
            Some(issuer) => {
                let names = SubjectAlternativeName::new()
                    .ip("127.0.0.1")
                    .dns("localhost")
                    .build(&builder.x509v3_context(Some(&issuer.certificate), None))?;
                builder.append_extension(names)?;
            }
        }
        builder.sign(issuer.map_or(&key, |issuer| &issuer.key), MessageDigest::sha256())?;
        Ok(Self { certificate: builder.build(), key })
    }
}
