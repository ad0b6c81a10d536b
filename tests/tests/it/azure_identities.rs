//! Tokens of Microsoft Entra ID as the way into the lake.
//!
//! Goal: each way of `LAKE_AUTH` that asks for tokens gets in, tokens are renewed while the sink runs, and what is refused is named and ends with
//! the documented exit code. Method: the real `azure_identity` and an Azurite that checks tokens; who hands them out is a stand-in, as is `az`.

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    pipeline::Pipeline,
    servers::{
        Azurite, Entra,
        azurite::ACCOUNT,
        entra::{Az, CERTIFICATE_PASSWORD},
    },
    service::{Binary, Environment, Service},
    wait,
};

use crate::{
    records::{LONG_AGO_S, events},
    stage::{LIMIT, Stage},
};

const ROWS: i64 = 20;

struct Ground {
    pipeline: Pipeline,
    entra: Entra,
    azurite: Azurite,
    /// Rows that were sent.
    sent: std::cell::Cell<i64>,
}

impl Ground {
    fn environment(&self, settings: &[(&str, &str)]) -> Environment {
        let pairs = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.pipeline
            .sink_environment()
            .set("LAKE_URL", format!("abfss://identities@{ACCOUNT}.dfs.core.windows.net/"))
            .set("LAKE_ENDPOINT", format!("https://127.0.0.1:{}/{ACCOUNT}", self.azurite.port()))
            .set("AZURE_AUTHORITY_HOST", self.entra.authority_host())
            .set("AZURE_TENANT_ID", "tenant")
            .set("SSL_CERT_FILE", self.entra.authority().display())
            .with(pairs)
    }

    /// A sink that gets in this way writes what was sent meanwhile; what Entra was asked.
    async fn gets_in(&self, settings: &[(&str, &str)]) -> Result<Vec<String>> {
        let before = self.entra.asked()?.len();
        let topic = self.pipeline.data_topic("orders");
        let numbers = self.sent.get()..self.sent.get() + ROWS;
        self.pipeline.kafka_writer().send(&topic, 0, events(&self.pipeline, numbers, LONG_AGO_S)).await?;
        self.sent.set(self.sent.get() + ROWS);
        // Behind the rows stands their transaction's marker.
        let end = self.pipeline.kafka().high_watermarks([topic.clone()]).await?.values().sum::<i64>() - 1;
        let mut sink = self.pipeline.start(Binary::Sink, self.environment(settings))?;
        sink.wait_until_ready().await?;
        let written = || async {
            let status: serde_json::Value = serde_json::from_str(&sink.status()?)?;
            Ok((status["partitions"][0]["next"].as_i64() >= Some(end)).then_some(()))
        };
        let done = wait::until("all is in the lake", LIMIT, written).await;
        done.with_context(|| format!("{settings:?} {end}\n{:?}\n{}", sink.status(), sink.log_tail()))?;
        let log = sink.log_text()?;
        ensure!(!log.contains("geheim") && !log.contains("eyJ"), "a secret or a token is in the log\n{log}");
        sink.stop(LIMIT).await?;
        Ok(self.entra.asked()?.split_off(before))
    }

    async fn ends_with(&self, expected: i32, says: &str, settings: &[(&str, &str)]) -> Result<()> {
        let mut sink = self.pipeline.start(Binary::Sink, self.environment(settings))?;
        let code = sink.exit_code(LIMIT).await?;
        let log = sink.log_text()?;
        ensure!(code == expected && log.contains(says), "{code} instead of {expected}, {says}\n{log}");
        ensure!(!log.contains("geheim"), "{log}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_identity_gets_in() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("identities")?;
    pipeline.kafka_writer().create_topic(&pipeline.data_topic("orders"), 1, &[]).await?;
    let entra = Entra::start().await?;
    let azurite = Azurite::start_with_tokens(&entra).await?;
    let ground = Ground { pipeline, entra, azurite, sent: std::cell::Cell::new(0) };
    let secret = |client| {
        [("LAKE_AUTH", "client-secret"), ("AZURE_CLIENT_ID", client), ("AZURE_CLIENT_SECRET", "geheim")]
    };
    let scope = "https://storage.azure.com/.default";

    let asked = ground.gets_in(&secret("app")).await?;
    ensure!(asked == [format!("app secret {scope}")], "one token is enough: {asked:?}");
    let asked = ground.gets_in(&secret("short")).await?;
    ensure!(asked.len() > 5, "a token that ends is asked for again: {asked:?}");
    let asked = ground.gets_in(&secret("withdrawn")).await?;
    ensure!(asked.len() == 2, "a token that is refused is replaced once: {asked:?}");

    let token = ground.pipeline.folder().join("service-account-token");
    std::fs::write(&token, "geheim.of.kubernetes")?;
    let token = token.to_string_lossy();
    let asked = ground
        .gets_in(&[
            ("LAKE_AUTH", "workload-identity"),
            ("AZURE_CLIENT_ID", "pod"),
            ("AZURE_FEDERATED_TOKEN_FILE", &token),
        ])
        .await?;
    ensure!(asked == [format!("pod assertion {scope}")], "{asked:?}");

    let certificate = ground.entra.client_certificate();
    let certificate = certificate.to_string_lossy();
    let with_certificate = |password| {
        [
            ("LAKE_AUTH", "client-certificate"),
            ("AZURE_CLIENT_ID", "signer"),
            ("AZURE_CLIENT_CERTIFICATE_PATH", certificate.as_ref()),
            ("AZURE_CLIENT_CERTIFICATE_PASSWORD", password),
        ]
    };
    let asked = ground.gets_in(&with_certificate(CERTIFICATE_PASSWORD)).await?;
    ensure!(asked == [format!("signer assertion {scope}")], "{asked:?}");

    let endpoint = ground.entra.machine_endpoint();
    let machine = [
        ("LAKE_AUTH", "managed-identity"),
        ("IDENTITY_ENDPOINT", endpoint.as_str()),
        ("IDENTITY_HEADER", "h"),
    ];
    let asked = ground.gets_in(&machine).await?;
    ensure!(asked == ["system machine h"], "{asked:?}");
    let asked = ground.gets_in(&[&machine[..], &[("AZURE_CLIENT_ID", "assigned")]].concat()).await?;
    ensure!(asked == ["assigned machine h"], "{asked:?}");

    let path = format!("{}:{}", ground.entra.folder_with_az(Az::LoggedIn)?.display(), std::env::var("PATH")?);
    let asked = ground.gets_in(&[("LAKE_AUTH", "azure-cli"), ("PATH", &path)]).await?;
    ensure!(asked.is_empty(), "{asked:?}");

    ground.ends_with(77, "401 AADSTS7000215", &secret("refused")).await?;
    ground.ends_with(78, "LAKE_AUTH=client-certificate", &with_certificate("wrong")).await?;
    let path =
        format!("{}:{}", ground.entra.folder_with_az(Az::LoggedOut)?.display(), std::env::var("PATH")?);
    let logged_out = [("LAKE_AUTH", "azure-cli"), ("PATH", path.as_str())];
    ground.ends_with(77, "Please run 'az login'", &logged_out).await?;
    let lost = [
        ("LAKE_AUTH", "workload-identity"),
        ("AZURE_CLIENT_ID", "pod"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/nowhere"),
    ];
    ground.ends_with(78, "failed to read federated token from file /nowhere", &lost).await?;

    let arguments = ["verify", "--all", "--drained"];
    let environment = ground.environment(&secret("app"));
    let mut verify =
        Service::start_with(Binary::Sink, "verify", &arguments, environment, ground.pipeline.folder())?;
    let code = verify.exit_code(LIMIT).await?;
    let said = verify.log_text()?;
    ensure!(code == 0 && said.contains(&ground.sent.get().to_string()), "{code}\n{said}");
    Ok(())
}
