//! What an answer of the Blob service, or the lack of one, means to the caller. The only place that decides it.
//!
//! The two kinds of doubt are kept apart by the request: a read or a staged block that got no answer has changed
//! nothing that anybody can see, so it is [`LakeError::Unavailable`]; a committing request is [`LakeError::Unknown`]
//! unless the service refused it in so many words. Codes:
//! <https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes>.

use std::time::Duration;

use azure_core::{
    error::ErrorKind,
    http::{RawResponse, headers::HeaderName},
};
use chrono::{DateTime, NaiveDateTime, Utc};

use crate::lake::LakeError;

/// What a request does if it is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Changes nothing.
    Read,
    /// Stores bytes that nobody sees before they are committed.
    Stage,
    /// Publishes: Put Block List, Put Blob, Create Container.
    Commit,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection: the request never left.
    NotSent,
    /// The service has asked for a pause, which has so much left: the request never left.
    Paused { left: Duration },
    /// There is no token to send it with, so it never left.
    NoToken { why: String, may_come: bool },
    /// Sent, but the answer broke off, cannot be read, or did not come in time.
    NoAnswer(&'static str),
    Answer {
        status: u16,
        /// `x-ms-error-code`; empty if the answer has none, as a proxy's.
        code: String,
        retry_after: Option<Duration>,
        request_id: String,
    },
}

impl Failure {
    /// Reduces an SDK error to what is certain about it. Its texts are dropped: they may hold the signed URL.
    pub(super) fn of(error: &azure_core::Error) -> Self {
        match error.kind() {
            ErrorKind::Credential => no_token(error),
            ErrorKind::Connection => Self::NotSent,
            ErrorKind::HttpResponse { status, raw_response, .. } => {
                let header = |name: &'static str| raw_response.as_deref().and_then(|raw| header(raw, name));
                Self::Answer {
                    status: u16::from(*status),
                    code: header("x-ms-error-code").unwrap_or_default(),
                    retry_after: retry_after(header),
                    request_id: header("x-ms-request-id").unwrap_or_default(),
                }
            }
            ErrorKind::Io => Self::NoAnswer("the connection broke"),
            ErrorKind::DataConversion => Self::NoAnswer("the answer cannot be read"),
            _ => Self::NoAnswer("the client failed"),
        }
    }

    /// Whether the service says that there is no such blob. A missing container is not that: an answer that made a
    /// lost lake look like an empty one would start every chain anew.
    pub(super) fn is_missing_blob(&self) -> bool {
        matches!(self, Self::Answer { status: 404, code, .. }
            if matches!(code.as_str(), "BlobNotFound" | "PathNotFound" | "ResourceNotFound"))
    }

    /// How long nobody should ask the service for anything. Only where it says that it is the service that has too much to do: a named wait in
    /// another answer is about that request.
    pub(super) fn asks_for_a_pause(&self) -> Option<Duration> {
        match self {
            Self::Answer { status: 429 | 503, retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(super) fn is(&self, expected: &str) -> bool {
        matches!(self, Self::Answer { code, .. } if code == expected)
    }
}

/// These say what people need, and hold no secret: what `az` prints, and which file cannot be read.
const TEXTS_TO_SHOW: [&str; 2] = ["AzureCliCredential", "WorkloadIdentityCredential"];

/// Of the causes only what is certain to hold no secret: a status, Entra's own error code, and the texts named above.
fn no_token(error: &azure_core::Error) -> Failure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(this) = cause {
        match this.downcast_ref::<azure_core::Error>().map(azure_core::Error::kind) {
            Some(ErrorKind::HttpResponse { status, error_code, .. }) => {
                let status = u16::from(*status);
                let code = error_code.as_ref().map(|code| format!(" AADSTS{code}")).unwrap_or_default();
                let may_come = matches!(status, 404 | 408 | 410 | 429 | 500..=599);
                return Failure::NoToken { why: format!("{status}{code}"), may_come };
            }
            Some(ErrorKind::Connection) => {
                let why = "no connection to the token service".to_owned();
                return Failure::NoToken { why, may_come: true };
            }
            _ => cause = this.source(),
        }
    }
    let text = error.to_string();
    let shown = TEXTS_TO_SHOW.iter().any(|name| text.starts_with(name));
    let why = text.lines().next().filter(|_| shown).unwrap_or("the credential cannot be used");
    Failure::NoToken { why: why.to_owned(), may_come: false }
}

fn header(response: &RawResponse, name: &'static str) -> Option<String> {
    response.headers().get_optional_string(&HeaderName::from_static(name))
}

/// The millisecond forms, seconds, or a date (RFC 9110). The service's own clock tells how far off a date is, if it is said.
fn retry_after(header: impl Fn(&'static str) -> Option<String>) -> Option<Duration> {
    let millis = ["x-ms-retry-after-ms", "retry-after-ms"].into_iter().find_map(&header);
    if let Some(text) = millis {
        return text.trim().parse().ok().map(Duration::from_millis);
    }
    let text = header("retry-after")?;
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = http_date(&text)?;
    let now = header("date").and_then(|date| http_date(&date)).unwrap_or_else(Utc::now);
    // A moment that has passed asks for no wait.
    Some((at - now).to_std().unwrap_or_default())
}

/// The form that is written today, and the two that a recipient has to understand as well (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<DateTime<Utc>> {
    const FORMS: [&str; 3] =
        ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let parsed = FORMS.iter().find_map(|form| NaiveDateTime::parse_from_str(text.trim(), form).ok());
    parsed.map(|naive| naive.and_utc())
}

/// `what` names the request and its object, for people.
pub(super) fn classify(request: Request, failure: &Failure, what: &str) -> LakeError {
    let (status, code, retry_after) = match failure {
        Failure::NotSent => {
            let cause = format!("{what}: no connection to the storage service");
            return LakeError::Unavailable { cause, retry_after: None };
        }
        Failure::Paused { left } => {
            let cause = format!("{what}: not sent, the storage service has asked for a pause (Retry-After)");
            return LakeError::Unavailable { cause, retry_after: Some(*left) };
        }
        Failure::NoToken { why, may_come } => {
            let cause = format!("{what}: no token from Microsoft Entra ID: {why}");
            return match may_come {
                true => LakeError::Unavailable { cause, retry_after: None },
                false => LakeError::Denied { cause },
            };
        }
        Failure::NoAnswer(problem) => return in_doubt(request, format!("{what}: {problem}"), None),
        Failure::Answer { status, code, retry_after, .. } => (*status, code.as_str(), *retry_after),
    };
    let cause = describe(failure, what);
    match (status, code) {
        // Somebody holds a lease on the blob, a backup for instance: nothing changed, and reading back shows nothing new.
        (409 | 412, code) if code.contains("Lease") => LakeError::Unavailable { cause, retry_after },
        (
            409,
            "ContainerBeingDeleted" | "ContainerDisabled" | "AccountBeingCreated" | "PendingCopyOperation",
        ) => LakeError::Unavailable { cause, retry_after },
        (
            409,
            "BlobImmutableDueToPolicy"
            | "BlobArchived"
            | "InvalidBlobType"
            | "BlockCountExceedsLimit"
            | "BlockListTooLong"
            | "ResourceTypeMismatch"
            | "PathConflict",
        ) => LakeError::Refused { what: cause },
        // A read contends with nobody: the blob cannot be read now, while it is being rehydrated for instance.
        (409, _) if request == Request::Read => LakeError::Unavailable { cause, retry_after },
        (409 | 412, _) | (400, "InvalidBlockList") => LakeError::Conflict,
        // The blob vanished under a condition, or is shorter than its state says: not what the caller has read.
        (404, _) if failure.is_missing_blob() => LakeError::Conflict,
        (416, _) => LakeError::Conflict,
        (401 | 403, code) => LakeError::Denied { cause: format!("{cause}{}", advice(code)) },
        // The service's own word that it has not begun.
        (503, "ServerBusy") => LakeError::Unavailable { cause, retry_after },
        (408 | 429 | 500..=599, _) => in_doubt(request, cause, retry_after),
        (400..=499, _) => LakeError::Refused { what: cause },
        _ => in_doubt(request, cause, retry_after),
    }
}

/// What an error code of a refusal means for the settings. Whose way in was refused is known by `LAKE_AUTH` alone.
fn advice(code: &str) -> &'static str {
    match code {
        "AuthenticationFailed" | "InvalidAuthenticationInfo" => {
            "; with LAKE_AUTH=shared-key: the account key is wrong, or this machine's clock is more than 15 minutes off; with sas: the SAS is \
             wrong, has expired, or is not valid yet"
        }
        "AuthorizationFailure"
        | "AuthorizationPermissionMismatch"
        | "AuthorizationServiceMismatch"
        | "AuthorizationResourceTypeMismatch" => {
            "; the SAS or the identity's role lacks a right that this needs, or the account's network rules keep this machine out \
             (Azurite answers so to a wrong account key, too)"
        }
        "KeyBasedAuthenticationNotPermitted" => {
            "; the account does not allow account keys, nor a SAS made with one: choose another LAKE_AUTH"
        }
        _ => "",
    }
}

fn in_doubt(request: Request, cause: String, retry_after: Option<Duration>) -> LakeError {
    match request {
        Request::Read | Request::Stage => LakeError::Unavailable { cause, retry_after },
        Request::Commit => LakeError::Unknown { cause },
    }
}

fn describe(failure: &Failure, what: &str) -> String {
    let Failure::Answer { status, code, request_id, .. } = failure else { return what.to_owned() };
    let code = if code.is_empty() { "without an error code" } else { code };
    let request_id = if request_id.is_empty() { String::new() } else { format!(" (request {request_id})") };
    format!("{what}: {status} {code}{request_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Failure {
        let retry_after = Some(Duration::from_secs(7));
        Failure::Answer { status, code: code.to_owned(), retry_after, request_id: "r".to_owned() }
    }

    fn name(error: &LakeError) -> &'static str {
        match error {
            LakeError::Conflict => "conflict",
            LakeError::Unknown { .. } => "unknown",
            LakeError::Unavailable { .. } => "unavailable",
            LakeError::Denied { .. } => "denied",
            LakeError::Refused { .. } => "refused",
            LakeError::Damaged { .. } => "damaged",
            LakeError::Foreign { .. } => "foreign",
        }
    }

    #[test]
    fn every_answer_has_one_meaning() {
        let no_answer = Failure::NoAnswer("the connection broke");
        let no_token = |may_come| Failure::NoToken { why: "401 AADSTS7000215".to_owned(), may_come };
        // failure, as a read, as a staged block, as a commit
        let table = [
            (Failure::NotSent, "unavailable", "unavailable", "unavailable"),
            (Failure::Paused { left: Duration::from_secs(1) }, "unavailable", "unavailable", "unavailable"),
            (no_answer, "unavailable", "unavailable", "unknown"),
            (no_token(true), "unavailable", "unavailable", "unavailable"),
            (no_token(false), "denied", "denied", "denied"),
            (answer(409, "BlobAlreadyExists"), "unavailable", "conflict", "conflict"),
            (answer(409, "BlobBeingRehydrated"), "unavailable", "conflict", "conflict"),
            (answer(412, "ConditionNotMet"), "conflict", "conflict", "conflict"),
            (answer(412, ""), "conflict", "conflict", "conflict"),
            (answer(400, "InvalidBlockList"), "conflict", "conflict", "conflict"),
            (answer(404, "BlobNotFound"), "conflict", "conflict", "conflict"),
            (answer(416, "InvalidRange"), "conflict", "conflict", "conflict"),
            (answer(412, "LeaseIdMissing"), "unavailable", "unavailable", "unavailable"),
            (answer(409, "ContainerBeingDeleted"), "unavailable", "unavailable", "unavailable"),
            (answer(409, "BlobImmutableDueToPolicy"), "refused", "refused", "refused"),
            (answer(404, "ContainerNotFound"), "refused", "refused", "refused"),
            (answer(404, ""), "refused", "refused", "refused"),
            (answer(400, "InvalidHeaderValue"), "refused", "refused", "refused"),
            (answer(413, "RequestBodyTooLarge"), "refused", "refused", "refused"),
            (answer(401, "NoAuthenticationInformation"), "denied", "denied", "denied"),
            (answer(403, "AuthorizationPermissionMismatch"), "denied", "denied", "denied"),
            (answer(503, "ServerBusy"), "unavailable", "unavailable", "unavailable"),
            (answer(503, ""), "unavailable", "unavailable", "unknown"),
            (answer(500, "OperationTimedOut"), "unavailable", "unavailable", "unknown"),
            (answer(500, "InternalError"), "unavailable", "unavailable", "unknown"),
            (answer(502, ""), "unavailable", "unavailable", "unknown"),
            (answer(408, ""), "unavailable", "unavailable", "unknown"),
            (answer(429, "TooManyRequests"), "unavailable", "unavailable", "unknown"),
            (answer(302, ""), "unavailable", "unavailable", "unknown"),
        ];
        for (failure, read, stage, commit) in table {
            for (request, expected) in
                [(Request::Read, read), (Request::Stage, stage), (Request::Commit, commit)]
            {
                assert_eq!(name(&classify(request, &failure, "x")), expected, "{request:?} {failure:?}");
            }
        }
    }

    #[test]
    fn the_named_wait_is_passed_on() {
        let error = classify(Request::Commit, &answer(503, "ServerBusy"), "commit a");
        let LakeError::Unavailable { cause, retry_after } = error else { panic!("{error}") };
        assert_eq!(retry_after, Some(Duration::from_secs(7)));
        assert_eq!(cause, "commit a: 503 ServerBusy (request r)");
    }

    #[test]
    fn a_service_that_has_too_much_to_do_asks_everybody_to_wait() {
        let seven = Some(Duration::from_secs(7));
        for (status, code, asked) in [
            (503, "ServerBusy", seven),
            (503, "", seven),
            (429, "TooManyRequests", seven),
            (500, "OperationTimedOut", None),
            (409, "ContainerBeingDeleted", None),
        ] {
            assert_eq!(answer(status, code).asks_for_a_pause(), asked, "{status} {code}");
        }
        assert_eq!(Failure::NotSent.asks_for_a_pause(), None);
    }

    #[test]
    fn a_wait_may_be_named_in_seconds_or_by_its_end() {
        let wait = |headers: &[(&str, &str)]| {
            retry_after(|name| {
                headers.iter().find(|(header, _)| *header == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let now = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(wait(&[]), None);
        assert_eq!(wait(&[("retry-after", "7")]), seconds(7));
        assert_eq!(
            wait(&[("retry-after", "7"), ("x-ms-retry-after-ms", "250")]),
            Some(Duration::from_millis(250))
        );
        for date in
            ["Sun, 06 Nov 1994 08:50:07 GMT", "Sunday, 06-Nov-94 08:50:07 GMT", "Sun Nov  6 08:50:07 1994"]
        {
            assert_eq!(wait(&[("retry-after", date), now]), seconds(30), "{date}");
        }
        // By our own clock if the answer has none; a moment that has passed, and what is no date.
        assert_eq!(wait(&[("retry-after", now.1)]), seconds(0));
        let soon = (Utc::now() + Duration::from_secs(3600)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let waited = wait(&[("retry-after", &soon)]);
        assert!(waited > seconds(3500) && waited <= seconds(3600), "{waited:?}");
        assert_eq!(wait(&[("retry-after", "tomorrow"), now]), None);
    }

    #[test]
    fn a_refusal_says_what_to_look_at() {
        let said = |code| classify(Request::Read, &answer(403, code), "GET x").to_string();
        let failed = said("AuthenticationFailed");
        assert!(
            failed.contains("account key is wrong") && failed.contains("SAS is wrong, has expired"),
            "{failed}"
        );
        assert!(said("AuthorizationPermissionMismatch").contains("lacks a right"));
        assert!(said("KeyBasedAuthenticationNotPermitted").contains("another LAKE_AUTH"));
        assert!(!said("Other").contains(';'), "{}", said("Other"));
    }

    #[test]
    fn only_a_blob_can_be_missing() {
        assert!(answer(404, "BlobNotFound").is_missing_blob());
        assert!(!answer(404, "ContainerNotFound").is_missing_blob());
        assert!(!answer(404, "").is_missing_blob());
    }
}
