//! Time in whole milliseconds. A length and a moment of Unix time have different types, so that a deadline
//! cannot be compared with a timestamp.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A length of time in whole milliseconds. A moment of the monotonic clock is one too: the time since its
/// start.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(u64);

/// A moment of Unix time in whole milliseconds.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(u64);

impl Millis {
    /// No time; the start of the monotonic clock.
    pub const ZERO: Self = Self(0);

    /// The longest time. As a deadline, it never comes.
    pub const MAX: Self = Self(u64::MAX);

    /// Returns `ms` milliseconds.
    #[inline]
    pub const fn new(ms: u64) -> Self {
        Self(ms)
    }

    /// Returns `secs` seconds. TTLs are seconds on the wire and in files. This converts them to milliseconds.
    #[inline]
    pub const fn from_secs(secs: u32) -> Self {
        Self(secs as u64 * 1000)
    }

    /// Returns the number of milliseconds.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the number of whole seconds: the unit in which messages state their age.
    #[inline]
    pub fn as_secs(self) -> u32 {
        u32::try_from(self.0 / 1000).unwrap_or(u32::MAX)
    }

    /// Returns the number of seconds, rounded up.
    #[inline]
    pub fn as_secs_up(self) -> u32 {
        u32::try_from(self.0.div_ceil(1000)).unwrap_or(u32::MAX)
    }

    /// Returns the number of nanoseconds, or the largest number if there are more.
    #[inline]
    pub const fn as_nanos(self) -> u64 {
        self.0.saturating_mul(1_000_000)
    }

    /// Returns the same length as a [`Duration`].
    #[inline]
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// Subtracts `other`. Returns zero if `other` is longer.
    #[inline]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Returns the time since an earlier moment of the same clock. Returns zero if `earlier` is later.
    #[inline]
    pub const fn since(self, earlier: Self) -> Self {
        self.saturating_sub(earlier)
    }
}

impl UnixMillis {
    /// The beginning of 1970.
    pub const ZERO: Self = Self(0);

    /// The last moment. As an expiry, it never comes.
    pub const MAX: Self = Self(u64::MAX);

    /// Returns the moment `ms` milliseconds after the beginning of 1970.
    #[inline]
    pub const fn new(ms: u64) -> Self {
        Self(ms)
    }

    /// Returns the moment `since_epoch` after the beginning of 1970. Drops fractions of a millisecond.
    #[inline]
    pub fn from_epoch(since_epoch: Duration) -> Self {
        Self(Millis::from(since_epoch).0)
    }

    /// Returns the number of milliseconds since the beginning of 1970.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the time since `earlier`. Returns zero if `earlier` is later: the clock may step back.
    #[inline]
    pub const fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }

    /// Returns the moment `length` earlier, or the beginning of 1970 if that is later.
    #[inline]
    pub const fn saturating_sub(self, length: Millis) -> Self {
        Self(self.0.saturating_sub(length.0))
    }

    /// Returns the time between both moments, whichever is later.
    #[inline]
    pub const fn abs_diff(self, other: Self) -> Millis {
        Millis(self.0.abs_diff(other.0))
    }
}

/// Saturates: a moment too late for the type is [`Millis::MAX`].
impl Add for Millis {
    type Output = Self;

    #[inline]
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Saturates: a moment too late for the type is [`UnixMillis::MAX`]. Peers, files and clocks choose both
/// sides.
impl Add<Millis> for UnixMillis {
    type Output = Self;

    #[inline]
    fn add(self, length: Millis) -> Self {
        Self(self.0.saturating_add(length.0))
    }
}

/// Drops fractions of a millisecond. Saturates.
impl From<Duration> for Millis {
    #[inline]
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Prints only the number, as [`Display`](fmt::Display) does.
impl fmt::Debug for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Prints only the number, as [`Display`](fmt::Display) does.
impl fmt::Debug for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_differences_saturate() {
        assert_eq!(Millis::MAX + Millis::new(1), Millis::MAX);
        assert_eq!(UnixMillis::MAX + Millis::from_secs(u32::MAX), UnixMillis::MAX);
        assert_eq!(Millis::new(1).since(Millis::new(2)), Millis::ZERO);
        assert_eq!(UnixMillis::new(1).since(UnixMillis::new(2)), Millis::ZERO);
        assert_eq!(Millis::from(Duration::MAX), Millis::MAX);
        assert_eq!(Millis::MAX.as_nanos(), u64::MAX);
        assert_eq!((Millis::MAX.as_secs(), Millis::MAX.as_secs_up()), (u32::MAX, u32::MAX));
        assert_eq!([0, 1, 1_000, 1_001].map(|ms| Millis::new(ms).as_secs_up()), [0, 1, 1, 2]);
    }

    #[test]
    fn text_and_json_are_only_the_number() {
        let (length, moment) = (Millis::new(1_500), UnixMillis::new(7));
        assert_eq!(format!("{length} {length:?} {moment} {moment:?}"), "1500 1500 7 7");
        assert_eq!(serde_json::to_string(&(length, moment)).unwrap(), "[1500,7]");
        assert_eq!(serde_json::from_str::<(Millis, UnixMillis)>("[1500,7]").unwrap(), (length, moment));
    }
}
