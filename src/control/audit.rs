//! The audit lines of the control port: who changed what, and who was refused.
//!
//! Strangers can cause refusals, so these have a bound of their own: they keep no line about a change out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};

use super::way::Way;
use crate::process::logging::AUDIT;

/// The most lines about refusals in a second, and as many about changes. Further ones are counted.
const LINES_PER_SECOND: u32 = 100;

/// The most characters of a path in a line.
const PATH_CHARS_MAX: usize = 200;

/// What a line says about a request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    way: Way,
    method: Method,
    path: Box<str>,
}

impl Asked {
    pub(super) fn new(way: Way, method: &Method, path: &str) -> Self {
        Self { way, method: method.clone(), path: path.chars().take(PATH_CHARS_MAX).collect() }
    }
}

/// Writes the lines. Clones share the bounds.
#[derive(Clone, Debug, Default)]
pub(super) struct Audit(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    refusals: Mutex<Pace>,
    changes: Mutex<Pace>,
    dropped: AtomicU64,
}

impl Audit {
    /// Logs a refusal.
    pub(super) fn refused(&self, asked: &Asked, status: StatusCode, why: &str) {
        if self.has_room(&self.0.refusals) {
            let (Asked { way, method, path }, status) = (asked, status.as_u16());
            tracing::warn!(target: AUDIT, by = %way, %method, %path, status, why, "control port request refused");
        }
    }

    /// Logs a change, or an attempt that had the right to change.
    pub(super) fn changed(&self, asked: &Asked, token: Option<&str>, status: StatusCode) {
        if self.has_room(&self.0.changes) {
            let (Asked { way, method, path }, status) = (asked, status.as_u16());
            tracing::info!(target: AUDIT, by = %way, token, %method, %path, status, "control port change");
        }
    }

    /// Returns how many lines were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    fn has_room(&self, pace: &Mutex<Pace>) -> bool {
        let has_room = pace.lock().unwrap_or_else(PoisonError::into_inner).has_room(Instant::now());
        self.0.dropped.fetch_add(u64::from(!has_room), Ordering::Relaxed);
        has_room
    }
}

/// Counts the lines of a second.
#[derive(Debug, Default)]
struct Pace {
    since: Option<Instant>,
    lines: u32,
}

impl Pace {
    fn has_room(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            (self.since, self.lines) = (Some(now), 0);
        }
        self.lines = self.lines.saturating_add(1);
        self.lines <= LINES_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_bound_of_a_second_are_dropped() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let lines = |pace: &mut Pace, ms| {
            let now = start + Duration::from_millis(ms);
            (0..250).filter(|_| pace.has_room(now)).count()
        };
        assert_eq!((lines(&mut pace, 0), lines(&mut pace, 999), lines(&mut pace, 1_000)), (100, 0, 100));
    }

    #[test]
    fn refusals_keep_no_change_out_and_paths_are_cut() {
        let audit = Audit::default();
        let way = Way::Unix { uid: 1, gid: 1, pid: None };
        let asked = Asked::new(way, &Method::POST, &"/é".repeat(1_000));
        assert_eq!(asked.path.chars().count(), PATH_CHARS_MAX);
        for _ in 0..1_000 {
            audit.refused(&asked, StatusCode::UNAUTHORIZED, "");
        }
        let dropped = audit.dropped();
        assert!(dropped > 0);
        audit.changed(&asked, None, StatusCode::OK);
        assert_eq!(audit.dropped(), dropped);
    }
}
