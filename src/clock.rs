//! The time as the cores see it: passed in, never asked for.

/// One look at both clocks of the machine, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Never goes backwards; deadlines are in it. Its start means nothing.
    pub mono_ms: u64,
    /// Unix time; timestamps of messages are in it.
    pub unix_ms: u64,
}

/// A `Duration` in whole milliseconds, as deadlines count them.
pub fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}
