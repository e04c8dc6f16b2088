//! Tells whether every shard makes progress, for the watchdog of a service manager.

use std::sync::Arc;

use super::parker::Heartbeat;

/// The progress of all shards since the last check.
#[derive(Debug)]
pub struct Progress {
    heartbeats: Vec<Arc<Heartbeat>>,
    /// The turns of each shard at the last check.
    turns: Vec<u64>,
}

impl Progress {
    pub(super) fn new(heartbeats: Vec<Arc<Heartbeat>>) -> Self {
        let turns = vec![0; heartbeats.len()];
        Self { heartbeats, turns }
    }

    /// Returns the first shard that stands still and has begun no turn since the last check. The monitor
    /// decides that a shard stands still. A shard that has nothing to do does not.
    pub fn check(&mut self) -> Result<(), usize> {
        let mut stuck = None;
        for (shard, (heartbeat, seen)) in self.heartbeats.iter().zip(&mut self.turns).enumerate() {
            let turns = heartbeat.turns();
            if std::mem::replace(seen, turns) == turns && heartbeat.stands_still() {
                stuck = stuck.or(Some(shard));
            }
        }
        stuck.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::parker::Parker;

    #[test]
    fn only_a_shard_that_stands_still_without_a_turn_is_reported() {
        let heartbeats: Vec<Arc<Heartbeat>> = vec![Arc::default(), Arc::default()];
        let mut progress = Progress::new(heartbeats.clone());
        assert_eq!(progress.check(), Ok(()), "idle shards do not stand still");
        heartbeats[1].set_stands_still(true);
        assert_eq!(progress.check(), Err(1));
        Parker::new(heartbeats[1].clone()).beat();
        assert_eq!(progress.check(), Ok(()), "it has moved, although the monitor has not seen that yet");
        assert_eq!(progress.check(), Err(1));
        heartbeats[1].set_stands_still(false);
        assert_eq!(progress.check(), Ok(()));
    }
}
