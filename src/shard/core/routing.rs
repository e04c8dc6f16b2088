//! Routes commands to the stores that own their partitions, and the stores' completions back.

use super::{
    AppendToken, Asking, ClaimToken, ConnectionId, Connections, Core, Letter, ManageToken, PartitionToken,
    SettleToken,
};
use crate::base::clock::Now;
use crate::base::error::{Fault, NO_CLAIMS, StoreFault};
use crate::base::names::{Project, QueueName};
use crate::latency::Stage;
use crate::operation::{Answer, Command, Target};
use crate::store::{Completion, Placement, Request, Store};

impl<S: Store<Connections>> Core<S> {
    pub(super) fn route_commands(&mut self, now: Now, id: ConnectionId) {
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            self.route(now, id, command);
        }
        self.commands = commands;
    }

    fn route(&mut self, now: Now, connection: ConnectionId, command: Command) {
        let shard = self.shard;
        let by = |operation| Asking { shard, connection, operation };
        let of = |operation, target: Target| PartitionToken {
            by: by(operation),
            partition: target.partition.partition,
        };
        let (target, request) = match command {
            Command::Open { operation, name, may_create, needs_claims } => {
                self.log_operation(now, connection, &name);
                if needs_claims && !S::CLAIMS {
                    let result = Err(StoreFault::Unsupported(NO_CLAIMS).into());
                    return self.handle_opened(now, by(operation), name, result);
                }
                return self.open(now, by(operation), name, may_create);
            }
            Command::Order { operation, order } => {
                if let Some(name) = order.changed() {
                    self.log_operation(now, connection, name);
                }
                return self.order(now, by(operation), order);
            }
            Command::Renew { operation, token } => return self.renew(now, connection, operation, token),
            Command::Authenticate { operation, token, project } => {
                return self.log_in(now, connection, operation, token, project);
            }
            Command::Vouch => return self.forget_stranger(connection),
            Command::Report { project, queue, fault } => {
                self.log_forbidden(now, connection, &project, queue.as_ref(), &fault);
                return self.report(connection, &project, queue.as_ref(), &fault);
            }
            Command::Append { operation, sequence, target, batch, reserved, read_ns } => {
                self.latency.record(Stage::Parse, now.since_ns(read_ns), batch.count());
                let (by, messages, stage_ns) = (by(operation), batch.count(), now.mono_ns);
                let token = AppendToken { by, sequence, reserved, messages, stage_ns, sent_ns: stage_ns };
                let stream = by.stream();
                self.regulator.handle_submitted(now);
                let append = Request::Append { token, stream, partition: target.partition, batch };
                if S::APPENDS == Placement::Anywhere {
                    return self.submit(now, append);
                }
                if target.owner(self.shards) != shard {
                    self.counters.messages_hopped += u64::from(messages);
                }
                (target, append)
            }
            Command::Resolve { operation, target, position } => {
                let token = of(operation, target);
                (target, Request::Resolve { token, partition: target.partition, position })
            }
            Command::Fetch { operation, target, from, bytes_max, exclude, view, wait } => {
                let token = of(operation, target);
                let fetch = Request::Fetch {
                    token,
                    partition: target.partition,
                    from,
                    bytes_max,
                    exclude,
                    view,
                    wait,
                };
                (target, fetch)
            }
            Command::Claim { operation, target, terms, messages_max, bytes_max } => {
                let (by, partition) = (by(operation), target.partition);
                let token = ClaimToken { by, partition: partition.partition, asked_ns: now.mono_ns };
                let worker = by.worker();
                (target, Request::Claim { token, worker, partition, terms, messages_max, bytes_max })
            }
            Command::Watch { operation, target, wanted } => {
                let (by, partition) = (by(operation), target.partition);
                let token = ClaimToken { by, partition: partition.partition, asked_ns: now.mono_ns };
                (target, Request::Watch { token, worker: by.worker(), partition, wanted })
            }
            Command::Settle { operation, sequence, target, settlements } => {
                let (by, asked_ns) = (by(operation), now.mono_ns);
                let partition = target.partition;
                let token = SettleToken { by, partition: partition.partition, sequence, asked_ns };
                (target, Request::Settle { token, partition, settlements })
            }
            Command::Manage { operation, target, what } => {
                let partition = target.partition;
                let token = ManageToken::Operation { by: by(operation), partition: partition.partition };
                (target, Request::Manage { token, partition, what })
            }
            Command::Leave { operation, target, leaving } => {
                let worker = by(operation).worker();
                (target, Request::Leave { worker, partition: target.partition, leaving })
            }
            Command::Cancel { operation, target } => {
                let token = of(operation, target);
                (target, Request::Cancel { token, partition: target.partition })
            }
        };
        match target.owner(self.shards) {
            owner if owner == shard => self.submit(now, request),
            owner => self.outboxes[usize::from(owner)].push(Letter::Request(request)),
        }
    }

    /// Logs the failure of an operation: as a warning if the server is at fault, otherwise only at debug
    /// level.
    fn report(&self, id: ConnectionId, project: &Project, queue: Option<&QueueName>, fault: &Fault) {
        let Some(connection) = self.connections.get(id) else { return };
        let (project, queue) = (project.as_str(), queue.map_or("", QueueName::as_str));
        let (connection, peer, status) = (id.as_u64(), connection.peer(), fault.status().0);
        if status < 500 || *fault == Fault::Draining {
            tracing::debug!(connection, %peer, project, queue, status, %fault, "operation failed");
        } else {
            tracing::warn!(connection, %peer, project, queue, status, %fault, "operation failed");
        }
    }

    pub(super) fn submit(&mut self, now: Now, mut request: Request<Connections>) {
        self.is_asked = true;
        if let Request::Append { token, batch, .. } = &mut request {
            self.latency.record(Stage::BatchMessages, batch.count().into(), 1);
            token.stage_ns = now.mono_ns;
        }
        if !self.refused.is_empty() {
            self.refused.push_back(request);
        } else if let Err(request) = self.store.submit(now, request) {
            self.refused.push_back(request);
        }
    }

    /// Records the time of an append's hop, or of its completion's hop, from another shard.
    pub(super) fn record_hop(&mut self, stage: Stage, now: Now, token: &AppendToken) {
        self.latency.record(stage, now.since_ns(token.stage_ns), token.messages);
    }

    /// Routes a completion of this shard's store to the shard that asked.
    pub(super) fn handle_done(&mut self, now: Now, mut completion: Completion<Connections>) {
        let shard = match &mut completion {
            // This shard has asked for these itself, as the queue's home or for the operator.
            Completion::Opened { .. }
            | Completion::Deleted { .. }
            | Completion::Altered { .. }
            | Completion::Listed { .. }
            | Completion::Managed { token: ManageToken::Operator(_), .. } => {
                return self.handle_changed(now, completion);
            }
            Completion::Managed { token: ManageToken::Operation { by, .. }, .. } => by.shard,
            Completion::Appended { token, result } => {
                if result.is_ok() {
                    self.latency.record(Stage::Commit, now.since_ns(token.stage_ns), token.messages);
                }
                token.stage_ns = now.mono_ns;
                token.by.shard
            }
            Completion::Fetched { token, .. } | Completion::Resolved { token, .. } => token.by.shard,
            Completion::Claimed { token, result } => {
                if let Ok(Some(grant)) = result {
                    let messages: u64 =
                        grant.runs.iter().map(|run| run.offsets.end.since(run.offsets.start)).sum();
                    let messages = u32::try_from(messages).unwrap_or(u32::MAX);
                    self.latency.record(Stage::Grant, now.since_ns(token.asked_ns), messages);
                }
                token.by.shard
            }
            Completion::Watched { token, .. } => token.by.shard,
            Completion::Settled { token, result } => {
                if result.is_ok() {
                    self.latency.record(Stage::Settle, now.since_ns(token.asked_ns), 1);
                }
                token.by.shard
            }
        };
        if shard == self.shard {
            self.handle_completion(now, completion);
        } else {
            self.outboxes[usize::from(shard)].push(Letter::Completion(completion));
        }
    }

    /// Delivers the answer to a request of this shard.
    pub(super) fn handle_completion(&mut self, now: Now, completion: Completion<Connections>) {
        let (by, answer) = match completion {
            Completion::Appended { token, result } => {
                // Released on completion, even if the connection is closed.
                self.budget.release(token.reserved);
                // What the store moves by itself is no producer's.
                if token.by.as_errand().is_none() {
                    let committed =
                        result.is_ok().then(|| (token.reserved as u64, now.since_ns(token.sent_ns)));
                    self.regulator.handle_answered(now, committed);
                }
                (token.by, Answer::Appended { sequence: token.sequence, result })
            }
            Completion::Fetched { token, result } => {
                (token.by, Answer::Fetched { partition: token.partition, result })
            }
            Completion::Resolved { token, result } => {
                (token.by, Answer::Resolved { partition: token.partition, result })
            }
            Completion::Claimed { token, result } => {
                (token.by, Answer::Claimed { partition: token.partition, result })
            }
            Completion::Watched { token, result } => {
                (token.by, Answer::Watched { partition: token.partition, result })
            }
            Completion::Settled { token, result } => {
                let SettleToken { by, partition, sequence, .. } = token;
                (by, Answer::Settled { sequence, partition, result })
            }
            Completion::Managed { token: ManageToken::Operation { by, partition }, result } => {
                (by, Answer::Managed { partition, result })
            }
            // These end at the shard whose store has made them.
            Completion::Opened { .. }
            | Completion::Deleted { .. }
            | Completion::Altered { .. }
            | Completion::Listed { .. }
            | Completion::Managed { token: ManageToken::Operator(_), .. } => return,
        };
        if let Some(id) = by.as_errand() {
            return self.handle_errand(now, id, answer);
        }
        self.deliver(now, by, answer);
    }

    /// Delivers an answer to the operation of this shard that has asked.
    pub(super) fn deliver(&mut self, now: Now, by: Asking, answer: Answer) {
        self.with_dirty(now, by.connection, |connection, env| {
            connection.with_front(env, |front, cx| front.answer(by.operation, answer, cx));
        });
    }
}
