//! Whether a storage account fits: what its own answers mean for a sink.

use std::time::Duration;

use shared::exit::{ExitCode, Stop};

use crate::{
    chain::Publishing,
    lake::{AccountFacts, Lake},
};

/// How long the account may take to say what it is. Nothing else waits for it.
const ACCOUNT_LIMIT: Duration = Duration::from_secs(15);

/// What of the settings the account bears on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountUse {
    pub publishing: Publishing,
    /// `ALLOW_VERSIONED`.
    pub versions_allowed: bool,
}

/// Stops a start into an account that is known not to fit. What the account does not say does not stop anybody: `check` shows it.
///
/// # Errors
/// 78, and what to do.
pub async fn refuse_unfit(lake: &Lake, usage: AccountUse) -> Result<(), Stop> {
    let facts = match tokio::time::timeout(ACCOUNT_LIMIT, lake.account()).await {
        Ok(Some(facts)) => facts,
        Ok(None) => return Ok(()),
        Err(_) => {
            tracing::info!("the storage account does not say what it is in time");
            return Ok(());
        }
    };
    tracing::info!(
        kind = ?facts.kind.known(),
        hierarchical = ?facts.hierarchical.known(),
        versions = ?facts.versions.known(),
        soft_delete = ?facts.soft_delete.known(),
        immutable = ?facts.immutable.known(),
        "storage account"
    );
    let refused = immutable(&facts).or_else(|| versioned(&facts, usage));
    refused.map_or(Ok(()), Err)
}

/// Why nothing can be written over there.
pub fn immutable(facts: &AccountFacts) -> Option<Stop> {
    let what = facts.immutable.known().copied().flatten()?;
    let message = format!(
        "the container has {what}: heads, and files that grow, cannot be written there.\n\
         Take it off, or name a container without one in LAKE_URL"
    );
    Some(Stop::new(ExitCode::Configuration, message))
}

/// Why files must not grow there.
pub fn versioned(facts: &AccountFacts, usage: AccountUse) -> Option<Stop> {
    let what = facts.keeps_what_is_replaced()?;
    if usage.versions_allowed || usage.publishing == Publishing::Sealed {
        return None;
    }
    let message = format!(
        "the storage account has no hierarchical namespace, and {what} is on: with PUBLISH=rolling each flush leaves a copy of the whole \
         file, which is paid for.\n\
         Use an account with hierarchical namespace, turn {what} off, or set PUBLISH=sealed; ALLOW_VERSIONED=true goes on all the same"
    );
    Some(Stop::new(ExitCode::Configuration, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::Answer;

    fn flat() -> AccountFacts {
        AccountFacts {
            kind: Answer::Known("StorageV2".to_owned()),
            hierarchical: Answer::Known(false),
            versions: Answer::Known(true),
            soft_delete: Answer::Known(false),
            immutable: Answer::Known(None),
        }
    }

    fn usage(publishing: Publishing, versions_allowed: bool) -> AccountUse {
        AccountUse { publishing, versions_allowed }
    }

    #[test]
    fn files_do_not_grow_where_each_flush_leaves_a_version_unless_it_is_wanted() {
        let stop =
            versioned(&flat(), usage(Publishing::Rolling, false)).map(|stop| (stop.code, stop.message));
        assert!(
            stop.as_ref().is_some_and(|(code, text)| *code == ExitCode::Configuration
                && text.contains("ALLOW_VERSIONED=true")
                && text.contains("blob versioning")),
            "{stop:?}"
        );
        assert!(versioned(&flat(), usage(Publishing::Rolling, true)).is_none());
        assert!(versioned(&flat(), usage(Publishing::Sealed, false)).is_none());
        let unknown = AccountFacts { versions: Answer::Unknown("403".to_owned()), ..flat() };
        assert!(versioned(&unknown, usage(Publishing::Rolling, false)).is_none());
    }

    #[test]
    fn a_container_that_keeps_blobs_as_they_are_is_refused() {
        assert!(immutable(&flat()).is_none());
        let held = AccountFacts { immutable: Answer::Known(Some("a legal hold")), ..flat() };
        let stop = immutable(&held).map(|stop| (stop.code, stop.message));
        assert!(
            stop.as_ref().is_some_and(
                |(code, text)| *code == ExitCode::Configuration && text.contains("a legal hold")
            ),
            "{stop:?}"
        );
    }
}
