//! `millstream message`: single messages of a queue, in a data directory or a server.

use std::io::Write;
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Failure;
use super::message_form::MessageForm;
use super::output::{Output, write_json};
use super::queue::location::One;
use super::queue::{Form, answer};
use crate::control::{IDS_MAX, MessageLine, POP_MAX, RemovedLine};
use crate::pb::ReceivedMessage;
use crate::process::terminal::{escaped, say};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print messages by their ids; they stay in the queue
    #[command(after_help = "\
Prints one payload per line, or with -o json one object per message: id, age,
ttl, timestamp (Unix milliseconds), delay, count (how often it was claimed),
is_claimed, key, headers and payload. Key and payload are base64. Claimed and delayed
messages are printed, too. With --url, ids are those of the Zaqar API, a body
that is no text is printed as JSON, and what the API does not say is absent.

Examples:
  millstream message get jobs 0.1f 3.0
  millstream message get jobs 0.1f -o json --control http://127.0.0.1:9001
  millstream message get jobs 000000000000000000007a1c2b3d4e5f --url ws://127.0.0.1:9000/v2

Exit codes:
  0    done
  1    the queue, or one of the messages, does not exist
  2    the directory cannot be used, or the running server cannot be asked
  141  standard output was closed")]
    Get {
        #[command(flatten)]
        one: One,
        /// Ids of messages, as consumers get them, or with --url as the Zaqar API gives them
        #[arg(required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        form: Form,
    },
    /// Delete messages by their ids
    #[command(after_help = "\
Claimed messages are deleted, too: what their workers say of them later has no
effect. With --unclaimed they are kept.

Examples:
  millstream message delete jobs 0.1f 3.0
  millstream message delete jobs 0.1f --unclaimed

Exit codes:
  0    all are deleted
  1    the queue, or one of the messages, does not exist, or one was kept
  2    the directory cannot be written, or the running server cannot be asked
  141  standard output was closed")]
    Delete {
        #[command(flatten)]
        one: One,
        /// Ids of messages, as consumers get them, or with --url as the Zaqar API gives them
        #[arg(required = true)]
        ids: Vec<String>,
        /// Keep messages that are claimed
        #[arg(long)]
        unclaimed: bool,
        #[command(flatten)]
        form: Form,
    },
    /// Delete the oldest messages and print them
    #[command(after_help = "\
Takes messages that are not claimed. If this command, or its connection to the
server, ends before it has printed them, they are lost: millstream claim loses
nothing. A queue with several partitions has an order in each of them alone.

Examples:
  millstream message pop jobs
  millstream message pop jobs --count 20 -o json
  millstream message pop jobs --url ws://127.0.0.1:9000/v2

Exit codes:
  0    done
  1    the queue does not exist, or holds no such message
  2    the directory cannot be written, or the running server cannot be asked
  141  standard output was closed")]
    Pop {
        #[command(flatten)]
        one: One,
        /// The most messages; fewer if they are large (1 MiB in all)
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(POP_MAX)))]
        count: u32,
        #[command(flatten)]
        form: Form,
    },
}

/// Runs `millstream message`.
pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.command {
        Command::Get { one, ids, form } => {
            let (name, mut place) = (one.name()?, one.open()?);
            let found = place.find(&name, ids)?;
            place.close()?;
            let Some(lines) = found else { return answer(&name, None::<()>, |()| Ok(())) };
            print(*form, &lines)?;
            let missing = ids.iter().filter(|id| !lines.iter().any(|line| line.id == **id));
            Ok(ExitCode::from(u8::from(say_missing(missing))))
        }
        Command::Delete { one, ids, unclaimed, form } => {
            let (name, mut place) = (one.name()?, one.open()?);
            let mut is_any_kept = false;
            // What was deleted is told at once: a later request may fail.
            for some in ids.chunks(IDS_MAX) {
                let Some(lines) = place.remove(&name, some, *unclaimed)? else {
                    return answer(&name, None::<()>, |()| Ok(()));
                };
                is_any_kept |= lines.len() < some.len() || lines.iter().any(|line| !line.is_deleted);
                print_removed(*form, some, &lines)?;
            }
            place.close()?;
            Ok(ExitCode::from(u8::from(is_any_kept)))
        }
        Command::Pop { one, count, form } => {
            let (name, mut place) = (one.name()?, one.open()?);
            let popped = place.pop(&name, *count)?;
            // What was popped is printed first: it is nowhere else.
            if let Some(lines) = &popped {
                print(*form, lines)?;
            }
            place.close()?;
            if popped.as_ref().is_some_and(Vec::is_empty) {
                say(format_args!("millstream: queue {}/{}: no message can be popped", name.0, name.1));
                return Ok(ExitCode::from(1));
            }
            answer(&name, popped, |_| Ok(()))
        }
    }
}

fn print(form: Form, lines: &[MessageLine]) -> Result<(), Failure> {
    let mut out = Output::new();
    let text = MessageForm::new(false, false);
    for line in lines {
        if form.is_json() {
            write_json(&mut out, line)?;
            continue;
        }
        let payload = STANDARD.decode(&line.payload)?;
        let message = ReceivedMessage { id: &line.id, payload: Some(&payload), ..ReceivedMessage::default() };
        text.write(&message, &mut out)?;
    }
    out.finish()
}

fn print_removed(form: Form, ids: &[String], lines: &[RemovedLine]) -> Result<(), Failure> {
    let mut out = Output::new();
    for line in lines {
        let RemovedLine { id, is_deleted, why } = line;
        match (form.is_json(), is_deleted) {
            (true, _) => write_json(&mut out, line)?,
            (false, true) => writeln!(out, "{} is deleted", escaped(id))?,
            (false, false) => {
                let why = why.as_deref().unwrap_or("it is kept");
                say(format_args!("millstream: message {}: {}", escaped(id), escaped(why)));
            }
        }
    }
    for id in ids.iter().filter(|id| !lines.iter().any(|line| line.id == **id)) {
        say(format_args!("millstream: message {}: whether it is deleted is unknown", escaped(id)));
    }
    out.finish()
}

/// Names the messages that do not exist. Returns whether there are any.
fn say_missing<'a>(ids: impl Iterator<Item = &'a String>) -> bool {
    let mut is_any = false;
    for id in ids {
        say(format_args!("millstream: message {}: there is no such message", escaped(id)));
        is_any = true;
    }
    is_any
}
