//! `millstream log backup`: copies the embedded log to another directory.

mod hold;
mod pace;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use serde::Serialize;

use self::hold::Hold;
use self::pace::Pace;
use super::control::{AccessArgs, control_address};
use super::output::{Output, write_json};
use super::serve::CONTROL_SOCKET;
use super::{Directory, Failure, on_signal, say_damage};
use crate::base::clock::rfc3339;
use crate::base::millis::UnixMillis;
use crate::base::setting::Kind;
use crate::client::Address;
use crate::process::terminal::{has_progress, line_start, say};
use crate::process::unix_now;
use crate::store::log::backup::{Advance, Backup, Earlier};
use crate::store::log::inspect::cut;
use crate::store::log::{Cut, Damaged, DirectDirectory, Staging, moment};

/// The shortest time between two progress lines.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// How much the command yields to others beside a running server.
const NICE: i32 = 10;

pub(super) const HELP: &str = "\
The backup is a data directory: to restore it, copy it to its place with cp -a
and start a server on it. The server may run during the backup: the backup
holds everything that it acknowledged before, at one moment in all shards. The
command must run on the same machine, as a user who may read the files.

If DIR holds an earlier backup of the same data directory, message files that
it holds already are not copied again. The new backup takes its place once it is
complete. It is made beside DIR, so the parent directory must be writable. If
the command fails or is interrupted, the earlier backup stays as it is.

Beside a running server, the command pauses after each read for as long as the
read and its write took, so that the server has the disk to itself for half of
the time. --rate replaces these pauses.

A copied message file stays until the end of the backup, even if all its
messages expire. If the disk becomes full in the meantime, the server goes on,
and the backup fails.

Examples:
  millstream log backup /backup/millstream
  millstream log backup --data-dir /var/lib/millstream /backup/millstream
  millstream log backup --rate 50MiB --json /backup/millstream
  millstream log verify /backup/millstream

Exit codes:
  0    done
  1    done, but the data directory is damaged: the backup lacks what cannot be read
  2    there is no new backup; an earlier one is unchanged
  130  a signal ended it; an earlier backup is unchanged
  141  standard output was closed";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the backup goes: a directory that is missing, empty, or a backup of the same data directory
    #[arg(value_name = "DIR")]
    target: PathBuf,
    /// Data directory of the embedded log
    #[arg(long, value_name = "DIR", default_value = "millstream-data")]
    data_dir: PathBuf,
    /// Address of the running server's control port, such as http://127.0.0.1:9001, or unix:/PATH [default: its socket in
    /// the data directory, if a server uses that]
    #[arg(long)]
    control: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
    /// Bytes to copy per second, such as 50MiB
    #[arg(long, value_parser = parse_rate)]
    rate: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn parse_rate(text: &str) -> Result<u64, String> {
    Kind::Bytes(1 << 16..=i64::MAX as u64).parse_number(text)
}

/// The result, as JSON.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    backup: &'a Path,
    /// Whether a server used the data directory.
    is_running: bool,
    segments: usize,
    copied_bytes: u64,
    /// The bytes that the earlier backup held already.
    kept_bytes: u64,
    /// When the earlier backup was made. Unix milliseconds.
    earlier_ms: Option<UnixMillis>,
    seconds: f64,
    /// The ranges of files that could not be read.
    damaged: usize,
}

/// What keeps the data directory as it is.
#[derive(Debug)]
enum Kept {
    /// No server uses it, and it is locked. Whether recovery found damage.
    Locked { _directory: Directory, was_damaged: bool },
    /// A server holds the files of the cut.
    Held(Hold),
}

impl Kept {
    /// Makes a cut of the data directory, and keeps its files.
    fn begin(args: &Args) -> Result<(Self, Cut), Failure> {
        let address = match &args.control {
            Some(control) => control_address(control)?,
            None => match Directory::open(&args.data_dir) {
                Ok(directory) => {
                    let (cut, report) = cut(&directory.files, &moment())?;
                    let was_damaged = say_damage(&report);
                    return Ok((Self::Locked { _directory: directory, was_damaged }, cut));
                }
                Err(why) => {
                    let socket = args.data_dir.join(CONTROL_SOCKET);
                    if !socket.exists() {
                        return Err(why);
                    }
                    Address::at_control_socket(&socket)
                }
            },
        };
        // The server's shards come first on their cores. It fails where that is not allowed.
        let _ = rustix::process::nice(NICE);
        let (hold, cut) = Hold::begin(args.access.client(&address, hold::ANSWER_TIMEOUT)?)?;
        Ok((Self::Held(hold), cut))
    }

    /// Releases the files. Returns whether recovery found damage. Fails unless they were kept until now.
    fn release(self) -> Result<bool, Failure> {
        match self {
            Self::Locked { was_damaged, .. } => Ok(was_damaged),
            Self::Held(hold) => hold.end().map(|()| false),
        }
    }
}

/// Runs `millstream log backup`.
pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let shown = args.target.display();
    let within = |error: &dyn std::fmt::Display| Failure(format!("{shown}: {error}"));
    if !args.data_dir.is_dir() {
        return Err(Failure(format!("{}: no such directory", args.data_dir.display())));
    }
    let signal = on_signal()?;
    let staging = Staging::begin(&args.target, &args.data_dir).map_err(|error| within(&error))?;
    let (kept, cut) = Kept::begin(args)?;
    let none = Earlier::default();
    let earlier = staging.earlier().unwrap_or(&none);
    let earlier_ms = staging.earlier().and_then(Earlier::unix);
    let (lacking, free) = (earlier.lacks(&cut), staging.free()?);
    if free < lacking {
        kept.release()?;
        let (lacking, free) = (ByteSize(lacking), ByteSize(free));
        return Err(within(&format_args!("the backup needs {lacking} more, and {free} are free")));
    }
    let source = DirectDirectory::new(&args.data_dir);
    let backup = Backup { source: &source, cut: &cut, target: staging.files(), earlier };
    let mut pace = Pace::new(args.rate, matches!(kept, Kept::Held(_)));
    let mut progress = Progress { all: cut.segments.iter().map(|of| of.end).sum(), ..Progress::default() };
    let advance = |step| {
        progress.add(step);
        let is_over = || signal.is_closed() || matches!(&kept, Kept::Held(hold) if hold.is_lost());
        if let Advance::Copied(bytes) = step {
            pace.wait(bytes, is_over);
        }
        if is_over() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let unix = unix_now();
    let copied = backup.run(unix, |file| staging.adopt(file), advance);
    progress.clear();
    let is_running = matches!(kept, Kept::Held(_));
    let released = kept.release();
    if signal.is_closed() {
        say(format_args!("millstream: interrupted: there is no new backup"));
        return Ok(ExitCode::from(130));
    }
    // Only if the files were held until now is the copy that of one moment.
    let was_damaged = released?;
    let damaged = copied.map_err(|error| within(&error))?;
    staging.finish().map_err(|error| within(&error))?;
    for Damaged { file, damage, means } in &damaged {
        say(format_args!("millstream: {file}: {} bytes at {}: {means}", damage.bytes, damage.at));
    }
    let outcome = Outcome {
        backup: &args.target,
        is_running,
        segments: cut.segments.len(),
        copied_bytes: progress.copied,
        kept_bytes: progress.kept,
        earlier_ms,
        seconds: began.elapsed().as_secs_f64(),
        damaged: damaged.len(),
    };
    outcome.print(args.json)?;
    Ok(ExitCode::from(u8::from(was_damaged || !damaged.is_empty())))
}

impl Outcome<'_> {
    fn print(&self, as_json: bool) -> Result<(), Failure> {
        use std::io::Write;
        let mut out = Output::new();
        if as_json {
            write_json(&mut out, self)?;
        } else {
            let Self { backup, segments, copied_bytes, kept_bytes, earlier_ms, seconds, .. } = self;
            let (copied, kept) = (ByteSize(*copied_bytes), ByteSize(*kept_bytes));
            let backup = backup.display();
            write!(out, "{backup}: complete in {seconds:.1} s; message files: {segments}; copied {copied}")?;
            if let Some(at) = earlier_ms.and_then(rfc3339) {
                write!(out, ", kept {kept} of the backup of {at}")?;
            }
            writeln!(out)?;
        }
        out.finish()
    }
}

/// How far the backup is.
#[derive(Debug, Default)]
struct Progress {
    all: u64,
    copied: u64,
    kept: u64,
    shown: Option<Instant>,
}

impl Progress {
    fn add(&mut self, step: Advance) {
        match step {
            Advance::Copied(bytes) => self.copied += bytes,
            Advance::Kept(bytes) => self.kept += bytes,
        }
        if has_progress() && self.shown.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
            self.shown = Some(Instant::now());
            let done = ByteSize(self.copied + self.kept);
            eprint!("{}backup: {done} of {}", line_start(), ByteSize(self.all));
        }
    }

    /// Removes the progress line.
    fn clear(&self) {
        if self.shown.is_some() {
            eprint!("{}", line_start());
        }
    }
}
