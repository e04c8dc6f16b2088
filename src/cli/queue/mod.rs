//! `millstream queues` and `millstream queue`: the queues of a data directory or a server.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | the commands, and what they print |
//! | `location` | where the queues are |
//! | `place` | what can be asked of them |
//! | `sign` | makes the headers of pre-signed requests |
//! | `stopped` | a data directory that no server uses |
//! | `running` | a running server, through its control port |
//! | `remote` | a server of the Zaqar API |

pub(super) mod location;
mod place;
mod remote;
mod running;
mod sign;
mod stopped;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Map, Value};

use self::location::{DEFAULT_PROJECT, Location, One};
use self::place::Count;
use super::Failure;
use super::output::{Output, write_json};
use crate::base::clock::rfc3339;
use crate::base::millis::UnixMillis;
use crate::base::names::{FullName, QueueName};
use crate::control::{
    CHANGE_TIMEOUT, CountsPage, LOOK_TIMEOUT, MANAGED_TIMEOUT, QueueChange, QueueLine, QueuePage, StatsPage,
};
use crate::process::terminal::{escaped, say};

/// How long a running server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

const _: () = assert!(
    CHANGE_TIMEOUT.as_secs() < ANSWER_TIMEOUT.as_secs()
        && LOOK_TIMEOUT.as_secs() + MANAGED_TIMEOUT.as_secs() < ANSWER_TIMEOUT.as_secs(),
    "the server says what became of a change"
);

const LIST_HELP: &str = "\
Prints partitions, messages, bytes, and the times of the oldest and newest
message of each queue. Messages that have expired or were deleted still count
while their file holds others: millstream queue stats counts exactly.

Examples:
  millstream queues                                  read ./millstream-data
  millstream queues --control http://127.0.0.1:9001  ask a running server
  millstream queue list --project acme --prefix jobs-
  millstream queue list --url wss://zaqar.example/v2 --token-file token

Exit codes:
  0    done
  2    the directory cannot be read, or the running server cannot be asked
  141  standard output was closed";

#[derive(Debug, clap::Args)]
#[command(after_help = LIST_HELP)]
pub(super) struct ListArgs {
    /// Only the queues of this project
    #[arg(long)]
    project: Option<String>,
    /// Only the queues whose names begin with this
    #[arg(long, default_value = "")]
    prefix: String,
    #[command(flatten)]
    place: Location,
    #[command(flatten)]
    form: Form,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Form {
    /// Text for people, or JSON: one object per line
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// The same as --output json
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Form {
    /// Returns whether JSON is wanted.
    pub(super) fn is_json(self) -> bool {
        self.json || self.output == Format::Json
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List queues
    List(ListArgs),
    /// Create a queue
    #[command(after_help = "\
A producer or a consumer creates a queue, too, with the settings of the server.
This command chooses partitions and attributes. If the queue exists, it is left
as it is.

Examples:
  millstream queue create jobs --partitions 16
  millstream queue create jobs _max_claim_count=5 _dead_letter_queue=jobs-dead
  millstream queue create events _default_message_ttl=86400 owner=billing

Exit codes:
  0    created
  1    the queue exists
  2    an attribute is wrong, the directory cannot be written, or the running
       server cannot be asked
  141  standard output was closed")]
    Create {
        #[command(flatten)]
        one: One,
        /// Attributes, each NAME=VALUE. A value that is no JSON is taken as text
        #[arg(value_name = "NAME=VALUE")]
        attributes: Vec<String>,
        /// The number of partitions, 1 to 64 [default: the server's setting; 8 without a server]
        #[arg(long)]
        partitions: Option<u16>,
        #[command(flatten)]
        form: Form,
    },
    /// Print a queue: its partitions, attributes, and what it holds
    #[command(after_help = "\
Examples:
  millstream queue show jobs
  millstream queue show jobs -o json --control http://127.0.0.1:9001
  millstream queue show jobs --url ws://127.0.0.1:9000/v2

Exit codes:
  0    done
  1    the queue does not exist
  2    the directory cannot be used, or the running server cannot be asked
  141  standard output was closed")]
    Show {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        form: Form,
    },
    /// Change attributes of a queue
    #[command(after_help = "\
Attributes that are not named stay. A change reaches open producers, consumers
and workers within a second. Reserved attributes begin with _:

  _default_message_ttl             TTL of messages that name none, in seconds
  _default_message_delay           delay of messages that name none, in seconds
  _max_messages_post_size          the largest payload, in bytes
  _max_claim_count                 how often a message is given out at most
  _dead_letter_queue               where it goes then, and when it is rejected
  _dead_letter_queue_messages_ttl  its TTL there, in seconds
  _max_messages, _max_bytes        limits of what the queue holds
  _when_full                       refuse (the default) or drop-oldest

Examples:
  millstream queue set jobs _max_claim_count=5 _dead_letter_queue=jobs-dead
  millstream queue set jobs --unset _max_messages --unset owner

Exit codes:
  0    changed
  1    the queue does not exist
  2    an attribute is wrong, the directory cannot be written, or the running
       server cannot be asked
  141  standard output was closed")]
    Set {
        #[command(flatten)]
        one: One,
        /// Attributes, each NAME=VALUE. A value that is no JSON is taken as text
        #[arg(value_name = "NAME=VALUE", required_unless_present = "unset")]
        attributes: Vec<String>,
        /// Remove this attribute
        #[arg(long, value_name = "NAME")]
        unset: Vec<String>,
        #[command(flatten)]
        form: Form,
    },
    /// Add partitions to a queue that exists
    #[command(after_help = "\
Messages stay where they are. New messages are spread over all partitions, so a
key may move to another partition: messages with the same key that were stored
before and after are then no longer in order.

Example:
  millstream queue add-partitions jobs --total 16

Exit codes:
  0    done
  1    the queue does not exist
  2    the queue has more already, the directory cannot be written, or the
       running server cannot be asked
  141  standard output was closed")]
    AddPartitions {
        #[command(flatten)]
        one: One,
        /// The number of partitions that the queue has afterwards, up to 64
        #[arg(long)]
        total: u16,
        #[command(flatten)]
        form: Form,
    },
    /// Count the messages of a queue
    #[command(after_help = "\
Prints how many messages can be claimed (free), are claimed, and can be claimed
later (delayed), their bytes, and the oldest and the newest of them. Messages
that have expired may count for another minute.

Examples:
  millstream queue stats jobs
  millstream queue stats jobs -o json

Exit codes:
  0    done
  1    the queue does not exist
  2    the directory cannot be used, or the running server cannot be asked
  141  standard output was closed")]
    Stats {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        form: Form,
    },
    /// Delete all messages of a queue
    #[command(after_help = "\
Claimed messages are deleted, too: what their workers say of them later has no
effect. The queue keeps its attributes. With --url, OpenStack's own server keeps
claimed messages, and no server says how many it has deleted.

Examples:
  millstream queue purge jobs
  millstream queue purge jobs --url ws://127.0.0.1:9000/v2

Exit codes:
  0    done
  1    the queue does not exist
  2    the directory cannot be written, or the running server cannot be asked
  141  standard output was closed")]
    Purge {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        form: Form,
    },
    /// Move dead letters back to the queues that they come from
    #[command(after_help = "\
Moves every message of a dead-letter queue that is not claimed. Each is moved
once, even if the server crashes meanwhile. Messages that come from no other
queue stay, unless --to names a queue for all. A queue that was deleted is
created again, with the settings of the server.

Examples:
  millstream queue redrive jobs-dead
  millstream queue redrive jobs-dead --to jobs-again

Exit codes:
  0    the moves have begun
  1    the queue does not exist
  2    the running server cannot be asked, or no server runs
  141  standard output was closed")]
    Redrive {
        #[command(flatten)]
        one: One,
        /// Move all of them to this queue of the same project
        #[arg(long, value_name = "QUEUE")]
        to: Option<String>,
        #[command(flatten)]
        form: Form,
    },
    /// Make the headers of pre-signed requests to the Zaqar API
    #[command(after_help = sign::HELP)]
    Sign(sign::SignArgs),
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
  2    the directory cannot be written, or the running server cannot be asked
  141  standard output was closed")]
    Delete {
        #[command(flatten)]
        one: One,
    },
}

/// Runs `millstream queues`.
pub(super) fn list(args: &ListArgs) -> Result<ExitCode, Failure> {
    let ListArgs { project, prefix, place, form } = args;
    let mut place = place.open(project.as_deref().unwrap_or(DEFAULT_PROJECT))?;
    let lines = place.list(project.as_deref(), prefix)?;
    place.close()?;
    let mut out = Output::new();
    if form.is_json() {
        lines.iter().try_for_each(|line| write_json(&mut out, line))?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "{:<40} {:>10} {:>14} {:>16}  {:<20}  {:<20}",
        "queue", "partitions", "messages", "bytes", "oldest", "newest"
    )?;
    for QueueLine { project, queue, partitions, held } in lines {
        let (messages, bytes) = (known(held.map(|held| held.messages)), known(held.map(|held| held.bytes)));
        let partitions = known(partitions);
        let (oldest, newest) = (held.and_then(|held| held.oldest), held.and_then(|held| held.newest));
        let name = format!("{project}/{queue}");
        let (name, oldest, newest) = (escaped(&name), when(oldest), when(newest));
        writeln!(out, "{name:<40} {partitions:>10} {messages:>14} {bytes:>16}  {oldest:<20}  {newest:<20}")?;
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `millstream queue`.
pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.command {
        Command::List(args) => list(args),
        Command::Create { one, attributes, partitions, form } => {
            let (name, mut place) = (one.name()?, one.open()?);
            let change = QueueChange { attributes: parse(attributes)?, partitions: *partitions };
            let (is_new, page) = place.create(&name, change)?;
            place.close()?;
            if !is_new {
                say(format_args!("millstream: queue {}/{} exists; it is left as it is", name.0, name.1));
            }
            print(*form, &page, |out| write_page(out, &page))?;
            Ok(ExitCode::from(u8::from(!is_new)))
        }
        Command::Show { one, form } => {
            let (name, mut place) = (one.name()?, one.open()?);
            let page = place.show(&name)?;
            place.close()?;
            answer(&name, page, |page| print(*form, &page, |out| write_page(out, &page)))
        }
        Command::Set { one, attributes, unset, form } => {
            let mut attributes = parse(attributes)?;
            attributes.extend(unset.iter().map(|name| (name.clone(), Value::Null)));
            change(one, QueueChange { attributes, partitions: None }, *form)
        }
        Command::AddPartitions { one, total, form } => {
            change(one, QueueChange { attributes: Map::new(), partitions: Some(*total) }, *form)
        }
        Command::Stats { one, form } => {
            let (name, mut place) = (one.name()?, one.open()?);
            let stats = place.show(&name)?.map(|page| page.stats.unwrap_or_default());
            place.close()?;
            answer(&name, stats, |stats| print(*form, &stats, |out| write_stats(out, &stats)))
        }
        Command::Purge { one, form } => {
            let (name, mut place) = (one.name()?, one.open()?);
            let messages = place.purge(&name)?;
            place.close()?;
            affected(&name, messages, *form, "deleted")
        }
        Command::Redrive { one, to, form } => {
            let to = to.as_deref().map(QueueName::parse).transpose();
            let to = to.map_err(|fault| Failure(format!("--to: {fault}")))?;
            let (name, mut place) = (one.name()?, one.open()?);
            let messages = place.redrive(&name, to.as_ref())?;
            place.close()?;
            affected(&name, messages.map(Some), *form, "being moved")
        }
        Command::Sign(args) => sign::run(args),
        Command::Delete { one } => {
            let (name, mut place) = (one.name()?, one.open()?);
            let is_deleted = place.delete(&name)?;
            place.close()?;
            answer(&name, is_deleted.then_some(()), |()| {
                let mut out = Output::new();
                writeln!(out, "{}/{} is deleted", name.0, name.1)?;
                out.finish()
            })
        }
    }
}

/// Changes a queue, and prints it.
fn change(one: &One, change: QueueChange, form: Form) -> Result<ExitCode, Failure> {
    let (name, mut place) = (one.name()?, one.open()?);
    let page = place.set(&name, change)?;
    place.close()?;
    if page.as_ref().is_some_and(|page| page.keys_move) {
        say(format_args!(
            "millstream: keys may go to other partitions from now on; what is stored stays where it is"
        ));
    }
    answer(&name, page, |page| print(form, &page, |out| write_page(out, &page)))
}

/// Prints an answer, or that the queue does not exist.
pub(super) fn answer<T>(
    name: &FullName,
    answer: Option<T>,
    print: impl FnOnce(T) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    let Some(answer) = answer else {
        say(format_args!("millstream: queue {}/{}: no such queue", name.0, name.1));
        return Ok(ExitCode::from(1));
    };
    print(answer)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints how many messages something was done to.
fn affected(name: &FullName, messages: Option<Count>, form: Form, what: &str) -> Result<ExitCode, Failure> {
    answer(name, messages, |messages| {
        let page = messages.map(|messages| serde_json::json!({ "messages": messages }));
        print(form, &page.unwrap_or_else(|| serde_json::json!({})), |out| {
            let count = messages.map_or_else(|| "the".to_owned(), |messages| messages.to_string());
            Ok(writeln!(out, "{count} messages of {}/{} are {what}", name.0, name.1)?)
        })
    })
}

/// Prints a value as JSON, or as `text` writes it.
fn print(
    form: Form,
    value: &impl serde::Serialize,
    text: impl FnOnce(&mut Output) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut out = Output::new();
    if form.is_json() {
        write_json(&mut out, value)?
    } else {
        text(&mut out)?
    }
    out.finish()
}

fn write_page(out: &mut Output, page: &QueuePage) -> Result<(), Failure> {
    let QueuePage { project, queue, partitions, attributes, stats, .. } = page;
    writeln!(out, "{:<12} {}", "queue", escaped(&format!("{project}/{queue}")))?;
    if let Some(partitions) = partitions {
        writeln!(out, "{:<12} {partitions}", "partitions")?;
    }
    for (name, value) in attributes {
        writeln!(out, "{:<12} {} = {}", "attribute", escaped(name), escaped(&value.to_string()))?;
    }
    match stats {
        Some(stats) => write_stats(out, stats),
        None => Ok(()),
    }
}

fn write_stats(out: &mut Output, stats: &StatsPage) -> Result<(), Failure> {
    let StatsPage { counts, offsets } = stats;
    if let Some(offsets) = offsets {
        writeln!(out, "{:<12} {offsets}", "offsets")?;
    }
    let Some(CountsPage { free, claimed, delayed, total, bytes, oldest, newest }) = counts else {
        return Ok(());
    };
    let (free, claimed, total) = (&Some(*free), &Some(*claimed), &Some(*total));
    for (what, count) in
        [("free", free), ("claimed", claimed), ("delayed", delayed), ("total", total), ("bytes", bytes)]
    {
        if let Some(count) = count {
            writeln!(out, "{what:<12} {count}")?;
        }
    }
    for (what, stored) in [("oldest", oldest), ("newest", newest)] {
        match stored {
            Some(stored) => {
                writeln!(out, "{what:<12} {}  {}", when(Some(stored.timestamp)), escaped(&stored.id))?
            }
            None => writeln!(out, "{what:<12} -")?,
        }
    }
    Ok(())
}

/// Parses attributes, each NAME=VALUE.
fn parse(attributes: &[String]) -> Result<Map<String, Value>, Failure> {
    let parse = |text: &String| {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| Failure(format!("{text:?}: write NAME=VALUE")))?;
        // Text needs no quotes.
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        Ok((name.to_owned(), value))
    };
    attributes.iter().map(parse).collect()
}

/// Formats a number for people, or `-` if it is not known.
fn known(number: Option<impl ToString>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// Formats a time for people, or `-` if there is none.
fn when(unix: Option<UnixMillis>) -> String {
    unix.and_then(rfc3339).unwrap_or_else(|| "-".into())
}
