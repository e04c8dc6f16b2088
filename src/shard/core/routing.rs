//! The way of commands to the stores that own their partitions, and of the stores' answers back.

use super::{ConnectionId, Core, Message, Token};
use crate::base::clock::Now;
use crate::base::error::Fault;
use crate::base::names::{Project, QueueName};
use crate::latency::Stage;
use crate::operation::{Answer, Command};
use crate::store::{Completion, Request, Store};

impl<S: Store<Token>> Core<S> {
    pub(super) fn route_commands(&mut self, now: Now, id: ConnectionId) {
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            self.route(now, id, command);
        }
        self.commands = commands;
    }

    fn route(&mut self, now: Now, connection: ConnectionId, command: Command) {
        let shard = self.shard;
        let token = |operation, detail, reserved| Token {
            shard,
            connection,
            operation,
            detail,
            reserved,
            messages: 0,
            stage_ns: 0,
        };
        let (target, request) = match command {
            Command::Open { operation, name } => return self.open(now, token(operation, 0, 0), name),
            Command::Report { project, queue, fault } => {
                return self.report(connection, &project, queue.as_ref(), &fault);
            }
            Command::Append { operation, sequence, target, batch, reserved, read_ns } => {
                self.latency.record(Stage::Parse, now.since_ns(read_ns), batch.count());
                let (messages, stage_ns) = (batch.count(), now.mono_ns);
                let token = Token { messages, stage_ns, ..token(operation, sequence, reserved) };
                let (stream, count) = (token.stream(), batch.count());
                let append = Request::Append { token, stream, partition: target.partition, batch };
                if self.store.appends_anywhere() {
                    return self.submit(now, append);
                }
                if target.owner(self.shards) != shard {
                    self.counters.messages_hopped += u64::from(count);
                }
                (target, append)
            }
            Command::Resolve { operation, target, position } => {
                let token = token(operation, u64::from(target.partition.partition), 0);
                (target, Request::Resolve { token, partition: target.partition, position })
            }
            Command::Fetch { operation, target, from, exclude, wait } => {
                let token = token(operation, u64::from(target.partition.partition), 0);
                let fetch = Request::Fetch {
                    token,
                    partition: target.partition,
                    from,
                    bytes_max: self.settings.operation.fetch_bytes,
                    exclude,
                    wait,
                };
                (target, fetch)
            }
            Command::Cancel { operation, target } => {
                let token = token(operation, u64::from(target.partition.partition), 0);
                (target, Request::Cancel { token, partition: target.partition })
            }
        };
        match target.owner(self.shards) {
            owner if owner == shard => self.submit(now, request),
            owner => self.outboxes[usize::from(owner)].push(Message::Request(request)),
        }
    }

    /// An operation fails: in the log, where it is our fault; a peer's only for whoever looks for those.
    fn report(&self, id: ConnectionId, project: &Project, queue: Option<&QueueName>, fault: &Fault) {
        let Some(connection) = self.connections.get(id) else { return };
        let (project, queue) = (project.as_str(), queue.map_or("", QueueName::as_str));
        let (connection, peer, status) = (id.as_u64(), connection.peer(), fault.status().0);
        if status < 500 || *fault == Fault::Draining {
            tracing::debug!(connection, ?peer, project, queue, status, %fault, "an operation fails");
        } else {
            tracing::warn!(connection, ?peer, project, queue, status, %fault, "an operation fails");
        }
    }

    pub(super) fn submit(&mut self, now: Now, mut request: Request<Token>) {
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

    /// An append, or its answer, has come from another shard.
    pub(super) fn record_hop(&mut self, stage: Stage, now: Now, token: Token) {
        if token.messages > 0 {
            self.latency.record(stage, now.since_ns(token.stage_ns), token.messages);
        }
    }

    pub(super) fn handle_completion(&mut self, now: Now, completion: Completion<Token>) {
        let token = completion.token();
        // Given back on completion, whether or not the connection is still there.
        self.budget.release(token.reserved);
        let id = token.connection;
        let answer = match completion {
            Completion::Appended { result, .. } => Answer::Appended { sequence: token.detail, result },
            Completion::Fetched { result, .. } => Answer::Fetched { partition: token.detail as u16, result },
            Completion::Resolved { result, .. } => {
                Answer::Resolved { partition: token.detail as u16, result }
            }
            // The queue's home finishes these.
            Completion::Opened { .. } => return,
        };
        self.with_dirty(now, id, |connection, env| {
            connection.with_front(env, |front, cx| front.answer(token.operation, answer, cx));
        });
    }
}
