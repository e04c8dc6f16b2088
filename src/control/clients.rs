//! The page `/connections`: who is connected; and closing a connection.
//!
//! Each shard describes a few connections at a time, and the page has at most [`CONNECTIONS_PAGE_MAX`], so that
//! neither a shard nor the control port works on many at once. The lag of a consumer takes a second question, about
//! the ends of its queue, to all shards.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::pages::{self, JSON, Unmade};
use super::{ANSWER_TIMEOUT, Control, ask_all, ask_one};
use crate::base::millis::UnixMillis;
use crate::base::names::FullName;
use crate::base::queue::QueueInfo;
use crate::base::units::Partition;
use crate::shard::core::{ConnectionId, ConnectionState, Peer, Position, Roster};
use crate::shard::probe::Probe;
use crate::store::Tail;

/// The most connections on a page.
pub const CONNECTIONS_PAGE_MAX: usize = 1_000;

/// The connections on a page that names no limit.
const PAGE_DEFAULT: usize = 100;

/// The most questions to shards for one page. A page that no more connections match ends early, and names where to
/// continue. With [`ROSTER_SLOTS`](crate::shard::core::ROSTER_SLOTS) connections for each, these are 16,384.
const QUESTIONS_MAX: usize = 64;

/// The most partitions in one question about the ends of queues.
const ENDS_MAX: usize = 4_096;

/// A page of connections, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ConnectionsPage {
    /// The connections that match, by id.
    pub connections: Vec<ConnectionLine>,
    /// What to give as `after` for the next page; null after the last one.
    pub next: Option<String>,
}

/// A connection, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ConnectionLine {
    /// Its id: the shard, the slot in the shard, and how many connections the slot had before.
    pub id: String,
    /// The project; null before the handshake is answered, and for the echo.
    pub project: Option<String>,
    /// The other end: an address and a port, or `unix`.
    pub peer: String,
    /// The name of the client, if it has shown a credential.
    pub principal: Option<String>,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// When it was accepted. Unix milliseconds.
    pub since_ms: UnixMillis,
    /// What it does: `handshake`, `idle`, `setup`, `produce`, `consume` or `closing`.
    pub kind: String,
    /// The queue of the present operation.
    pub queue: Option<String>,
    /// For a consumer: the messages between its position and the end of the queue; null if the store does not tell.
    pub lag: Option<u64>,
    /// The bytes that its socket has not accepted yet.
    pub unsent_bytes: usize,
}

/// The id of a connection in the whole server: `SHARD.SLOT.GENERATION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WholeId {
    shard: usize,
    id: ConnectionId,
}

impl Display for WholeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.shard, self.id.slot, self.id.generation())
    }
}

impl FromStr for WholeId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('.');
        let bad = || "not SHARD.SLOT.GENERATION, as /connections shows it".to_owned();
        // `u32` accepts a sign.
        let mut part = || parts.next().filter(|part| !part.starts_with('+'))?.parse::<u32>().ok();
        let (shard, slot, generation) = (part(), part(), part());
        let (Some(shard), Some(slot), Some(generation), None) = (shard, slot, generation, parts.next())
        else {
            return Err(bad());
        };
        Ok(Self { shard: shard as usize, id: ConnectionId::new(slot, generation) })
    }
}

/// The query of a request, as text.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    after: Option<String>,
    limit: Option<String>,
    project: Option<String>,
    principal: Option<String>,
    peer: Option<String>,
    min_lag: Option<String>,
}

/// Which connections a page has.
#[derive(Debug)]
struct Wanted {
    after: Option<WholeId>,
    limit: usize,
    project: Option<String>,
    principal: Option<String>,
    peer: Option<PeerFilter>,
    min_lag: Option<u64>,
}

/// The peers that a filter accepts.
#[derive(Debug)]
enum PeerFilter {
    Unix,
    Network(IpNet),
    Exactly(std::net::SocketAddr),
}

impl FromStr for PeerFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let address = text.parse::<std::net::IpAddr>().map(IpNet::from);
        let network = address.or_else(|_| text.parse()).map(Self::Network);
        network.or_else(|_| text.parse().map(Self::Exactly)).map_err(|_| {
            "not unix, an address like 10.0.0.7, one with a port, or a network like 10.0.0.0/8".into()
        })
    }
}

impl PeerFilter {
    fn accepts(&self, peer: &Peer) -> bool {
        match (self, peer) {
            (Self::Unix, Peer::Unix) => true,
            (Self::Network(network), Peer::Ip(address)) => network.contains(&address.ip()),
            (Self::Exactly(wanted), Peer::Ip(address)) => wanted == address,
            _ => false,
        }
    }
}

impl Asked {
    fn parse(self) -> Result<Wanted, String> {
        fn read<T: FromStr<Err: Display>>(key: &str, text: Option<String>) -> Result<Option<T>, String> {
            text.map(|text| text.parse().map_err(|why| format!("{key}: {why}"))).transpose()
        }
        let limit = read("limit", self.limit)?.unwrap_or(PAGE_DEFAULT);
        if !(1..=CONNECTIONS_PAGE_MAX).contains(&limit) {
            return Err(format!("limit: {limit} is not within 1 to {CONNECTIONS_PAGE_MAX}"));
        }
        Ok(Wanted {
            after: read("after", self.after)?,
            limit,
            project: self.project,
            principal: self.principal,
            peer: read("peer", self.peer)?,
            min_lag: read("min_lag", self.min_lag)?,
        })
    }
}

impl Wanted {
    /// Returns whether a connection matches, apart from its lag.
    fn accepts(&self, state: &ConnectionState) -> bool {
        let project = state.project.as_ref().map(|project| project.as_str());
        self.project.as_deref().is_none_or(|wanted| project == Some(wanted))
            && self.principal.as_deref().is_none_or(|wanted| state.principal.as_deref() == Some(wanted))
            && self.peer.as_ref().is_none_or(|wanted| wanted.accepts(&state.peer))
            && (self.min_lag.is_none() || state.position.is_some())
    }
}

/// The ends of the queues that a page needs, each asked for once.
#[derive(Default)]
struct Ends(BTreeMap<FullName, BTreeMap<Partition, Tail>>);

impl Ends {
    /// Asks the shards for the ends of the queues of these connections.
    async fn learn(&mut self, probe: &Probe, of: &[ConnectionState]) -> Result<(), Unmade> {
        let mut unknown: BTreeMap<&FullName, QueueInfo> = BTreeMap::new();
        for Position { name, queue, .. } in of.iter().filter_map(|state| state.position.as_ref()) {
            if !self.0.contains_key(name) {
                unknown.insert(name, queue.clone());
            }
        }
        let mut batch = Vec::new();
        let mut partitions = 0;
        for (name, info) in unknown {
            if partitions + usize::from(info.partitions) > ENDS_MAX && !batch.is_empty() {
                self.ask(probe, std::mem::take(&mut batch)).await?;
                partitions = 0;
            }
            partitions += usize::from(info.partitions);
            batch.push((name.clone(), info));
        }
        if batch.is_empty() { Ok(()) } else { self.ask(probe, batch).await }
    }

    async fn ask(&mut self, probe: &Probe, queues: Vec<(FullName, QueueInfo)>) -> Result<(), Unmade> {
        for (name, _) in &queues {
            self.0.entry(name.clone()).or_default();
        }
        let queues = Arc::new(queues);
        let asked = ask_all(probe, |shard, reply| {
            probe.ends(shard, queues.clone(), move |answer| drop(reply.send(answer)))
        });
        for (name, partition, tail) in asked.await.map_err(Unmade::Silent)?.into_iter().flatten() {
            self.0.entry(name).or_default().insert(partition, tail);
        }
        Ok(())
    }

    /// Returns how many messages a consumer is behind. `None` if it is no consumer, or if the store does not tell
    /// the end of one of its partitions.
    fn lag(&self, state: &ConnectionState) -> Option<u64> {
        let Position { name, next, .. } = state.position.as_ref()?;
        let ends = self.0.get(name)?;
        next.iter().try_fold(0_u64, |sum, (partition, next)| {
            Some(sum.saturating_add(ends.get(partition)?.messages_from(*next)))
        })
    }
}

fn line(shard: usize, state: ConnectionState, lag: Option<u64>) -> ConnectionLine {
    ConnectionLine {
        id: WholeId { shard, id: state.id }.to_string(),
        project: state.project.map(|project| project.to_string()),
        peer: state.peer.to_string(),
        principal: state.principal,
        tls: state.is_secure,
        since_ms: state.since,
        kind: state.kind.to_owned(),
        queue: state.queue.map(|queue| queue.to_string()),
        lag,
        unsent_bytes: state.unsent,
    }
}

/// Asks a shard for some of its connections.
async fn ask_roster(probe: &Probe, shard: usize, from: u32) -> Result<Roster, Unmade> {
    let until = Instant::now() + ANSWER_TIMEOUT;
    let ask = |reply: oneshot::Sender<_>| probe.roster(shard, from, move |roster| drop(reply.send(roster)));
    let answer = ask_one(until, ask).await.ok_or(Unmade::Silent(shard))?;
    match timeout_at(until, answer).await {
        Ok(Ok(roster)) => Ok(roster),
        _ => Err(Unmade::Silent(shard)),
    }
}

async fn make(probe: &Probe, wanted: &Wanted) -> Result<ConnectionsPage, Unmade> {
    let mut page = ConnectionsPage::default();
    let mut ends = Ends::default();
    let (mut shard, mut from) =
        wanted.after.map_or((0, 0), |after| (after.shard, after.id.slot.saturating_add(1)));
    for _ in 0..QUESTIONS_MAX {
        if shard >= probe.shards() {
            return Ok(page);
        }
        let Roster { mut connections, next } = ask_roster(probe, shard, from).await?;
        connections.retain(|state| wanted.accepts(state));
        ends.learn(probe, &connections).await?;
        for state in connections {
            let (id, lag) = (state.id, ends.lag(&state));
            if wanted.min_lag.is_some_and(|least| lag.is_none_or(|lag| lag < least)) {
                continue;
            }
            page.connections.push(line(shard, state, lag));
            if page.connections.len() == wanted.limit {
                page.next = Some(WholeId { shard, id }.to_string());
                return Ok(page);
            }
        }
        (shard, from) = next.map_or((shard + 1, 0), |next| (shard, next));
    }
    // Continues after the last slot that was visited. The first slot of a shard has none before it, so it names the
    // last possible one of the shard before.
    let (shard, slot) = if from == 0 { (shard - 1, u32::MAX) } else { (shard, from - 1) };
    page.next = Some(WholeId { shard, id: ConnectionId::new(slot, 0) }.to_string());
    Ok(page)
}

fn bad(why: String) -> Response {
    (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response()
}

pub(super) async fn list(State(control): State<Control>, asked: Query<Asked>) -> Response {
    let wanted = match asked.0.parse() {
        Ok(wanted) => wanted,
        Err(why) => return bad(why),
    };
    // The semaphore is never closed.
    let Ok(_permit) = control.listings.acquire().await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    match make(&control.probe, &wanted).await {
        Ok(page) => pages::response(pages::json(&page), JSON),
        Err(unmade) => unmade.into_response(),
    }
}

pub(super) async fn close(State(control): State<Control>, Path(id): Path<String>) -> Response {
    let WholeId { shard, id } = match id.parse() {
        Ok(id) => id,
        Err(why) => return bad(format!("id: {why}")),
    };
    let probe = &control.probe;
    let gone = || (StatusCode::NOT_FOUND, "no such connection: it may have ended\n").into_response();
    if shard >= probe.shards() {
        return gone();
    }
    let until = Instant::now() + ANSWER_TIMEOUT;
    let ask = |reply: oneshot::Sender<_>| {
        probe.dismiss(shard, id, move |was_open| {
            // Fails if nothing waits for the answer any more.
            let _ = reply.send(was_open);
        })
    };
    let Some(answer) = ask_one(until, ask).await else { return Unmade::Silent(shard).into_response() };
    match timeout_at(until, answer).await {
        Ok(Ok(true)) => StatusCode::NO_CONTENT.into_response(),
        Ok(Ok(false)) => gone(),
        // The shard closes the connection when it runs again. No other connection gets the same id.
        _ => Unmade::Silent(shard).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_shown_and_others_are_refused() {
        let id = WholeId { shard: 1, id: ConnectionId::new(17, 3) };
        assert_eq!((id.to_string(), "1.17.3".parse()), ("1.17.3".to_owned(), Ok(id)));
        for text in ["", "1", "1.2", "1.2.3.4", "1.2.x", "-1.2.3", "1.+2.3", "1.4294967296.3"] {
            assert!(text.parse::<WholeId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_query_names_the_field_that_is_wrong() {
        let why = |asked: Asked| asked.parse().unwrap_err();
        let text = |text: &str| Some(text.to_owned());
        assert!(
            why(Asked { limit: text("0"), ..Asked::default() }).contains("limit: 0 is not within 1 to 1000")
        );
        assert!(why(Asked { limit: text("x"), ..Asked::default() }).starts_with("limit: "));
        assert!(why(Asked { after: text("7"), ..Asked::default() }).starts_with("after: not SHARD.SLOT"));
        assert!(why(Asked { peer: text("here"), ..Asked::default() }).starts_with("peer: not unix"));
        assert!(why(Asked { min_lag: text("-1"), ..Asked::default() }).starts_with("min_lag: "));
    }

    #[test]
    fn peers_are_found_by_address_network_and_port() {
        let peer = Peer::ip("10.1.2.3:99".parse().unwrap());
        let accepts = |text: &str, peer: &Peer| text.parse::<PeerFilter>().unwrap().accepts(peer);
        for text in ["10.1.2.3", "10.0.0.0/8", "10.1.2.3:99"] {
            assert!(accepts(text, &peer) && !accepts(text, &Peer::Unix), "{text}");
        }
        for text in ["10.1.2.4", "11.0.0.0/8", "10.1.2.3:98", "unix"] {
            assert!(!accepts(text, &peer), "{text}");
        }
        assert!(
            accepts("unix", &Peer::Unix)
                && accepts("2001:db8::/32", &Peer::ip("[2001:db8::7]:1".parse().unwrap()))
        );
    }
}
