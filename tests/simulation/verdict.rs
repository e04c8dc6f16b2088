//! Judges the world with the model.

use millstream::client::Resume;

use super::client::{Client, Role};
use super::model::Known;
use super::server::Server;
use super::world::World;

impl World {
    /// Returns how many messages of each producer are settled.
    pub(super) fn settled(&self) -> Vec<usize> {
        let settled = |client: &Client| match &client.role {
            Role::Producer(produce) => Some((produce.stats.acknowledged + produce.stats.refused) as usize),
            _ => None,
        };
        self.clients.iter().filter_map(settled).collect()
    }

    /// Checks that every producer's messages are settled, and that every consumer has seen all its messages.
    pub(super) fn judge(&mut self) -> Result<(), String> {
        for (number, client) in self.clients.iter().enumerate() {
            let Role::Producer(produce) = &client.role else { continue };
            let (sent, storable) = (self.model.producers[number].payloads.len(), self.model.storable(number));
            let (stored, refused) = (produce.stats.acknowledged, produce.stats.refused);
            if (stored, refused) != (storable as u64, (sent - storable) as u64) {
                return Err(format!(
                    "producer {number}: {stored} acknowledged and {refused} refused of {sent}, {storable} of \
                     them storable; failure {:?}",
                    produce.failure()
                ));
            }
        }
        self.judge_consumers(true)
    }

    /// Checks that no consumer has seen anything that it must not see.
    pub(super) fn judge_some(&mut self) -> Result<(), String> {
        self.judge_consumers(false)
    }

    fn judge_consumers(&mut self, is_complete: bool) -> Result<(), String> {
        if self.server.as_ref().is_some_and(Server::has_panicked) {
            return Err("the handling of a connection panicked, see above".into());
        }
        let resent = |client: &Client| match &client.role {
            Role::Producer(produce) => Some(produce.stats.resent),
            _ => None,
        };
        let resent: Vec<u64> = self.clients.iter().filter_map(resent).collect();
        let (settled, now) = (self.settled(), self.machine.clock.true_unix());
        let known = Known { settled: &settled, resent: &resent, now, is_complete };
        for (number, client) in self.clients.iter().enumerate() {
            let Role::Consumer(consume, asked) = &client.role else { continue };
            self.model
                .judge(asked, &consume.sink.seen, &known)
                .map_err(|why| format!("client {number}: {why}"))?;
        }
        Ok(())
    }
}
