//! The live page: the activity of the shards as server-sent events (WHATWG HTML, section 9.2), one per
//! interval.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_lite::{future, stream};
use serde::Serialize;
use tokio::sync::watch;

use super::connections::{Connection, Watching};
use super::right::Right;
use super::way::Way;
use super::{Control, ask_all};
use crate::base::names::FullName;
use crate::base::queue::QueueInfo;
use crate::base::units::{Offset, Partition};
use crate::shard::Interval;
use crate::shard::core::{TRAFFIC_QUEUES, Traffic};
use crate::shard::probe::Probe;
use crate::store::Tail;

/// The whole page in one file, without a build step.
const PAGE: &str = include_str!("live.html");

/// The content security policy: no resources from elsewhere, no requests to elsewhere, no embedding in other
/// pages.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
                      frame-ancestors 'none'";

/// The most intervals in one event. Bounds the memory for a page that nobody reads to some 600 KiB.
const INTERVALS_AT_ONCE: usize = 30;

/// The name of the last event of a displaced stream.
const DISPLACED: &str = "displaced";

/// The most queues on the page: those with the most lag, and among equals those with the most stored
/// messages.
const QUEUES_SHOWN: usize = 50;

/// The shards' last answers about their queues. They are asked once per interval for all viewers.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// The interval in which the shards were last asked, whether they answered or not.
    number: u64,
    /// All queues that a shard has named. Every shard is asked for its own partitions of them the next time.
    named: Arc<Vec<(FullName, QueueInfo)>>,
    queues: Arc<Queues>,
}

impl Looked {
    async fn look(&mut self, number: u64, probe: &Probe) -> Arc<Queues> {
        if number <= self.number {
            return self.queues.clone();
        }
        self.number = number;
        // Queues that are named for the first time are asked for at once, in a second round.
        for _ in 0..2 {
            let of = self.named.clone();
            let asked = ask_all(probe, |shard, reply| {
                probe.traffic(shard, of.clone(), move |answer| drop(reply.send(answer)))
            });
            let Ok(shards) = asked.await else { break };
            let names: BTreeMap<_, _> = shards.iter().flat_map(|shard| shard.names.iter().cloned()).collect();
            self.named = Arc::new(names.into_iter().take(TRAFFIC_QUEUES).collect());
            self.queues = Arc::new(queues(&of, &shards));
            if self.named.len() == self.queues.named {
                break;
            }
        }
        self.queues.clone()
    }
}

/// A queue as shown on the page.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct QueueTraffic {
    project: String,
    queue: String,
    partitions: u16,
    /// Messages stored since the server started.
    stored: u64,
    consumers: usize,
    /// The lag of the consumer that is furthest behind, in messages.
    lag: u64,
}

/// The queues on the page.
#[derive(Clone, Debug, Default, Serialize)]
struct Queues {
    /// The number of queues that the shards were asked about.
    named: usize,
    /// The number of queues that a shard knows, for the shard that knows the most.
    known: usize,
    /// Whether the store reports the ends of partitions, so that lags are known.
    has_lag: bool,
    shown: Vec<QueueTraffic>,
}

pub(super) async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, PAGE).into_response()
}

/// The state of one viewer's stream.
struct Sent {
    control: Control,
    newest: watch::Receiver<u64>,
    number: u64,
    /// Whether more kept intervals can be sent at once.
    has_more: bool,
    has_ended: bool,
    watching: Watching,
    way: Way,
    /// The headers of the request that the gate looks at.
    headers: HeaderMap,
}

pub(super) async fn events(
    State(control): State<Control>,
    Extension(connection): Extension<Arc<Connection>>,
    Extension(way): Extension<Way>,
    mut headers: HeaderMap,
) -> Response {
    let watching = control.connections.watch(&connection);
    let newest = control.board.newest();
    let tokens = headers.drain().filter(|(name, _)| name.as_ref() == Some(&header::AUTHORIZATION));
    let headers = tokens.filter_map(|(name, value)| Some((name?, value))).collect();
    let sent = Sent { control, newest, number: 0, has_more: true, has_ended: false, watching, way, headers };
    let events = stream::unfold(sent, |mut sent| async move {
        let event = sent.next().await?;
        Some((Ok::<_, Infallible>(event), sent))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

#[derive(Serialize)]
struct News {
    intervals: Vec<Arc<Interval>>,
    queues: Arc<Queues>,
    stalls: Vec<u64>,
    draining: bool,
}

impl Sent {
    /// Waits for the next interval. Returns true if another stream displaces this one first, and `None` once
    /// the server has ended.
    async fn is_displaced(&mut self) -> Option<bool> {
        let Self { newest, watching, .. } = self;
        let displaced = async {
            watching.displaced().await;
            Some(true)
        };
        let changed = async { newest.changed().await.ok().map(|()| false) };
        future::or(displaced, changed).await
    }

    /// Returns the next event: everything since the last one. At first that is the kept history, in pieces.
    async fn next(&mut self) -> Option<Event> {
        if self.has_ended {
            return None;
        }
        if !self.has_more && self.is_displaced().await? {
            self.has_ended = true;
            // Browsers ignore an event without data.
            return Some(Event::default().event(DISPLACED).data("displaced by a newer page"));
        }
        // The token may have been removed meanwhile. The end tells the page: its next request is refused.
        if !self.control.gate.still_passes(Right::Read, self.way, &self.headers) {
            return None;
        }
        let newest = *self.newest.borrow_and_update();
        let mut intervals = self.control.board.history(self.number);
        self.has_more = intervals.len() > INTERVALS_AT_ONCE;
        intervals.truncate(INTERVALS_AT_ONCE);
        self.number = intervals.last().map_or(self.number, |interval| interval.number);
        let probe = &self.control.probe;
        let queues = self.control.looked.lock().await.look(newest, probe).await;
        let news = News {
            intervals,
            queues,
            stalls: (0..probe.shards()).map(|shard| probe.stalls(shard)).collect(),
            draining: probe.is_draining(),
        };
        Some(Event::default().json_data(news).unwrap_or_default())
    }
}

/// Adds counts without overflow. A store may report fewer gaps than exist, so that a single count can be
/// close to the maximum.
fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

/// Combines the shards' answers about the queues `of`.
fn queues(of: &[(FullName, QueueInfo)], shards: &[Traffic]) -> Queues {
    let mut tails: BTreeMap<&FullName, BTreeMap<Partition, &Tail>> = BTreeMap::new();
    for (name, partition, tail) in shards.iter().flat_map(|shard| &shard.tails) {
        tails.entry(name).or_default().insert(*partition, tail);
    }
    let named = of.len();
    let line = |(name, info): &(FullName, QueueInfo)| {
        let stored = sum(tails.get(name)?.values().map(|tail| tail.stored));
        let (project, queue, partitions) = (name.0.to_string(), name.1.to_string(), info.partitions);
        Some((name.clone(), QueueTraffic { project, queue, partitions, stored, consumers: 0, lag: 0 }))
    };
    let mut of: BTreeMap<FullName, QueueTraffic> = of.iter().filter_map(line).collect();
    for (name, positions) in shards.iter().flat_map(|shard| &shard.consumers) {
        let Some(queue) = of.get_mut(name) else { continue };
        let lag = |(partition, next): &(Partition, Offset)| {
            tails.get(name).and_then(|of| of.get(partition)).map_or(0, |tail| tail.messages_from(*next))
        };
        let lag = sum(positions.iter().map(lag));
        queue.consumers += 1;
        queue.lag = queue.lag.max(lag);
    }
    let has_lag = !of.is_empty();
    let mut shown: Vec<QueueTraffic> = of.into_values().collect();
    shown.sort_by_key(|queue| std::cmp::Reverse((queue.lag, queue.stored)));
    shown.truncate(QUEUES_SHOWN);
    let known = shards.iter().map(|shard| shard.queues).max().unwrap_or(0);
    Queues { named, known, has_lag, shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::names::{Project, QueueName};
    use crate::base::queue::QueueId;

    #[test]
    fn the_lag_is_that_of_the_consumer_furthest_behind_over_all_shards() {
        let name = |queue| (Project::parse("p").unwrap(), QueueName::parse(queue).unwrap());
        let info = |id, partitions| QueueInfo {
            id: QueueId(id),
            incarnation: id,
            partitions,
            hash: 0,
            signing: Default::default(),
            policy: Default::default(),
        };
        let of = [(name("a"), info(1, 2)), (name("b"), info(2, 1)), (name("c"), info(3, 1))];
        let one = Traffic {
            queues: 2,
            names: Vec::new(),
            tails: vec![
                (name("a"), Partition(0), Tail::new(Offset(100))),
                (name("b"), Partition(0), Tail::new(Offset(5))),
            ],
            consumers: vec![(name("a"), vec![(Partition(0), Offset(90)), (Partition(1), Offset(30))])],
        };
        let other = Traffic {
            queues: 2,
            names: Vec::new(),
            tails: vec![(name("a"), Partition(1), Tail::new(Offset(50)))],
            // The second consumer reads only one partition. A position beyond the known end is no lag.
            consumers: vec![
                (name("a"), vec![(Partition(0), Offset(10))]),
                (name("b"), vec![(Partition(0), Offset(9))]),
            ],
        };
        let queues = queues(&of, &[one, other]);
        let seen: Vec<_> =
            queues.shown.iter().map(|q| (&q.queue[..], q.partitions, q.stored, q.consumers, q.lag)).collect();
        assert_eq!(seen, [("a", 2, 150, 2, 90), ("b", 1, 5, 1, 0)]);
    }

    #[test]
    fn gaps_count_neither_as_lag_nor_as_stored() {
        let name = (Project::parse("p").unwrap(), QueueName::parse("a").unwrap());
        let info = QueueInfo {
            id: QueueId(1),
            incarnation: 1,
            partitions: 1,
            hash: 0,
            signing: Default::default(),
            policy: Default::default(),
        };
        let far = Offset(1 << 40);
        let tail = Tail { end: far + 5, stored: 5, gaps: std::iter::once(Offset(10)..far).collect() };
        let shard = Traffic {
            queues: 1,
            names: Vec::new(),
            tails: vec![(name.clone(), Partition(0), tail)],
            consumers: vec![(name.clone(), vec![(Partition(0), Offset(8))])],
        };
        let queues = queues(&[(name, info)], &[shard]);
        assert_eq!((queues.shown[0].stored, queues.shown[0].lag), (5, 7));
    }
}
