//! Log lines: text or JSON on standard error, and no floods.
//!
//! Lines are made on whatever thread says something. Never on the data path: nothing is said of a message, and of a connection only
//! what went wrong.
//!
//! A thread of its own writes them, so that a pipe that nobody reads stops that thread alone. Up to 4,096 lines wait for it;
//! lines beyond are dropped and counted, and the count is told once lines are taken again. [`finish`] writes what is left before the
//! process ends, but waits for no reader longer than 900 ms.
//!
//! A flood: warnings, errors and whatever names a connection are told five times in ten seconds for each place in the code,
//! project and status; then they are counted, and the count is told when the window has passed. Lines of the target [`BOUNDED`] are all
//! told.

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
use tracing_subscriber::{EnvFilter, fmt as lines};

use super::{children, terminal};
use crate::base::setting::{choice, settings};

/// Target of lines whose number the place that makes them bounds: they are never taken for a flood.
pub const BOUNDED: &str = concat!(module_path!(), "::bounded");

choice! {
    /// How log lines look.
    pub enum LogFormat {
        /// For people.
        #[default]
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

settings! {
    /// Log lines.
    #[derive(Clone, Debug)]
    pub struct Settings {
        in Logs:
        /// What is logged: a level, or directives like millstream=debug,warn
        filter: String = "millstream=info,warn".into(), "log", Text, check_filter;
        /// text for people, json for machines
        format: LogFormat = LogFormat::default(), "log_format", Choice(LogFormat::NAMES);
    }
}

fn check_filter(text: &str) -> Result<(), String> {
    EnvFilter::try_new(text).map(drop).map_err(|error| error.to_string())
}

/// How long equal lines are counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// How many of them are told before.
const TOLD_PER_WINDOW: u64 = 5;
/// Kinds of lines that are told apart by project; beyond, only by place and status. Worst case: 300 bytes each.
const KINDS_MAX: usize = 1024;

/// Lines that wait to be written; a line is some 200 bytes, so 1 MiB.
const LINES_MAX: usize = 4096;
/// How long the end of the process waits for somebody to read the last lines. Less than [`WorkerGuard`] waits, whose end then means that
/// the thread has ended.
const FINISH_TIMEOUT: Duration = Duration::from_millis(900);
/// How long a standard error that was set to never block is given to take more.
const FULL_WAIT: Duration = Duration::from_millis(10);

/// What ends the thread that writes; there once lines go through it.
static WRITER: Mutex<Option<WorkerGuard>> = Mutex::new(None);
/// That thread is inside a system call, which lasts for as long as nobody reads.
static IS_WRITING: AtomicBool = AtomicBool::new(false);

/// Standard error without the standard library's lock, which a write that waits for a reader would keep from everybody else.
#[derive(Debug)]
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        IS_WRITING.store(true, Ordering::SeqCst);
        let written = loop {
            match rustix::io::write(io::stderr(), bytes) {
                Err(Errno::AGAIN) => std::thread::sleep(FULL_WAIT),
                // It was closed before the process began: nobody wants the lines.
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

/// What makes lines equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    /// The place in the code.
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

/// Counts lines that repeat. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Floods(Arc<Mutex<HashMap<Kind, Count>>>);

/// The fields that decide whether lines are equal.
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
        // What this module tells of floods must not be one.
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
        // Peers choose their project: beyond so many kinds it tells nothing apart.
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

    /// Kinds of lines whose window has passed, and how many of each were kept back.
    fn take_passed(&self, now: Instant) -> Vec<(Kind, u64)> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = counts.extract_if(|_, count| now.duration_since(count.since) >= WINDOW);
        passed.filter(|(_, count)| count.kept_back > 0).map(|(kind, count)| (kind, count.kept_back)).collect()
    }

    /// Tells how many lines were kept back, once their window has passed.
    fn tell(&self) {
        for (Kind { place, line, project, status }, kept_back) in self.take_passed(Instant::now()) {
            tracing::warn!(
                kept_back,
                place = format!("{place}:{line}"),
                project,
                status,
                "lines like an earlier one were only counted"
            );
        }
    }
}

/// Tells how many lines were left out, and why.
#[derive(Debug)]
pub struct Teller {
    floods: Floods,
    dropped: ErrorCounter,
    /// How many dropped lines were told of.
    told: usize,
}

impl Teller {
    /// Tells of lines left out since the last call. To be called every second or so.
    pub fn tell(&mut self) {
        self.floods.tell();
        let dropped = self.dropped.dropped_lines();
        if dropped > self.told {
            tracing::warn!(
                dropped,
                "lines were dropped since the start: standard error was not read as fast as they came"
            );
            // Where that line was dropped, too, it is told again.
            if self.dropped.dropped_lines() == dropped {
                self.told = dropped;
            }
        }
    }
}

/// Writes the lines that wait, and ends the thread that writes: to be called before the process ends. False where nobody has read them
/// all in time; another write to standard error would then wait for ever.
pub fn finish() -> bool {
    let Some(writer) = WRITER.lock().unwrap_or_else(PoisonError::into_inner).take() else { return true };
    let (ended, has_ended) = mpsc::channel();
    // On a thread of its own, because it complains on standard output where it waits in vain, which may be the same pipe.
    let ending = std::thread::Builder::new().name("log-end".into()).spawn(move || {
        drop(writer);
        // Fails where nobody waits any more.
        let _ = ended.send(());
    });
    let has_ended = ending.is_ok() && has_ended.recv_timeout(FINISH_TIMEOUT).is_ok();
    has_ended && !IS_WRITING.load(Ordering::SeqCst)
}

/// Begins to log as `settings` say. Panics are logged, too.
pub fn start(settings: &Settings) -> Teller {
    let floods = Floods::default();
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .thread_name("log")
        .finish(StandardError);
    let dropped = writer.error_counter();
    // Checked when the setting was read.
    let directives = EnvFilter::new(&settings.filter);
    let layer = match settings.format {
        LogFormat::Text => lines::layer().with_writer(writer).with_ansi(terminal::has_colours()).boxed(),
        LogFormat::Json => lines::layer().with_writer(writer).json().boxed(),
    };
    let subscriber =
        tracing_subscriber::registry().with(layer.with_filter(floods.clone()).with_filter(directives));
    // Fails only where a subscriber is set already: then that one is meant.
    if subscriber.try_init().is_ok() {
        *WRITER.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
    }
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("no text");
        tracing::error!(thread = thread.name().unwrap_or("unnamed"), place, what, "a panic");
        // It takes the process with it; what other threads do then is decided elsewhere (`AbortOnPanic`).
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
    fn equal_lines_are_told_a_few_times_and_then_counted() {
        let (floods, began) = (Floods::default(), Instant::now());
        let kind =
            |project: &str| Kind { place: "a.rs", line: 1, project: project.into(), status: "503".into() };
        let told = (0..100).filter(|_| floods.may_tell(kind("a"), began)).count() as u64;
        assert_eq!(told, TOLD_PER_WINDOW);
        assert!(floods.may_tell(kind("b"), began), "others are told");
        assert_eq!(floods.take_passed(began + WINDOW / 2), []);
        assert_eq!(floods.take_passed(began + WINDOW), [(kind("a"), 100 - TOLD_PER_WINDOW)]);
        assert!(floods.may_tell(kind("a"), began + WINDOW), "a new window");
        let told =
            (0..2 * KINDS_MAX).filter(|project| floods.may_tell(kind(&project.to_string()), began)).count();
        assert!(told < KINDS_MAX + 10, "{told}");
        assert!(floods.0.lock().unwrap().len() <= KINDS_MAX + 1);
    }

    /// A writer that waits, for each line, until the sender is gone, and says that it does.
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
    fn lines_that_nobody_takes_are_dropped_and_counted_and_told_later() {
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
        assert!(text.contains("waits") && text.contains("lines were dropped since the start"), "{text}");
        assert!(!text.contains("has no room"), "{text}");
    }
}
