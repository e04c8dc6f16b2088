//! The requests of one connection.

use serde_json::{Value, json};

use super::format::Format;
use super::load::{CLAIMED, Load};
use super::template::{Stamped, Template};
use crate::client::{ClientError, zaqar};

/// How long a claim lasts, in seconds. Longer than it takes to delete what was claimed.
const CLAIM_TTL: u32 = 300;
/// How much longer than its claim a message lives, in seconds.
const CLAIM_GRACE: u32 = 60;
/// How long a subscription lasts, in seconds.
const SUBSCRIPTION_TTL: u32 = 1_209_600;

/// Builds the requests of one connection.
#[derive(Debug)]
pub(super) struct Requests {
    format: Format,
    headers: Value,
    project: String,
    queue: String,
    ttl: u32,
    bytes: usize,
}

impl Requests {
    /// Creates the requests of a connection to `queue`, with a client id of its own.
    pub(super) fn new(load: &Load, queue: String) -> Self {
        Self {
            format: load.format,
            headers: zaqar::headers(&load.project),
            project: load.project.clone(),
            queue,
            ttl: load.plan.ttl,
            bytes: load.plan.size,
        }
    }

    fn of(&self, action: &str, mut body: Value) -> Value {
        body["queue_name"] = json!(self.queue);
        json!({"action": action, "headers": self.headers, "body": body})
    }

    /// Encodes a request.
    pub(super) fn encode(&self, request: &Value) -> Result<Vec<u8>, ClientError> {
        let mut out = Vec::new();
        self.format.write(&mut out, request)?;
        Ok(out)
    }

    pub(super) fn authenticate(&self, token: &str) -> Value {
        zaqar::authenticate(&self.project, token)
    }

    pub(super) fn create_queue(&self) -> Value {
        self.of("queue_create", json!({}))
    }

    /// Posts `count` messages.
    pub(super) fn post(&self, count: usize) -> Value {
        self.post_of(count, "")
    }

    /// Posts `count` messages, which get a stamp later.
    pub(super) fn post_stamped(&self, count: usize) -> Result<Stamped, ClientError> {
        Stamped::new(self.format, |empty| self.post_of(count, empty))
    }

    fn post_of(&self, count: usize, start: &str) -> Value {
        let fill = ".".repeat(self.bytes.saturating_sub(start.len()));
        let message = json!({"body": format!("{start}{fill}"), "ttl": self.ttl});
        self.of("message_post", json!({"messages": vec![message; count]}))
    }

    pub(super) fn list(&self) -> Value {
        self.of("message_list", json!({"limit": CLAIMED, "echo": true}))
    }

    pub(super) fn get(&self, id: &str) -> Value {
        self.of("message_get", json!({"message_id": id}))
    }

    pub(super) fn claim(&self) -> Value {
        self.of("claim_create", json!({"limit": CLAIMED, "ttl": CLAIM_TTL, "grace": CLAIM_GRACE}))
    }

    pub(super) fn delete_many(&self, ids: &[String]) -> Value {
        self.of("message_delete_many", json!({"message_ids": ids}))
    }

    pub(super) fn delete_many_later(&self) -> Result<Template, ClientError> {
        Template::new(self.format, |ids| self.of("message_delete_many", json!({"message_ids": ids})))
    }

    pub(super) fn delete(&self, id: &str) -> Value {
        self.of("message_delete", json!({"message_id": id}))
    }

    pub(super) fn delete_later(&self) -> Result<Template, ClientError> {
        Template::new(self.format, |id| self.of("message_delete", json!({"message_id": id})))
    }

    pub(super) fn subscribe(&self) -> Value {
        self.of("subscription_create", json!({"ttl": SUBSCRIPTION_TTL, "options": {}}))
    }
}
