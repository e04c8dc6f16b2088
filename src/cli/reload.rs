//! `millstream reload`: has a running server read its settings again.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use super::Failure;
use super::control::ControlArgs;
use super::output::{Output, write_json};
use crate::client::ControlError;
use crate::control::ReloadPage;
use crate::process::terminal::{escaped, say};

/// How long the server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The server reads its configuration file again, with the environment and the
flags of its start. It applies the changes of all settings that serve --help
marks with [reload], and names those that need a restart. Open connections
stay. It reads the TLS certificates again, too. If a setting is wrong, the server changes nothing and says why.

SIGHUP does the same. The result is then in the server's log.

Examples:
  millstream reload
  millstream reload --data-dir /var/lib/millstream
  millstream reload --control unix:/run/millstream/control.sock --json

Exit codes:
  0    reloaded, even if changed settings need a restart
  1    the server has refused the settings, or cannot reload now: nothing is changed
  2    the server cannot be asked, or the token does not permit it
  141  standard output was closed")]
pub(super) struct Args {
    #[command(flatten)]
    control: ControlArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let page: ReloadPage = match args.control.client(ANSWER_TIMEOUT)?.post("/reload") {
        Ok(page) => page,
        Err(ControlError::Refused { status, text, .. }) if [422, 503].contains(&status.as_u16()) => {
            say(format_args!("millstream: {}", escaped(text.trim_end())));
            return Ok(ExitCode::from(1));
        }
        Err(error) => return Err(error.into()),
    };
    let mut out = Output::new();
    if args.json {
        write_json(&mut out, &page)?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    if page.certificates_reloaded {
        writeln!(out, "TLS certificates: read again")?;
    } else if page.applied.is_empty() {
        writeln!(out, "no change to apply")?;
    }
    for change in &page.applied {
        let [key, from, to] = [&change.key, &change.from, &change.to].map(|text| escaped(text));
        writeln!(out, "{key}: {from:?} is now {to:?}")?;
    }
    for key in &page.needs_restart {
        writeln!(out, "{}: changed, but needs a restart", escaped(key))?;
    }
    for warning in &page.warnings {
        writeln!(out, "warning: {}", escaped(warning))?;
    }
    for shard in &page.unconfirmed_shards {
        writeln!(out, "shard {shard} has not confirmed the changes: it gets them when it runs again")?;
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
