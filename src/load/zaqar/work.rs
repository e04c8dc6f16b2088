//! Which request of a workload is next, and what its answer means.

use std::collections::VecDeque;
use std::time::Instant;

use super::super::stamp::Stamp;
use super::answer::{claimed, posted, status};
use super::format::Format;
use super::load::{CLAIMED, Load, Workload};
use super::requests::Requests;
use super::template::{Stamped, Template};
use crate::client::ClientError;
use crate::client::zaqar::is_success;

/// The most messages of a post that only serves other requests.
const STOCK_BATCH: usize = 100;
/// The most characters of such a post. The API limits it to 262,144.
const STOCK_CHARS: usize = 200_000;
/// The characters of a message besides its body, generously.
const MESSAGE_CHARS: usize = 64;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is measured. A claim only begins what is measured.
    Measured,
    /// It deletes what was claimed, and ends a round.
    Delete,
    /// It posts messages for other requests.
    Post,
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// What is measured is done.
    Done,
    /// There was nothing to claim.
    Empty,
    /// The round of a claim goes on, or the answer was to a request that is not measured.
    Continues,
    /// The server has refused the request.
    Refused,
}

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Work {
    format: Format,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The same requests in turn.
    Fixed {
        requests: Vec<Vec<u8>>,
        turn: usize,
    },
    /// Posts with a stamp in each message.
    Stamped(Stamped),
    Claims(Claims),
    Deletes(Deletes),
}

/// Returns how many messages a post has that only serves other requests.
pub(super) fn stock_batch(load: &Load) -> usize {
    (STOCK_CHARS / (load.plan.size + MESSAGE_CHARS)).clamp(1, STOCK_BATCH)
}

impl Work {
    /// Creates the requests of a connection that has `stored` messages in the queue. If the workload needs their
    /// ids, these are `ids`.
    pub(super) fn new(
        load: &Load,
        requests: &Requests,
        stored: u64,
        ids: Vec<String>,
    ) -> Result<Self, ClientError> {
        let fixed = |requests| Kind::Fixed { requests, turn: 0 };
        let batch = load.plan.batch;
        let kind = match load.workload {
            Workload::Post => fixed(vec![requests.encode(&requests.post(batch))?]),
            Workload::Notify => Kind::Stamped(requests.post_stamped(batch)?),
            Workload::List => fixed(vec![requests.encode(&requests.list())?]),
            Workload::Get => {
                let each = ids.iter().map(|id| requests.encode(&requests.get(id)));
                fixed(each.collect::<Result<_, ClientError>>()?)
            }
            Workload::Claim => Kind::Claims(Claims::new(load, requests, stored)?),
            Workload::Delete => Kind::Deletes(Deletes::new(load, requests, ids)?),
        };
        Ok(Self { format: load.format, kind })
    }

    /// Returns the next request that is due regardless of any schedule, what it is for, and when what it belongs
    /// to was due. If `is_over`, no new work begins.
    pub(super) fn extra(&mut self, is_over: bool) -> Option<(Purpose, Option<Instant>, Vec<u8>)> {
        match &mut self.kind {
            Kind::Fixed { .. } | Kind::Stamped(_) => None,
            Kind::Claims(claims) => {
                if let Some((intended, delete)) = claims.deletes.pop_front() {
                    return Some((Purpose::Delete, Some(intended), delete));
                }
                let post = claims.stock.post(is_over)?;
                Some((Purpose::Post, None, post))
            }
            Kind::Deletes(deletes) => Some((Purpose::Post, None, deletes.stock.post(is_over)?)),
        }
    }

    /// Returns whether a measured request can be sent. If not, an answer changes that.
    pub(super) fn is_ready(&self) -> bool {
        match &self.kind {
            Kind::Fixed { requests, .. } => !requests.is_empty(),
            Kind::Stamped(_) => true,
            Kind::Claims(claims) => claims.stock.stored >= CLAIMED as u64,
            Kind::Deletes(deletes) => !deletes.ids.is_empty(),
        }
    }

    /// Passes the next measured request to `send`. `stamp` returns the stamp of its messages, counted from 0.
    pub(super) fn measured(
        &mut self,
        stamp: impl Fn(u64) -> Stamp,
        send: impl FnOnce(&[u8]),
    ) -> Result<(), ClientError> {
        match &mut self.kind {
            Kind::Fixed { requests, turn } => {
                *turn = if *turn + 1 < requests.len() { *turn + 1 } else { 0 };
                if let Some(request) = requests.get(*turn) {
                    send(request);
                }
            }
            Kind::Stamped(stamped) => send(stamped.stamp(stamp)),
            Kind::Claims(claims) => {
                claims.stock.stored = claims.stock.stored.saturating_sub(CLAIMED as u64);
                send(&claims.claim);
            }
            Kind::Deletes(deletes) => {
                let id = deletes.ids.pop_front().unwrap_or_default();
                deletes.stock.stored = deletes.ids.len() as u64;
                send(&deletes.template.fill(&id)?);
            }
        }
        Ok(())
    }

    /// Reads the answer to a request that was due at `intended`. Returns its status and what it means.
    pub(super) fn handle(
        &mut self,
        purpose: Purpose,
        intended: Instant,
        answer: &[u8],
    ) -> Result<(u16, Meaning), ClientError> {
        let format = self.format;
        let is_claim = matches!(self.kind, Kind::Claims(_)) && purpose == Purpose::Measured;
        let (status, ids) = match purpose {
            Purpose::Post => posted(format, answer).map(|messages| (messages.status, messages.ids))?,
            _ if is_claim => claimed(format, answer).map(|messages| (messages.status, messages.ids))?,
            _ => (status(format, answer)?, Vec::new()),
        };
        let is_refused = !is_success(status);
        let count = ids.len() as u64;
        let continues = match (&mut self.kind, purpose) {
            (Kind::Claims(claims), Purpose::Post) => {
                claims.stock.settle();
                claims.stock.stored += count;
                true
            }
            (Kind::Deletes(deletes), Purpose::Post) => {
                deletes.stock.settle();
                deletes.ids.extend(ids);
                deletes.stock.stored = deletes.ids.len() as u64;
                true
            }
            (Kind::Claims(claims), Purpose::Measured) => {
                // Messages that this claim has not taken remain for others.
                claims.stock.stored += (CLAIMED as u64).saturating_sub(count);
                claims.claimed += count;
                if count > 0 {
                    claims.deletes.push_back((intended, claims.delete.fill(&ids)?));
                }
                count > 0
            }
            _ => false,
        };
        let meaning = match continues {
            _ if is_refused => Meaning::Refused,
            true => Meaning::Continues,
            false if is_claim => Meaning::Empty,
            false => Meaning::Done,
        };
        Ok((status, meaning))
    }

    /// Returns how many messages were claimed.
    pub(super) fn claimed(&self) -> u64 {
        match &self.kind {
            Kind::Claims(claims) => claims.claimed,
            _ => 0,
        }
    }
}

/// Messages of the queue that a connection has posted for its own requests.
#[derive(Debug)]
struct Stock {
    post: Vec<u8>,
    batch: u64,
    /// How many messages are stored and not used, and how many are being posted.
    stored: u64,
    coming: u64,
    /// Below this number, more messages are posted.
    least: u64,
}

impl Stock {
    fn new(load: &Load, requests: &Requests, each: u64, stored: u64) -> Result<Self, ClientError> {
        let batch = stock_batch(load);
        let post = requests.encode(&requests.post(batch))?;
        // Enough for all requests that may be under way, and for those that follow until the post is answered.
        let least = 2 * load.depth as u64 * each;
        Ok(Self { post, batch: batch as u64, stored, coming: 0, least })
    }

    /// Returns a post if there are too few messages.
    fn post(&mut self, is_over: bool) -> Option<Vec<u8>> {
        if is_over || self.stored + self.coming >= self.least {
            return None;
        }
        self.coming += self.batch;
        Some(self.post.clone())
    }

    /// Records that a post was answered.
    fn settle(&mut self) {
        self.coming = self.coming.saturating_sub(self.batch);
    }
}

#[derive(Debug)]
struct Claims {
    stock: Stock,
    claim: Vec<u8>,
    delete: Template,
    /// The deletions of what was claimed, and when their rounds were due.
    deletes: VecDeque<(Instant, Vec<u8>)>,
    claimed: u64,
}

impl Claims {
    fn new(load: &Load, requests: &Requests, stored: u64) -> Result<Self, ClientError> {
        Ok(Self {
            stock: Stock::new(load, requests, CLAIMED as u64, stored)?,
            claim: requests.encode(&requests.claim())?,
            delete: requests.delete_many_later()?,
            deletes: VecDeque::new(),
            claimed: 0,
        })
    }
}

#[derive(Debug)]
struct Deletes {
    stock: Stock,
    template: Template,
    ids: VecDeque<String>,
}

impl Deletes {
    fn new(load: &Load, requests: &Requests, ids: Vec<String>) -> Result<Self, ClientError> {
        let stock = Stock::new(load, requests, 1, ids.len() as u64)?;
        Ok(Self { stock, template: requests.delete_later()?, ids: ids.into() })
    }
}
