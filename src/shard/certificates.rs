//! Reloads the files of TLS, on request and when they change, and gives the result to every shard.
//!
//! A thread watches the directories of the files (inotify), because Kubernetes and ACME clients replace
//! symbolic links. It also compares the files' contents from time to time, for changes behind a link and for
//! file systems without inotify. A reload that fails changes nothing: the server keeps what it has.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

use super::delivery::Delivery;
use super::inbox::Sender;
use crate::base::setting::Unworkable;
use crate::tls::files::{self, Loaded};
use crate::tls::{Config, Settings};

/// How long the files must be unchanged before they are read: a certificate and its key change one after the
/// other.
const SETTLED_AFTER: Duration = Duration::from_millis(300);

/// How long to wait for that at most.
const SETTLED_MAX: Duration = Duration::from_secs(5);

/// The time between two comparisons of the files' contents.
const COMPARE_EVERY: Duration = Duration::from_secs(20);

/// The time between two looks at what is left to do.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The changes in a directory that may change a file.
const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ATTRIB);

/// The state of the certificates, for `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificatesStatus {
    /// When the first certificate expires, in seconds since 1970.
    pub expires: i64,
    /// Reloads that succeeded.
    pub reloads: u64,
    /// Reloads that failed, so that the server kept what it had.
    pub failures: u64,
}

/// A handle on the certificates of a server. Clones share them.
#[derive(Clone, Debug)]
pub struct Certificates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shards: Vec<Sender<Delivery>>,
    /// Held during a reload, so that reloads happen one after the other.
    state: Mutex<State>,
    expires: AtomicI64,
    reloads: AtomicU64,
    failures: AtomicU64,
    is_stopped: AtomicBool,
}

#[derive(Debug)]
struct State {
    settings: Settings,
    /// The fingerprint of the files at the last reload, whether it succeeded or not.
    seen: u64,
    /// The configuration that a shard with a full inbox has not got.
    undelivered: Vec<Option<Arc<Config>>>,
}

impl Certificates {
    /// Starts the thread that watches the files. The shards already use `config`.
    pub(super) fn start(
        settings: &Settings,
        config: &Config,
        shards: Vec<Sender<Delivery>>,
    ) -> io::Result<Self> {
        let state = State {
            settings: settings.clone(),
            seen: files::fingerprint(settings),
            undelivered: shards.iter().map(|_| None).collect(),
        };
        let this = Self(Arc::new(Inner {
            shards,
            state: Mutex::new(state),
            expires: AtomicI64::new(config.expires()),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
        }));
        let watching = this.clone();
        std::thread::Builder::new().name("certificates".into()).spawn(move || watching.watch())?;
        Ok(this)
    }

    /// Reads the files again and gives them to every shard. If that fails, logs why, counts it, and keeps what
    /// the server has.
    pub fn reload(&self) -> Result<(), Unworkable> {
        self.reload_locked(&mut self.state())
    }

    /// Like [`Self::reload`], with other settings. If that fails, keeps the present settings too.
    pub fn reload_with(&self, settings: &Settings) -> Result<(), Unworkable> {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.settings, settings.clone());
        let reloaded = self.reload_locked(&mut state);
        if reloaded.is_err() {
            state.settings = before;
        }
        reloaded
    }

    /// Returns the state of the certificates.
    pub fn status(&self) -> CertificatesStatus {
        CertificatesStatus {
            expires: self.0.expires.load(Ordering::Relaxed),
            reloads: self.0.reloads.load(Ordering::Relaxed),
            failures: self.0.failures.load(Ordering::Relaxed),
        }
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.0.is_stopped.store(true, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reload_locked(&self, state: &mut State) -> Result<(), Unworkable> {
        state.seen = files::fingerprint(&state.settings);
        match files::load(&state.settings) {
            Ok(Loaded { config, warnings }) => {
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                self.0.expires.store(config.expires(), Ordering::Relaxed);
                self.0.reloads.fetch_add(1, Ordering::Relaxed);
                state.undelivered.fill(Some(config));
                self.deliver(state);
                tracing::info!("TLS certificates reloaded");
                Ok(())
            }
            Err(why) => {
                self.0.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%why, "reloading the TLS certificates failed: the server keeps those that it has");
                Err(why)
            }
        }
    }

    /// Gives the configuration to the shards that have not got it, as far as their inboxes have room.
    fn deliver(&self, state: &mut State) {
        for (shard, undelivered) in self.0.shards.iter().zip(&mut state.undelivered) {
            if let Some(config) = undelivered.take()
                && let Err(Delivery::Tls(config)) = shard.send(Delivery::Tls(config))
            {
                *undelivered = Some(config);
            }
        }
    }

    /// Watches the files until [`Self::stop`].
    fn watch(&self) {
        let mut watcher = Watcher::default();
        let mut compared = Instant::now();
        let mut is_due = false;
        while !self.0.is_stopped.load(Ordering::Relaxed) {
            watcher.look_at(&self.state().settings);
            if watcher.await_change(LOOK_EVERY) {
                let until = Instant::now() + SETTLED_MAX;
                while watcher.await_change(SETTLED_AFTER) && Instant::now() < until {}
                is_due = true;
            }
            let mut state = self.state();
            self.deliver(&mut state);
            if is_due || compared.elapsed() >= COMPARE_EVERY {
                (is_due, compared) = (false, Instant::now());
                if files::fingerprint(&state.settings) != state.seen {
                    // Logged and counted.
                    let _ = self.reload_locked(&mut state);
                }
            }
        }
    }
}

/// Waits for changes in the directories of the files.
#[derive(Debug, Default)]
struct Watcher {
    /// `None` if the system has no inotify, or too many watches.
    inotify: Option<OwnedFd>,
    directories: BTreeSet<Box<Path>>,
}

impl Watcher {
    /// Watches the directories of these files, from now on.
    fn look_at(&mut self, settings: &Settings) {
        let directories: BTreeSet<Box<Path>> = files::paths(settings).map(directory).collect();
        if directories == self.directories {
            return;
        }
        self.inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok();
        if let Some(inotify) = &self.inotify {
            for directory in &directories {
                if let Err(error) = inotify::add_watch(inotify, &**directory, CHANGES) {
                    tracing::warn!(
                        directory = %directory.display(),
                        %error,
                        "watching the directory of a certificate failed: changes are noticed later"
                    );
                }
            }
        }
        self.directories = directories;
    }

    /// Waits for a change, at most `time`. Returns whether there was one.
    fn await_change(&self, time: Duration) -> bool {
        let Some(inotify) = &self.inotify else {
            std::thread::sleep(time);
            return false;
        };
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        let mut polled = [PollFd::new(inotify, PollFlags::IN)];
        if !matches!(poll(&mut polled, Some(&time)), Ok(1..)) {
            return false;
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(inotify, &mut buffer);
        let mut is_any = false;
        while reader.next().is_ok() {
            is_any = true;
        }
        is_any
    }
}

fn directory(file: &Path) -> Box<Path> {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => Path::new(".").into(),
    }
}
