//! A shard's appends: refused after a failure in their stream, passed to the producer, and completed with its
//! outcomes.

use std::collections::VecDeque;
use std::sync::Arc;

use super::client::Client;
use super::native::{Handle, Queue, Reports};
use super::news::News;
use super::producer::{Append, Producer};
use super::queues::Queues;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::Millis;
use crate::base::queue::QueueId;
use crate::store::{Asker, Completion, Fence, NO_CLAIMS, StoreCounters};

/// The appends of a shard.
#[derive(Debug)]
pub(super) struct Appends<T: Asker> {
    producer: Producer<T::Append>,
    /// Whether the producer's handle could not be created, so that the next tick must retry.
    wants_handle: bool,
    fence: Fence,
    completions: VecDeque<Completion<T>>,
    stored: u64,
    refused: u64,
}

impl<T: Asker> Appends<T> {
    pub(super) fn new() -> Self {
        Self {
            producer: Producer::new(),
            wants_handle: false,
            fence: Fence::default(),
            completions: VecDeque::new(),
            stored: 0,
            refused: 0,
        }
    }

    /// Accepts an append, or refuses it.
    pub(super) fn append(&mut self, now: Now, append: Append<T::Append>, queues: &mut Queues<T>) {
        if self.fence.is_closed(append.stream) {
            self.refused += u64::from(append.batch.count());
            return self.fail(append.token, StoreFault::Fenced);
        }
        if append.batch.delay_secs() > 0 {
            self.refused += u64::from(append.batch.count());
            self.fence.close(now, append.stream);
            return self.fail(append.token, StoreFault::Unsupported(NO_CLAIMS));
        }
        self.producer.append(append);
        self.take_outcomes(now, queues);
    }

    /// Completes an append with a fault, without an effect on its stream.
    pub(super) fn fail(&mut self, token: T::Append, fault: StoreFault) {
        self.completions.push_back(Completion::Appended { token, result: Err(fault) });
    }

    /// Passes the producer's waiting records to librdkafka, and completes appends.
    pub(super) fn work(&mut self, now: Now, queues: &mut Queues<T>) {
        self.producer.submit_waiting();
        self.take_outcomes(now, queues);
    }

    fn take_outcomes(&mut self, now: Now, queues: &mut Queues<T>) {
        while let Some(outcome) = self.producer.poll() {
            let result = match outcome.result {
                Ok(offsets) => {
                    self.stored += u64::from(outcome.count);
                    Ok(offsets)
                }
                Err(trouble) => {
                    self.refused += u64::from(outcome.count);
                    // Later appends of the stream fail as well. One log line is enough for all of them.
                    let is_first = !self.fence.is_closed(outcome.stream);
                    let fault = if is_first { trouble.report("store messages") } else { trouble.fault() };
                    self.fence.close(now, outcome.stream);
                    if is_first {
                        self.producer.fence(outcome.stream);
                    }
                    queues.suspect(outcome.queue);
                    Err(fault)
                }
            };
            self.completions.push_back(Completion::Appended { token: outcome.token, result });
        }
    }

    /// Returns the producer's client, if it works.
    pub(super) fn client(&self) -> Option<&Client> {
        self.producer.client()
    }

    /// Returns the producer's events, including those of a broken client.
    pub(super) fn events(&self) -> Option<&Queue> {
        self.producer.events()
    }

    /// Handles delivery reports.
    pub(super) fn handle_reports(&mut self, reports: &Reports) {
        self.producer.handle_reports(reports);
    }

    /// Gives the producer its handle.
    pub(super) fn handle_made(&mut self, handle: Handle, news: &Arc<News>) {
        self.producer.connect(handle, news);
    }

    /// Records that the producer's handle could not be created.
    pub(super) fn handle_not_made(&mut self) {
        self.wants_handle = true;
    }

    /// Handles a fatal error of the producer's client.
    pub(super) fn handle_fatal(&mut self) {
        self.producer.handle_fatal();
    }

    /// Takes a broken client once everything is reported. Another client must be created.
    pub(super) fn take_broken(&mut self) -> Option<Client> {
        self.producer.take_broken()
    }

    /// Fails appends that have waited since a time before `before`. Returns whether a handle must be created.
    pub(super) fn handle_tick(&mut self, now: Now, before: Millis, queues: &mut Queues<T>) -> bool {
        self.producer.fail_unsent(before);
        self.work(now, queues);
        std::mem::take(&mut self.wants_handle)
    }

    /// Returns the next completion.
    pub(super) fn poll(&mut self) -> Option<Completion<T>> {
        self.completions.pop_front()
    }

    /// Forgets a queue that the server no longer serves.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.producer.forget(queue);
    }

    /// Returns whether ticks have nothing to do here.
    pub(super) fn is_idle(&self) -> bool {
        !self.producer.is_waiting() && !self.wants_handle
    }

    /// Returns the counts of stored and refused messages.
    pub(super) fn counters(&self) -> StoreCounters {
        StoreCounters { stored: self.stored, refused: self.refused, ..StoreCounters::default() }
    }
}
