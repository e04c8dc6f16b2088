//! The command line: one file for each subcommand. Parses, prints and sets exit codes; no logic worth testing.

mod bench;
mod consume;
mod log;
mod output;
mod produce;
mod queues;
mod report;
mod result_file;
mod serve;

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

use crate::base::names::{ClientId, Project};
use crate::client::Target;
use crate::process::terminal::{line_start, say};
use crate::shard::cores::{allowed_cores, check_cores, parse_cores};
use crate::store::log::{Damaged, DirectoryLock, OsDirectory, Report};

/// A WebSocket queue-streaming server, its clients and its load generator.
#[derive(Debug, Parser)]
#[command(name = "millstream", version, about, long_about = LONG_ABOUT)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "\
Millstream keeps message queues for many tenants and streams messages in and out over long-lived WebSocket
connections, with flow control by message number.

  millstream serve                          run a server on 127.0.0.1:9000
  echo hello | millstream produce greetings  put a line into a queue
  millstream consume greetings --count 1     read it";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server until SIGTERM or SIGINT
    Serve(serve::Args),
    /// Put messages into a queue: one for each line of standard input or of a file
    Produce(produce::Args),
    /// Read a queue: payloads to standard output, one a line
    Consume(consume::Args),
    /// List the queues of a data directory
    Queues(queues::ListArgs),
    /// Delete a queue of a data directory
    Queue(queues::QueueArgs),
    /// Look into the embedded log's files
    Log(log::Args),
    /// Put a load on a server, verify every message, and measure
    Bench(bench::Args),
    /// Draw and compare what bench measured: a page, pictures, tables
    Report(report::Args),
}

/// Runs what the command line asks for.
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
        Command::Serve(args) => return serve::run(args),
        Command::Produce(args) => produce::run(args),
        Command::Consume(args) => consume::run(args),
        Command::Queues(args) => queues::list(&args),
        Command::Queue(args) => queues::run(&args),
        Command::Log(args) => log::run(args),
        Command::Bench(args) => bench::run(&args),
        Command::Report(args) => report::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            say(format_args!("millstream: {error}"));
            ExitCode::from(2)
        }
    }
}

/// A data directory that no server uses, locked for a command.
#[derive(Debug)]
struct Directory {
    files: OsDirectory,
    _lock: DirectoryLock,
}

impl Directory {
    fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |error: &dyn Display| Failure(format!("{}: {error}", path.display()));
        // A directory that is not there is not made by a look at it.
        if !path.is_dir() {
            return Err(failed(&"no such directory"));
        }
        let lock = OsDirectory::lock(path).map_err(|error| failed(&error))?;
        Ok(Self { files: OsDirectory::new(path, 0), _lock: lock })
    }
}

/// Says what was found damaged on the way; whether anything was.
fn say_damage(report: &Report) -> bool {
    for Damaged { file, damage, means } in &report.damaged {
        let (at, bytes) = (damage.at, damage.bytes);
        say(format_args!("millstream: {file}: {bytes} bytes at {at} are damaged: {means}"));
    }
    !report.damaged.is_empty()
}

/// Why a command could not do its work; the text is for the person at the terminal.
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

/// How often the same reason is told again.
const NOTICE_EVERY: Duration = Duration::from_secs(5);
/// Reasons that are remembered; more are told each time.
const NOTICES_MAX: usize = 64;

/// Tells the person at the terminal why clients try again: of many connections with one reason the first.
fn notice(why: &str) {
    static TOLD: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.get(why).is_some_and(|at| at.elapsed() < NOTICE_EVERY) {
        return;
    }
    if told.len() < NOTICES_MAX {
        told.insert(why.to_owned(), Instant::now());
    }
    // A line of progress may stand there.
    say(format_args!("{}millstream: {why}; trying again", line_start()));
}

/// A channel on which nothing comes and that closes at the first SIGINT or SIGTERM; the second ends the process with 130.
fn on_signal() -> std::io::Result<Receiver<()>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (sender, receiver) = async_channel::bounded(1);
    std::thread::spawn(move || {
        for _ in signals.forever() {
            // False where it was closed before.
            if !sender.close() {
                std::process::exit(130);
            }
        }
    });
    Ok(receiver)
}

/// Where a client connects, and as whom.
#[derive(Clone, Debug, clap::Args)]
struct ClientArgs {
    /// The server
    #[arg(long, default_value = "ws://127.0.0.1:9000/")]
    url: String,
    /// The project (tenant) [default: the server's default project]
    #[arg(long)]
    project: Option<String>,
    /// The client's id, a UUID: keeps order and echo across connections [default: a new one for each connection]
    #[arg(long)]
    client_id: Option<String>,
    /// How often to try again in a row without any progress before giving up
    #[arg(long, default_value_t = 10)]
    retries: u32,
}

impl ClientArgs {
    fn target(&self) -> Result<Target, Failure> {
        let project = self.project.as_deref().map(Project::parse).transpose()?;
        let client = match &self.client_id {
            Some(id) => ClientId::parse(id)?,
            None => ClientId::random(),
        };
        Ok(Target::parse(&self.url, project, Some(client))?)
    }
}

/// The cores of `--cores`, which must be among those that this process may run on; all of those where it is absent.
fn cores(list: Option<&str>) -> Result<Vec<usize>, Failure> {
    let Some(list) = list else { return Ok(allowed_cores()) };
    let cores = parse_cores(list)?;
    check_cores(&cores)?;
    Ok(cores)
}
