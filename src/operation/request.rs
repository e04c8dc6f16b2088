//! A producer's request: its head, and its payloads during the copy.

use std::borrow::Cow;

use super::resources::Resources;
use super::settings::Settings;
use crate::base::attributes::POST_SIZE;
use crate::base::batch::{BatchBuilder, Record, Savepoint};
use crate::base::error::{Fault, NO_CLAIMS, PeerFault, StoreFault};
use crate::base::policy::LivePolicy;
use crate::pb::headers;
use crate::pb::wire::Malformed;

/// The head of a request: everything except its messages.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The TTL of its messages, in seconds. `None` if the request has none.
    pub ttl: Option<u32>,
    /// The delay of its messages, in seconds. `None` if the request has none.
    pub delay: Option<u32>,
    /// The number of payloads, at least one.
    pub payloads: u32,
    /// The number of keys.
    pub keys: u32,
    /// The number of headers.
    pub headers: u32,
    /// The size of the request on the wire, in bytes. That much of the budget is reserved.
    pub bytes: usize,
}

/// Copies the payloads of one request into the open batch while they are parsed.
#[derive(Debug)]
pub struct Copying<'a> {
    builder: &'a mut BatchBuilder,
    copied: Copied,
    payload_bytes_max: usize,
}

/// The copied payloads of one request, not yet accepted.
#[derive(Clone, Copy, Debug)]
pub struct Copied {
    pub(super) savepoint: Savepoint,
    ttl: u32,
    is_too_large: bool,
}

impl Request {
    /// Returns the delay of the messages, in seconds.
    #[inline]
    pub(super) fn delay_secs(&self) -> u32 {
        self.delay.unwrap_or(0)
    }

    /// Returns the request with what the attributes of its queue say about its messages where itself says nothing.
    #[cold]
    pub(super) fn with_defaults(self, policy: &LivePolicy, settings: &Settings) -> Self {
        let ttl = self.ttl.or_else(|| default_ttl(policy, settings));
        let below = ttl.unwrap_or(settings.ttl_min_secs).saturating_sub(1);
        let default = policy.delay_secs().map(|secs| secs.min(settings.delay_max_secs).min(below));
        Self { ttl, delay: self.delay.or(default), ..self }
    }

    /// Returns the TTL of the messages, or the reason to refuse all of them. `has_claims` says whether the store can keep
    /// delays.
    pub(super) fn checked_ttl(&self, has_claims: bool, resources: &Resources<'_>) -> Result<u32, Fault> {
        let (shortest, longest) = resources.settings.ttl_secs();
        let ttl = self.ttl.filter(|ttl| (shortest..=longest).contains(ttl));
        let ttl = ttl.ok_or(PeerFault::Ttl { ttl: self.ttl, range: resources.settings.ttl_secs() })?;
        if self.keys != 0 && self.keys != self.payloads {
            return Err(PeerFault::KeyCount { keys: self.keys, payloads: self.payloads }.into());
        }
        if self.delay_secs() | self.headers > 0 {
            self.check_extras(ttl, has_claims, resources)?;
        }
        Ok(ttl)
    }

    #[cold]
    fn check_extras(&self, ttl: u32, has_claims: bool, resources: &Resources<'_>) -> Result<(), Fault> {
        let (delay, max) = (self.delay_secs(), resources.settings.delay_max_secs);
        if self.headers != 0 && self.headers != self.payloads {
            Err(PeerFault::HeaderCount { headers: self.headers, payloads: self.payloads }.into())
        } else if delay == 0 {
            Ok(())
        } else if delay > max {
            Err(PeerFault::Delay { delay, max }.into())
        } else if delay >= ttl {
            Err(PeerFault::DelayBeyondTtl { delay, ttl }.into())
        } else if !has_claims {
            Err(StoreFault::Unsupported(NO_CLAIMS).into())
        } else {
            Ok(())
        }
    }
}

/// Returns the TTL of a message that names none, in seconds.
pub(super) fn default_ttl(policy: &LivePolicy, settings: &Settings) -> Option<u32> {
    let (shortest, longest) = settings.ttl_secs();
    policy.ttl_secs().map(|secs| secs.min(longest).max(shortest))
}

/// Checks the sizes and the headers of a message. Returns the headers with which it is stored.
pub(super) fn checked_message<'a>(
    message: Record<'a>,
    policy: &LivePolicy,
    settings: &Settings,
) -> Result<Cow<'a, [u8]>, PeerFault> {
    let Record { key, headers, payload } = message;
    let (bytes, max) = (payload.len(), settings.max_payload_bytes);
    if bytes > max {
        return Err(PeerFault::PayloadTooLarge { bytes, max });
    }
    if let Some(max) = policy.payload_max().filter(|max| bytes > *max) {
        return Err(PeerFault::PayloadBeyondQueue { attribute: POST_SIZE, bytes, max });
    }
    let (bytes, max) = (key.len(), settings.max_key_bytes);
    if bytes > max {
        return Err(PeerFault::KeyTooLarge { bytes, max });
    }
    let (bytes, max) = (headers.len(), settings.max_headers_bytes);
    if bytes > max {
        return Err(PeerFault::HeadersTooLarge { bytes, max });
    }
    headers::checked_headers(headers).map_err(|Malformed(why)| PeerFault::Headers(why))
}

impl Copied {
    /// Returns whether all messages of the request are copied in the form in which they must be stored. A request with a
    /// delay or headers is never copied.
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

    /// Copies the next payload. Skips it if it is too large.
    #[inline]
    pub fn push(&mut self, payload: &[u8]) {
        if payload.len() > self.payload_bytes_max {
            self.copied.is_too_large = true;
        } else {
            self.builder.push(payload);
        }
    }

    /// Ends the copy. Returns what was copied.
    #[inline]
    pub fn end(self) -> Copied {
        self.copied
    }
}
