//! `millstream log`: checks, prints or copies the files of the embedded log.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::output::{Output, write_json};
use super::{Directory, Failure, backup, say_damage};
use crate::base::millis::UnixMillis;
use crate::base::names::{Project, QueueName};
use crate::base::queue::message_id;
use crate::control::HeaderLine;
use crate::process::terminal::{say, write_escaped};
use crate::store::log::inspect::{Contents, Kind, Verified, verify};
use crate::store::log::moment;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, clap::Subcommand)]
enum LogCommand {
    /// Check every checksum of the embedded log, file by file; changes nothing
    #[command(after_help = "\
Prints one line per file: its length, the batches or records that are whole,
their messages and notes of the state of claims, the unfinished (torn) bytes
at its end, and the damaged byte ranges. Torn bytes are normal after a crash: with the default durability,
no client got an answer for them.

No server may use the directory at the same time.

Example:
  millstream log verify millstream-data

Exit codes:
  0    every file is intact
  1    a file is damaged
  2    the directory cannot be read, or a server uses it
  141  standard output was closed")]
    Verify {
        /// The data directory, such as millstream-data
        dir: PathBuf,
    },
    /// Copy the embedded log to another directory, also that of a running server
    #[command(after_help = backup::HELP)]
    Backup(backup::Args),
    /// Print a queue's messages from the files of the embedded log
    #[command(after_help = "\
Prints the queue partition by partition, in order of offset: one payload per
line. Includes messages that have expired or were settled but are still
stored. --state prints the notes of the state of claims instead, as JSON.

No server may use the directory at the same time.

Example:
  millstream log dump millstream-data greetings --json

Exit codes:
  0    done
  1    a file is damaged; its damaged messages are left out
  2    the directory cannot be read, a server uses it, or the queue does not exist
  141  standard output was closed")]
    Dump {
        /// The data directory, such as millstream-data
        dir: PathBuf,
        /// Name of the queue
        queue: String,
        /// Project that owns the queue
        #[arg(long, default_value = "default")]
        project: String,
        /// Print one JSON object per message: id, timestamp (Unix milliseconds), ttl (seconds), client, key
        /// (if any) and payload. Key and payload are base64
        #[arg(long)]
        json: bool,
        /// Print the notes of the state of claims instead of messages, each as a JSON object: partition,
        /// number, timestamp and note (base64)
        #[arg(long, conflicts_with_all = ["json", "raw"])]
        state: bool,
        /// Write payloads to a terminal unchanged. By default, control characters are escaped on a terminal
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
}

/// Runs `millstream log`.
pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        LogCommand::Verify { dir } => run_verify(&Directory::open(&dir)?),
        LogCommand::Backup(args) => backup::run(&args),
        LogCommand::Dump { dir, queue, project, json, state, raw } => {
            let name = (
                Project::parse_stored(&project).map_err(failure)?,
                QueueName::parse(&queue).map_err(failure)?,
            );
            let form = match (state, json, raw) {
                (true, ..) => Form::Notes,
                (_, true, _) => Form::Json,
                (.., is_raw) => Form::Payloads { is_raw },
            };
            dump(&Directory::open(&dir)?, &name, form)
        }
    }
}

fn failure(fault: crate::base::error::PeerFault) -> Failure {
    Failure(fault.to_string())
}

fn run_verify(directory: &Directory) -> Result<ExitCode, Failure> {
    let mut out = Output::new();
    let (file, bytes, whole) = ("file", "bytes", "whole");
    let (messages, state, torn) = ("messages", "state", "torn");
    writeln!(out, "{file:<28} {bytes:>12} {whole:>10} {messages:>12} {state:>10} {torn:>10}  damage")?;
    let mut is_damaged = false;
    let mut written = Ok(());
    verify(
        &directory.files,
        &moment(),
        |Verified { file, length, whole, messages, notes, torn, damage }| {
            is_damaged |= !damage.is_empty();
            let said: Vec<String> =
                damage.iter().map(|damage| format!("{} bytes at {}", damage.bytes, damage.at)).collect();
            let said = if said.is_empty() { "none".to_owned() } else { said.join(", ") };
            let line = format!(
                "{:<28} {length:>12} {whole:>10} {messages:>12} {notes:>10} {torn:>10}  {said}\n",
                file.to_string()
            );
            if written.is_ok() {
                // Flush each line: files are large, and someone may be watching.
                written = out.write_all(line.as_bytes()).and_then(|()| out.flush());
            }
        },
    )?;
    written?;
    Ok(ExitCode::from(u8::from(is_damaged)))
}

#[derive(serde::Serialize)]
struct Line {
    id: String,
    timestamp: UnixMillis,
    ttl: u32,
    client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<HeaderLine>,
    payload: String,
}

#[derive(serde::Serialize)]
struct Note {
    partition: u16,
    number: u64,
    timestamp: UnixMillis,
    note: String,
}

/// What `dump` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The payloads of messages. On a terminal, control characters are escaped unless they are `is_raw`.
    Payloads { is_raw: bool },
    /// Messages as JSON.
    Json,
    /// The notes of the state of claims, as JSON.
    Notes,
}

fn dump(directory: &Directory, name: &(Project, QueueName), form: Form) -> Result<ExitCode, Failure> {
    let contents = Contents::read(&directory.files, &moment())?;
    let mut out = Output::new();
    let is_terminal = out.is_terminal();
    let mut is_damaged = say_damage(&contents.report);
    let kind = if form == Form::Notes { Kind::State } else { Kind::Messages };
    let dumped = contents.dump(
        &directory.files,
        name,
        kind,
        |partition, stored| {
            for (offset, record) in
                stored.base_offset.following(u64::from(stored.batch.count())).zip(stored.batch.records())
            {
                match form {
                    Form::Payloads { is_raw } => {
                        if is_terminal && !is_raw {
                            write_escaped(record.payload, &mut out)?;
                        } else {
                            out.write_all(record.payload)?;
                        }
                        out.write_all(b"\n")?;
                    }
                    Form::Json => {
                        let key = Some(record.key).filter(|key| !key.is_empty());
                        let line = Line {
                            id: message_id(partition, offset),
                            timestamp: stored.timestamp,
                            ttl: stored.batch.ttl_secs(),
                            client: stored.batch.client().to_string(),
                            key: key.map(|key| STANDARD.encode(key)),
                            headers: HeaderLine::all(record.headers),
                            payload: STANDARD.encode(record.payload),
                        };
                        write_json(&mut out, &line)?;
                    }
                    Form::Notes => {
                        let note = Note {
                            partition: partition.0,
                            number: offset.0,
                            timestamp: stored.timestamp,
                            note: STANDARD.encode(record.payload),
                        };
                        write_json(&mut out, &note)?;
                    }
                }
            }
            Ok(())
        },
        |file, damage| {
            is_damaged = true;
            let (at, bytes) = (damage.at, damage.bytes);
            say(format_args!("millstream: {file}: {bytes} bytes at {at} are damaged and left out"));
        },
    );
    let dumped = dumped.ok_or_else(|| Failure(format!("queue {}/{}: no such queue", name.0, name.1)))?;
    dumped.and_then(|()| out.flush())?;
    Ok(ExitCode::from(u8::from(is_damaged)))
}
