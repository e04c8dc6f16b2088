//! The monitor: a thread that detects stalled shards and wakes them.
//!
//! glommio 0.9 can go to sleep although its driver could run: it loses about one wake-up in 200,000, fewer
//! with the settings of `executor`. No event ends such a sleep, so another thread must check.
//!
//! A wake-up holds a reference to the driver's task until the shard handles it, and glommio aborts the
//! process at 32,767 of them. A stalled shard handles none. So the monitor wakes a shard when it first finds
//! it stalled. Because that wake-up may be lost too, it wakes the shard again, after twice as long each time:
//! 16 wake-ups in the first 200 seconds, and at most 32 until the shard continues.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::delivery::Delivery;
use super::inbox::Sender;
use super::parker::Heartbeat;
use crate::base::millis::Millis;

/// The time between two checks while any shard works.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The time between two checks while all shards are parked.
const LOOK_EVERY_IDLE: Duration = Duration::from_millis(50);
/// The number of checks after which a shard without progress counts as stalled.
const STALL_LOOKS: u32 = 20;

fn still(looks: u32) -> Millis {
    Millis::from(LOOK_EVERY * looks)
}

/// One shard as the monitor sees it.
#[derive(Debug)]
pub struct Watched {
    /// The count of its turns, which shows its progress.
    pub heartbeat: Arc<Heartbeat>,
    /// The sender to its inbox.
    pub sender: Sender<Delivery>,
    /// The number of stalls so far.
    pub stalls: Arc<AtomicU64>,
}

/// What the monitor remembers of a shard.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// The number of its turns at the last check.
    turns: u64,
    /// The number of checks since then that found no progress.
    still: u32,
}

impl Seen {
    /// Handles a check: the shard has begun `turns`, and `waits` if it has nothing to do. Returns whether to
    /// wake it.
    fn look(&mut self, turns: u64, waits: bool) -> bool {
        if turns != self.turns || waits {
            *self = Self { turns, still: 0 };
            return false;
        }
        self.still = self.still.saturating_add(1);
        self.still.is_power_of_two()
    }
}

/// Watches the shards until `stop`. Never accesses what a shard owns.
pub fn watch(shards: &[Watched], stop: &AtomicBool) {
    watch_between(shards, stop, std::thread::sleep);
}

/// Watches the shards until `stop`. `pause` spends the time between two checks.
fn watch_between(shards: &[Watched], stop: &AtomicBool, mut pause: impl FnMut(Duration)) {
    let mut seen = vec![Seen::default(); shards.len()];
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        for (index, (watched, seen)) in shards.iter().zip(&mut seen).enumerate() {
            let before = seen.clone();
            let waits = watched.heartbeat.is_parked() && watched.sender.depth() == 0;
            let is_to_be_woken = seen.look(watched.heartbeat.turns(), waits);
            if seen.still == 0 {
                if before.still >= STALL_LOOKS {
                    watched.heartbeat.set_stands_still(false);
                    tracing::warn!(shard = index, still_ms = still(before.still).get(), "shard recovered");
                }
                idle &= seen.turns == before.turns;
            } else {
                idle = false;
            }
            if seen.still == STALL_LOOKS && before.still < STALL_LOOKS {
                watched.heartbeat.set_stands_still(true);
                watched.stalls.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(shard = index, still_ms = still(seen.still).get(), "shard stalled");
            }
            if is_to_be_woken {
                watched.sender.wake();
            }
        }
        pause(if idle { LOOK_EVERY_IDLE } else { LOOK_EVERY });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::inbox::inbox;
    use crate::shard::parker::Parker;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    /// A waker that counts its calls.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Woken {
        fn take(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_long_stalled_shard_gets_few_wake_ups() {
        let (sender, inbox) = inbox(1);
        let woken: Arc<Woken> = Arc::default();
        // Like a shard that parks.
        assert!(inbox.arm(&Waker::from(woken.clone())));
        inbox.disarm();
        let heartbeat: Arc<Heartbeat> = Arc::default();
        let shard = Watched { heartbeat: heartbeat.clone(), sender, stalls: Arc::default() };
        let (stalls, shards) = (shard.stalls.clone(), [shard]);
        let look = |looks: usize| {
            let (stop, mut left) = (AtomicBool::new(false), looks);
            watch_between(&shards, &stop, |_| {
                left -= 1;
                stop.store(left == 0, Ordering::Relaxed);
            });
        };
        // 200 seconds.
        look(40_000);
        let count = woken.take();
        assert!((2..=16).contains(&count), "{count} wake-ups");
        assert!(heartbeat.stands_still());
        assert_eq!(stalls.load(Ordering::Relaxed), 1);
        Parker::new(heartbeat.clone()).beat();
        look(1);
        assert_eq!(woken.take(), 0, "it has continued");
    }

    #[test]
    fn a_shard_that_continues_no_longer_counts_as_stalled() {
        let (sender, _inbox) = inbox(1);
        let heartbeat: Arc<Heartbeat> = Arc::default();
        let parker = Parker::new(heartbeat.clone());
        let shard = Watched { heartbeat: heartbeat.clone(), sender, stalls: Arc::default() };
        let (stalls, shards) = (shard.stalls.clone(), [shard]);
        let (stop, mut looks) = (AtomicBool::new(false), 0);
        watch_between(&shards, &stop, |_| {
            looks += 1;
            match looks {
                STALL_LOOKS => {
                    assert!(heartbeat.stands_still());
                    parker.beat();
                }
                _ if looks > STALL_LOOKS => {
                    assert!(!heartbeat.stands_still());
                    stop.store(true, Ordering::Relaxed);
                }
                _ => assert!(!heartbeat.stands_still()),
            }
        });
        assert_eq!((looks, stalls.load(Ordering::Relaxed)), (STALL_LOOKS + 1, 1));
    }

    #[test]
    fn the_number_of_wake_ups_is_bounded_for_any_stall() {
        let mut seen = Seen::default();
        assert!(!seen.look(7, false), "it has made turns");
        let looks = |seen: &mut Seen, count: u32| (0..count).filter(|_| seen.look(7, false)).count();
        assert_eq!(looks(&mut seen, 1), 1, "at once");
        assert_eq!(looks(&mut seen, 1), 1, "and again, because the first may be lost");
        // 200 seconds.
        assert_eq!(looks(&mut seen, 40_000 - 2), 14);
        seen.still = u32::MAX - 1;
        assert_eq!(looks(&mut seen, 100), 0);
        assert!(!seen.look(8, false), "it continues");
        assert!(seen.look(8, false), "it has stalled again");
        assert!(!seen.look(8, true), "it waits for work and is not woken");
    }
}
