//! Credentials against the real checks of Azurite: what is granted works, what is not is named, and no text shows them.

use azure_core::{credentials, hmac::hmac_sha256};
use pipeline_tests::servers::azurite::{ACCOUNT, ACCOUNT_KEY};
use shared::settings::Secret;
use sink_service::lake::{LakeAuth, LakeError, Presence};

use crate::{
    facts::{append, content, create, path},
    target::Target,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite_accepts_what_is_granted_and_we_name_what_is_not() {
    let target = Target::azurite().await;
    a_signature_without_delete_is_enough_in_every_spelling(&target).await;
    missing_rights_are_named(&target).await;
    no_error_shows_a_credential(&target).await;
}

/// An account SAS, as the service's documentation builds it.
pub(crate) fn signature(rights: &str) -> String {
    let (version, expiry) = ("2021-10-04", "2099-01-01T00:00:00Z");
    let text = format!("{ACCOUNT}\n{rights}\nb\nsco\n\n{expiry}\n\n\n{version}\n\n");
    let signature = hmac_sha256(&text, &credentials::Secret::new(ACCOUNT_KEY)).unwrap();
    let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("sv={version}&ss=b&srt=sco&sp={rights}&se={expiry}&sig={signature}")
}

async fn a_signature_without_delete_is_enough_in_every_spelling(target: &Target) {
    let query = signature("rwlc");
    for sas in [
        query.clone(),
        format!("?{query}"),
        format!("&{query}"),
        format!("https://{ACCOUNT}.blob.core.windows.net/?{query}"),
    ] {
        let lake = target.ground().with(LakeAuth::Sas(Secret::new(sas))).prepared().await;
        let at = path("shop/orders/a.jsonl");
        let made = create(&lake, &at, &["1\n"]).await.unwrap();
        append(&lake, &at, &made, &["2\n"]).await.unwrap();
        assert_eq!(content(&lake, &at).await, "1\n2\n");
        assert_eq!(lake.list_files(&path("shop")).await.unwrap().len(), 1);
        let head = path("_chain/x/p0.json");
        let etag = lake.create_document(&head, b"{}".to_vec()).await.unwrap();
        lake.replace_document(&head, b"{}".to_vec(), &etag).await.unwrap();
    }
}

async fn missing_rights_are_named(target: &Target) {
    let ground = target.ground();
    ground.prepared().await;
    let blind = ground.with(LakeAuth::Sas(Secret::new(signature("rwc")))).open().prepare().await;
    let Err(LakeError::Denied { cause }) = blind else { panic!("{blind:?}") };
    assert!(cause.contains("403") && cause.contains("rights to list"), "{cause}");

    let reader = ground.with(LakeAuth::Sas(Secret::new(signature("rl")))).prepared().await;
    let denied = create(&reader, &path("shop/orders/a.jsonl"), &["1\n"]).await;
    assert!(matches!(denied, Err(LakeError::Denied { .. })), "{denied:?}");

    // Asked without writing.
    let writer = ground.open();
    assert_eq!(reader.probe().await.unwrap(), Presence::There);
    let creator = ground.with(LakeAuth::Sas(Secret::new(signature("rlc")))).open();
    for lake in [&reader, &creator] {
        let denied = lake.probe_write().await;
        assert!(matches!(denied, Err(LakeError::Denied { .. })), "{denied:?}");
    }
    writer.probe_write().await.unwrap();
    assert!(writer.list_names(&path("_chain")).await.unwrap().is_empty());

    let elsewhere = target.ground().with(LakeAuth::Sas(Secret::new(signature("rl")))).open().prepare().await;
    let Err(LakeError::Denied { cause }) = elsewhere else { panic!("{elsewhere:?}") };
    assert!(cause.contains("container is missing"), "{cause}");

    // A missing container is never taken for an empty lake.
    let lost = target.ground().open();
    let found = lost.file(&path("shop/orders/a.jsonl")).await;
    assert!(matches!(found, Err(LakeError::Refused { .. })), "{found:?}");
    let read = lost.read_document(&path("_chain/x/p0.json")).await;
    assert!(matches!(read, Err(LakeError::Refused { .. })), "{read:?}");
}

async fn no_error_shows_a_credential(target: &Target) {
    let planted = "cGxhbnRlZC1zZWNyZXQ=";
    let auths = [
        LakeAuth::SharedKey(Secret::new(planted)),
        LakeAuth::Sas(Secret::new(format!("sv=2021-10-04&ss=b&srt=sco&sp=rl&se=2099-01-01&sig={planted}"))),
    ];
    let nobody = pipeline_tests::ports::free_port().unwrap();
    for auth in auths {
        assert!(!format!("{auth:?}").contains(planted));
        let ground = target.ground().with(auth);
        for lake in [ground.open(), ground.through(nobody).open()] {
            let errors = [
                lake.prepare().await.unwrap_err(),
                lake.file(&path("a/b.jsonl")).await.map(drop).unwrap_err(),
                create(&lake, &path("a/b.jsonl"), &["1\n"]).await.unwrap_err(),
            ];
            for error in errors {
                let text = format!("{error} {error:?}");
                assert!(!text.contains("cGxhbnRlZC1") && !text.contains("sig="), "{text}");
            }
        }
    }
}
