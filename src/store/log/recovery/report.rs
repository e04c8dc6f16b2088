//! What a start found, and why it cannot open a directory.

use std::fmt;
use std::io;
use std::path::Path;

use crate::store::log::disk::FileName;
use crate::store::log::format::Unreadable;
use crate::store::log::scan::Damage;

/// The reason that a data directory cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The operating system reports an error.
    Io(io::Error),
    /// A file has another version.
    Version(FileName, Unreadable),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Version(file, why) => write!(f, "{file}: {why}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A damaged part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The damaged file.
    pub file: FileName,
    /// The position and the length of the damage.
    pub damage: Damage,
    /// The consequence of the damage.
    pub means: &'static str,
}

/// What was found at a start.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The number of queues.
    pub queues: usize,
    /// The number of segments with messages.
    pub segments: usize,
    /// The number of these without an index: the server did not stop cleanly, or had not written them yet.
    pub scanned: usize,
    /// The number of messages, including expired ones.
    pub messages: u64,
    /// The size of their batches, in bytes.
    pub bytes: u64,
    /// Bytes of rounds and records that were begun and never acknowledged.
    pub torn: u64,
    /// The damaged parts of files.
    pub damaged: Vec<Damaged>,
    /// Whether nothing proves that this start continues where the last one ended: the machine was rebooted,
    /// or the directory is a copy.
    pub is_branch: bool,
}

impl Report {
    /// Logs the totals, and an error for each damaged part.
    pub fn say(&self, data_dir: &Path) {
        let Self { queues, segments, scanned, messages, bytes, torn, .. } = *self;
        let data_dir = data_dir.display();
        tracing::info!(%data_dir, queues, messages, bytes, segments, scanned, torn, "log opened");
        if self.is_branch {
            tracing::info!(
                "message ids continue after a gap, because this start may not continue where the last one ended (the machine was rebooted, or the directory is a copy or from an earlier version)"
            );
        }
        for Damaged { file, damage, means } in &self.damaged {
            tracing::error!(%file, at = damage.at, bytes = damage.bytes, "damaged: {means}");
        }
    }
}
