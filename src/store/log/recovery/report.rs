//! What was found at a start, and why a directory is not opened.

use std::fmt;
use std::io;
use std::path::Path;

use crate::store::log::disk::FileName;
use crate::store::log::format::Unreadable;
use crate::store::log::scan::Damage;

/// Why a data directory is not opened.
#[derive(Debug)]
pub enum OpenError {
    /// The system says no.
    Io(io::Error),
    /// A file is of another version.
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

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Which.
    pub file: FileName,
    /// Where, and how much of it.
    pub damage: Damage,
    /// What that means.
    pub means: &'static str,
}

/// What was found at the start.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Queues.
    pub queues: usize,
    /// Segments with something in them.
    pub segments: usize,
    /// Of these without an index: the server did not end cleanly, or not long ago.
    pub scanned: usize,
    /// Messages, expired ones with them.
    pub messages: u64,
    /// Bytes of their batches.
    pub bytes: u64,
    /// Bytes of rounds that were begun, and of which nobody was told.
    pub torn: u64,
    /// What is lost.
    pub damaged: Vec<Damaged>,
    /// Nothing proves that this start goes on where the last one ended: the machine was started anew, or the directory is a copy.
    pub is_branch: bool,
}

impl Report {
    /// Says it in the log.
    pub fn say(&self, data_dir: &Path) {
        let Self { queues, segments, scanned, messages, bytes, torn, .. } = *self;
        let data_dir = data_dir.display();
        tracing::info!(%data_dir, queues, messages, bytes, segments, scanned, torn, "the log is open");
        if self.is_branch {
            tracing::info!(
                "nothing proves that this start goes on where the last one ended (the machine was started anew, or the directory is a copy, or of an earlier version): message ids go on with a gap"
            );
        }
        for Damaged { file, damage, means } in &self.damaged {
            tracing::error!(%file, at = damage.at, bytes = damage.bytes, "damaged: {means}");
        }
    }
}
