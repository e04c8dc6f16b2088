//! `millstream queues` and `millstream queue delete`, for a data directory or a running server.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::control::{AccessArgs, control_address};
use super::output::{Output, write_json};
use super::{Directory, Failure, say_damage};
use crate::base::clock::rfc3339;
use crate::base::millis::UnixMillis;
use crate::base::names::{Project, QueueName};
use crate::client::{ControlClient, ControlError};
use crate::control::{DELETION_TIMEOUT, QueueLine};
use crate::process::terminal::{escaped, say};
use crate::store::log::inspect::{Contents, delete_queue};
use crate::store::log::moment;

/// How long a running server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

const _: () = assert!(
    DELETION_TIMEOUT.as_secs() < ANSWER_TIMEOUT.as_secs(),
    "the server says what became of a deletion"
);

/// Where the queues are stored.
#[derive(Debug, clap::Args)]
struct Location {
    /// Data directory of the embedded log. No server may use it at the same time; for a running server give
    /// --control
    #[arg(long, default_value = "millstream-data", conflicts_with = "control")]
    data_dir: PathBuf,
    /// Address of a running server's control port, such as http://127.0.0.1:9001, or unix:/PATH
    #[arg(long)]
    control: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints partitions, messages, bytes, and the times of the oldest and newest
message of each queue. Messages that have expired still count while their file
holds others that have not.

Examples:
  millstream queues                                  read ./millstream-data
  millstream queues --control http://127.0.0.1:9001  ask a running server

Exit codes:
  0    done
  2    the directory cannot be read, a server uses it, or the running server
       cannot be asked
  141  standard output was closed")]
pub(super) struct ListArgs {
    #[command(flatten)]
    place: Location,
    /// Print one JSON object per queue
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, clap::Subcommand)]
enum QueueCommand {
    /// Delete a queue and all of its messages
    #[command(after_help = "\
The disk space becomes free when the files that hold the messages expire: a
file stays as long as its longest-lived message.

Examples:
  millstream queue delete greetings
  millstream queue delete greetings --control http://127.0.0.1:9001

Exit codes:
  0    deleted
  1    the queue does not exist
  2    the directory cannot be written, a server uses it, or the running server
       cannot be asked
  141  standard output was closed")]
    Delete {
        /// Name of the queue
        queue: String,
        /// Project that owns the queue
        #[arg(long, default_value = "default")]
        project: String,
        #[command(flatten)]
        place: Location,
    },
}

fn now() -> UnixMillis {
    UnixMillis::from_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Formats a time for people, or `-` if there is none.
fn when(unix: Option<UnixMillis>) -> String {
    unix.and_then(rfc3339).unwrap_or_else(|| "-".into())
}

fn lines(place: &Location) -> Result<Vec<QueueLine>, Failure> {
    if let Some(control) = &place.control {
        return Ok(place.access.client(&control_address(control)?, ANSWER_TIMEOUT)?.get("/queues")?);
    }
    let directory = Directory::open(&place.data_dir)?;
    let contents = Contents::read(&directory.files, &moment())?;
    say_damage(&contents.report);
    Ok(contents.queues(now()).iter().map(|(name, summary)| QueueLine::new(name, summary)).collect())
}

/// Runs `millstream queues`.
pub(super) fn list(args: &ListArgs) -> Result<ExitCode, Failure> {
    let lines = lines(&args.place)?;
    let mut out = Output::new();
    if args.json {
        lines.iter().try_for_each(|line| write_json(&mut out, line))?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "{:<40} {:>10} {:>14} {:>16}  {:<20}  {:<20}",
        "queue", "partitions", "messages", "bytes", "oldest", "newest"
    )?;
    for QueueLine { project, queue, partitions, messages, bytes, oldest, newest } in lines {
        let name = format!("{project}/{queue}");
        let (name, oldest, newest) = (escaped(&name), when(oldest), when(newest));
        writeln!(out, "{name:<40} {partitions:>10} {messages:>14} {bytes:>16}  {oldest:<20}  {newest:<20}")?;
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `millstream queue`.
pub(super) fn run(args: &QueueArgs) -> Result<ExitCode, Failure> {
    let QueueCommand::Delete { queue, project, place } = &args.command;
    let parsed = Project::parse_stored(project).and_then(|project| Ok((project, QueueName::parse(queue)?)));
    let name = parsed.map_err(|fault| Failure(fault.to_string()))?;
    let is_deleted = match &place.control {
        Some(control) => {
            let client = place.access.client(&control_address(control)?, ANSWER_TIMEOUT)?;
            delete_running(&client, project, queue)?
        }
        None => delete_queue(&Directory::open(&place.data_dir)?.files, &name)?,
    };
    if is_deleted {
        let mut out = Output::new();
        writeln!(out, "{project}/{queue} is deleted")?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    say(format_args!("millstream: queue {project}/{queue}: no such queue"));
    Ok(ExitCode::from(1))
}

fn delete_running(client: &ControlClient, project: &str, queue: &str) -> Result<bool, Failure> {
    match client.delete(&format!("/queues/{project}/{queue}")) {
        Ok(()) => Ok(true),
        Err(ControlError::Refused { status, text, .. })
            if status.as_u16() == 404 && text.contains("no such queue") =>
        {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}
