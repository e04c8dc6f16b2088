//! A request of a producer: its head, and its payloads while they are copied.

use super::resources::Resources;
use crate::base::batch::{BatchBuilder, Savepoint};
use crate::base::error::PeerFault;

/// A request without its messages.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The time to live of its messages, seconds.
    pub ttl: Option<u32>,
    /// How many payloads it has; at least one.
    pub payloads: u32,
    /// How many keys it has.
    pub keys: u32,
    /// Its bytes on the wire, which are reserved.
    pub bytes: usize,
}

/// Copies the payloads of one request into the open batch while they are read.
#[derive(Debug)]
pub struct Copying<'a> {
    builder: &'a mut BatchBuilder,
    copied: Copied,
    payload_bytes_max: usize,
}

/// The payloads of one request that are copied and not yet accepted.
#[derive(Clone, Copy, Debug)]
pub struct Copied {
    pub(super) savepoint: Savepoint,
    ttl: u32,
    is_too_large: bool,
}

impl Request {
    /// The TTL of its messages, or why all of them are refused.
    pub(super) fn checked_ttl(&self, resources: &Resources<'_>) -> Result<u32, PeerFault> {
        let (shortest, longest) = resources.settings.ttl_secs();
        let ttl = self.ttl.filter(|ttl| (shortest..=longest).contains(ttl));
        let ttl = ttl.ok_or(PeerFault::Ttl { ttl: self.ttl, range: resources.settings.ttl_secs() })?;
        if self.keys != 0 && self.keys != self.payloads {
            return Err(PeerFault::KeyCount { keys: self.keys, payloads: self.payloads });
        }
        Ok(ttl)
    }
}

impl Copied {
    /// Whether all messages of the request are copied as they are to be stored.
    #[inline]
    pub(super) fn holds_all(&self, request: Request, ttl: u32) -> bool {
        request.keys == 0 && ttl == self.ttl && !self.is_too_large
    }
}

impl<'a> Copying<'a> {
    #[inline]
    pub(super) fn start(builder: &'a mut BatchBuilder, payload_bytes_max: usize) -> Self {
        let copied = Copied { savepoint: builder.savepoint(), ttl: builder.ttl_secs(), is_too_large: false };
        Self { builder, copied, payload_bytes_max }
    }

    /// The next payload.
    #[inline]
    pub fn push(&mut self, payload: &[u8]) {
        if payload.len() > self.payload_bytes_max {
            self.copied.is_too_large = true;
        } else {
            self.builder.push(payload);
        }
    }

    /// There are no more.
    #[inline]
    pub fn end(self) -> Copied {
        self.copied
    }
}
