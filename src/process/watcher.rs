//! Notices changes of files.
//!
//! Watches their directories (inotify), because Kubernetes and ACME clients replace symbolic links.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

/// How long the files must be unchanged before they are read: a certificate and its key change one after the
/// other.
const SETTLED_AFTER: Duration = Duration::from_millis(300);

/// How long to wait for that at most.
const SETTLED_MAX: Duration = Duration::from_secs(5);

/// The changes in a directory that may change a file.
const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ATTRIB);

/// Waits for changes in the directories of files.
#[derive(Debug, Default)]
pub struct Watcher {
    /// `None` if the system has no inotify, or too many watches.
    inotify: Option<OwnedFd>,
    directories: BTreeSet<Box<Path>>,
}

impl Watcher {
    /// Watches the directories of these files, from now on.
    pub fn look_at<'a>(&mut self, files: impl Iterator<Item = &'a Path>) {
        let directories: BTreeSet<Box<Path>> = files.map(directory).collect();
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
                        "watching a directory failed: changes of its files are noticed later"
                    );
                }
            }
        }
        self.directories = directories;
    }

    /// Waits for a change, at most `time`, and then until there are no further ones. Returns whether there was one.
    pub fn await_settled(&self, time: Duration) -> bool {
        if !self.await_change(time) {
            return false;
        }
        let until = Instant::now() + SETTLED_MAX;
        while self.await_change(SETTLED_AFTER) && Instant::now() < until {}
        true
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
