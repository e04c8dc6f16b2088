//! The command line, with one file per subcommand.
//!
//! This module parses arguments, prints results and sets exit codes. It holds no logic that needs tests of
//! its own.

mod backup;
mod bench;
mod claim;
mod connections;
mod consume;
mod control;
mod log;
mod message;
mod message_form;
mod output;
mod produce;
mod queue;
mod reload;
mod report;
mod result_file;
mod serve;
mod tls;
mod token;
mod token_source;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_channel::Receiver;
use clap::{Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::tls::TlsArgs;
use self::token_source::TokenArgs;
use crate::base::names::{ClientId, Project};
use crate::client::Target;
use crate::process::children;
use crate::process::terminal::{line_start, say};
use crate::shard::cores::{allowed_cores, check_cores, parse_cores};
use crate::store::log::disk::Directory as _;
use crate::store::log::{Damaged, DirectoryLock, OsDirectory, Report};

/// A WebSocket queue-streaming server, its clients and its load generator
#[derive(Debug, Parser)]
#[command(name = "millstream", version, about, long_about = LONG_ABOUT)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

const LONG_ABOUT: &str = "\
Millstream is a message queue server. Many tenants (projects) share one
server. Clients stream messages in and out over long-lived WebSocket
connections, under flow control.

Try it:

  millstream serve                            run a server on 127.0.0.1:9000
  echo hello | millstream produce greetings   append a message to a queue
  millstream consume greetings --count 1      read it back

Each command explains its defaults, examples and exit codes: millstream
COMMAND --help";

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Run a server
    Serve(serve::Args),
    /// Append messages to a queue, one per line of input
    Produce(produce::Args),
    /// Read messages from a queue
    Consume(consume::Args),
    /// Claim messages of a queue, and run a command for each
    Claim(claim::Args),
    /// List queues
    Queues(queue::ListArgs),
    /// Manage queues: create, show, change, count, purge, redrive and delete them
    Queue(queue::Args),
    /// Get, delete or pop single messages
    Message(message::Args),
    /// List or close the connections of a running server
    Connections(connections::Args),
    /// Have a running server read its settings again
    Reload(reload::Args),
    /// Make tokens for clients
    Token(token::Args),
    /// Check, print or copy the files of the embedded log
    Log(log::Args),
    /// Load a server, verify every message, and measure throughput and latency
    Bench(Box<bench::Command>),
    /// Draw and compare the results of bench: web page, charts, tables
    Report(report::Args),
}

/// Parses the command line and runs its subcommand.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && serve::asks_for_json(std::env::args_os()) => {
            serve::say_json(&error.to_string());
            return ExitCode::from(2);
        }
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        CliCommand::Serve(args) => return serve::run(args),
        CliCommand::Produce(args) => produce::run(args),
        CliCommand::Consume(args) => consume::run(args),
        CliCommand::Claim(args) => claim::run(args),
        CliCommand::Queues(args) => queue::list(&args),
        CliCommand::Queue(args) => queue::run(&args),
        CliCommand::Message(args) => message::run(&args),
        CliCommand::Connections(args) => connections::run(&args),
        CliCommand::Reload(args) => reload::run(&args),
        CliCommand::Token(args) => token::run(&args),
        CliCommand::Log(args) => log::run(args),
        CliCommand::Bench(args) => bench::run(&args),
        CliCommand::Report(args) => report::run(&args),
    };
    // A client may end while a command of its own still runs.
    children::end_all();
    match result {
        Ok(code) => code,
        Err(error) => {
            say(format_args!("millstream: {error}"));
            ExitCode::from(2)
        }
    }
}

/// A data directory, locked for one command. No server can use it at the same time.
#[derive(Debug)]
struct Directory {
    files: OsDirectory,
    _lock: DirectoryLock,
}

impl Directory {
    fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |error: &dyn Display| Failure(format!("{}: {error}", path.display()));
        // Looking at a directory must not create it, nor leave a file in another one.
        if !path.is_dir() {
            return Err(failed(&"no such directory"));
        }
        if OsDirectory::new(path, 0).list().map_err(|error| failed(&error))?.is_empty() {
            return Err(failed(&"no file of a log is there: is this the data directory?"));
        }
        let lock = OsDirectory::lock(path).map_err(|error| failed(&error))?;
        Ok(Self { files: OsDirectory::new(path, 0), _lock: lock })
    }
}

/// Reports damaged files on standard error. Returns whether there were any.
fn say_damage(report: &Report) -> bool {
    for Damaged { file, damage, means } in &report.damaged {
        let (at, bytes) = (damage.at, damage.bytes);
        say(format_args!("millstream: {file}: {bytes} bytes at {at} are damaged: {means}"));
    }
    !report.damaged.is_empty()
}

/// The reason why a command failed, written for the user.
#[derive(Debug)]
struct Failure(String);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// The shortest time between two notices with the same text.
const NOTICE_EVERY: Duration = Duration::from_secs(5);
/// How many texts are remembered. Further texts are printed every time.
const NOTICES_MAX: usize = 64;

/// Prints why a client retries. When many connections fail for one reason, prints it only once per
/// [`NOTICE_EVERY`].
fn notice(why: &str) {
    static TOLD: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.get(why).is_some_and(|at| at.elapsed() < NOTICE_EVERY) {
        return;
    }
    if told.len() < NOTICES_MAX {
        told.insert(why.to_owned(), Instant::now());
    }
    // Clears the progress line, if there is one.
    say(format_args!("{}millstream: {why}; retrying", line_start()));
}

/// Returns a channel that carries no messages and closes at the first SIGINT or SIGTERM. The second signal
/// exits with 130.
fn on_signal() -> std::io::Result<Receiver<()>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (sender, receiver) = async_channel::bounded(1);
    std::thread::spawn(move || {
        for (index, _) in signals.forever().enumerate() {
            sender.close();
            if index > 0 {
                children::end_all();
                std::process::exit(130);
            }
        }
    });
    Ok(receiver)
}

/// Where a client connects, and under which names.
#[derive(Clone, Debug, clap::Args)]
struct ClientArgs {
    /// Address of the server; wss:// for TLS. The query string may also name the project:
    /// ws://HOST:PORT/?project_id=NAME. A server at a Unix socket: ws+unix:/PATH, and :/?project_id=NAME behind
    /// it
    #[arg(long, default_value = "ws://127.0.0.1:9000/")]
    url: String,
    /// Project (tenant) that owns the queue [default: the server's default project]
    #[arg(long)]
    project: Option<String>,
    /// Client id, a UUID. Keep one id across connections to keep message order and to skip your own messages
    /// when consuming [default: a new id per connection]
    #[arg(long)]
    client_id: Option<String>,
    /// Retries in a row without progress before giving up
    #[arg(long, default_value_t = 10)]
    retries: u32,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    token: TokenArgs,
}

impl ClientArgs {
    /// Returns the target of `connections` connections.
    fn target(&self, connections: u16) -> Result<Target, Failure> {
        let project = self.project.as_deref().map(Project::parse).transpose()?;
        let client = match &self.client_id {
            Some(id) => ClientId::parse(id)?,
            None => ClientId::random(),
        };
        let target = Target::parse(&self.url, project, Some(client))?;
        if target.is_of_zaqar() {
            let path = target.address.path();
            return Err(Failure(format!("{path} is a path of the Zaqar API: this command needs the path /")));
        }
        let trust = self.tls.trust(&target.address)?;
        let tokens = self.token.tokens(&target.address, connections > 1)?;
        Ok(target.trusting(trust).authenticating(tokens))
    }
}

/// Returns the cores that `--cores` lists, or all allowed cores without it. Fails if the process may not run
/// on one of them.
fn cores(list: Option<&str>) -> Result<Vec<usize>, Failure> {
    let Some(list) = list else { return Ok(allowed_cores()) };
    let cores = parse_cores(list)?;
    check_cores(&cores)?;
    Ok(cores)
}
