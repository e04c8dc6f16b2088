//! `millstream token new`: makes a token of the server's own, and the line for the file that lists it.

use std::io::Write;
use std::process::ExitCode;

use super::Failure;
use super::output::Output;
use crate::auth::Line;
use crate::auth::token::{self, Digest};
use crate::process::terminal::say;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TokenCommand {
    /// Make a token, and the line for the file of auth_static_file
    #[command(after_help = "\
Prints the token on standard output, once: it is stored nowhere. Prints the
line for the file on standard error. The line holds a digest, from which
nobody can find the token. The server reads the file again when it changes.

Give the token to the client, in a file that others cannot read. Delete the
line to revoke the token. For a new token of the same client, add a second
line with its name, and delete the first when the client uses the new token.

Examples:
  millstream token new --name app1 --projects shop --rule produce:orders
  (umask 077; millstream token new --name app1 > app1.token 2>> tokens)

Exit codes:
  0    done
  2    bad usage, or the system has no random numbers
  141  standard output was closed")]
    New {
        /// Name of the client; its principal is static:NAME
        #[arg(long, default_value = "client")]
        name: String,
        /// Comma-separated projects that the client may work in; * is every project
        #[arg(long, default_value = "default")]
        projects: String,
        /// What the client may do there: RIGHTS:QUEUE or RIGHTS:PREFIX*, where rights are produce, consume, claim,
        /// manage and all; several times for several rules
        #[arg(long = "rule", value_name = "RULE", default_value = "produce,consume,claim:*")]
        rules: Vec<String>,
    },
}

/// Runs `millstream token`.
pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let TokenCommand::New { name, projects, rules } = &args.command;
    let random = || Failure("the system has no random numbers".into());
    let token = token::new().map_err(|_| random())?;
    let line = Line::new(name, Digest::of(token.expose()), projects, rules).map_err(Failure)?;
    let mut out = Output::new();
    writeln!(out, "{}", token.expose())?;
    out.finish()?;
    // Only this: `2>>` appends it to the file.
    say(format_args!("{line}"));
    Ok(ExitCode::SUCCESS)
}
