#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

fn settings(pairs: &[(&str, &str)]) -> Result<SinkSettings, SettingsError> {
    SinkSettings::read(sources(pairs)).map(|(settings, _)| settings)
}

#[test]
fn a_directory_needs_no_credential() {
    let settings = settings(&[("LAKE_URL", "file:///lake"), ("KAFKA_BROKERS", "127.0.0.1:9092")]).unwrap();
    assert_eq!(settings.lake, LakeTarget::Directory("/lake".into()));
    assert!(settings.auth.is_none());
    assert_eq!(settings.files.bytes, Some(128 << 20));
    assert_eq!(settings.flush.interval, Duration::from_secs(5));
}

#[test]
fn all_mistakes_come_at_once() {
    let error = settings(&[
        ("LAKE_URL", "s3://bucket"),
        ("FLUSH_INTERVAL", "5"),
        ("MEMORY_LIMIT", "1MiB"),
        ("START_AT", "latest"),
        ("SINK_TOPICS", "other.topic"),
    ])
    .unwrap_err();
    let mut names: Vec<&str> = error.mistakes.iter().map(|mistake| mistake.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["FLUSH_INTERVAL", "KAFKA_BROKERS", "LAKE_URL", "MEMORY_LIMIT", "SINK_TOPICS", "START_AT"]
    );
}

#[test]
fn a_topic_that_no_sink_reads_is_refused() {
    let given = |value| settings(&[("LAKE_URL", "file:///lake"), AZURE[1], ("SINK_TOPICS", value)]);
    let error = given("atlas.shop.orders,atlas.dlq").unwrap_err().to_string();
    assert!(error.contains("expected names of data topics"), "{error}");
    assert!(given("atlas.shop.orders,atlas.*").is_ok() && given("atlas.control").is_ok());
    // Where the broker assigns: what nothing subscribes to need not be left out.
    let excluded = |value| {
        let protocol = ("KAFKA_GROUP_PROTOCOL", "consumer");
        settings(&[("LAKE_URL", "file:///lake"), AZURE[1], protocol, ("SINK_EXCLUDE", value)])
    };
    assert!(!excluded("atlas.control").unwrap().topics.takes("atlas.control"));
    assert!(excluded("atlas.shop.orders").is_err());
}

#[test]
fn two_credentials_need_a_choice() {
    let azure = [
        ("LAKE_URL", "abfss://lake@account.dfs.core.windows.net/base"),
        ("KAFKA_BROKERS", "127.0.0.1:9092"),
        ("ADLS_SAS", "?sv=1&sig=verysecret"),
        ("ADLS_SHARED_KEY", "c2VjcmV0"),
    ];
    let text = settings(&azure).unwrap_err().to_string();
    assert!(
        text.contains("LAKE_AUTH") && !text.contains("verysecret") && !text.contains("c2VjcmV0"),
        "{text}"
    );
    let chosen = [&azure[..], &[("LAKE_AUTH", "shared-key")]].concat();
    assert!(matches!(settings(&chosen).unwrap().auth, Some(LakeAuth::SharedKey(_))));
}

const PLANTED: &str = "geheim";
const AZURE: [(&str, &str); 2] =
    [("LAKE_URL", "abfss://lake@account.dfs.core.windows.net/base"), ("KAFKA_BROKERS", "127.0.0.1:9092")];

fn sources(pairs: &[(&str, &str)]) -> Sources {
    let environment = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { environment, ..Sources::default() }
}

/// Valid and invalid values; each holds the secret where one can be by intent or by mistake.
#[test]
fn no_setting_shows_a_secret() {
    for (name, value) in [
        ("LAKE_URL", "https://account.blob.core.windows.net/lake?sig=geheim"),
        ("LAKE_URL", "https://account.blob.core.windows.net/lake?sig=ge@geheim"),
        ("LAKE_URL", "https://u:geheim@account.blob.core.windows.net/lake"),
        ("LAKE_URL", "https://geheim@account.blob.core.windows.net/lake"),
        ("LAKE_URL", "abfss://lake:geheim@account.dfs.core.windows.net/lake"),
        ("LAKE_URL", "s3://u:geheim@bucket#geheim"),
        ("LAKE_URL", "sv=1&sig=geheim"),
        ("LAKE_ENDPOINT", "http://u:geheim@127.0.0.1:1/account"),
        ("LAKE_ENDPOINT", "http://127.0.0.1:1/account?sig=geheim"),
        ("LAKE_ENDPOINT", "ftp://u:geheim@127.0.0.1"),
        ("ADLS_SAS", "?sv=1&sig=geheim"),
        ("ADLS_SAS", "geheim"),
        ("ADLS_SAS_FILE", "sig=geheim"),
        ("ADLS_SHARED_KEY", "geheimgeheim"),
        ("ADLS_SHARED_KEY", "geheim!"),
        ("ADLS_SHARED_KEY_FILE", "geheim=="),
        ("AZURE_CLIENT_SECRET", "geheim"),
        ("AZURE_CLIENT_CERTIFICATE_PASSWORD", "geheim"),
        ("AZURE_AUTHORITY_HOST", "https://u:geheim@127.0.0.1"),
        ("AZURE_AUTHORITY_HOST", "http://127.0.0.1/?x=geheim"),
        ("KAFKA_SASL_PASSWORD", "geheim"),
        ("KAFKA_SASL_PASSWORD_FILE", "geheim"),
        ("KAFKA_PASSWORD", "geheim"),
        ("KAFKA_SSL_CA", "-----BEGIN CERTIFICATE-----geheim"),
        ("KAFKA_SSL_CERT", "-----BEGIN CERTIFICATE-----geheim"),
        ("KAFKA_SSL_KEY", "-----BEGIN PRIVATE KEY-----geheim"),
        ("KAFKA_OPTIONS", "sasl.password=geheim"),
        ("KAFKA_OPTIONS", "sasl.password=a,geheim,geheim=,geheim=="),
        ("KAFKA_OPTIONS", "linger.ms=geheim,nonsense.ms=geheim"),
        ("KAFKA_OPTIONS", "sasl.oauthbearer.config=geheim,client.rack=geheim"),
    ] {
        for auth in ["sas", "shared-key", "client-secret", "client-certificate"] {
            let values = [&AZURE[..], &[("LAKE_AUTH", auth), (name, value)]].concat();
            let (effective, error) = effective(sources(&values));
            let shown = format!("{effective}{}{effective:?}{error:?}", effective.to_json());
            let mistakes = error.map(|error| error.to_string()).unwrap_or_default();
            assert!(!shown.contains(PLANTED) && !mistakes.contains(PLANTED), "{name}: {shown} {mistakes}");
            if let Ok(settings) = settings(&values) {
                assert!(!format!("{settings:?}").contains(PLANTED), "{name}");
            }
        }
    }
}

#[test]
fn a_mistake_stands_under_its_own_name_and_once() {
    let line = |pairs: &[(&str, &str)]| {
        let pairs = [&AZURE[..], &[("LAKE_AUTH", "shared-key"), ("ADLS_SHARED_KEY", "a2V5")], pairs].concat();
        settings(&pairs).unwrap_err().to_string()
    };
    let expects = LAKE_URL.expects;
    assert_eq!(
        line(&[("LAKE_URL", "s3://x")]),
        format!(
            "1 mistake in the settings:\nLAKE_URL=\"s3://x\": expected {expects}; its scheme is not known"
        )
    );
    assert!(line(&[("LAKE_ENDPOINT", "ftp://h")]).contains("\nLAKE_ENDPOINT=\"ftp://h\": expected the Blob"));
    assert!(line(&[("ADMIN_ADDR", "x")]).contains("127.0.0.1:9465"));
    assert!(line(&[("ADLS_SHARED_KEY", "no base64!")]).contains("\nADLS_SHARED_KEY=\"***\": expected"));
    assert!(line(&[("ADLS_SAS", "sv=1&sp=r")]).contains("\nADLS_SAS=\"***\": expected"));
}

#[test]
fn versions_are_allowed_by_a_clear_word_only() {
    let given = |value| settings(&[("LAKE_URL", "file:///lake"), AZURE[1], ("ALLOW_VERSIONED", value)]);
    assert!(!given("").unwrap().account_use().versions_allowed);
    assert!(given("true").unwrap().account_use().versions_allowed);
    assert!(given("ture").unwrap_err().to_string().contains("ALLOW_VERSIONED"));
}

#[test]
fn each_way_in_says_what_it_lacks_and_nothing_else() {
    let missing = |mode: &str, given: &[(&str, &str)]| -> Vec<String> {
        let pairs = [&AZURE[..], &[("LAKE_AUTH", mode)], given].concat();
        let error = settings(&pairs).err();
        error.into_iter().flat_map(|error| error.mistakes).map(|mistake| mistake.name).collect()
    };
    let both = [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")];
    let names = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"];
    assert_eq!(missing("workload-identity", &[]), [&names[..], &["AZURE_FEDERATED_TOKEN_FILE"]].concat());
    assert_eq!(missing("client-secret", &[]), [&names[..], &["AZURE_CLIENT_SECRET"]].concat());
    assert_eq!(missing("client-secret", &both), ["AZURE_CLIENT_SECRET"]);
    assert_eq!(missing("client-certificate", &both), ["AZURE_CLIENT_CERTIFICATE_PATH"]);
    for mode in ["managed-identity", "azure-cli"] {
        assert!(missing(mode, &[]).is_empty(), "{mode}");
        assert_eq!(missing(mode, &[("AZURE_AUTHORITY_HOST", "http://a")]), ["AZURE_AUTHORITY_HOST"]);
    }
    assert_eq!(missing("", &[]), ["LAKE_AUTH"]);
}
