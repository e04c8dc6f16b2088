//! The timestamps that a shard gives to messages, and what it does where the clock jumps.

use crate::base::clock::Now;
use crate::base::limits::CLOCK_STEP_MAX;
use crate::base::millis::{Millis, UnixMillis};

/// A jump of the clock that is too far to be passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClockJump {
    /// Ahead of the time that has passed.
    Ahead,
    /// Back behind what was stored.
    Back,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Timestamps {
    /// The latest timestamp that was given, Unix milliseconds.
    newest: UnixMillis,
    /// When it was given, by the monotonic clock; 0 before the first.
    newest_mono: Millis,
    /// How far the clock may be off before that is a jump.
    step_max: Millis,
    /// Until then the clock lets nothing go, by the monotonic clock. Unknown before the first tick.
    held_until: Option<Millis>,
}

impl Timestamps {
    /// Those of a shard that starts in a directory whose latest timestamp is `newest`.
    pub(super) fn new(newest: UnixMillis) -> Self {
        Self { newest, newest_mono: Millis::ZERO, step_max: CLOCK_STEP_MAX, held_until: None }
    }

    /// Takes a clock that is off by more than this for one that has jumped.
    pub(super) fn set_step_max(&mut self, by: Millis) {
        self.step_max = by;
    }

    /// Whether the clock has jumped since the latest timestamp was given.
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

    /// Goes on from where the clock is after a jump.
    pub(super) fn follow(&mut self, now: Now, jump: ClockJump) {
        self.newest = now.unix;
        if jump == ClockJump::Ahead {
            self.newest_mono = now.mono;
        }
    }

    /// Messages get their timestamps. A clock that is back by less than a jump changes nothing.
    #[inline]
    pub(super) fn give(&mut self, now: Now) {
        if now.unix >= self.newest {
            (self.newest, self.newest_mono) = (now.unix, now.mono);
        }
    }

    /// Whether the clock lets nothing go yet that has expired by it.
    ///
    /// A server that was down for long and a machine that has begun with a wrong clock look alike: both find the clock far ahead of what
    /// was stored last. What has expired is not served. Its files go once the clock has stood as long as after any other jump
    /// ahead, or where the disk has no room without that.
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
        assert_eq!(timestamps.jump(Now::at_ms(1, 9_000_000)), None, "nothing was given since the start");
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
