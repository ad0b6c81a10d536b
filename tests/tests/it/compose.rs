//! `docker-compose.yml`, without an engine: what can be known of it is known, and the services start with its environment.
//!
//! Docker Compose itself reads the file in `make check-compose`. Here: names, ports, images, conditions and health checks
//! fit to each other and to the services; and the very environment that the file gives to the two services, with nothing
//! but host names and ports changed, brings both up on real servers.

mod file;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use mongodb::bson::doc;
use pipeline_tests::{
    http, paths,
    process::Process,
    servers::{Azurite, AzuriteStorage, Kafka, KafkaJava, KafkaOptions, Mongod, MongodOptions},
    service::{Binary, Environment, Service},
    wait,
};

use file::{Compose, default_of, variables_in};

const SERVICES: [(&str, Binary); 2] = [("source-service", Binary::Source), ("sink-service", Binary::Sink)];

fn read(path: &str) -> Result<String> {
    let path = paths::repository().join(path);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// The names that a service knows, as it prints them itself.
fn settings_of(binary: Binary) -> Result<BTreeSet<String>> {
    let output = Command::new(binary.path()?).args(["config", "example"]).env_clear().output();
    let output = output.context("run config example")?;
    ensure!(output.status.success(), "config example: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).context("config example prints no text")?;
    let names = text.lines().filter_map(|line| line.trim_start_matches('#').split_once('='));
    let is_name = |name: &&str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit())
    };
    Ok(names.map(|(name, _)| name).filter(is_name).map(str::to_owned).collect())
}

#[test]
fn every_variable_is_a_setting_of_its_service() -> Result<()> {
    let compose = Compose::read()?;
    for (name, binary) in SERVICES {
        let known = settings_of(binary)?;
        assert!(known.len() > 10 && known.contains("KAFKA_BROKERS"), "{name} prints {known:?}");
        let unknown: Vec<String> = compose
            .service(name)?
            .environment()
            .into_keys()
            .filter(|variable| !known.contains(variable))
            .collect();
        assert!(unknown.is_empty(), "{name} does not know {unknown:?}");
    }
    Ok(())
}

#[test]
fn the_example_of_env_lists_what_compose_reads_with_its_defaults() -> Result<()> {
    let (compose, example) = (read("docker-compose.yml")?, read(".env.example")?);
    let lines = example.lines().filter_map(|line| line.strip_prefix('#').unwrap_or(line).split_once('='));
    let listed: BTreeSet<(String, String)> = lines
        .filter(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let read: BTreeSet<(String, String)> = variables_in(&compose).into_iter().collect();
    assert_eq!(listed, read, ".env.example against docker-compose.yml");
    Ok(())
}

#[test]
fn ports_are_published_on_loopback_only_and_each_once() -> Result<()> {
    let mut seen = BTreeSet::new();
    for service in Compose::read()?.services()? {
        for port in service.ports() {
            let [address, host, container] = port.split(':').collect::<Vec<_>>()[..] else {
                bail!("{}: {port} is not address:port:port", service.name());
            };
            assert_eq!(address, "127.0.0.1", "{}: {port}", service.name());
            assert!(seen.insert(host.to_owned()), "{}: {host} is published twice", service.name());
            container.parse::<u16>().with_context(|| format!("{}: {port}", service.name()))?;
        }
        assert!(!service.has("network_mode") && !service.has("privileged"), "{}", service.name());
    }
    assert!(seen.len() >= 8, "{seen:?}");
    Ok(())
}

#[test]
fn images_are_pinned_and_are_the_versions_that_the_tests_run() -> Result<()> {
    let compose = Compose::read()?;
    for service in compose.services()? {
        let image = service.image();
        let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
        assert!(tag.bytes().any(|b| b.is_ascii_digit()) && tag.contains('.'), "{image} has no exact version");
    }
    let dockerfile = read("Dockerfile")?;
    let stages: Vec<&str> = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
    let outside: Vec<&str> = stages.iter().filter(|stage| stage.contains(':')).copied().collect();
    let [build, base] = outside[..] else { bail!("two images from outside are expected: {stages:?}") };
    let toolchain = read("rust-toolchain.toml")?;
    let version = toolchain.split('"').nth(1).context("rust-toolchain.toml names a channel")?;
    assert!(build.starts_with(&format!("rust:{version}-")), "{build} against {version}");
    assert!(base.contains("distroless/cc-") && base.contains("@sha256:"), "{base}");

    let pom = read("tests/servers/pom.xml")?;
    let kafka = pom.split("<kafka.version>").nth(1).and_then(|rest| rest.split('<').next());
    assert_eq!(Some(compose.service("kafka")?.image()), kafka.map(|v| format!("apache/kafka:{v}")));
    let package: serde_json::Value = serde_json::from_str(&read("tests/servers/package.json")?)?;
    let azurite = package["dependencies"]["azurite"].as_str().context("package.json names azurite")?;
    assert_eq!(
        compose.service("azurite")?.image(),
        format!("mcr.microsoft.com/azure-storage/azurite:{azurite}")
    );
    Ok(())
}

/// `.dockerignore` is an allow-list: a member of the workspace that it leaves out would end the build at its first line.
#[test]
fn the_build_context_holds_every_member_of_the_workspace() -> Result<()> {
    let (ignored, manifest) = (read(".dockerignore")?, read("Cargo.toml")?);
    let allowed: BTreeSet<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let members =
        manifest.lines().find_map(|line| line.strip_prefix("members = ")).context("members on one line")?;
    for member in members.split('"').skip(1).step_by(2).chain(["Cargo.toml", "Cargo.lock"]) {
        let covered = allowed.iter().any(|path| Path::new(member).starts_with(path));
        assert!(covered, "{member} is not in the build context: {allowed:?}");
    }
    Ok(())
}

#[test]
fn whoever_waits_waits_for_something_that_comes() -> Result<()> {
    let compose = Compose::read()?;
    let mut one_shots = BTreeSet::new();
    for service in compose.services()? {
        for (other, condition) in service.depends_on() {
            let waited_for = compose.service(&other).with_context(|| format!("{} waits", service.name()))?;
            match condition.as_str() {
                "service_healthy" => assert!(waited_for.has("healthcheck"), "{other} has no health check"),
                "service_completed_successfully" => {
                    assert!(
                        !waited_for.has("healthcheck") && !waited_for.has("ports"),
                        "{other} is no one-shot"
                    );
                    one_shots.insert(other);
                }
                "service_started" => {}
                condition => bail!("{} waits for {other} without a condition: {condition:?}", service.name()),
            }
        }
    }
    assert_eq!(one_shots, BTreeSet::from(["kafka-topics".to_owned(), "mongodb-init".to_owned()]));
    // Whatever stays up says whether it is well, and comes back.
    for service in compose.services()?.filter(|service| !one_shots.contains(service.name())) {
        assert!(service.has("healthcheck") && service.has("restart"), "{}", service.name());
    }
    Ok(())
}

#[test]
fn every_mounted_file_and_volume_exists() -> Result<()> {
    let compose = Compose::read()?;
    for service in compose.services()? {
        for volume in service.volumes() {
            let (source, _) = volume.split_once(':').with_context(|| format!("{volume} has no target"))?;
            match source.strip_prefix("./") {
                Some(file) => {
                    assert!(paths::repository().join(file).exists(), "{}: {source}", service.name())
                }
                None => assert!(
                    compose.volumes().contains(source),
                    "{}: {source} is not declared",
                    service.name()
                ),
            }
        }
    }
    Ok(())
}

#[test]
fn the_health_checks_ask_the_admin_port_for_readiness() -> Result<()> {
    let compose = Compose::read()?;
    for (name, _) in SERVICES {
        let service = compose.service(name)?;
        let address = service.environment().remove("ADMIN_ADDR").context("ADMIN_ADDR is set")?;
        let port = address.strip_prefix("0.0.0.0:").context("the admin port serves the compose network")?;
        assert!(service.ports().iter().all(|published| published.ends_with(&format!(":{port}"))), "{name}");
        let check = service.health_check();
        assert_eq!(check[0], "CMD", "{name}: there is no shell in the image");
        assert_eq!(
            check[1..],
            ["/usr/local/bin/probe".to_owned(), format!("http://127.0.0.1:{port}/readyz")]
        );
    }
    Ok(())
}

/// `kafka-topics.sh` of the broker that the tests have fetched.
fn kafka_topics_tool(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("kafka-topics.sh");
    KafkaJava::tool("org.apache.kafka.tools.TopicCommand", &path)?;
    Ok(path)
}

/// Goal: the file's own environment, with nothing but host names and ports changed, starts the pipeline natively.
/// Method: topics by the file's one-shot job, the services, the file's health checks, then one change all the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_environment_starts_the_services_natively() -> Result<()> {
    let compose = Compose::read()?;
    let (mongod, kafka, azurite) = tokio::try_join!(
        Mongod::start(MongodOptions::default()),
        Kafka::start(KafkaOptions::default()),
        Azurite::start(AzuriteStorage::Memory)
    )?;
    let folder = tempfile::tempdir().context("make a folder")?;
    let uri = mongod.uri();
    let mongod_address = uri.trim_start_matches("mongodb://").split('/').next().unwrap_or_default();
    let hosts = [
        ("mongodb:27017", mongod_address.to_owned()),
        ("kafka:19092", kafka.bootstrap()),
        ("azurite:10000", format!("127.0.0.1:{}", azurite.port())),
    ];
    let environment_of = |name: &str| -> Result<Vec<(String, String)>> {
        let environment = compose.service(name)?.environment().into_iter();
        let native = |value: String| {
            hosts.iter().fold(default_of(&value), |value, (inside, here)| {
                // A host stands at the start or behind a slash: `mongodb://mongodb:27017` has both.
                let value = value.replace(&format!("/{inside}"), &format!("/{here}"));
                if value == *inside { here.clone() } else { value }
            })
        };
        Ok(environment.map(|(name, value)| (name, native(value))).collect())
    };

    let mut topics = environment_of("kafka-topics")?;
    topics.push(("KAFKA_TOPICS".to_owned(), kafka_topics_tool(folder.path())?.display().to_string()));
    let script = paths::repository().join("kafka/create-topics.sh").display().to_string();
    // Twice: the second run finds everything there and changes nothing.
    for run in ["topics-1", "topics-2"] {
        let log = folder.path().join(format!("{run}.log"));
        let bash = Path::new("/bin/bash");
        let mut job = Process::start(run, bash, std::slice::from_ref(&script), &topics, folder.path(), &log)?;
        let status = job.wait_for_end(Duration::from_secs(120)).await?;
        ensure!(status.success(), "create-topics.sh: {status}\n{}", job.log_tail());
        for topic in ["atlas.control", "atlas.dlq", "atlas.resume-tokens-compose"] {
            assert!(job.log_tail().lines().any(|line| line == topic), "{topic}\n{}", job.log_tail());
        }
    }

    let mut started = Vec::new();
    for (name, binary) in SERVICES {
        let environment = Environment::new().with(environment_of(name)?);
        started.push((name, Service::start(binary, name, environment, folder.path())?));
    }
    let probe = paths::binaries()?.join("probe");
    for (name, service) in &mut started {
        service.wait_until_ready().await?;
        for path in ["/livez", "/readyz", "/metrics", "/status"] {
            assert_eq!(http::get(service.admin_port(), path)?.status, 200, "{name} {path}");
        }
        // The file's own check, as Docker would run it, but for the port.
        let check = compose.service(name)?.health_check();
        let url = check[2].replace(
            check[2].trim_start_matches("http://127.0.0.1:").split('/').next().unwrap_or_default(),
            &service.admin_port().to_string(),
        );
        let asked = Command::new(&probe).arg(&url).output();
        let asked = asked.with_context(|| format!("run {}", probe.display()))?;
        assert!(asked.status.success(), "{name} {url}: {}", String::from_utf8_lossy(&asked.stdout));
    }

    // The script's topics are what the source would have made: it has nothing to say about them.
    let log = started[0].1.log_text()?;
    let objections: Vec<&str> =
        log.lines().filter(|line| line.contains("WARN") && line.contains("topic")).collect();
    assert!(objections.is_empty(), "{objections:#?}");

    let orders = mongod.client().await?.database("shop").collection("orders");
    orders.insert_one(doc! { "_id": 1, "what": "a change that goes all the way" }).await?;
    let sink = &started[1].1;
    wait::until("the change is in the lake", Duration::from_secs(60), || async {
        let created = sink.metrics()?.sum("cdc_sink_files_created_total");
        Ok(created.filter(|files| *files >= 1.0))
    })
    .await?;
    for (_, service) in &mut started {
        service.stop(Duration::from_secs(40)).await?;
    }
    Ok(())
}
