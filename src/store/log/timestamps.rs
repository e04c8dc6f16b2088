//! The timestamps that a shard gives to messages, and its response to jumps of the clock.

use crate::base::clock::Now;
use crate::base::limits::CLOCK_STEP_MAX;
use crate::base::millis::{Millis, UnixMillis};

/// A jump of the clock, larger than the steps that are tolerated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClockJump {
    /// The clock has advanced by more than the time that has passed.
    Ahead,
    /// The clock is behind the latest timestamp.
    Back,
}

/// The latest timestamp of a shard, and what the clock is compared with.
#[derive(Debug)]
pub(super) struct Timestamps {
    /// The latest timestamp that was given.
    newest: UnixMillis,
    /// When it was given, by the monotonic clock; 0 until the first is given.
    newest_mono: Millis,
    /// The largest deviation of the clock that is not a jump.
    step_max: Millis,
    /// The time of the monotonic clock until which nothing expires. `None` until the first tick.
    held_until: Option<Millis>,
}

impl Timestamps {
    /// Starts in a directory whose latest timestamp is `newest`.
    pub(super) fn new(newest: UnixMillis) -> Self {
        Self { newest, newest_mono: Millis::ZERO, step_max: CLOCK_STEP_MAX, held_until: None }
    }

    /// Sets the largest deviation of the clock that is not a jump.
    pub(super) fn set_step_max(&mut self, by: Millis) {
        self.step_max = by;
    }

    /// Returns whether the clock has jumped since the latest timestamp was given.
    #[inline]
    pub(super) fn jump(&self, now: Now) -> Option<ClockJump> {
        let is_behind = now.unix + self.step_max < self.newest;
        let passed = now.mono.since(self.newest_mono);
        let expected = self.newest + passed;
        let is_ahead = self.newest_mono > Millis::ZERO && now.unix > expected + self.step_max;
        debug_assert!(!is_behind || !is_ahead, "{self:?} at {now:?}");
        if !is_behind && !is_ahead {
            return None;
        }
        Some(if is_ahead { ClockJump::Ahead } else { ClockJump::Back })
    }

    /// Continues from the clock's time after a jump.
    pub(super) fn follow(&mut self, now: Now, jump: ClockJump) {
        self.newest = now.unix;
        if jump == ClockJump::Ahead {
            self.newest_mono = now.mono;
        }
    }

    /// Gives messages the clock's time as their timestamp. A clock that is slightly behind changes nothing.
    #[inline]
    pub(super) fn give(&mut self, now: Now) {
        if now.unix >= self.newest {
            (self.newest, self.newest_mono) = (now.unix, now.mono);
        }
    }

    /// Returns whether files are kept although their messages have expired by the clock.
    ///
    /// A server that was down for a long time looks like one on a machine that booted with a wrong clock:
    /// both find the clock far ahead of the last timestamp. Expired messages are not served. Their files are
    /// kept until the server has run for `step_max`, or until the disk is full.
    pub(super) fn is_held(&mut self, now: Now, is_disk_full: bool) -> bool {
        let Self { newest, step_max, .. } = *self;
        let held_until = *self.held_until.get_or_insert_with(|| {
            let is_far_ahead = newest > UnixMillis::ZERO && now.unix > newest + step_max;
            if is_far_ahead { now.mono + step_max } else { Millis::ZERO }
        });
        now.mono < held_until && !is_disk_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_beyond_the_limit_is_a_jump() {
        let mut timestamps = Timestamps::new(UnixMillis::new(1_000_000));
        timestamps.set_step_max(Millis::new(5_000));
        assert_eq!(timestamps.jump(Now::at_ms(1, 9_000_000)), None, "no timestamp was given since the start");
        assert_eq!(timestamps.jump(Now::at_ms(1, 994_000)), Some(ClockJump::Back));
        timestamps.give(Now::at_ms(10, 1_000_000));
        assert_eq!(timestamps.jump(Now::at_ms(2_010, 1_007_000)), None);
        assert_eq!(timestamps.jump(Now::at_ms(2_010, 1_007_001)), Some(ClockJump::Ahead));
        assert_eq!(timestamps.jump(Now::at_ms(2_010, 995_000)), None);
        timestamps.follow(Now::at_ms(2_010, 2_000_000), ClockJump::Ahead);
        assert_eq!(timestamps.jump(Now::at_ms(2_010, 2_000_000)), None);
        timestamps.follow(Now::at_ms(2_010, 500_000), ClockJump::Back);
        assert_eq!(timestamps.jump(Now::at_ms(2_010, 500_000)), None);
    }
}
