//! The command line of `export`.

use clap::{Arg, ArgMatches, Command};
use shared::{
    command_line::{flag, sources, with_settings},
    settings::{Sources, Table},
};

use super::ExportRequest;
use crate::{
    span::{span_of, topics_of, with_closed_hours},
    verify::Output,
};

/// Paragraphs have no line breaks of their own: clap wraps them. Commands have, so that they can be pasted.
const PARQUET_EXAMPLES: &str = "\
Examples:
  A day, into a directory:
    sink-service export parquet --topic atlas.shop.orders --day 2026-11-20 \\
      --into file:///srv/silver

  What would be done; nothing is written:
    sink-service export parquet --topic atlas.shop.orders --day 2026-11-20 \\
      --into file:///srv/silver --dry-run

  Two hours of it; a longer time; everything that has closed:
    sink-service export parquet --topic atlas.shop.orders --day 2026-11-20 --hour 7 --hour 8 \\
      --into file:///srv/silver
    sink-service export parquet --topic atlas.shop.orders \\
      --from 2026-11-18T00:00:00Z --to 2026-11-21T00:00:00Z --into file:///srv/silver
    sink-service export parquet --topic atlas.shop.orders --all \\
      --into abfss://silver@account.dfs.core.windows.net/cdc

Only hours that have closed: each becomes <db>/<coll>/year=…/month=…/day=…/hour=…/events.parquet, \
checked against its manifest, read back, and put in place in one step. Typed again it makes only what \
is missing or has changed since. Neither Kafka nor the lake is touched.

Exit code 75: hours that were named by --day or --hour have not closed yet; the others were exported. \
25: the lake does not hold what a manifest says, and that hour was left as it was.";

/// The command with its one form.
pub fn export_command(table: Table) -> Command {
    let parquet = Command::new("parquet").about("One Parquet file for each hour that has closed");
    let parquet =
        with_closed_hours(with_settings(parquet, table))
            .arg(
                Arg::new("into").long("into").value_name("LAKE_URL").required(true).help(
                    "Where the files go: file:///directory, or a storage account in the forms of LAKE_URL",
                ),
            )
            .arg(flag("dry-run", "Show what would be done, and end"))
            .arg(flag("json", "JSON objects instead of tables: the plan, then the result"))
            .after_help(PARQUET_EXAMPLES);
    Command::new("export")
        .about("Write hours that have closed in another format")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(parquet)
}

/// # Panics
/// If the matches are not those of [`export_command`].
pub fn export_request(table: Table, matches: &ArgMatches) -> (Sources, ExportRequest) {
    let (_, matches) = matches.subcommand().expect("clap asks for a sub-command");
    let request = ExportRequest {
        topics: topics_of(matches),
        span: span_of(matches),
        into: matches.get_one::<String>("into").cloned().expect("clap asks for the place"),
        dry_run: matches.get_flag("dry-run"),
        output: Output::asked_for(matches),
    };
    (sources(table, matches), request)
}
