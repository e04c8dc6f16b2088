//! Does what this shard's store asks for, to move messages to other queues: opens them at their homes, and passes requests
//! to the stores of their owners.

use super::{AppendToken, Asking, ConnectionId, Connections, Core, Letter, PartitionToken};
use crate::base::claim::View;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::base::queue::{Position, QueueInfo};
use crate::base::units::{Partition, Sequence};
use crate::operation::{Answer, OperationId};
use crate::store::errand::{Done, Errand, ErrandId, Wanted};
use crate::store::{Placement, Request, Store};

/// The connection in the tokens of a store's requests. No connection has this slot.
const COURIER: u32 = u32::MAX;

/// How long the stores release nothing, while one of them cannot find out which copies an earlier run has made. The log
/// frees no file until then.
const HOLD_MAX: Millis = Millis::from_secs(600);

impl Asking {
    /// Returns the address of a store's errand.
    fn errand(shard: u16, ErrandId(id): ErrandId) -> Self {
        Self { shard, connection: ConnectionId::new(COURIER, 0), operation: OperationId(id) }
    }

    /// Returns the errand, if this is the address of one.
    pub(super) fn as_errand(&self) -> Option<ErrandId> {
        (self.connection.slot == COURIER).then_some(ErrandId(self.operation.0))
    }
}

/// What is known of the messages that an earlier run was moving.
#[derive(Debug, Default)]
pub(super) struct Certainty {
    /// The number of shards that have adopted their queues. Before, the stores do not know all their ledgers.
    adopted: u16,
    /// The number of shards whose stores have no doubts, and whether this one is among them.
    certain: u16,
    is_certain: bool,
    /// When this shard stops waiting for its store.
    due: Option<Millis>,
}

impl<S: Store<Connections>> Core<S> {
    /// Tells all shards that this one has adopted its queues.
    pub(super) fn tell_adopted(&mut self) {
        for shard in self.others() {
            self.outboxes[usize::from(shard)].push(Letter::Adopted);
        }
        self.handle_adopted();
    }

    /// Handles that one more shard has adopted its queues.
    pub(super) fn handle_adopted(&mut self) {
        self.certainty.adopted += 1;
        if self.certainty.adopted == self.shards && !self.store.has_doubts() {
            self.tell_certain();
        }
    }

    /// Tells all shards once the store has no doubts, or has had them for too long.
    pub(super) fn resolve_doubts(&mut self, now: Now) {
        if self.certainty.is_certain || self.certainty.adopted < self.shards {
            return;
        }
        if self.store.has_doubts() {
            if *self.certainty.due.get_or_insert(now.mono + HOLD_MAX) > now.mono {
                return;
            }
            tracing::warn!(
                shard = self.shard,
                "copies of messages that an earlier run was moving could not be looked for; some may be moved twice"
            );
        }
        self.tell_certain();
    }

    fn tell_certain(&mut self) {
        self.certainty.is_certain = true;
        for shard in self.others() {
            self.outboxes[usize::from(shard)].push(Letter::Certain);
        }
        self.handle_certain();
    }

    /// Handles that one more shard has no doubts.
    pub(super) fn handle_certain(&mut self) {
        self.certainty.certain += 1;
        if self.certainty.certain == self.shards {
            self.store.handle_certain();
        }
    }

    /// Does what the store asks for.
    pub(super) fn run_errands(&mut self, now: Now) {
        while let Some(Errand { id, what }) = self.store.poll_errand() {
            let by = Asking::errand(self.shard, id);
            match what {
                Wanted::Open(name) => self.open(now, by, name, true),
                Wanted::Find(name) => self.open(now, by, name, false),
                Wanted::End(queue, partition) => {
                    let token = PartitionToken { by, partition };
                    let key = queue.key(partition);
                    let request = Request::Resolve { token, partition: key, position: Position::Latest };
                    self.send(now, &queue, partition, request);
                }
                Wanted::Read(queue, partition, from, bytes_max) => {
                    let request = Request::Fetch {
                        token: PartitionToken { by, partition },
                        partition: queue.key(partition),
                        from,
                        bytes_max,
                        exclude: None,
                        view: View::Stored,
                        wait: false,
                    };
                    self.send(now, &queue, partition, request);
                }
                Wanted::Append(queue, partition, batch) => {
                    let (messages, stage_ns) = (batch.count(), now.mono_ns);
                    let token = AppendToken {
                        by,
                        sequence: Sequence::default(),
                        reserved: 0,
                        messages,
                        stage_ns,
                        sent_ns: stage_ns,
                    };
                    let request = Request::Append {
                        token,
                        stream: by.stream(),
                        partition: queue.key(partition),
                        batch,
                    };
                    if S::APPENDS == Placement::Anywhere {
                        self.submit(now, request);
                    } else {
                        self.send(now, &queue, partition, request);
                    }
                }
            }
        }
    }

    fn send(&mut self, now: Now, queue: &QueueInfo, partition: Partition, request: Request<Connections>) {
        match queue.owner(partition, self.shards) {
            owner if owner == self.shard => self.submit(now, request),
            owner => self.outboxes[usize::from(owner)].push(Letter::Request(request)),
        }
    }

    /// Passes the answer to an errand to the store that asked.
    pub(super) fn handle_errand(&mut self, now: Now, id: ErrandId, answer: Answer) {
        let done = match answer {
            Answer::Opened { result, .. } => Done::Opened(result),
            Answer::Resolved { result, .. } => Done::End(result),
            Answer::Fetched { result, .. } => Done::Read(result),
            Answer::Appended { result, .. } => Done::Appended(result),
            // No errand asks for these.
            _ => return,
        };
        self.store.handle_done(now, id, done);
        self.is_asked = true;
    }
}
