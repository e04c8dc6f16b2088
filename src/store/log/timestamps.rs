//! The timestamps that a shard gives to messages, and its response to jumps of the clock.

use crate::base::clock::Now;
use crate::base::limits::CLOCK_STEP_MAX_MS;

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
    /// The latest timestamp that was given, Unix milliseconds.
    newest_ms: u64,
    /// When it was given, `mono_ms`; 0 until the first is given.
    newest_mono_ms: u64,
    /// The largest deviation of the clock that is not a jump, in milliseconds.
    step_max_ms: u64,
    /// Until when nothing expires by the clock, `mono_ms`. `None` until the first tick.
    held_until_ms: Option<u64>,
}

impl Timestamps {
    /// Starts in a directory whose latest timestamp is `newest_ms`.
    pub(super) fn new(newest_ms: u64) -> Self {
        Self { newest_ms, newest_mono_ms: 0, step_max_ms: CLOCK_STEP_MAX_MS, held_until_ms: None }
    }

    /// Sets the largest deviation of the clock that is not a jump.
    pub(super) fn set_step_max(&mut self, ms: u64) {
        self.step_max_ms = ms;
    }

    /// Returns whether the clock has jumped since the latest timestamp was given.
    #[inline]
    pub(super) fn jump(&self, now: Now) -> Option<ClockJump> {
        let is_behind = now.unix_ms.saturating_add(self.step_max_ms) < self.newest_ms;
        let passed_ms = now.mono_ms.saturating_sub(self.newest_mono_ms);
        let expected_ms = self.newest_ms.saturating_add(passed_ms);
        let is_ahead = self.newest_mono_ms > 0 && now.unix_ms > expected_ms.saturating_add(self.step_max_ms);
        debug_assert!(!is_behind || !is_ahead, "{self:?} at {now:?}");
        if !is_behind && !is_ahead {
            return None;
        }
        Some(if is_ahead { ClockJump::Ahead } else { ClockJump::Back })
    }

    /// Continues from the clock's time after a jump.
    pub(super) fn follow(&mut self, now: Now, jump: ClockJump) {
        self.newest_ms = now.unix_ms;
        if jump == ClockJump::Ahead {
            self.newest_mono_ms = now.mono_ms;
        }
    }

    /// Gives messages the clock's time as their timestamp. A clock that is slightly behind changes nothing.
    #[inline]
    pub(super) fn give(&mut self, now: Now) {
        if now.unix_ms >= self.newest_ms {
            (self.newest_ms, self.newest_mono_ms) = (now.unix_ms, now.mono_ms);
        }
    }

    /// Returns whether files are kept although their messages have expired by the clock.
    ///
    /// A server that was down for a long time looks like one on a machine that booted with a wrong clock:
    /// both find the clock far ahead of the last timestamp. Expired messages are not served. Their files are
    /// kept until the server has run for `step_max_ms`, or until the disk is full.
    pub(super) fn is_held(&mut self, now: Now, is_disk_full: bool) -> bool {
        let Self { newest_ms, step_max_ms, .. } = *self;
        let held_until_ms = *self.held_until_ms.get_or_insert_with(|| {
            let is_far_ahead = newest_ms > 0 && now.unix_ms > newest_ms.saturating_add(step_max_ms);
            if is_far_ahead { now.mono_ms.saturating_add(step_max_ms) } else { 0 }
        });
        now.mono_ms < held_until_ms && !is_disk_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_beyond_the_limit_is_a_jump() {
        let mut timestamps = Timestamps::new(1_000_000);
        timestamps.set_step_max(5_000);
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
