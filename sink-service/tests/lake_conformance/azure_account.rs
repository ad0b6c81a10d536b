//! What an account says of itself, and what a start makes of it. Azurite has neither versions nor policies, and does not say whether its
//! namespace is hierarchical: these answers are a stand-in's, the proxy's. Soft delete is Azurite's own.

use std::time::Duration;

use azure_storage_blob::{
    BlobServiceClient,
    models::{BlobServiceProperties, RetentionPolicy},
};
use pipeline_tests::{
    servers::azurite::{ACCOUNT, ACCOUNT_KEY},
    service::{Binary, Environment, Service},
};
use sink_service::lake::{AccountFacts, Answer};

use crate::{
    azure_credentials::signature,
    facts::{create, path},
    proxy::{self, Added},
    sink,
    target::{Ground, Target},
};

const FLAT: Added = Added { to: "restype=account", header: "x-ms-is-hns-enabled: false" };
const HIERARCHICAL: Added = Added { to: "restype=account", header: "x-ms-is-hns-enabled: true" };
const VERSION: Added = Added { to: "_chain", header: "x-ms-version-id: 2026-11-20T00:00:00.0000000Z" };
const FILE: Added = Added { to: "_chain", header: "x-ms-resource-type: file" };
const POLICY: Added = Added { to: "restype=container", header: "x-ms-has-immutability-policy: true" };
const HOLD: Added = Added { to: "restype=container", header: "x-ms-has-legal-hold: true" };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_known_by_its_answers() {
    let target = Target::azurite().await;
    let ground = target.ground();
    let lake = ground.prepared().await;
    let bare = lake.account().await.unwrap();
    assert_eq!(bare.kind, Answer::Known("StorageV2".to_owned()));
    assert_eq!(bare.immutable, Answer::Known(None));
    assert!(matches!(bare.hierarchical, Answer::Unknown(_)), "{bare:?}");
    // Nothing has been written yet that could have a version.
    assert!(matches!(bare.versions, Answer::Unknown(_)), "{bare:?}");

    lake.create_document(&path("_chain/atlas.shop.orders/p0.json"), b"{}".to_vec()).await.unwrap();
    create(&lake, &path("shop/orders/a.jsonl"), &["1\n"]).await.unwrap();
    assert_eq!(lake.account().await.unwrap().versions, Answer::Known(false));
    let seen = facts(&target, &ground, &[FLAT, VERSION]).await;
    assert_eq!((&seen.hierarchical, &seen.versions), (&Answer::Known(false), &Answer::Known(true)));
    assert_eq!(seen.keeps_what_is_replaced(), Some("blob versioning"));
    let seen = facts(&target, &ground, &[HIERARCHICAL]).await;
    assert_eq!((&seen.hierarchical, &seen.versions), (&Answer::Known(true), &Answer::Known(false)));
    // Who may not ask for the account sees it in a blob.
    assert_eq!(facts(&target, &ground, &[FILE]).await.hierarchical, Answer::Known(true));
    assert_eq!(
        facts(&target, &ground, &[POLICY]).await.immutable,
        Answer::Known(Some("an immutability policy"))
    );
    assert_eq!(facts(&target, &ground, &[HOLD]).await.immutable, Answer::Known(Some("a legal hold")));

    soft_delete_on(&target).await;
    let seen = facts(&target, &ground, &[]).await;
    assert_eq!(seen.soft_delete, Answer::Known(true));
    assert_eq!(seen.keeps_what_is_replaced(), None, "nobody says that the namespace is flat");
    assert_eq!(
        facts(&target, &ground, &[FLAT]).await.keeps_what_is_replaced(),
        Some("soft delete for blobs")
    );

    let nobody = ground.through(pipeline_tests::ports::free_port().unwrap()).open().account().await.unwrap();
    assert!(matches!(nobody.immutable, Answer::Unknown(_)), "{nobody:?}");
}

async fn facts(target: &Target, ground: &Ground, added: &[Added]) -> AccountFacts {
    let port = proxy::start_with(target.azurite_port(), Vec::new(), added.to_vec()).await;
    ground.through(port).open().account().await.unwrap()
}

async fn soft_delete_on(target: &Target) {
    let url = format!("http://127.0.0.1:{}/{ACCOUNT}?{}", target.azurite_port(), signature("rw"));
    let service = BlobServiceClient::new(url.parse().unwrap(), None, None).unwrap();
    let policy = RetentionPolicy { enabled: Some(true), days: Some(7), ..Default::default() };
    let properties = BlobServiceProperties { delete_retention_policy: Some(policy), ..Default::default() };
    service.set_properties(properties.try_into().unwrap(), None).await.unwrap();
}

/// Goal: `run` refuses what `check` calls missing. Method: the real sink, in front of whose account the proxy stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_into_an_account_that_does_not_fit_is_refused() {
    let target = Target::azurite().await;
    let ground = target.ground();
    let lake = ground.prepared().await;
    lake.create_document(&path("_chain/atlas.shop.other/p0.json"), b"{}".to_vec()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let brokers = sink::brokers().await;
    let environment = async |added: &[Added]| {
        let port = proxy::start_with(target.azurite_port(), Vec::new(), added.to_vec()).await;
        Environment::new()
            .set("KAFKA_BROKERS", &brokers)
            .set("TOPIC_PREFIX", "account")
            .set("LAKE_URL", ground.url())
            .set("LAKE_ENDPOINT", format!("http://127.0.0.1:{port}/{ACCOUNT}"))
            .set("LAKE_AUTH", "shared-key")
            .set("ADLS_SHARED_KEY", ACCOUNT_KEY)
    };
    let limit = Duration::from_secs(60);
    let ends = async |name: &str, arguments: &[&str], environment: Environment| {
        let mut service =
            Service::start_with(Binary::Sink, name, arguments, environment, folder.path()).unwrap();
        let code = service.exit_code(limit).await.unwrap();
        (code, service.log_text().unwrap())
    };
    for (name, added, says) in [
        ("versions", &[FLAT, VERSION][..], "ALLOW_VERSIONED=true"),
        ("policy", &[HIERARCHICAL, POLICY][..], "an immutability policy"),
    ] {
        let (code, log) = ends(&format!("check-{name}"), &["check"], environment(added).await).await;
        assert!(code == 78 && log.contains(says), "{code}\n{log}");
        let mut service =
            Service::start(Binary::Sink, name, environment(added).await, folder.path()).unwrap();
        let code = service.exit_code(limit).await.unwrap();
        let log = service.log_text().unwrap();
        assert!(code == 78 && log.contains(says), "{code}\n{log}");
    }
    // What the operator wants, and what does no harm.
    for (name, setting) in [("allowed", ("ALLOW_VERSIONED", "true")), ("sealed", ("PUBLISH", "sealed"))] {
        let environment = environment(&[FLAT, VERSION]).await.set(setting.0, setting.1);
        let mut service = Service::start(Binary::Sink, name, environment, folder.path()).unwrap();
        service.wait_until_ready().await.unwrap();
        service.stop(limit).await.unwrap();
    }
}
