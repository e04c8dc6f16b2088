//! The thread that answers questions, and the one that watches the files.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded, select, unbounded};

use super::job::{Done, Workers};
use super::question::{Audience, Question};
use super::read::{Material, paths};
use super::settings::Settings;
use super::snapshot::Snapshot;
use super::state::State;
use crate::base::clock::Now;
use crate::base::millis::UnixMillis;
use crate::base::setting::Unworkable;
use crate::process::{AbortOnPanic, Watcher};

/// How many questions wait for the thread. Each may hold a token of 16 KiB: 16 MiB at worst.
const QUESTIONS_MAX: usize = 1_024;

/// How many questions are answered before other work.
const QUESTIONS_IN_TURN: usize = 64;

/// The time between two comparisons of the files' contents.
const COMPARE_EVERY: Duration = Duration::from_secs(20);

/// The time between two looks at what is left to do.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Decides who clients are, on its own thread. Clones share it.
#[derive(Clone, Debug)]
pub struct Judge(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    questions: Sender<Question>,
    commands: Sender<Command>,
    /// Not held while files are read, because that may block.
    files: Mutex<Files>,
    snapshot: Arc<Mutex<Snapshot>>,
    is_stopped: AtomicBool,
}

#[derive(Debug)]
enum Command {
    Apply(Box<Material>),
    Stop,
}

impl Command {
    /// Returns false if the thread must end.
    fn obey(self, state: &mut State, clock: &Clock) -> bool {
        match self {
            Self::Apply(material) => state.apply(clock.now(), *material),
            Self::Stop => return false,
        }
        true
    }
}

/// What the files were like when they were read last.
#[derive(Debug)]
struct Files {
    settings: Settings,
    /// The fingerprint at the last reload, whether it worked or not. `None` if they must be read again.
    seen: Option<u64>,
    /// Why the last reload failed.
    failed: Option<Unworkable>,
    reads: u64,
    applied: u64,
}

/// Files that were read, and that are not in effect yet.
#[derive(Debug)]
pub struct Read {
    /// The number of the read. A later one has read newer files.
    number: u64,
    material: Box<Material>,
}

impl Judge {
    /// Refuses settings and files of providers that cannot work. Returns warnings.
    pub fn check(settings: &Settings) -> Result<Vec<String>, Unworkable> {
        Material::read(settings).map(|material| material.warnings)
    }

    /// Starts the threads. The files of the providers must work.
    pub fn start(settings: &Settings, audience: Arc<dyn Audience>) -> io::Result<Self> {
        let material = Material::read(settings).map_err(io::Error::other)?;
        material.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let seen = Some(material.fingerprint);
        let (questions, asked) = bounded(QUESTIONS_MAX);
        let (commands, commanded) = unbounded();
        let (done, ended) = unbounded();
        let clock = Clock::new();
        let state = State::new(clock.now(), material, audience);
        let files = Files { settings: settings.clone(), seen, failed: None, reads: 0, applied: 0 };
        let this = Self(Arc::new(Inner {
            questions,
            commands,
            files: Mutex::new(files),
            snapshot: state.snapshot(),
            is_stopped: AtomicBool::new(false),
        }));
        let workers = Workers::start(&done)?;
        let run = move || {
            let _guard = AbortOnPanic;
            run(state, &clock, &workers, &asked, &ended, &commanded);
        };
        std::thread::Builder::new().name("auth".into()).spawn(run)?;
        let watching = this.clone();
        let watch = move || {
            let _guard = AbortOnPanic;
            watching.watch();
        };
        std::thread::Builder::new().name("auth-files".into()).spawn(watch)?;
        Ok(this)
    }

    /// Asks a question. Returns it if too many wait.
    pub fn ask(&self, question: Question) -> Result<(), Question> {
        self.0.questions.try_send(question).map_err(|error| match error {
            TrySendError::Full(question) | TrySendError::Disconnected(question) => question,
        })
    }

    /// Reads the files that these settings name. If that fails, logs why, and counts it. Changes nothing else.
    pub fn read(&self, settings: &Settings) -> Result<Read, Unworkable> {
        let number = self.files().begin_read();
        let material = Material::read(settings).inspect_err(|why| self.count_failure(why))?;
        Ok(Read { number, material: Box::new(material) })
    }

    /// Puts what was read into effect: judges every grant in use again, and tells the shards what has changed.
    ///
    /// If the watching thread has applied newer files, they stay. If the settings differ from those that they were
    /// read with, the thread reads the files again.
    pub fn apply(&self, read: Read) {
        let mut files = self.files();
        if read.number > files.applied {
            self.apply_to(&mut files, read);
        } else if read.material.settings != files.settings {
            (files.settings, files.seen) = (read.material.settings, None);
        }
    }

    /// Returns what was done so far.
    pub fn snapshot(&self) -> Snapshot {
        self.counts().clone()
    }

    /// Ends the threads. Questions are no longer answered.
    pub fn stop(&self) {
        self.0.is_stopped.store(true, Ordering::Relaxed);
        // The thread may have ended already.
        let _ = self.0.commands.send(Command::Stop);
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> MutexGuard<'_, Snapshot> {
        self.0.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_failure(&self, why: &Unworkable) {
        self.counts().reload_failures += 1;
        tracing::error!(%why, "reloading the files of auth failed: the server keeps what it has");
    }

    fn apply_to(&self, files: &mut Files, read: Read) {
        let Read { number, material } = read;
        material.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        (files.applied, files.settings, files.failed) = (number, material.settings.clone(), None);
        files.seen = Some(material.fingerprint);
        self.counts().reloads += 1;
        // Fails only after the end. The order of commands is that of the lock.
        let _ = self.0.commands.send(Command::Apply(material));
        tracing::info!("files of auth reloaded");
    }

    /// Watches the files until [`Self::stop`].
    fn watch(&self) {
        let mut watcher = Watcher::default();
        let mut compared = Instant::now();
        // The files may have changed since they were read, before they are watched.
        let mut is_due = true;
        while !self.0.is_stopped.load(Ordering::Relaxed) {
            let paths: Vec<PathBuf> = paths(&self.files().settings);
            watcher.look_at(paths.iter().map(PathBuf::as_path));
            is_due |= watcher.await_settled(LOOK_EVERY);
            if is_due || compared.elapsed() >= COMPARE_EVERY || self.files().seen.is_none() {
                compared = Instant::now();
                is_due = !self.compare();
            }
        }
    }

    /// Reads the files, and applies them if they have changed. Returns false if a reload was faster: then they must be
    /// compared again.
    fn compare(&self) -> bool {
        let (number, settings) = {
            let mut files = self.files();
            (files.begin_read(), files.settings.clone())
        };
        let read = Material::read(&settings);
        let mut files = self.files();
        if files.applied > number || files.settings != settings {
            return false;
        }
        match read {
            Ok(material) if files.seen == Some(material.fingerprint) => files.failed = None,
            Ok(material) => self.apply_to(&mut files, Read { number, material: Box::new(material) }),
            Err(why) => {
                // Otherwise the next look would read them again.
                files.seen.get_or_insert(0);
                // The same reason is told once.
                if files.failed.as_ref() != Some(&why) {
                    self.count_failure(&why);
                    files.failed = Some(why);
                }
            }
        }
        true
    }
}

impl Files {
    fn begin_read(&mut self) -> u64 {
        self.reads += 1;
        self.reads
    }
}

/// Reads both clocks of the machine.
#[derive(Debug)]
struct Clock(Instant);

impl Clock {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now::new(self.0.elapsed(), UnixMillis::from_epoch(unix))
    }
}

/// Answers questions until the end.
fn run(
    mut state: State,
    clock: &Clock,
    workers: &Workers,
    questions: &Receiver<Question>,
    ended: &Receiver<Done>,
    commands: &Receiver<Command>,
) {
    loop {
        for job in state.take_jobs() {
            if let Err(job) = workers.give(job) {
                state.handle_done(clock.now(), job.refused());
            }
        }
        select! {
            recv(questions) -> question => {
                let Ok(question) = question else { return };
                // What was reloaded before a question counts for it.
                for command in commands.try_iter() {
                    if !command.obey(&mut state, clock) {
                        return;
                    }
                }
                state.handle_question(clock.now(), question);
                for question in questions.try_iter().take(QUESTIONS_IN_TURN) {
                    state.handle_question(clock.now(), question);
                }
            }
            recv(ended) -> done => {
                if let Ok(done) = done {
                    state.handle_done(clock.now(), done);
                }
            }
            recv(commands) -> command => {
                let Ok(command) = command else { return };
                if !command.obey(&mut state, clock) {
                    return;
                }
            }
            default(state.pause()) => {}
        }
        state.tick(clock.now());
    }
}

#[cfg(test)]
mod tests;
