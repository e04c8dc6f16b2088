//! Log lines: text or JSON on standard error, at a bounded rate.
//!
//! Any thread may log, but the data path does not: messages are never logged, and connections only when
//! something goes wrong.
//!
//! A separate thread writes the lines, so that a pipe without a reader blocks only that thread. Up to 4,096
//! lines wait for it. Further lines are dropped and counted, and the count is logged when lines are accepted
//! again. [`finish`] writes the remaining lines before the process ends, but waits for a reader for at most
//! 900 ms.
//!
//! Repeated lines are limited: of warnings, errors and lines that name a connection, at most five in ten
//! seconds are logged for the same place in the code, project and status. Further ones are counted, and the
//! count is logged at the end of the ten seconds. Lines with the target [`BOUNDED`] are always logged.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Registry, fmt as lines, reload};

use super::{children, terminal};
use crate::base::setting::{choice, settings};

/// The target of lines that are already bounded in number where they are logged. They are never suppressed.
pub const BOUNDED: &str = concat!(module_path!(), "::bounded");

/// The target of the audit log: who was admitted or refused, and who did what. The places that write it bound its
/// lines.
pub const AUDIT: &str = "millstream::audit";

choice! {
    /// The format of log lines.
    pub enum LogFormat {
        /// Text for people.
        #[default]
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

settings! {
    /// Settings of log lines.
    #[derive(Clone, Debug)]
    pub struct Settings {
        in Logs, OnReload:
        /// Which lines are logged: a level, or directives like millstream=debug,warn
        filter: String = "millstream=info,warn".into(), "log", Text, check_filter;

        in Logs, AtStart:
        /// Format of log lines: text for people, json for machines
        format: LogFormat = LogFormat::default(), "log_format", Choice(LogFormat::NAMES);
    }
}

fn check_filter(text: &str) -> Result<(), String> {
    EnvFilter::try_new(text).map(drop).map_err(|error| error.to_string())
}

/// The time for which equal lines are counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// The number of equal lines to log per window before only counting.
const TOLD_PER_WINDOW: u64 = 5;
/// The number of kinds of lines that are distinguished by project. Beyond it, kinds differ only by place and
/// status. Worst case: 300 bytes each.
const KINDS_MAX: usize = 1024;

/// The number of lines that may wait to be written. A line takes some 200 bytes, so 1 MiB.
const LINES_MAX: usize = 4096;
/// The longest time to wait for a reader at the end of the process. Less than the timeout of [`WorkerGuard`],
/// so that the end of its drop within this time means that the writing thread has ended.
const FINISH_TIMEOUT: Duration = Duration::from_millis(900);
/// The pause before writing again to a full standard error in non-blocking mode.
const FULL_WAIT: Duration = Duration::from_millis(10);

/// The guard of the writing thread; dropping it ends the thread. `None` before [`start`] and after
/// [`finish`].
static WRITER: Mutex<Option<WorkerGuard>> = Mutex::new(None);
/// Whether the writing thread is inside a system call, which blocks until someone reads.
static IS_WRITING: AtomicBool = AtomicBool::new(false);

/// Changes which lines are logged. `None` before [`start`].
static DIRECTIVES: Mutex<Option<reload::Handle<EnvFilter, Registry>>> = Mutex::new(None);

/// Standard error without the standard library's lock. A write that waits for a reader would hold that lock
/// and block all other threads.
#[derive(Debug)]
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        IS_WRITING.store(true, Ordering::SeqCst);
        let written = loop {
            match rustix::io::write(io::stderr(), bytes) {
                Err(Errno::AGAIN) => std::thread::sleep(FULL_WAIT),
                // Standard error was closed before the process started: discard the line.
                Err(Errno::BADF) => break Ok(bytes.len()),
                written => break written.map_err(io::Error::from),
            }
        };
        IS_WRITING.store(false, Ordering::SeqCst);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines of the same kind are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    /// The source file of the log statement.
    place: &'static str,
    line: u32,
    project: String,
    status: String,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    told: u64,
    kept_back: u64,
}

/// Counts and limits repeated lines. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Floods(Arc<Mutex<HashMap<Kind, Count>>>);

/// The fields of a line that decide about its kind.
#[derive(Default)]
struct Fields {
    names_connection: bool,
    project: String,
    status: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "connection" => self.names_connection = true,
            "project" => self.project = format!("{value:?}"),
            "status" => self.status = format!("{value:?}"),
            _ => {}
        }
    }
}

impl<S: Subscriber> Filter<S> for Floods {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        // Lines about suppressed lines must not be suppressed.
        if [module_path!(), BOUNDED].contains(&metadata.target())
            || (!fields.names_connection && *metadata.level() > Level::WARN)
        {
            return true;
        }
        let kind = Kind {
            place: metadata.file().unwrap_or_default(),
            line: metadata.line().unwrap_or_default(),
            project: fields.project,
            status: fields.status,
        };
        self.may_tell(kind, Instant::now())
    }
}

impl Floods {
    fn may_tell(&self, kind: Kind, now: Instant) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Peers choose their project, so distinguish only a limited number of them.
        let kind = if counts.len() >= KINDS_MAX && !counts.contains_key(&kind) {
            Kind { project: "(any)".into(), ..kind }
        } else {
            kind
        };
        let count = counts.entry(kind).or_insert(Count { since: now, told: 0, kept_back: 0 });
        if count.told < TOLD_PER_WINDOW {
            count.told += 1;
            return true;
        }
        count.kept_back += 1;
        false
    }

    /// Removes the kinds whose window has passed. Returns them with the number of suppressed lines, if any.
    fn take_passed(&self, now: Instant) -> Vec<(Kind, u64)> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = counts.extract_if(|_, count| now.duration_since(count.since) >= WINDOW);
        passed.filter(|(_, count)| count.kept_back > 0).map(|(kind, count)| (kind, count.kept_back)).collect()
    }

    /// Logs how many lines were suppressed, for each kind whose window has passed.
    fn tell(&self) {
        for (Kind { place, line, project, status }, kept_back) in self.take_passed(Instant::now()) {
            tracing::warn!(
                kept_back,
                place = format!("{place}:{line}"),
                project,
                status,
                "repeated log lines suppressed"
            );
        }
    }
}

/// Logs how many lines were suppressed or dropped.
#[derive(Debug)]
pub struct Teller {
    floods: Floods,
    dropped: ErrorCounter,
    /// The number of dropped lines that has been logged.
    told: usize,
}

impl Teller {
    /// Logs the lines that were left out since the last call. Call it about once a second.
    pub fn tell(&mut self) {
        self.floods.tell();
        let dropped = self.dropped.dropped_lines();
        if dropped > self.told {
            tracing::warn!(
                dropped,
                "log lines dropped since the start: standard error was not read fast enough"
            );
            // If this line was dropped, too, log it again next time.
            if self.dropped.dropped_lines() == dropped {
                self.told = dropped;
            }
        }
    }
}

/// Writes the waiting lines and ends the writing thread. Call it before the process ends.
///
/// Returns false if the lines were not read in time. Another write to standard error could then block
/// forever.
pub fn finish() -> bool {
    let Some(writer) = WRITER.lock().unwrap_or_else(PoisonError::into_inner).take() else { return true };
    let (ended, has_ended) = mpsc::channel();
    // In a separate thread, because a guard that waits in vain complains on standard output, which may be the
    // same pipe.
    let ending = std::thread::Builder::new().name("log-end".into()).spawn(move || {
        drop(writer);
        // Fails if the receiver has timed out.
        let _ = ended.send(());
    });
    let has_ended = ending.is_ok() && has_ended.recv_timeout(FINISH_TIMEOUT).is_ok();
    has_ended && !IS_WRITING.load(Ordering::SeqCst)
}

/// Changes which lines are logged from now on. The directives were checked when the setting was read.
pub fn set_filter(filter: &str) {
    let directives = DIRECTIVES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*directives
        && let Err(error) = handle.reload(EnvFilter::new(filter))
    {
        tracing::error!(%error, "the log filter cannot be changed");
    }
}

/// Starts logging. Panics are logged, too.
pub fn start(settings: &Settings) -> Teller {
    let floods = Floods::default();
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .thread_name("log")
        .finish(StandardError);
    let dropped = writer.error_counter();
    // The directives were checked when the setting was read.
    let (directives, handle) = reload::Layer::new(EnvFilter::new(&settings.filter));
    let layer = match settings.format {
        LogFormat::Text => lines::layer().with_writer(writer).with_ansi(terminal::has_colours()).boxed(),
        LogFormat::Json => lines::layer().with_writer(writer).json().boxed(),
    };
    let subscriber =
        tracing_subscriber::registry().with(layer.with_filter(floods.clone()).with_filter(directives));
    // Fails only if a subscriber is already set, for example by a test. That one is used.
    if subscriber.try_init().is_ok() {
        *WRITER.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
        *DIRECTIVES.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
    }
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("no text");
        tracing::error!(thread = thread.name().unwrap_or("unnamed"), place, what, "thread panicked");
        // A panic of the main thread ends the process. `AbortOnPanic` handles the other threads.
        if thread.name() == Some("main") {
            children::end_all();
            finish();
        }
    }));
    Teller { floods, dropped, told: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lines_are_logged_a_few_times_and_then_counted() {
        let (floods, began) = (Floods::default(), Instant::now());
        let kind =
            |project: &str| Kind { place: "a.rs", line: 1, project: project.into(), status: "503".into() };
        let told = (0..100).filter(|_| floods.may_tell(kind("a"), began)).count() as u64;
        assert_eq!(told, TOLD_PER_WINDOW);
        assert!(floods.may_tell(kind("b"), began), "other kinds are logged");
        assert_eq!(floods.take_passed(began + WINDOW / 2), []);
        assert_eq!(floods.take_passed(began + WINDOW), [(kind("a"), 100 - TOLD_PER_WINDOW)]);
        assert!(floods.may_tell(kind("a"), began + WINDOW), "a new window");
        let told =
            (0..2 * KINDS_MAX).filter(|project| floods.may_tell(kind(&project.to_string()), began)).count();
        assert!(told < KINDS_MAX + 10, "{told}");
        assert!(floods.0.lock().unwrap().len() <= KINDS_MAX + 1);
    }

    /// A writer that blocks on each line until the sender is dropped, and reports when it blocks.
    struct Gate(mpsc::Sender<()>, mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(());
            let _ = self.1.recv();
            self.2.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn unread_lines_are_dropped_and_counted_and_the_count_is_logged() {
        let ((entering, entered), (open, gate)) = (mpsc::channel(), mpsc::channel());
        let written = Arc::new(Mutex::new(Vec::new()));
        let gate = Gate(entering, gate, written.clone());
        let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(1).finish(gate);
        let dropped = writer.error_counter();
        let mut teller = Teller { floods: Floods::default(), dropped: dropped.clone(), told: 0 };
        let subscriber = tracing_subscriber::registry().with(lines::layer().with_writer(writer));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("is being written");
            entered.recv().unwrap();
            tracing::error!("waits");
            for _ in 0..8 {
                tracing::error!("has no room");
            }
            assert_eq!(dropped.dropped_lines(), 8);
            teller.tell();
            assert_eq!(teller.told, 0, "that line was dropped, too");
            drop(open);
            let until = Instant::now() + Duration::from_secs(20);
            while teller.told == 0 {
                assert!(Instant::now() < until);
                teller.tell();
                std::thread::yield_now();
            }
        });
        drop(guard);
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(text.contains("waits") && text.contains("log lines dropped since the start"), "{text}");
        assert!(!text.contains("has no room"), "{text}");
    }
}
