//! What a connection asks before the run begins. Every answer is checked completely.

use std::collections::VecDeque;

use serde_json::Value;

use super::format::Format;
use super::load::{CLAIMED, Load, Workload};
use super::requests::Requests;
use crate::client::ClientError;
use crate::client::zaqar::Answer;

/// One request before the run begins. It may contain a token, so it has no `Debug`.
pub(super) enum Step {
    Authenticate(String),
    CreateQueue,
    Post(usize),
    List,
    Get,
    Claim,
    /// Deletes what was claimed.
    DeleteMany,
    /// Deletes one of the posted messages.
    Delete,
    Subscribe,
}

/// What a connection asks before the run begins.
pub(super) struct Opening {
    format: Format,
    keeps_ids: bool,
    steps: VecDeque<Step>,
    /// The request that is under way.
    asked: Option<(Step, Value)>,
    /// How many messages were posted and not deleted.
    pub stored: u64,
    /// Their ids, if the workload needs them.
    pub posted: Vec<String>,
    claimed: Vec<String>,
    /// How many messages the answer to `message_list` had.
    pub page: Option<usize>,
}

impl Opening {
    /// Creates the steps of a connection that sends requests, and posts `stock` messages in requests of `batch`.
    pub(super) fn of_caller(load: &Load, token: Option<String>, stock: u64, batch: usize) -> Self {
        let mut steps: Vec<Step> = token.map(Step::Authenticate).into_iter().collect();
        steps.push(Step::CreateQueue);
        let page = CLAIMED;
        match load.workload {
            Workload::Post => steps.push(Step::Post(load.plan.batch)),
            // Posts would notify the subscribers.
            Workload::Notify => {}
            Workload::List => steps.extend([Step::Post(page), Step::List]),
            Workload::Get => steps.extend([Step::Post(page), Step::Get]),
            Workload::Claim => steps.extend([Step::Post(page), Step::Claim, Step::DeleteMany]),
            Workload::Delete => steps.extend([Step::Post(page), Step::Delete]),
        }
        let full = stock / batch as u64;
        steps.extend((0..full).map(|_| Step::Post(batch)));
        let rest = (stock % batch as u64) as usize;
        steps.extend((rest > 0).then_some(Step::Post(rest)));
        Self::new(load, steps)
    }

    /// Creates the steps of a subscriber.
    pub(super) fn of_subscriber(load: &Load, token: Option<String>) -> Self {
        let token = token.map(Step::Authenticate);
        Self::new(load, token.into_iter().chain([Step::CreateQueue, Step::Subscribe]))
    }

    fn new(load: &Load, steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            format: load.format,
            keeps_ids: load.workload.needs_ids(),
            steps: steps.into_iter().collect(),
            asked: None,
            posted: Vec::new(),
            stored: 0,
            claimed: Vec::new(),
            page: None,
        }
    }

    /// Returns whether every answer has arrived.
    pub(super) fn is_over(&self) -> bool {
        self.steps.is_empty() && self.asked.is_none()
    }

    /// Returns the next request, or `None` while one is under way and after the last one.
    pub(super) fn next(&mut self, requests: &Requests) -> Result<Option<Vec<u8>>, ClientError> {
        if self.asked.is_some() {
            return Ok(None);
        }
        let Some(step) = self.steps.pop_front() else { return Ok(None) };
        let first = self.posted.first().map_or("", String::as_str);
        let request = match &step {
            Step::Authenticate(token) => requests.authenticate(token),
            Step::CreateQueue => requests.create_queue(),
            Step::Post(count) => requests.post(*count),
            Step::List => requests.list(),
            Step::Get => requests.get(first),
            Step::Claim => requests.claim(),
            // Other connections have claimed everything: there is nothing to delete.
            Step::DeleteMany if self.claimed.is_empty() => return self.next(requests),
            Step::DeleteMany => requests.delete_many(&self.claimed),
            Step::Delete => requests.delete(first),
            Step::Subscribe => requests.subscribe(),
        };
        let encoded = requests.encode(&request)?;
        self.asked = Some((step, request));
        Ok(Some(encoded))
    }

    /// Checks the answer to the request that is under way. Notifications may arrive before the run begins.
    pub(super) fn handle(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let broken = |why: String| ClientError::Broken(why);
        let answer: Value = self.format.read(bytes).map_err(|why| broken(format!("an answer: {why}")))?;
        if answer["Message_Type"] == "Notification" {
            return Ok(());
        }
        let Some((step, request)) = self.asked.take() else {
            return Err(broken("an answer without a request".into()));
        };
        let answer = Answer::new(&request, answer)?.granted()?;
        self.learn(&step, answer.status, &answer.body).ok_or_else(|| answer.wrong_body())
    }

    /// Learns what the answer to a step says. Returns `None` if its body is not what it must be.
    fn learn(&mut self, step: &Step, status: u16, body: &Value) -> Option<()> {
        let ids = |list: &Value, of: fn(&Value) -> &Value| -> Option<Vec<String>> {
            list.as_array()?.iter().map(|one| of(one).as_str().map(str::to_owned)).collect()
        };
        let is_right = match step {
            Step::Authenticate(_) | Step::Subscribe | Step::CreateQueue => true,
            Step::Post(count) => {
                let posted = ids(&body["message_ids"], |id| id)?;
                let is_right = posted.len() == *count;
                self.stored += posted.len() as u64;
                if self.keeps_ids {
                    self.posted.extend(posted);
                }
                is_right
            }
            Step::List => {
                self.page = Some(ids(&body["messages"], |message| &message["id"])?.len());
                self.page.is_some_and(|page| page <= CLAIMED)
            }
            Step::Get => body["messages"]["id"].as_str() == self.posted.first().map(String::as_str),
            Step::Claim if status == 204 => true,
            Step::Claim => {
                self.claimed = ids(&body["messages"], |message| &message["id"])?;
                self.claimed.len() <= CLAIMED && body["claim_id"].is_string()
            }
            Step::DeleteMany => {
                self.stored = self.stored.saturating_sub(self.claimed.len() as u64);
                true
            }
            Step::Delete => {
                self.posted.remove(0);
                true
            }
        };
        is_right.then_some(())
    }
}
