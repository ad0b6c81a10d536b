//! How both services connect to Kafka: settings → librdkafka configuration, the check at start, the log.
//!
//! librdkafka connects in the background and reports what is wrong only through the error callback; a request
//! for metadata just times out. [`connect_check`] therefore listens to both, and ends with the exit code that
//! fits: nobody answers (69), not let in (77), TLS set up wrongly (78).
//!
//! `KAFKA_OPTIONS` passes anything else through, except what a promise rests on ([`refusal`]).

mod options;
mod settings;
mod table;

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};

pub use options::refusal;
pub use settings::{KafkaSettings, SaslMechanism, SecurityProtocol};
pub use table::{
    KAFKA_BROKERS, KAFKA_OLD_NAMES, KAFKA_OPTIONS, KAFKA_SASL_MECHANISM, KAFKA_SASL_PASSWORD,
    KAFKA_SASL_USERNAME, KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA, KAFKA_SSL_CERT, KAFKA_SSL_KEY,
};

use crate::exit::{ExitCode, Stop};

/// For `ClientContext::log`: a line of librdkafka's becomes an event of target `librdkafka`.
///
/// Its "error" is a lost connection as a rule, which it heals by itself: a warning with us, where an error
/// means that somebody must act.
pub fn forward_log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, detail = message, "kafka client");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::warn!(target: "librdkafka", facility, detail = message, "kafka client");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", facility, detail = message, "kafka client");
        }
        RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "librdkafka", facility, detail = message, "kafka client");
        }
    }
}

/// For `ClientContext::error`: what the client reports about its connections. It goes on by itself.
///
/// That all brokers are down is said with each attempt of each client, many times a second, and only sums up what was reported of single
/// connections before.
pub fn forward_error(error: &KafkaError, reason: &str) {
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
        tracing::debug!(target: "librdkafka", detail = reason, "no broker is connected");
        return;
    }
    tracing::warn!(target: "librdkafka", error = %error, detail = reason, "kafka client reports an error");
}

/// The code of an error, those of admin requests included, which rdkafka's own function leaves out (0.39).
#[must_use]
pub fn error_code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// A context for clients that need nothing but the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForwardLogs;

impl ClientContext for ForwardLogs {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        forward_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        forward_error(&error, reason);
    }
}

impl rdkafka::consumer::ConsumerContext for ForwardLogs {}

/// The exit code for an error of the error callback while the first connection is made.
///
/// The code decides where it can. Two TLS mistakes are reported as `_TRANSPORT` like a refused connection, and
/// only the text tells them apart (seen on librdkafka 2.16; asking texts is the exception here, not the rule).
#[must_use]
pub fn classify_connect_error(code: RDKafkaErrorCode, text: &str) -> ExitCode {
    match code {
        RDKafkaErrorCode::Authentication
        | RDKafkaErrorCode::SaslAuthenticationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed
        | RDKafkaErrorCode::TopicAuthorizationFailed => ExitCode::NotAllowed,
        RDKafkaErrorCode::SSL
        | RDKafkaErrorCode::UnsupportedSASLMechanism
        | RDKafkaErrorCode::UnsupportedFeature => ExitCode::Configuration,
        RDKafkaErrorCode::BrokerTransportFailure
            if ["alert bad certificate", "certificate required", "PLAINTEXT broker listener"]
                .iter()
                .any(|mistake| text.contains(mistake)) =>
        {
            ExitCode::Configuration
        }
        _ => ExitCode::Unreachable,
    }
}

/// One broker as the cluster names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub id: i32,
    pub host: String,
    pub port: i32,
}

/// After a mistake in rights or TLS was reported, another broker still has this long to answer.
const SECOND_OPINION: Duration = Duration::from_secs(2);
const SLICE: Duration = Duration::from_millis(250);
/// A broker that says nothing at all is not spoken of before this; TLS and SASL take their time.
const SILENCE: Duration = Duration::from_secs(2);
/// How often a wait for Kafka is spoken of.
const WAIT_TOLD_EVERY: Duration = Duration::from_secs(10);

/// Connects and asks for the brokers, at most `timeout`. Blocks: not for a runtime worker.
///
/// # Errors
/// 69, 77 or 78 with what the client reported, and what to look at.
pub fn connect_check(settings: &KafkaSettings, timeout: Duration) -> Result<Vec<Broker>, Stop> {
    first_contact(settings, timeout, &mut |_| {})
}

/// How long Kafka may take to answer for the first time.
pub const FIRST_CONTACT_LIMIT: Duration = Duration::from_secs(60);

/// [`connect_check`] of a service: `on_wait` gets a sentence for people at the first failed attempt, and every
/// ten seconds after it; the log gets it too.
///
/// # Errors
/// Those of [`connect_check`].
pub fn first_contact(
    settings: &KafkaSettings,
    timeout: Duration,
    on_wait: &mut dyn FnMut(&str),
) -> Result<Vec<Broker>, Stop> {
    let (sender, reports) = sync_channel(64);
    let mut config = settings.client_config("atlas-connect-check");
    // Statistics and topic traffic are not wanted from a client that lives for a second.
    config.set("topic.metadata.refresh.interval.ms", "-1");
    let client: BaseProducer<Reports> =
        config.create_with_context(Reports(sender)).map_err(|error| settings.cannot_create(&error))?;
    let begun = Instant::now();
    let deadline = begun + timeout;
    let mut worst: Option<Report> = None;
    let mut told: Option<Instant> = None;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        match client.client().fetch_metadata(None, SLICE.min(remaining)) {
            Ok(metadata) => {
                let broker = |broker: &rdkafka::metadata::MetadataBroker| Broker {
                    id: broker.id(),
                    host: broker.host().to_owned(),
                    port: broker.port(),
                };
                return Ok(metadata.brokers().iter().map(broker).collect());
            }
            Err(error) => tracing::debug!(%error, "no metadata yet"),
        }
        // The callback runs inside this call, on this thread.
        client.poll(Duration::ZERO);
        worst = worse(worst, &reports);
        let given_up = worst.as_ref().is_some_and(|report| {
            report.exit_code() != ExitCode::Unreachable && report.seen.elapsed() > SECOND_OPINION
        });
        if given_up || Instant::now() >= deadline {
            return Err(settings.cannot_connect(worst.as_ref()));
        }
        let due = match told {
            None => worst.is_some() || begun.elapsed() > SILENCE,
            Some(told) => told.elapsed() > WAIT_TOLD_EVERY,
        };
        if due {
            told = Some(Instant::now());
            let cause = what_was_seen(worst.as_ref());
            let waited = Duration::from_secs(begun.elapsed().as_secs());
            tracing::warn!(brokers = settings.bootstrap(), cause, ?waited, "Kafka does not answer yet");
            on_wait(&format!("Kafka does not answer yet: {cause}"));
        }
    }
}

/// What the client reported, for people.
fn what_was_seen(report: Option<&Report>) -> &str {
    match report {
        None => "no answer",
        // Its text counts brokers that are "down", which says less.
        Some(report) if report.code == RDKafkaErrorCode::AllBrokersDown => "closed without a reason",
        Some(report) => report.text.as_str(),
    }
}

/// What the error callback said.
#[derive(Clone, Debug)]
struct Report {
    code: RDKafkaErrorCode,
    text: String,
    seen: Instant,
}

impl Report {
    fn exit_code(&self) -> ExitCode {
        classify_connect_error(self.code, &self.text)
    }

    /// The more it explains, the higher: "all brokers are down" only says that there was another error.
    fn rank(&self) -> u8 {
        match (self.exit_code(), self.code) {
            (ExitCode::NotAllowed, _) => 3,
            (ExitCode::Configuration, _) => 2,
            (_, RDKafkaErrorCode::AllBrokersDown) => 0,
            _ => 1,
        }
    }
}

fn worse(worst: Option<Report>, reports: &Receiver<Report>) -> Option<Report> {
    // The first of one rank stays: its time is when the second opinion begins.
    reports.try_iter().fold(worst, |worst, report| match worst {
        Some(worst) if worst.rank() >= report.rank() => Some(worst),
        _ => Some(report),
    })
}

impl KafkaSettings {
    fn cannot_create(&self, error: &KafkaError) -> Stop {
        Stop::new(
            ExitCode::Configuration,
            format!("the Kafka client refuses its configuration: {error}; see KAFKA_SSL_* and KAFKA_OPTIONS"),
        )
    }

    fn cannot_connect(&self, report: Option<&Report>) -> Stop {
        let brokers = self.bootstrap();
        let protocol = self.protocol();
        let seen = what_was_seen(report);
        let code = report.map_or(ExitCode::Unreachable, Report::exit_code);
        let advice = match code {
            ExitCode::NotAllowed => {
                "check KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD".to_owned()
            }
            ExitCode::Configuration => {
                "check KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA, KAFKA_SSL_CERT and KAFKA_SSL_KEY".to_owned()
            }
            // A plain client at a TLS or SASL listener is just cut off, without any reason.
            _ => format!(
                "check KAFKA_BROKERS and the network; a listener that wants TLS or SASL also looks like this \
                 to KAFKA_SECURITY_PROTOCOL={protocol}"
            ),
        };
        Stop::new(code, format!("cannot connect to Kafka at {brokers} ({protocol}): {seen}; {advice}"))
    }
}

/// Passes the error callback's reports on to the thread that polls. What does not fit into the bounded channel
/// repeats what is in it.
struct Reports(SyncSender<Report>);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", ?level, facility, detail = message, "kafka client");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error_code(&error).unwrap_or(RDKafkaErrorCode::Fail);
        match self.0.try_send(Report { code, text: reason.to_owned(), seen: Instant::now() }) {
            Ok(()) => {}
            Err(TrySendError::Full(report) | TrySendError::Disconnected(report)) => {
                tracing::debug!(?report, "report dropped");
            }
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, _result: &DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::settings::{Reader, Sources};

    /// What librdkafka reports for each mistake, as seen on a real broker.
    #[test]
    fn each_mistake_at_the_first_connection_has_its_exit_code() {
        use RDKafkaErrorCode::{AllBrokersDown, Authentication, BrokerTransportFailure, SSL};
        let table = [
            (Authentication, "SASL authentication error: Invalid username or password", ExitCode::NotAllowed),
            (SSL, "SSL handshake failed: certificate verify failed", ExitCode::Configuration),
            (BrokerTransportFailure, "ssl/tls alert bad certificate (SSL alert 42)", ExitCode::Configuration),
            (
                BrokerTransportFailure,
                "SSL handshake failed: connecting to a PLAINTEXT broker listener?",
                ExitCode::Configuration,
            ),
            (AllBrokersDown, "1/1 brokers are down", ExitCode::Unreachable),
            (
                BrokerTransportFailure,
                "Connect to ipv4#127.0.0.1:1 failed: Connection refused",
                ExitCode::Unreachable,
            ),
        ];
        for (code, text, expected) in table {
            assert_eq!(classify_connect_error(code, text), expected, "{code:?} {text}");
        }
    }

    #[test]
    fn the_report_that_explains_most_is_kept() {
        let (sender, reports) = sync_channel(8);
        let report = |code, text: &str| Report { code, text: text.into(), seen: Instant::now() };
        sender.send(report(RDKafkaErrorCode::AllBrokersDown, "down")).unwrap();
        sender.send(report(RDKafkaErrorCode::BrokerTransportFailure, "refused")).unwrap();
        sender.send(report(RDKafkaErrorCode::AllBrokersDown, "down")).unwrap();
        let worst = worse(None, &reports).unwrap();
        assert_eq!(worst.text, "refused");
        sender.send(report(RDKafkaErrorCode::Authentication, "wrong password")).unwrap();
        assert_eq!(worse(Some(worst), &reports).unwrap().exit_code(), ExitCode::NotAllowed);
    }

    #[test]
    fn nobody_listening_is_69_within_the_time_limit_and_names_the_brokers() {
        let environment = [("KAFKA_BROKERS".to_owned(), "127.0.0.1:1".to_owned())].into();
        let mut reader = Reader::new(table::TABLE, &[], Sources { environment, ..Sources::default() });
        let settings = KafkaSettings::read(&mut reader).unwrap();
        let started = Instant::now();
        let mut told = Vec::new();
        let stop =
            first_contact(&settings, Duration::from_millis(1500), &mut |text| told.push(text.to_owned()))
                .unwrap_err();
        assert!(matches!(told.as_slice(), [once] if once.contains("refused")), "{told:?}");
        assert_eq!(stop.code, ExitCode::Unreachable, "{stop}");
        assert!(stop.message.contains("127.0.0.1:1") && stop.message.contains("refused"), "{stop}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
