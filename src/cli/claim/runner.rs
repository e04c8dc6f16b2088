//! Runs a command for each claimed message.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_lite::Stream;

use super::stop::Stop;
use crate::client::session::Settle;
use crate::client::{Stage, Ticket, Worker};
use crate::pb::ReceivedMessage;
use crate::process::feed::{Fed, feed};
use crate::process::terminal::{escaped, say};

/// The longest key that a command gets in its environment, in bytes. Linux allows 128 KiB for a variable.
const KEY_BYTES_MAX: usize = 64 << 10;

/// The exit codes of a shell that cannot run a command: it is not executable, or does not exist.
const NOT_RUN: [i32; 2] = [126, 127];

/// The command to run.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub command: String,
    pub queue: String,
    pub timeout: Option<Duration>,
}

/// What happens to a message whose command has failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failures {
    /// The delay of a release, in seconds. `None` leaves it to the server.
    pub retry_delay: Option<u32>,
    /// How often a message may be claimed.
    pub max_claims: u32,
}

/// A message that waits for a command.
#[derive(Debug)]
struct Job {
    ticket: Ticket,
    id: String,
    key: Option<Vec<u8>>,
    /// How often the message was claimed.
    count: u32,
    payload: Vec<u8>,
}

/// A command that has ended.
#[derive(Debug)]
struct Done {
    ticket: Ticket,
    id: String,
    count: u32,
    /// Why the command did not run, if it did not.
    fed: Result<Fed, String>,
}

impl Running {
    /// Runs the command for a message.
    fn run(&self, job: Job, stop: &Stop) -> Done {
        let Job { ticket, id, key, count, payload } = job;
        let mut command = Command::new("sh");
        command.args(["-c", &self.command]);
        command.env("MILLSTREAM_ID", &id).env("MILLSTREAM_COUNT", count.to_string());
        command.env("MILLSTREAM_QUEUE", &self.queue);
        command.env_remove("MILLSTREAM_KEY").env_remove("MILLSTREAM_KEY_BASE64");
        if let Some(key) = key.filter(|key| key.len() <= KEY_BYTES_MAX) {
            command.env("MILLSTREAM_KEY_BASE64", STANDARD.encode(&key));
            // A variable cannot hold a NUL.
            if !key.contains(&0) {
                command.env("MILLSTREAM_KEY", OsStr::from_bytes(&key));
            }
        }
        let fed = match feed(&mut command, &payload, self.timeout, stop.urgent()) {
            Ok(Fed::Ended(status)) if status.code().is_some_and(|code| NOT_RUN.contains(&code)) => {
                Err(format!("the shell could not run the command ({status})"))
            }
            Ok(fed) => Ok(fed),
            Err(error) => Err(format!("cannot run sh: {error}")),
        };
        Done { ticket, id, count, fed }
    }
}

/// A worker that runs commands, each on a thread.
pub(super) struct Runner {
    running: Running,
    failures: Failures,
    parallel: usize,
    stop: Stop,
    stopped: Pin<Box<Receiver<()>>>,
    /// The messages whose command has not begun.
    waiting: VecDeque<Job>,
    /// The messages that were claimed too often.
    spent: Vec<Ticket>,
    /// What the threads are to do.
    jobs: (Sender<Job>, Receiver<Job>),
    threads: usize,
    done: (Sender<Done>, Pin<Box<Receiver<Done>>>),
    /// How many commands have begun and were not looked at yet, and how many run.
    begun: usize,
    busy: Arc<AtomicUsize>,
    /// Why the worker cannot go on.
    pub trouble: Option<String>,
}

impl Runner {
    pub(super) fn new(running: Running, failures: Failures, parallel: usize, stop: Stop) -> Self {
        let (ended, done) = async_channel::unbounded();
        Self {
            running,
            failures,
            parallel,
            stopped: Box::pin(stop.soon()),
            stop,
            waiting: VecDeque::new(),
            spent: Vec::new(),
            jobs: async_channel::unbounded(),
            threads: 0,
            done: (ended, Box::pin(done)),
            begun: 0,
            busy: Arc::default(),
            trouble: None,
        }
    }

    /// Returns the number of commands that run.
    pub(super) fn busy(&self) -> Arc<AtomicUsize> {
        self.busy.clone()
    }

    /// Begins commands, as far as there may be more.
    fn begin(&mut self) {
        while self.begun < self.parallel && !self.waiting.is_empty() {
            if self.begun == self.threads
                && let Err(error) = self.start_thread()
            {
                self.fail(format!("cannot start a thread for a command: {error}"));
                return;
            }
            let Some(job) = self.waiting.pop_front() else { return };
            self.begun += 1;
            self.busy.fetch_add(1, Ordering::AcqRel);
            // Cannot fail: this side keeps a receiver.
            let _ = self.jobs.0.try_send(job);
        }
    }

    fn start_thread(&mut self) -> io::Result<()> {
        let (jobs, done) = (self.jobs.1.clone(), self.done.0.clone());
        let (running, stop, busy) = (self.running.clone(), self.stop.clone(), self.busy.clone());
        std::thread::Builder::new().name("command".into()).spawn(move || {
            while let Ok(job) = jobs.recv_blocking() {
                let ended = running.run(job, &stop);
                // Fails if the worker has ended.
                let _ = done.try_send(ended);
                busy.fetch_sub(1, Ordering::AcqRel);
            }
        })?;
        self.threads += 1;
        Ok(())
    }

    /// Ends the worker once the commands that run have ended.
    fn fail(&mut self, trouble: String) {
        self.trouble.get_or_insert(trouble);
        self.stop.begin();
    }

    /// Decides about a message whose command has ended.
    fn judge(&mut self, done: Done) -> Settle {
        let Done { id, count, fed, .. } = done;
        let id = escaped(&id);
        let why = match fed {
            Ok(Fed::Ended(status)) if status.success() => return Settle::Ack,
            Ok(Fed::Ended(status)) => status.to_string(),
            Ok(Fed::TimedOut) => {
                let seconds = self.running.timeout.unwrap_or_default().as_secs();
                say(format_args!("millstream: {id}: the command was killed after {seconds} s"));
                format!("killed after {seconds} s")
            }
            // Somebody else may begin at once.
            Ok(Fed::Stopped) => return Settle::Release(Some(0)),
            Err(trouble) => {
                self.fail(trouble);
                return Settle::Release(self.failures.retry_delay);
            }
        };
        if count >= self.failures.max_claims {
            say(format_args!("millstream: {id}: rejected after {count} claims: {why}"));
            return Settle::Reject;
        }
        Settle::Release(self.failures.retry_delay)
    }
}

impl Worker for Runner {
    fn take(&mut self, ticket: Ticket, message: &ReceivedMessage<'_>) {
        let count = message.claim_count.max(1);
        if count > self.failures.max_claims {
            // The workers before did not get as far as to release or reject it. They may have died over it.
            let (id, before) = (escaped(message.id), count - 1);
            say(format_args!("millstream: {id}: rejected: it was claimed {before} times before"));
            self.spent.push(ticket);
            return;
        }
        self.waiting.push_back(Job {
            ticket,
            id: message.id.to_owned(),
            key: message.key.map(<[u8]>::to_vec),
            count,
            payload: message.payload.unwrap_or_default().to_vec(),
        });
    }

    /// A command that runs goes on: it may have done half of its work.
    fn lose(&mut self, ticket: Ticket) {
        self.waiting.retain(|job| job.ticket != ticket);
    }

    fn poll(&mut self, cx: &mut Context<'_>, decisions: &mut Vec<(Ticket, Settle)>) -> Stage {
        while let Poll::Ready(Some(done)) = self.done.1.as_mut().poll_next(cx) {
            self.begun -= 1;
            decisions.push((done.ticket, self.judge(done)));
        }
        decisions.extend(self.spent.drain(..).map(|ticket| (ticket, Settle::Reject)));
        let is_stopped = self.stopped.as_mut().poll_next(cx).is_ready();
        if is_stopped {
            return if self.begun == 0 { Stage::Done } else { Stage::Closing };
        }
        self.begin();
        match self.trouble {
            // Nothing wakes this worker if no command runs.
            Some(_) if self.begun == 0 => Stage::Done,
            Some(_) => Stage::Closing,
            None => Stage::Open,
        }
    }
}
