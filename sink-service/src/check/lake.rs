//! The lake: its place, what we may do there, and what the storage account does with what is written over.

use std::time::Duration;

use shared::exit::{ExitCode, Stop};

use super::{Report, Step};
use crate::{
    chain::Publishing,
    lake::{AccountFacts, Answer, Lake, LakeError, LakeTarget, Presence},
    lake_account::{AccountUse, immutable, versioned},
    lake_layout::{OpenLake, agreed, found},
    lake_path::CHAIN_FOLDER,
    layout::Layout,
    settings::SinkSettings,
};

const WHAT: &str = "lake";

/// How long the lake may take for all its answers together.
const LAKE_LIMIT: Duration = Duration::from_secs(60);

/// Returns the lake if it is there, can be read, and is laid out as a start expects it.
pub(super) async fn look(settings: &SinkSettings, report: &mut Report) -> Option<OpenLake> {
    let lake = match Lake::open(&settings.lake, settings.auth.as_ref()) {
        Ok(lake) => lake,
        Err(error) => {
            let stop = Stop::new(ExitCode::Configuration, error.to_string());
            report.stop(Step::Lake, WHAT, &stop);
            return None;
        }
    };
    if let Ok(layout) = tokio::time::timeout(LAKE_LIMIT, look_at(&lake, settings, report)).await {
        return layout.map(|layout| OpenLake::new(lake, layout));
    }
    let found = format!("{}: no answer within {} s", settings.lake, LAKE_LIMIT.as_secs());
    report.missing((Step::Lake, ExitCode::Unreachable), WHAT, found, []);
    None
}

async fn look_at(lake: &Lake, settings: &SinkSettings, report: &mut Report) -> Option<Layout> {
    let target = &settings.lake;
    let there = match (lake.probe().await, target) {
        (Ok(Presence::There), _) => true,
        (Ok(Presence::Missing), LakeTarget::Directory(_)) => {
            report.ok(WHAT, format!("{target} is not there: the start makes it"));
            false
        }
        (Ok(Presence::Missing), LakeTarget::Azure(_)) => {
            report.ok(
                WHAT,
                format!("the account lets us in; the container of {target} is not there: the start makes it"),
            );
            let to_do = "make it yourself if the identity may not".to_owned();
            report.unknown("right to make it", "whether we may make a container cannot be asked", [to_do]);
            false
        }
        (Err(error), _) => {
            failed(report, WHAT, target, &error);
            return None;
        }
    };
    if there {
        report.ok(WHAT, format!("{target} is there, and may be listed and read"));
        match lake.probe_write().await {
            Ok(()) => report.ok("right to write", "granted; it was asked for without writing"),
            Err(error) => failed(report, "right to write", target, &error),
        }
    }
    match lake.account().await {
        Some(facts) => account(&facts, there, settings.account_use(), report),
        None => report.ok("clean-up", format!("jobs that delete old files have to spare {CHAIN_FOLDER}/")),
    }
    if there { layout(lake, settings, report).await } else { None }
}

/// What the lake has, or would be begun with.
async fn layout(lake: &Lake, settings: &SinkSettings, report: &mut Report) -> Option<Layout> {
    const LAYOUT: &str = "layout";
    let told = &settings.layout;
    match found(lake, told).await {
        Ok(None) => {
            report.ok(LAYOUT, format!("nothing was written yet: the start begins it with {}", told.layout));
            Some(told.layout.clone())
        }
        Ok(Some(has)) => match agreed(&settings.lake, has, told) {
            Ok(has) => {
                report.ok(LAYOUT, has.to_string());
                Some(has)
            }
            Err(stop) => {
                report.stop(Step::Layout, LAYOUT, &stop);
                None
            }
        },
        Err(error) => {
            failed(report, LAYOUT, &settings.lake, &error);
            None
        }
    }
}

fn account(facts: &AccountFacts, there: bool, usage: AccountUse, report: &mut Report) {
    const ACCOUNT: &str = "account";
    let kind = facts.kind.known().map(|kind| format!("{kind}, ")).unwrap_or_default();
    match &facts.hierarchical {
        Answer::Known(true) => report.ok(ACCOUNT, format!("{kind}with hierarchical namespace")),
        Answer::Known(false) => {
            let found = format!("{kind}without hierarchical namespace: readers by abfss:// may need one");
            report.warning(ACCOUNT, found, []);
        }
        Answer::Unknown(why) => {
            let to_do = "look in the portal: the account should have a hierarchical namespace".to_owned();
            report.unknown(ACCOUNT, why.clone(), [to_do]);
        }
    }
    replaced(facts, usage, report);
    if there {
        const IMMUTABILITY: &str = "immutability";
        match (&facts.immutable, immutable(facts)) {
            (_, Some(stop)) => report.stop(Step::Account, IMMUTABILITY, &stop),
            (Answer::Known(_), None) => {
                report.ok(IMMUTABILITY, "the container has no policy and no legal hold")
            }
            (Answer::Unknown(why), None) => {
                let to_do = "the container must have no immutability policy and no legal hold".to_owned();
                report.unknown(IMMUTABILITY, why.clone(), [to_do]);
            }
        }
    }
    report.unknown(
        "lifecycle rules",
        "they cannot be asked here",
        [format!(
            "rules that delete or move blobs by age have to spare {CHAIN_FOLDER}/ below the lake's folder"
        )],
    );
}

/// What becomes of a blob's content when it is written over, which each flush does.
fn replaced(facts: &AccountFacts, usage: AccountUse, report: &mut Report) {
    const VERSIONS: &str = "versions";
    if let Some(stop) = versioned(facts, usage) {
        return report.stop(Step::Account, VERSIONS, &stop);
    }
    if let Some(what) = facts.keeps_what_is_replaced() {
        let found = match usage.publishing {
            Publishing::Rolling => {
                format!("{what} is on: each flush leaves a copy of the whole file, as ALLOW_VERSIONED allows")
            }
            Publishing::Sealed => {
                format!("{what} is on: files are written once, but heads leave a copy with each file")
            }
        };
        let to_do = "a lifecycle rule may delete what is left after some days".to_owned();
        return report.warning(VERSIONS, found, [to_do]);
    }
    if facts.hierarchical.known() == Some(&true) {
        return report.ok(VERSIONS, "none: an account with hierarchical namespace has none");
    }
    for (what, answer) in [(VERSIONS, &facts.versions), ("soft delete", &facts.soft_delete)] {
        match answer {
            Answer::Known(false) => report.ok(what, "off: nothing is left of what is written over"),
            Answer::Known(true) => {
                report.unknown(
                    what,
                    "on: it keeps what is written over unless the namespace is hierarchical",
                    [],
                );
            }
            Answer::Unknown(why) => {
                let to_do =
                    format!("{what} for blobs should be off on an account without hierarchical namespace");
                report.unknown(what, why.clone(), [to_do]);
            }
        }
    }
}

fn failed(report: &mut Report, what: &str, target: &LakeTarget, error: &LakeError) {
    let stop = Stop::new(
        error.exit_code(ExitCode::Unreachable),
        format!("cannot use the lake at {target}: {error}"),
    );
    report.stop(Step::Lake, what, &stop);
}
