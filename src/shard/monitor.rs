//! The monitor: a thread beside the shards that sees when one stands still, and wakes it.
//!
//! glommio 0.9 can go to sleep with its driver runnable (a wake-up lost about once in 200,000, rarer still with
//! the settings of `executor`). No event then ends the sleep, so somebody outside must look.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::delivery::Delivery;
use super::inbox::Sender;
use super::parker::Heartbeat;

/// How often it looks while any shard works.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often while all are parked.
const LOOK_EVERY_IDLE: Duration = Duration::from_millis(50);
/// A shard that stood still for so many looks is said to have stalled.
const STALL_LOOKS: u32 = 20;

fn still_ms(looks: u32) -> u64 {
    LOOK_EVERY.as_millis() as u64 * u64::from(looks)
}

/// One shard as the monitor sees it.
#[derive(Debug)]
pub struct Watched {
    /// Its pulse.
    pub heartbeat: Arc<Heartbeat>,
    /// Its inbox.
    pub sender: Sender<Delivery>,
    /// Times that it was seen to stand still.
    pub stalls: Arc<AtomicU64>,
}

/// Watches until `stop`. Never touches what a shard owns.
pub fn watch(shards: Vec<Watched>, stop: &AtomicBool) {
    let mut seen: Vec<(u64, u32)> = vec![(0, 0); shards.len()];
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        for (index, (watched, (turns, still))) in shards.iter().zip(&mut seen).enumerate() {
            let now = watched.heartbeat.turns();
            let waits = watched.heartbeat.is_parked() && watched.sender.depth() == 0;
            if now != *turns || waits {
                if *still >= STALL_LOOKS {
                    tracing::warn!(shard = index, still_ms = still_ms(*still), "a shard stood still");
                }
                idle &= now == *turns;
                *turns = now;
                *still = 0;
            } else {
                idle = false;
                *still += 1;
                if *still == STALL_LOOKS {
                    watched.stalls.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(shard = index, still_ms = still_ms(*still), "a shard stands still");
                }
                watched.sender.wake();
            }
        }
        std::thread::sleep(if idle { LOOK_EVERY_IDLE } else { LOOK_EVERY });
    }
}
