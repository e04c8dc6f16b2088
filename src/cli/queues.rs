//! `millstream queues` and `millstream queue delete`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Directory, Failure, say_damage};
use crate::names::{Project, QueueName};
use crate::store::log::inspect::{Contents, QueueSummary, delete_queue};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Of a data directory that no server uses. Messages that have expired are counted as long as their file holds others.\n\
                        Exit codes: 0 done; 2 it cannot be read, or a server uses it."
)]
pub(super) struct ListArgs {
    /// The data directory
    #[arg(long, default_value = "millstream-data")]
    data_dir: PathBuf,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct QueueArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Delete a queue and its messages from a data directory that no server uses; their room is free once their files expire
    #[command(
        after_help = "Exit codes: 0 deleted; 1 there is no such queue; 2 it cannot be written, or a server uses it."
    )]
    Delete {
        /// The queue
        queue: String,
        /// The project
        #[arg(long, default_value = "default")]
        project: String,
        /// The data directory
        #[arg(long, default_value = "millstream-data")]
        data_dir: PathBuf,
    },
}

#[derive(serde::Serialize)]
struct Line<'a> {
    project: &'a str,
    queue: &'a str,
    partitions: u16,
    messages: u64,
    bytes: u64,
    oldest_ms: Option<u64>,
    newest_ms: Option<u64>,
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// When that was, as people read it.
fn when(unix_ms: Option<u64>) -> String {
    let at = unix_ms.and_then(|ms| UNIX_EPOCH.checked_add(std::time::Duration::from_millis(ms)));
    at.map_or("-".into(), |at| humantime::format_rfc3339_seconds(at).to_string())
}

/// Lists the queues of a data directory.
pub(super) fn list(args: &ListArgs) -> Result<ExitCode, Failure> {
    let directory = Directory::open(&args.data_dir)?;
    let contents = Contents::read(&directory.files)?;
    if !args.json {
        println!(
            "{:<40} {:>10} {:>14} {:>16}  {:<20}  {:<20}",
            "queue", "partitions", "messages", "bytes", "oldest", "newest"
        );
    }
    for ((project, queue), summary) in contents.queues(unix_ms()) {
        let QueueSummary { partitions, messages, bytes, oldest_ms, newest_ms } = summary;
        if args.json {
            let (project, queue) = (project.as_str(), queue.as_str());
            let line = Line { project, queue, partitions, messages, bytes, oldest_ms, newest_ms };
            println!("{}", serde_json::to_string(&line)?);
        } else {
            let (name, oldest, newest) = (format!("{project}/{queue}"), when(oldest_ms), when(newest_ms));
            println!("{name:<40} {partitions:>10} {messages:>14} {bytes:>16}  {oldest:<20}  {newest:<20}");
        }
    }
    say_damage(&contents.report);
    Ok(ExitCode::SUCCESS)
}

/// Does something to a queue.
pub(super) fn run(args: &QueueArgs) -> Result<ExitCode, Failure> {
    let Command::Delete { queue, project, data_dir } = &args.command;
    let parsed = Project::parse(project).and_then(|project| Ok((project, QueueName::parse(queue)?)));
    let name = parsed.map_err(|fault| Failure(fault.to_string()))?;
    let directory = Directory::open(data_dir)?;
    if delete_queue(&directory.files, &name)? {
        println!("{project}/{queue} is deleted");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("millstream: queue {project}/{queue}: no such queue");
    Ok(ExitCode::from(1))
}
