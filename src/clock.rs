//! The time as the cores see it: passed in, never asked for.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

/// One look at both clocks of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds that never go backwards; deadlines are in it. Its start means nothing.
    pub mono_ms: u64,
    /// The same in nanoseconds; latencies are in it. All shards of a server share its start.
    pub mono_ns: u64,
    /// Unix time, milliseconds; timestamps of messages are in it.
    pub unix_ms: u64,
}

impl Now {
    /// So long after the start.
    pub fn new(mono: Duration, unix_ms: u64) -> Self {
        let mono_ns = u64::try_from(mono.as_nanos()).unwrap_or(u64::MAX);
        Self { mono_ms: mono_ns / 1_000_000, mono_ns, unix_ms }
    }

    /// A moment in whole milliseconds.
    pub fn at_ms(mono_ms: u64, unix_ms: u64) -> Self {
        Self::new(Duration::from_millis(mono_ms), unix_ms)
    }

    /// Nanoseconds since an earlier `mono_ns`.
    pub fn since_ns(&self, earlier_ns: u64) -> u64 {
        self.mono_ns.saturating_sub(earlier_ns)
    }
}

/// A `Duration` in whole milliseconds, as deadlines count them.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

/// A Unix time in milliseconds as people read it (RFC 3339, whole seconds); nothing for one that has no such text, as it may stand in a file.
pub fn rfc3339(unix_ms: u64) -> Option<String> {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms))?;
    let mut text = String::new();
    write!(text, "{}", humantime::format_rfc3339_seconds(at)).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_by_people_as_far_as_there_are_words_for_them() {
        assert_eq!(rfc3339(1_000_000_000_999).as_deref(), Some("2001-09-09T01:46:40Z"));
        assert_eq!(rfc3339(u64::MAX), None);
    }
}
