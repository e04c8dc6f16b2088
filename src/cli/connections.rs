//! `millstream connections`: who is connected to a running server, and closing connections.

use std::borrow::Cow;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use url::form_urlencoded;

use super::Failure;
use super::control::ControlArgs;
use super::output::{Output, write_json};
use crate::base::clock::rfc3339;
use crate::client::{ControlClient, ControlError};
use crate::control::{CONNECTIONS_PAGE_MAX, ConnectionLine, ConnectionsPage};
use crate::process::terminal::{escaped, say};

/// How long the server may take to answer one request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the connections of clients
    #[command(after_help = "\
Prints the id, project, peer and principal of each connection, since when it is
open, what it does, on which queue, and how many messages a consumer is behind.
With several filters, a connection must match all.

Examples:
  millstream connections list
  millstream connections list --project acme --min-lag 10000
  millstream connections list --peer 10.0.0.0/8 -o json

Exit codes:
  0    done, even if no connection matches
  2    the server cannot be asked, or has refused
  141  standard output was closed")]
    List {
        #[command(flatten)]
        filter: Filter,
        /// Table for people, or one JSON object per connection
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Close connections
    #[command(after_help = "\
Clients get the close code 1001 with the reason \"closed by the operator\". Those
of Millstream connect again. Messages that are not acknowledged yet are sent
again by their producers.

Give ids, as the list shows them, or filters. Filters select the connections
that are open when the command starts.

Examples:
  millstream connections close 0.17.3 1.4.0
  millstream connections close --project acme

Exit codes:
  0    all are closed
  1    some had ended before
  2    the server cannot be asked, or has refused
  141  standard output was closed")]
    Close {
        /// Ids of connections
        #[arg(required_unless_present = "filter", conflicts_with = "filter")]
        ids: Vec<String>,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        control: ControlArgs,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Which connections.
#[derive(Debug, Default, clap::Args)]
#[group(id = "filter", multiple = true)]
struct Filter {
    /// Only those of this project
    #[arg(long)]
    project: Option<String>,
    /// Only those of this client, by the name of its credential
    #[arg(long)]
    principal: Option<String>,
    /// Only those from this address, address and port, or network such as 10.0.0.0/8; unix for Unix sockets
    #[arg(long)]
    peer: Option<String>,
    /// Only consumers that are at least this many messages behind
    #[arg(long, value_name = "MESSAGES")]
    min_lag: Option<u64>,
}

impl Filter {
    /// Returns the path of a page of matching connections, after those of the pages before.
    fn path(&self, after: Option<&str>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &CONNECTIONS_PAGE_MAX.to_string());
        let lag = self.min_lag.map(|lag| lag.to_string());
        for (key, value) in [
            ("after", after),
            ("project", self.project.as_deref()),
            ("principal", self.principal.as_deref()),
            ("peer", self.peer.as_deref()),
            ("min_lag", lag.as_deref()),
        ] {
            if let Some(value) = value {
                query.append_pair(key, value);
            }
        }
        format!("/connections?{}", query.finish())
    }

    /// Passes each matching connection to `take`, page by page.
    fn each(
        &self,
        client: &ControlClient,
        mut take: impl FnMut(ConnectionLine) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut after = None;
        loop {
            let page: ConnectionsPage = client.get(&self.path(after.as_deref()))?;
            page.connections.into_iter().try_for_each(&mut take)?;
            if page.next.is_none() {
                return Ok(());
            }
            after = page.next;
        }
    }
}

/// Runs `millstream connections`.
pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.command {
        Command::List { filter, output, control } => list(filter, *output, &control.client(ANSWER_TIMEOUT)?),
        Command::Close { ids, filter, control } => close(ids, filter, &control.client(ANSWER_TIMEOUT)?),
    }
}

fn text(text: Option<&str>) -> Cow<'_, str> {
    escaped(text.unwrap_or("-"))
}

fn list(filter: &Filter, format: Format, client: &ControlClient) -> Result<ExitCode, Failure> {
    let mut out = Output::new();
    if let Format::Table = format {
        writeln!(
            out,
            "{:<14} {:<20} {:<26} {:<20} {:<3}  {:<20}  {:<9} {:<24} {:>10} {:>10}",
            "id", "project", "peer", "principal", "tls", "since", "operation", "queue", "lag", "unsent"
        )?;
    }
    filter.each(client, |line| match format {
        Format::Json => Ok(write_json(&mut out, &line)?),
        Format::Table => Ok(write_row(&mut out, &line)?),
    })?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn write_row(out: &mut Output, line: &ConnectionLine) -> std::io::Result<()> {
    let ConnectionLine { id, peer, kind, unsent_bytes, .. } = line;
    let (project, principal) = (text(line.project.as_deref()), text(line.principal.as_deref()));
    let (queue, tls) = (text(line.queue.as_deref()), if line.tls { "yes" } else { "no" });
    let since = rfc3339(line.since_ms).unwrap_or_else(|| "-".into());
    let lag = line.lag.map_or_else(|| "-".into(), |lag| lag.to_string());
    let (id, peer, kind) = (escaped(id), escaped(peer), escaped(kind));
    writeln!(
        out,
        "{id:<14} {project:<20} {peer:<26} {principal:<20} {tls:<3}  {since:<20}  {kind:<9} {queue:<24} {lag:>10} {unsent_bytes:>10}"
    )
}

fn close(ids: &[String], filter: &Filter, client: &ControlClient) -> Result<ExitCode, Failure> {
    let mut all = ids.to_vec();
    if ids.is_empty() {
        filter.each(client, |line| {
            all.push(line.id);
            Ok(())
        })?;
    }
    let (mut closed, mut ended) = (0, 0);
    for id in &all {
        let path: String = form_urlencoded::byte_serialize(id.as_bytes()).collect();
        match client.delete(&format!("/connections/{path}")) {
            Ok(()) => closed += 1,
            Err(ControlError::Refused { status, .. }) if status.as_u16() == 404 => {
                say(format_args!("millstream: {}: no such connection: it may have ended", escaped(id)));
                ended += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut out = Output::new();
    writeln!(out, "closed: {closed}")?;
    out.finish()?;
    Ok(if ended == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
