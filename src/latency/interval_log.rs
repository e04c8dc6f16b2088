//! The file of the setting `latency_log`: an HdrHistogram interval log (format 1.3, V2 histograms) with one
//! tagged line for each stage and interval.
//!
//! Values are nanoseconds, or counts for stages that count; the maximum on each line is in milliseconds, as
//! the standard tools expect. An existing log is continued under a new header. Every line is appended to the
//! current end of the file, so the file may be truncated. After a rename, [`LogFile::reopen`] continues in a
//! new file. Only regular files are accepted: a pipe would make the collector wait for its reader.

use std::fs::{File, OpenOptions};
use std::io::{self, LineWriter};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{
    IntervalLogWriter, IntervalLogWriterBuilder, IntervalLogWriterError, Tag,
};

use super::{Recorder, Stage, Unit};

/// The unit of the maxima, in nanoseconds.
const MAX_UNIT_NS: f64 = 1e6;

/// The permissions of a new log: only its owner may read and write it.
const MODE: u32 = 0o600;

/// The permission bits of group and others.
const OTHERS: u32 = 0o077;

/// An open log file.
pub struct LogFile {
    path: PathBuf,
    file: LineWriter<File>,
    serializer: V2DeflateSerializer,
}

/// The lines under one header of a log.
pub struct Lines<'a> {
    log: IntervalLogWriter<'a, 'a, LineWriter<File>, V2DeflateSerializer>,
    began: SystemTime,
}

impl LogFile {
    /// Opens a log for appending. It is created if missing.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = append_to(path)?;
        let serializer = V2DeflateSerializer::new();
        Ok(Self { path: path.to_owned(), file: LineWriter::new(file), serializer })
    }

    /// Closes the file and continues in the file that has the log's name, which is created if missing. Keeps
    /// the current file on an error.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.file = LineWriter::new(append_to(&self.path)?);
        Ok(())
    }

    /// Writes a header, at the start of the server or of a new file.
    pub fn begin(&mut self) -> io::Result<Lines<'_>> {
        let counts = Stage::ALL.into_iter().filter(|stage| stage.unit() != Unit::Nanoseconds);
        let counts: Vec<_> = counts.map(Stage::name).collect();
        let about = format!(
            "[Millstream {}: values in nanoseconds; counts: {}]",
            env!("CARGO_PKG_VERSION"),
            counts.join(", ")
        );
        let began = SystemTime::now();
        let log = IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment(&about)
            .with_start_time(began)
            .with_base_time(began)
            .with_max_value_divisor(MAX_UNIT_NS)
            .begin_log_with(&mut self.file, &mut self.serializer)?;
        Ok(Lines { log, began })
    }
}

/// Opens a log for appending. Does not block, even if the path is not a regular file.
fn append_to(path: &Path) -> io::Result<File> {
    let irregular = || io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
    let opened =
        OpenOptions::new().create(true).append(true).mode(MODE).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        // The path is a named pipe without a reader, or a socket.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Err(irregular()),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(irregular());
    }
    if metadata.permissions().mode() & OTHERS != 0 {
        // The operator may have set these permissions for a log collector, so they are not changed.
        tracing::warn!(latency_log = %path.display(), "latency log accessible to other users: run chmod 600 on it");
    }
    Ok(file)
}

impl Lines<'_> {
    /// Writes a line for each stage that has values in the interval, which ends now and lasted `length`.
    pub fn write(&mut self, length: Duration, interval: &Recorder) -> io::Result<()> {
        let start = self.began.elapsed().unwrap_or_default().saturating_sub(length);
        for (stage, histogram) in interval.iter().filter(|(_, histogram)| !histogram.is_empty()) {
            self.log.write_histogram(histogram, start, length, Tag::new(stage.name())).map_err(|error| {
                match error {
                    IntervalLogWriterError::IoError(error) => error,
                    IntervalLogWriterError::SerializeError(error) => io::Error::other(format!("{error:?}")),
                }
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::decode;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use std::process::Command;

    /// Returns how many histograms a log has, and whether it starts with a header.
    fn contents(path: &Path) -> (usize, bool) {
        let text = std::fs::read(path).unwrap();
        let lines =
            IntervalLogIterator::new(&text).filter(|entry| matches!(entry, Ok(LogEntry::Interval(_))));
        (lines.count(), text.starts_with(b"#[Histogram log format version"))
    }

    #[test]
    fn a_log_may_be_renamed_or_truncated_while_it_is_written() {
        let path = std::env::temp_dir().join(format!("millstream-rotated-{}.hlog", std::process::id()));
        let moved = path.with_extension("hlog.1");
        let mut recorder = Recorder::default();
        recorder.record(Stage::Commit, 250_000, 7);
        recorder.count();
        let second = Duration::from_secs(1);
        let mut file = LogFile::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let mut lines = file.begin().unwrap();
        lines.write(second, &recorder).unwrap();
        std::fs::rename(&path, &moved).unwrap();
        lines.write(second, &recorder).unwrap();
        drop(lines);
        file.reopen().unwrap();
        let mut lines = file.begin().unwrap();
        lines.write(second, &recorder).unwrap();
        assert_eq!((contents(&moved), contents(&path)), ((2, true), (1, true)));
        // As logrotate's copytruncate does.
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        lines.write(second, &recorder).unwrap();
        drop(lines);
        assert_eq!(contents(&path), (1, false), "no hole at the beginning");
        // If the new file cannot be created, the old one is continued.
        file.path = "/nowhere/at/all.hlog".into();
        assert!(file.reopen().is_err());
        file.begin().unwrap().write(second, &recorder).unwrap();
        assert_eq!(contents(&path).0, 2);
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&moved).unwrap();
    }

    #[test]
    fn a_pipe_is_refused_at_once_with_or_without_a_reader() {
        let path = std::env::temp_dir().join(format!("millstream-piped-{}.hlog", std::process::id()));
        let mut recorder = Recorder::default();
        recorder.record(Stage::Commit, 250_000, 7);
        recorder.count();
        let mut log = LogFile::open(&path).unwrap();
        let moved = path.with_extension("hlog.1");
        std::fs::rename(&path, &moved).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let is_refused = |result: io::Result<()>| {
            result.is_err_and(|error| error.to_string().contains("not a regular file"))
        };
        assert!(is_refused(log.reopen()));
        let reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        assert!(is_refused(log.reopen()));
        assert!(is_refused(LogFile::open(&path).map(drop)));
        drop(reader);
        // The current file is continued.
        log.begin().unwrap().write(Duration::from_secs(1), &recorder).unwrap();
        assert_eq!(contents(&moved), (1, true));
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&moved).unwrap();
    }

    #[test]
    fn a_log_is_continued_and_reads_back_as_recorded() {
        let path = std::env::temp_dir().join(format!("millstream-{}.hlog", std::process::id()));
        let mut recorder = Recorder::default();
        recorder.record(Stage::Commit, 250_000, 7);
        recorder.record(Stage::InboxDepth, 3, 1);
        recorder.count();
        for _ in 0..2 {
            let mut file = LogFile::open(&path).unwrap();
            file.begin().unwrap().write(Duration::from_secs(1), &recorder).unwrap();
        }
        let text = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut seen = Vec::new();
        for entry in IntervalLogIterator::new(&text) {
            if let Ok(LogEntry::Interval(line)) = entry {
                let histogram = decode(line.encoded_histogram()).unwrap();
                seen.push((line.tag().unwrap().as_str().to_owned(), histogram));
            }
        }
        assert_eq!(seen.len(), 4);
        assert_eq!(seen[2], ("commit".to_owned(), recorder.of(Stage::Commit).clone()));
        assert_eq!(seen[3], ("inbox_depth".to_owned(), recorder.of(Stage::InboxDepth).clone()));
    }
}
