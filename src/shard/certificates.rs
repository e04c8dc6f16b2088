//! Reloads the files of TLS, on request and when they change, and gives the result to every shard.
//!
//! A thread watches the directories of the files (inotify), because Kubernetes and ACME clients replace
//! symbolic links. It also compares the files' contents from time to time, for changes behind a link and for
//! file systems without inotify. A reload that fails changes nothing: the server keeps what it has.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::delivery::Delivery;
use super::inbox::Sender;
use crate::base::setting::Unworkable;
use crate::process::{AbortOnPanic, Watcher};
use crate::tls::files::{self, Contents, Loaded};
use crate::tls::{Config, Settings};

/// The time between two comparisons of the files' contents.
const COMPARE_EVERY: Duration = Duration::from_secs(20);

/// The time between two looks at what is left to do.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// In place of the time when the first revocation list expires.
const NO_LIST: i64 = i64::MAX;

/// In place of the fingerprint of files that cannot be read.
const UNREADABLE: u64 = 0;

/// The state of the certificates, for `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificatesStatus {
    /// When the first certificate expires, in seconds since 1970.
    pub expires: i64,
    /// When the first revocation list expires, in seconds since 1970, if there is one.
    pub crls_due: Option<i64>,
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
    /// Not held while files are read, because that may block.
    state: Mutex<State>,
    expires: AtomicI64,
    /// [`NO_LIST`] if there is no revocation list.
    crls_due: AtomicI64,
    reloads: AtomicU64,
    failures: AtomicU64,
    is_stopped: AtomicBool,
}

/// Certificates that were read, and that no shard uses yet.
#[derive(Debug)]
pub struct Read {
    /// The number of the read. A later one has read newer files.
    number: u64,
    settings: Settings,
    loaded: Loaded,
}

#[derive(Debug)]
struct State {
    settings: Settings,
    /// The fingerprint of the files at the last reload, whether they worked or not. `None` if they must be read
    /// again.
    seen: Option<u64>,
    /// The number of the last read that began.
    reads: u64,
    /// The number of the read whose result the shards use.
    applied: u64,
    /// The configuration that a shard with a full inbox has not got.
    undelivered: Vec<Option<Arc<Config>>>,
}

impl Certificates {
    /// Starts the thread that watches the files. The shards already use what is `loaded`.
    pub(super) fn start(
        settings: &Settings,
        loaded: &Loaded,
        shards: Vec<Sender<Delivery>>,
    ) -> io::Result<Self> {
        let this = Self::new(settings, loaded, shards);
        let watching = this.clone();
        let watch = move || {
            let _guard = AbortOnPanic;
            watching.watch();
        };
        std::thread::Builder::new().name("certificates".into()).spawn(watch)?;
        Ok(this)
    }

    fn new(settings: &Settings, loaded: &Loaded, shards: Vec<Sender<Delivery>>) -> Self {
        let state = State {
            settings: settings.clone(),
            seen: Some(loaded.fingerprint),
            reads: 0,
            applied: 0,
            undelivered: shards.iter().map(|_| None).collect(),
        };
        Self(Arc::new(Inner {
            shards,
            state: Mutex::new(state),
            expires: AtomicI64::new(loaded.config.expires()),
            crls_due: AtomicI64::new(loaded.config.crls_due().unwrap_or(NO_LIST)),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
        }))
    }

    /// Reads the files that these settings name. If that fails, logs why, and counts it. Changes nothing else.
    pub fn read(&self, settings: &Settings) -> Result<Read, Unworkable> {
        let number = self.state().begin_read();
        let loaded = files::load(settings).inspect_err(|why| self.count_failure(why))?;
        Ok(Read { number, settings: settings.clone(), loaded })
    }

    /// Gives what was read to every shard. Returns the shards that get it later, because their inboxes are full.
    ///
    /// If the watching thread has applied newer files, they stay. If the settings differ from those that they
    /// were read with, the thread reads the files again.
    pub fn apply(&self, read: Read) -> Vec<usize> {
        let mut state = self.state();
        if read.number > state.applied {
            self.apply_to(&mut state, read);
        } else if read.settings != state.settings {
            (state.settings, state.seen) = (read.settings, None);
        }
        let waiting = state.undelivered.iter().enumerate().filter(|(_, undelivered)| undelivered.is_some());
        waiting.map(|(shard, _)| shard).collect()
    }

    /// Returns the state of the certificates.
    pub fn status(&self) -> CertificatesStatus {
        CertificatesStatus {
            expires: self.0.expires.load(Ordering::Relaxed),
            crls_due: Some(self.0.crls_due.load(Ordering::Relaxed)).filter(|due| *due != NO_LIST),
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

    fn count_failure(&self, why: &Unworkable) {
        self.0.failures.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%why, "reloading the TLS certificates failed: the server keeps those that it has");
    }

    fn apply_to(&self, state: &mut State, read: Read) {
        let Read { number, settings, loaded: Loaded { config, fingerprint, warnings } } = read;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        self.0.expires.store(config.expires(), Ordering::Relaxed);
        self.0.crls_due.store(config.crls_due().unwrap_or(NO_LIST), Ordering::Relaxed);
        self.0.reloads.fetch_add(1, Ordering::Relaxed);
        (state.applied, state.settings, state.seen) = (number, settings, Some(fingerprint));
        state.undelivered.fill(Some(config));
        self.deliver(state);
        tracing::info!("TLS certificates reloaded");
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
            watcher.look_at(files::paths(&self.state().settings));
            is_due |= watcher.await_settled(LOOK_EVERY);
            self.deliver(&mut self.state());
            if is_due || compared.elapsed() >= COMPARE_EVERY || self.state().seen.is_none() {
                compared = Instant::now();
                is_due = !self.compare();
            }
        }
    }

    /// Reads the files, and applies them if they have changed. Returns false if a reload was faster: then they
    /// must be compared again. Files that cannot be read are compared again, too, but not at once.
    fn compare(&self) -> bool {
        let (number, settings) = {
            let mut state = self.state();
            (state.begin_read(), state.settings.clone())
        };
        let contents = match Contents::read(&settings) {
            Ok(contents) => contents,
            Err(why) => {
                self.count_failure(&why);
                let mut state = self.state();
                // Otherwise the next look would read them again.
                state.seen.get_or_insert(UNREADABLE);
                return true;
            }
        };
        let seen = Some(contents.fingerprint());
        if self.state().seen == seen {
            return true;
        }
        let loaded = contents.load(&settings);
        let mut state = self.state();
        if state.applied > number || state.settings != settings {
            return false;
        }
        match loaded {
            Ok(loaded) => self.apply_to(&mut state, Read { number, settings, loaded }),
            Err(why) => {
                self.count_failure(&why);
                // The same contents are not tried again.
                state.seen = seen;
            }
        }
        true
    }
}

impl State {
    fn begin_read(&mut self) -> u64 {
        self.reads += 1;
        self.reads
    }
}

#[cfg(test)]
mod tests {
    use super::super::inbox::{Inbox, inbox};
    use super::*;
    use crate::tls::MinVersion;
    use crate::tls::files::tests::{place, renew};
    use std::fs;
    use std::path::PathBuf;

    /// The certificates of a server with a shard whose inbox has room for `room` deliveries.
    struct Rig {
        place: PathBuf,
        settings: Settings,
        certificates: Certificates,
        inbox: Inbox<Delivery>,
    }

    impl Rig {
        fn new(name: &str, room: usize) -> Self {
            let (place, settings) = place(name);
            let (sender, inbox) = inbox(room);
            let loaded = files::load(&settings).unwrap();
            let certificates = Certificates::new(&settings, &loaded, vec![sender]);
            Self { place, settings, certificates, inbox }
        }

        /// Returns how many configurations the shard got.
        fn delivered(&self) -> usize {
            std::iter::from_fn(|| self.inbox.poll()).count()
        }
    }

    impl Drop for Rig {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.place);
        }
    }

    #[test]
    fn files_that_are_renewed_while_the_server_starts_are_loaded() {
        let (place, settings) = place("starts");
        let loaded = files::load(&settings).unwrap();
        renew(&settings);
        let (sender, inbox) = inbox(1);
        let certificates = Certificates::new(&settings, &loaded, vec![sender]);
        assert!(certificates.compare());
        assert!(matches!(inbox.poll(), Some(Delivery::Tls(_))));
        assert!(certificates.compare());
        assert!(inbox.poll().is_none(), "nothing has changed since");
        fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn files_that_cannot_be_read_for_a_while_are_read_again_and_bad_ones_are_not() {
        let rig = Rig::new("unreadable", 8);
        let key = &rig.settings.certificates.0[0].1;
        renew(&rig.settings);
        let renewed = fs::read(key).unwrap();
        fs::remove_file(key).unwrap();
        for failures in 1..3 {
            assert!(rig.certificates.compare());
            assert_eq!(rig.certificates.status().failures, failures);
        }
        fs::write(key, "no key").unwrap();
        for _ in 0..2 {
            assert!(rig.certificates.compare());
            assert_eq!(rig.certificates.status().failures, 3, "the same contents are tried once");
        }
        assert_eq!(rig.delivered(), 0);
        fs::write(key, renewed).unwrap();
        assert!(rig.certificates.compare());
        assert_eq!(rig.delivered(), 1);
    }

    #[test]
    fn an_older_read_never_replaces_a_newer_one() {
        let rig = Rig::new("older", 8);
        let older = rig.certificates.read(&rig.settings).unwrap();
        renew(&rig.settings);
        assert!(rig.certificates.compare());
        assert_eq!(rig.delivered(), 1);
        rig.certificates.apply(older);
        assert_eq!(rig.delivered(), 0);
        // Its settings count, with the newer files.
        let changed = Settings { min_version: MinVersion::Tls13, ..rig.settings.clone() };
        let older = rig.certificates.read(&changed).unwrap();
        renew(&rig.settings);
        assert!(rig.certificates.compare());
        rig.certificates.apply(older);
        assert_eq!(rig.delivered(), 1, "the watching thread's");
        assert!(rig.certificates.compare());
        assert_eq!(rig.delivered(), 1);
        assert_eq!(rig.certificates.state().settings, changed);
    }

    #[test]
    fn a_shard_with_a_full_inbox_is_named_and_gets_the_certificates_later() {
        let rig = Rig::new("full", 1);
        let read = || rig.certificates.read(&rig.settings).unwrap();
        assert_eq!(rig.certificates.apply(read()), [0; 0]);
        assert_eq!(rig.certificates.apply(read()), [0]);
        assert_eq!(rig.delivered(), 1);
        rig.certificates.deliver(&mut rig.certificates.state());
        assert_eq!(rig.delivered(), 1);
    }
}
