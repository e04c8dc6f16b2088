//! Log lines: text or JSON on standard error, and no floods.
//!
//! Runs on whatever thread says something. Never on the data path: nothing is said of a message, and of a connection only
//! what went wrong.
//!
//! A flood: warnings, errors and whatever names a connection are told five times in ten seconds for each place in the code,
//! project and status; then they are counted, and the count is told when the window has passed.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt as lines};

use crate::config::{LogFormat, ServerConfig};
use crate::terminal;

/// How long equal lines are counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// How many of them are told before.
const TOLD_PER_WINDOW: u64 = 5;
/// Kinds of lines that are told apart by project; beyond, only by place and status. Worst case: 300 bytes each.
const KINDS_MAX: usize = 1024;

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
        if metadata.target() == module_path!()
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

    /// Tells how many lines were kept back, once their window has passed. To be called every second or so.
    pub fn tell(&self) {
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

/// Begins to log as `config` says. Panics are logged, too.
pub fn start(config: &ServerConfig) -> Floods {
    let floods = Floods::default();
    // Checked when the setting was read.
    let directives = EnvFilter::new(&config.log);
    let layer = match config.log_format {
        LogFormat::Text => {
            lines::layer().with_writer(std::io::stderr).with_ansi(terminal::has_colours()).boxed()
        }
        LogFormat::Json => lines::layer().with_writer(std::io::stderr).json().boxed(),
    };
    let subscriber =
        tracing_subscriber::registry().with(layer.with_filter(floods.clone()).with_filter(directives));
    // Fails only where a subscriber is set already: then that one is meant.
    let _ = subscriber.try_init();
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("no text");
        tracing::error!(thread = thread.name().unwrap_or("unnamed"), place, what, "a panic");
    }));
    floods
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
}
