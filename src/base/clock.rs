//! The time as the shards see it: passed in, never read from the system.

use std::cell::Cell;
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use super::millis::{Millis, UnixMillis};

/// A reading of both clocks of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time in milliseconds, for deadlines. Its zero has no meaning.
    pub mono: Millis,
    /// The same in nanoseconds, for latencies. All shards of a server share the zero.
    pub mono_ns: u64,
    /// Unix time in milliseconds, for the timestamps of messages.
    pub unix: UnixMillis,
}

impl Now {
    /// Creates a reading from the time since the start and the Unix time.
    pub fn new(mono: Duration, unix: UnixMillis) -> Self {
        let mono_ns = u64::try_from(mono.as_nanos()).unwrap_or(u64::MAX);
        Self { mono: Millis::new(mono_ns / 1_000_000), mono_ns, unix }
    }

    /// Creates a reading from whole milliseconds.
    pub fn at_ms(mono_ms: u64, unix_ms: u64) -> Self {
        Self::new(Duration::from_millis(mono_ms), UnixMillis::new(unix_ms))
    }

    /// Returns the reading of both clocks `length` later.
    pub fn later(self, length: Millis) -> Self {
        Self::new(Duration::from_nanos(self.mono_ns) + length.as_duration(), self.unix + length)
    }

    /// Returns the nanoseconds since an earlier `mono_ns`.
    pub fn since_ns(&self, earlier_ns: u64) -> u64 {
        self.mono_ns.saturating_sub(earlier_ns)
    }
}

/// The Unix time of a shard: the system's clock, except that unconfirmed jumps ahead are held back.
///
/// ```text
/// follows ── ahead by more than step_max ──▶ holds: time continues at the pace of the monotonic clock
///    ▲                                         │ back again, or ahead for step_max
///    └─────────────────────────────────────────┘
/// ```
/// A clock that is wrongly ahead for a moment would otherwise expire messages for good. A step back is
/// followed at once.
#[derive(Debug)]
pub struct WallClock {
    step_max: Millis,
    /// The last reading.
    last: Cell<Option<Now>>,
    /// When the system's clock was first found ahead, by the monotonic clock.
    ahead_since: Cell<Option<Millis>>,
    step: Cell<Option<Step>>,
}

/// A jump of the system's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ahead by this many milliseconds, and not followed yet.
    Held(Millis),
    /// Still ahead by this many milliseconds after `step_max`, and now followed.
    Ahead(Millis),
    /// Back by this many milliseconds.
    Back(Millis),
}

impl WallClock {
    /// Creates a clock that holds back jumps of more than `step_max`, for the time `step_max`.
    pub fn new(step_max: Duration) -> Self {
        let (last, ahead_since, step) = (Cell::new(None), Cell::new(None), Cell::new(None));
        Self { step_max: Millis::from(step_max), last, ahead_since, step }
    }

    /// Reads both clocks: `mono` is the time since the start, `unix` the system's time.
    #[inline]
    pub fn look(&self, mono: Duration, unix: UnixMillis) -> Now {
        let mut now = Now::new(mono, unix);
        if let Some(last) = self.last.get() {
            let expected = last.unix + now.mono.since(last.mono);
            if unix.abs_diff(expected) > self.step_max || self.ahead_since.get().is_some() {
                now.unix = self.handle_jump(now, expected);
            }
        }
        self.last.set(Some(now));
        now
    }

    /// Handles a jump of the system's clock, or the time after one. Returns the Unix time to continue with.
    #[cold]
    fn handle_jump(&self, now: Now, expected: UnixMillis) -> UnixMillis {
        if now.unix <= expected + self.step_max {
            self.ahead_since.set(None);
            if now.unix + self.step_max < expected {
                self.step.set(Some(Step::Back(expected.since(now.unix))));
            }
            return now.unix;
        }
        let by = now.unix.since(expected);
        match self.ahead_since.get() {
            Some(since) if now.mono.since(since) >= self.step_max => {
                self.ahead_since.set(None);
                self.step.set(Some(Step::Ahead(by)));
                now.unix
            }
            Some(_) => expected,
            None => {
                self.ahead_since.set(Some(now.mono));
                self.step.set(Some(Step::Held(by)));
                expected
            }
        }
    }

    /// Returns the jump found since the last call.
    pub fn take_step(&self) -> Option<Step> {
        self.step.take()
    }
}

/// Formats a Unix time (RFC 3339, whole seconds). Returns `None` if the time has no such form, which a
/// damaged file may cause.
pub fn rfc3339(unix: UnixMillis) -> Option<String> {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(unix.get()))?;
    let mut text = String::new();
    write!(text, "{}", humantime::format_rfc3339_seconds(at)).ok()?;
    Some(text)
}

/// Reads a date and a time of ISO 8601, such as `2030-01-01T00:00:00`, perhaps with fractions of a second and a zone (`Z`,
/// `+02:00`, `+0200`, `+02`). Without a zone, it is UTC.
pub fn read_iso8601(text: &str) -> Option<UnixMillis> {
    let (date, time) = text.split_once(['T', ' '])?;
    let zone_at = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone_at);
    let at = humantime::parse_rfc3339_weak(&format!("{date}T{time}")).ok()?;
    let at = i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
    let ahead_minutes = match zone.split_at_checked(1) {
        None | Some(("Z", "")) => 0,
        Some((sign @ ("+" | "-"), digits)) => {
            let digits = digits.replacen(':', "", 1);
            if !matches!(digits.len(), 2 | 4) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let (hours, minutes) = digits.split_at(2);
            let minutes = if minutes.is_empty() { 0 } else { minutes.parse::<i64>().ok()? };
            let ahead = hours.parse::<i64>().ok()? * 60 + minutes;
            if sign == "+" { ahead } else { -ahead }
        }
        Some(_) => return None,
    };
    u64::try_from(at - ahead_minutes * 60_000).ok().map(UnixMillis::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_iso_8601_are_read_in_any_zone() {
        let utc = 1_893_456_000_000;
        for (text, expected) in [
            ("2030-01-01T00:00:00", Some(utc)),
            ("2030-01-01 00:00:00Z", Some(utc)),
            ("2030-01-01T00:00:00.250", Some(utc + 250)),
            ("2030-01-01T02:00:00+02:00", Some(utc)),
            ("2029-12-31T18:30:00-0530", Some(utc)),
            ("2030-01-01T01:00:00+01", Some(utc)),
            ("2030-01-01", None),
            ("20300101", None),
            ("1893456000", None),
            ("2030-01-01T00:00:00X", None),
            ("2030-01-01T00:00:00+1", None),
            ("2030-01-01T00:00:00+aa:bb", None),
            ("2030-13-01T00:00:00", None),
            ("", None),
        ] {
            assert_eq!(read_iso8601(text).map(UnixMillis::get), expected, "{text}");
        }
    }

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;

    fn looks(clock: &WallClock, looks: &[(u64, u64, u64, Option<Step>)]) {
        for (index, (mono_ms, system_ms, unix_ms, step)) in looks.iter().enumerate() {
            let now = clock.look(Duration::from_millis(*mono_ms), UnixMillis::new(*system_ms));
            assert_eq!(
                (now.mono.get(), now.unix.get(), clock.take_step()),
                (*mono_ms, *unix_ms, *step),
                "look {index}"
            );
        }
    }

    #[test]
    fn a_jump_ahead_that_does_not_last_is_never_seen() {
        let clock = WallClock::new(Duration::from_millis(HOUR));
        looks(
            &clock,
            &[
                (0, DAY, DAY, None),
                (10, DAY + 20, DAY + 20, None),
                (20, 31 * DAY, DAY + 30, Some(Step::Held(Millis::new(30 * DAY - 30)))),
                (HOUR, 31 * DAY + HOUR, DAY + HOUR + 10, None),
                (HOUR + 10, DAY + HOUR, DAY + HOUR, None),
                (3 * HOUR, DAY + 3 * HOUR, DAY + 3 * HOUR, None),
            ],
        );
    }

    #[test]
    fn a_jump_ahead_that_lasts_is_followed_and_one_back_at_once() {
        let clock = WallClock::new(Duration::from_millis(HOUR));
        looks(
            &clock,
            &[
                (0, DAY, DAY, None),
                (1, 31 * DAY, DAY + 1, Some(Step::Held(Millis::new(30 * DAY - 1)))),
                (1 + HOUR, 31 * DAY + HOUR, 31 * DAY + HOUR, Some(Step::Ahead(Millis::new(30 * DAY - 1)))),
                (2 + HOUR, DAY, DAY, Some(Step::Back(Millis::new(30 * DAY + HOUR + 1)))),
                (3 + HOUR, DAY + 1, DAY + 1, None),
            ],
        );
    }

    #[test]
    fn small_steps_are_followed() {
        let clock = WallClock::new(Duration::from_millis(HOUR));
        looks(&clock, &[(0, DAY, DAY, None), (1, DAY + HOUR, DAY + HOUR, None), (2, DAY + 1, DAY + 1, None)]);
    }

    #[test]
    fn times_that_cannot_be_formatted_are_none() {
        assert_eq!(rfc3339(UnixMillis::new(1_000_000_000_999)).as_deref(), Some("2001-09-09T01:46:40Z"));
        assert_eq!(rfc3339(UnixMillis::MAX), None);
    }
}
