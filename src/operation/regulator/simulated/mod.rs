//! Simulates producers, a network and a store in virtual time, and checks the delays and rates that the
//! regulator causes.
//!
//! | file | content |
//! | --- | --- |
//! | `laws` | the regulator, and the laws that it is compared with |
//! | `plot` | a picture of all of them |

mod laws;
mod plot;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use self::laws::Law;
use super::Regulator;
use super::pace::UNDER_WAY_AT_FIRST;
use crate::base::clock::Now;
use crate::base::limits::INITIAL_CREDIT;
use crate::base::millis::UnixMillis;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// A group of equal producers.
#[derive(Clone, Copy, Debug)]
struct Kind {
    count: usize,
    /// Messages in a request, and bytes in a message.
    batch: u64,
    bytes: u64,
    /// The most messages that one producer keeps in flight, even with more credit.
    in_flight: u64,
    /// The time from the client to the server and back.
    round_trip_ns: u64,
    /// When the first request is sent.
    starts_ns: u64,
    /// The time from one request to the next; 0 if a request is sent whenever there is credit.
    every_ns: u64,
}

impl Kind {
    fn closed_loop(count: usize) -> Self {
        Self {
            count,
            batch: 100,
            bytes: 100,
            in_flight: u64::MAX,
            round_trip_ns: 50_000,
            starts_ns: 0,
            every_ns: 0,
        }
    }
}

/// A store that commits one round after another. A round holds everything received before it started.
#[derive(Clone, Copy, Debug)]
struct Disk {
    sync_ns: u64,
    bytes_per_sec: u64,
    /// The start and the end of a time in which the store commits nothing.
    stalls_ns: (u64, u64),
    /// The time at which the rate and the length of a sync change, and the new ones.
    becomes: (u64, u64, u64),
    /// The bytes that the shard before the store can read in a second.
    reads_per_sec: u64,
    /// Whether something else keeps the shard busy.
    busy_besides: bool,
    /// The least and the most time from the end of a round to its answer, whatever is under way, and until when answers
    /// take that.
    answers_after_ns: (u64, u64),
    answers_late_until_ns: u64,
}

impl Disk {
    const FAST: Self = Self {
        sync_ns: 200_000,
        bytes_per_sec: 600_000_000,
        stalls_ns: (0, 0),
        becomes: (u64::MAX, 0, 0),
        reads_per_sec: u64::MAX,
        busy_besides: false,
        answers_after_ns: (0, 0),
        answers_late_until_ns: u64::MAX,
    };

    /// Returns when a round that ends at this time is answered.
    fn answers_at(&self, ends_ns: u64) -> u64 {
        if ends_ns >= self.answers_late_until_ns {
            return ends_ns;
        }
        let (least, most) = self.answers_after_ns;
        // The multiplier of splitmix64 spreads times over the range.
        let spread = u128::from(ends_ns.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        ends_ns + least + ((spread * u128::from(most - least)) >> 64) as u64
    }
}

#[derive(Debug)]
struct Producer<R> {
    kind: Kind,
    regulated: R,
    sent: u64,
    received: u64,
    granted: u64,
    /// Messages committed, and messages answered.
    committed: u64,
    spoken_for: u64,
    acknowledged: u64,
    /// The requests that are not answered: the number of their last message, their messages, and when they were
    /// sent.
    unanswered: VecDeque<(u64, u64, u64)>,
    /// Until when committed messages wait for others.
    collecting: Option<u64>,
}

impl<R> Producer<R> {
    fn may_send(&self) -> bool {
        let until = self.granted.min(self.acknowledged.saturating_add(self.kind.in_flight));
        self.sent + self.kind.batch <= until
    }

    fn send(&mut self, id: usize, now_ns: u64) -> (u64, Event) {
        let Kind { batch, round_trip_ns, .. } = self.kind;
        self.sent += batch;
        (now_ns + round_trip_ns / 2, Event::Arrived(id, batch, now_ns))
    }

    /// Returns whether committed messages wait for those that are under way.
    fn collects(&mut self, now_ns: u64) -> bool {
        let until_ns = *self.collecting.get_or_insert(now_ns + TARGET);
        now_ns < until_ns && self.committed < self.received
    }
}

/// A request in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Given {
    id: usize,
    messages: u64,
    came_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client receives its credit, and the number of its acknowledged messages.
    Granted(usize, u64, u64),
    /// The next request of a client that sends at times of its own.
    Due(usize),
    /// A request reaches the server: the number of messages, and when they were sent.
    Arrived(usize, u64, u64),
    /// The server has read this request, which took as many nanoseconds.
    Came(usize, u64, u64, u64),
    /// The store commits a round.
    Committed,
    /// The shard learns of a committed request.
    Answered(Given),
}

/// The result of a simulation.
#[derive(Debug, Default)]
struct Seen {
    /// For each request: when it was answered, the time since it was sent, and its messages.
    delays: Vec<(u64, u64, u64)>,
    /// The acknowledged messages of each producer.
    messages: Vec<u64>,
}

impl Seen {
    /// Returns the delays and the messages of the commits in a range of time.
    fn within(&self, between: (u64, u64)) -> impl Iterator<Item = (u64, u64)> {
        let is_within = move |at: u64| (between.0..between.1).contains(&at);
        self.delays.iter().filter(move |(at, ..)| is_within(*at)).map(|(_, ns, n)| (*ns, *n))
    }

    /// Returns a quantile of the delay in a range of time, in milliseconds.
    fn delay_ms(&self, quantile: f64, between: (u64, u64)) -> f64 {
        let mut delays: Vec<_> = self.within(between).collect();
        delays.sort_unstable();
        let wanted = delays.iter().map(|(_, n)| *n as f64).sum::<f64>() * quantile;
        let mut passed = 0.0;
        for (ns, n) in delays {
            passed += n as f64;
            if passed >= wanted {
                return ns as f64 / MS as f64;
            }
        }
        0.0
    }

    /// Messages a second in a stretch of time.
    fn rate(&self, between: (u64, u64)) -> f64 {
        let messages: u64 = self.within(between).map(|(_, n)| n).sum();
        messages as f64 / ((between.1 - between.0) as f64 / SECOND as f64)
    }
}

fn run(target_ns: u64, disk: Disk, kinds: &[Kind], until_ns: u64) -> Seen {
    run_with(&mut Regulator::new(Duration::from_nanos(target_ns)), disk, kinds, until_ns)
}

fn run_with<L: Law>(law: &mut L, disk: Disk, kinds: &[Kind], until_ns: u64) -> Seen {
    let mut seen = Seen::default();
    let mut producers: Vec<Producer<L::Regulated>> = Vec::new();
    let mut events: BinaryHeap<Reverse<(u64, Event)>> = BinaryHeap::new();
    for kind in kinds {
        for _ in 0..kind.count {
            let regulated = law.open();
            let (id, granted) = (producers.len(), INITIAL_CREDIT as u64);
            events.push(Reverse((kind.starts_ns, Event::Granted(id, granted, 0))));
            if kind.every_ns > 0 {
                events.push(Reverse((kind.starts_ns, Event::Due(id))));
            }
            producers.push(Producer {
                kind: *kind,
                regulated,
                sent: 0,
                received: 0,
                granted,
                committed: 0,
                spoken_for: 0,
                acknowledged: 0,
                unanswered: VecDeque::new(),
                collecting: None,
            });
        }
    }
    let (mut waiting, mut round): (Vec<Given>, Vec<Given>) = Default::default();
    let (mut reading_until_ns, mut last_ns) = (0, 0);
    while let Some(Reverse((now_ns, event))) = events.pop() {
        if now_ns > until_ns {
            break;
        }
        let now = Now::new(Duration::from_nanos(now_ns), UnixMillis::new(0));
        if disk.busy_besides {
            law.handle_busy(now_ns - std::mem::replace(&mut last_ns, now_ns));
        }
        match event {
            Event::Granted(id, granted, acknowledged) => {
                let producer = &mut producers[id];
                producer.granted = producer.granted.max(granted);
                producer.acknowledged = producer.acknowledged.max(acknowledged);
                while producer.kind.every_ns == 0 && producer.may_send() {
                    events.push(Reverse(producer.send(id, now_ns)));
                }
            }
            Event::Due(id) => {
                let producer = &mut producers[id];
                if producer.may_send() {
                    events.push(Reverse(producer.send(id, now_ns)));
                }
                events.push(Reverse((now_ns + producer.kind.every_ns, Event::Due(id))));
            }
            Event::Arrived(id, messages, sent_ns) => {
                let bytes = messages * producers[id].kind.bytes;
                let takes_ns =
                    (u128::from(bytes) * u128::from(SECOND) / u128::from(disk.reads_per_sec)) as u64;
                reading_until_ns = reading_until_ns.max(now_ns) + takes_ns;
                events.push(Reverse((reading_until_ns, Event::Came(id, messages, sent_ns, takes_ns))));
            }
            Event::Came(id, messages, sent_ns, took_ns) => {
                law.handle_busy(took_ns);
                let producer = &mut producers[id];
                producer.received += messages;
                producer.unanswered.push_back((producer.received, messages, sent_ns));
                law.handle_received(&mut producer.regulated, messages, messages * producer.kind.bytes);
                law.handle_submitted(now);
                waiting.push(Given { id, messages, came_ns: now_ns });
            }
            Event::Committed => {
                let at_ns = disk.answers_at(now_ns);
                events.extend(round.drain(..).map(|given| Reverse((at_ns, Event::Answered(given)))));
            }
            Event::Answered(Given { id, messages, came_ns }) => {
                let bytes = messages * producers[id].kind.bytes;
                law.handle_committed(now, now_ns - came_ns, bytes);
                let producer = &mut producers[id];
                producer.committed += messages;
                if law.collects() && producer.collects(now_ns) {
                    continue;
                }
                producer.collecting = None;
                let used = (producer.received - producer.spoken_for) * producer.kind.bytes;
                producer.spoken_for = producer.committed;
                let answered = |request: &mut (u64, u64, u64)| request.0 <= producer.committed;
                while let Some((_, messages, sent_ns)) = producer.unanswered.pop_front_if(answered) {
                    seen.delays.push((now_ns, now_ns - sent_ns, messages));
                }
                let allowed = law.allowance(&mut producer.regulated, used).min(65_536);
                let granted = producer.granted.max(producer.spoken_for + allowed);
                let at_ns = now_ns + producer.kind.round_trip_ns / 2;
                events.push(Reverse((at_ns, Event::Granted(id, granted, producer.spoken_for))));
            }
        }
        if round.is_empty() && !waiting.is_empty() {
            std::mem::swap(&mut round, &mut waiting);
            let bytes: u64 = round.iter().map(|given| given.messages * producers[given.id].kind.bytes).sum();
            let (changes_ns, pace, sync_ns) = disk.becomes;
            let (pace, sync_ns) =
                if now_ns >= changes_ns { (pace, sync_ns) } else { (disk.bytes_per_sec, disk.sync_ns) };
            let mut ends_ns =
                now_ns + sync_ns + (u128::from(bytes) * u128::from(SECOND) / u128::from(pace)) as u64;
            let (stall, goes_on) = disk.stalls_ns;
            if now_ns < goes_on && ends_ns >= stall {
                ends_ns += goes_on - stall.max(now_ns);
            }
            events.push(Reverse((ends_ns, Event::Committed)));
        }
    }
    seen.messages = producers.iter().map(|producer| producer.committed).collect();
    seen
}

const TARGET: u64 = 10 * MS;
/// When everything has settled.
const LATER: (u64, u64) = (SECOND, 3 * SECOND);

fn settled(target_ns: u64, disk: Disk, kinds: &[Kind]) -> Seen {
    run(target_ns, disk, kinds, LATER.1)
}

#[test]
fn busy_producers_wait_for_the_target_at_the_full_rate() {
    for count in [1, 16, 200] {
        let kinds = [Kind::closed_loop(count)];
        let seen = settled(TARGET, Disk::FAST, &kinds);
        let (rate, most) = (seen.rate(LATER), Disk::FAST.bytes_per_sec as f64 / 100.0);
        assert!(rate > 0.9 * most, "{count}: {rate} of {most} messages a second");
        assert!(seen.delay_ms(0.99, LATER) < 15.0, "{count}: {} ms", seen.delay_ms(0.99, LATER));
    }
}

#[test]
fn a_crowd_stretches_the_delay_and_shares_fairly() {
    let seen = settled(TARGET, Disk::FAST, &[Kind::closed_loop(1_000)]);
    assert!(seen.rate(LATER) > 5.4e6, "{} messages a second", seen.rate(LATER));
    // 327 messages of each, at 6 million a second.
    assert!(seen.delay_ms(0.99, LATER) < 65.0, "{} ms", seen.delay_ms(0.99, LATER));
    let (most, least) = (seen.messages.iter().max().unwrap(), seen.messages.iter().min().unwrap());
    assert!(*most as f64 / *least as f64 <= 1.1, "{most} and {least} messages");
    // Without the law each uses all of its window.
    let without = settled(0, Disk::FAST, &[Kind::closed_loop(200)]);
    assert!(without.delay_ms(0.5, LATER) > 1_000.0, "{} ms", without.delay_ms(0.5, LATER));
}

#[test]
fn producers_that_are_served_more_slowly_get_more_credit() {
    // Without that, the first half would send twice as much.
    let kinds = [50_000, 3 * MS].map(|round_trip_ns| Kind { round_trip_ns, ..Kind::closed_loop(8) });
    let seen = run(5 * MS, Disk::FAST, &kinds, 8 * SECOND);
    let (most, least) = (seen.messages.iter().max().unwrap(), seen.messages.iter().min().unwrap());
    assert!(*most as f64 / *least as f64 <= 1.5, "{most} and {least} messages");
    let after = (SECOND, 8 * SECOND);
    assert!(seen.rate(after) > 5.1e6, "{} messages a second", seen.rate(after));
    assert!(seen.delay_ms(0.99, after) < 9.0, "{} ms", seen.delay_ms(0.99, after));
}

#[test]
fn a_crowd_that_starts_together_is_held_from_the_start() {
    let seen = settled(TARGET, Disk::FAST, &[Kind::closed_loop(1_000)]);
    let start = (0, SECOND);
    assert!(seen.delay_ms(0.99, start) < 75.0, "{} ms", seen.delay_ms(0.99, start));
}

#[test]
fn quiet_producers_do_not_hold_back_a_busy_one() {
    let quiet = Kind { batch: 1, in_flight: 1, ..Kind::closed_loop(1_000) };
    let seen = settled(TARGET, Disk::FAST, &[quiet, Kind::closed_loop(1)]);
    let busy = seen.messages[1_000] as f64 / 3.0;
    assert!(busy > 4.5e6, "{busy} messages a second");
}

#[test]
fn a_far_producer_fills_its_network() {
    let far = Kind { round_trip_ns: 50 * MS, ..Kind::closed_loop(1) };
    let (with, without) = (settled(TARGET, Disk::FAST, &[far]), settled(0, Disk::FAST, &[far]));
    let (with, without) = (with.rate(LATER), without.rate(LATER));
    assert!(with > 0.9 * without, "{with} messages a second, {without} without the law");
}

#[test]
fn a_busy_shard_does_not_let_more_wait_before_it() {
    // The store is faster than the shard that reads for it.
    let store =
        Disk { sync_ns: 10_000, bytes_per_sec: 6_000_000_000, reads_per_sec: 1_200_000_000, ..Disk::FAST };
    let silent = Kind { starts_ns: u64::MAX, ..Kind::closed_loop(2_000) };
    for kinds in [vec![Kind::closed_loop(16)], vec![Kind::closed_loop(16), silent]] {
        for target_ns in [TARGET, 5 * MS] {
            let seen = settled(target_ns, store, &kinds);
            assert!(seen.rate(LATER) > 10.8e6, "{} messages a second", seen.rate(LATER));
            let most_ms = 1.5 * target_ns as f64 / MS as f64;
            assert!(seen.delay_ms(0.99, LATER) < most_ms, "{} ms", seen.delay_ms(0.99, LATER));
        }
    }
    let crowd = settled(TARGET, store, &[Kind::closed_loop(1_000)]);
    assert!(crowd.delay_ms(0.99, LATER) < 75.0, "{} ms", crowd.delay_ms(0.99, LATER));
    // 655 messages of each, at 12 million a second.
    assert!(crowd.delay_ms(0.5, LATER) > 40.0, "{} ms", crowd.delay_ms(0.5, LATER));
}

#[test]
fn a_far_producer_fills_its_network_beside_whatever_keeps_the_shard_busy() {
    let far = Kind { round_trip_ns: 50 * MS, ..Kind::closed_loop(1) };
    // The shard counts as busy all the time.
    let busy = Disk { busy_besides: true, ..Disk::FAST };
    let rate = |target_ns| run(target_ns, busy, &[far], 15 * SECOND).rate((2 * SECOND, 15 * SECOND));
    let (with, without) = (rate(TARGET), rate(0));
    assert!(with > 0.9 * without, "{with} messages a second, {without} without the law");
}

#[test]
fn after_a_slow_start_the_delay_comes_down_to_the_target() {
    let faster = Disk { sync_ns: 20 * MS, becomes: (500 * MS, 600_000_000, 200_000), ..Disk::FAST };
    for target_ns in [TARGET, 5 * MS] {
        let seen = run(target_ns, faster, &[Kind::closed_loop(16)], 6 * SECOND);
        let after = (5 * SECOND, 6 * SECOND);
        let most_ms = 1.5 * target_ns as f64 / MS as f64;
        assert!(seen.delay_ms(0.99, after) < most_ms, "{} ms", seen.delay_ms(0.99, after));
        assert!(seen.rate(after) > 5.4e6, "{} messages a second", seen.rate(after));
    }
}

#[test]
fn after_commits_that_varied_the_delay_comes_down_to_the_target() {
    for least_ns in [MS / 2, MS] {
        let cluster = Disk {
            bytes_per_sec: 150_000_000,
            answers_after_ns: (least_ns, 50 * MS),
            answers_late_until_ns: 4 * SECOND,
            ..Disk::FAST
        };
        let seen = run(5 * MS, cluster, &[Kind::closed_loop(16)], 12 * SECOND);
        let after = (11 * SECOND, 12 * SECOND);
        assert!(seen.delay_ms(0.5, after) < 10.0, "{least_ns}: {} ms", seen.delay_ms(0.5, after));
        assert!(seen.rate(after) > 1.2e6, "{} messages a second", seen.rate(after));
    }
}

#[test]
fn producers_that_bound_themselves_do_not_hide_a_slower_disk() {
    let slower = Disk { bytes_per_sec: 300_000_000, becomes: (SECOND, 30_000_000, 200_000), ..Disk::FAST };
    let bounded = Kind { in_flight: 1_800, ..Kind::closed_loop(8) };
    let seen = run(5 * MS, slower, &[bounded], 6 * SECOND);
    let after = (5 * SECOND, 6 * SECOND);
    // All that they keep in flight takes 48 ms.
    assert!(seen.delay_ms(0.99, after) < 40.0, "{} ms", seen.delay_ms(0.99, after));
}

#[test]
fn large_messages_are_not_taken_for_slow_commits() {
    let large = Kind { batch: 1, bytes: 250_000, ..Kind::closed_loop(16) };
    let seen = run(5 * MS, Disk::FAST, &[large], 6 * SECOND);
    let after = (4 * SECOND, 6 * SECOND);
    // One message of each is the least.
    assert!(seen.delay_ms(0.5, after) < 9.0, "{} ms", seen.delay_ms(0.5, after));
}

#[test]
fn an_idle_store_allows_no_more_if_nobody_needs_it() {
    let quiet = Kind { batch: 1, in_flight: 10, round_trip_ns: 10 * MS, ..Kind::closed_loop(10) };
    let mut regulator = Regulator::new(Duration::from_nanos(TARGET));
    run_with(&mut regulator, Disk::FAST, &[quiet], LATER.1);
    assert!(regulator.pace.under_way_max() <= UNDER_WAY_AT_FIRST, "{} bytes", regulator.pace.under_way_max());
}

#[test]
fn a_newcomer_is_taken_for_a_producer_like_the_others() {
    let mut regulator = Regulator::new(Duration::from_nanos(TARGET));
    let (mut first, mut second) = (regulator.open(), regulator.open());
    regulator.handle_received(&mut first, 1, 100_000);
    let messages = regulator.allowance(&mut second, 0);
    assert!(messages <= UNDER_WAY_AT_FIRST / 2 / 100_000 + 1, "{messages} messages of 100 kB");
}

#[test]
fn a_disk_that_syncs_slowly_stays_busy() {
    let slow = Disk { sync_ns: 20 * MS, bytes_per_sec: 150_000_000, ..Disk::FAST };
    for count in [1, 16] {
        let seen = settled(TARGET, slow, &[Kind::closed_loop(count)]);
        assert!(seen.rate(LATER) > 0.3 * 1.5e6, "{count}: {} messages a second", seen.rate(LATER));
    }
}

#[test]
fn after_a_stall_the_delay_is_back_at_once() {
    let stall = Disk { stalls_ns: (SECOND, 2 * SECOND), ..Disk::FAST };
    let seen = run(TARGET, stall, &[Kind::closed_loop(200)], 3 * SECOND);
    let after = (2_100 * MS, 3_000 * MS);
    assert!(seen.delay_ms(0.99, after) < 15.0, "{} ms", seen.delay_ms(0.99, after));
    assert!(seen.rate(after) > 5.4e6, "{} messages a second", seen.rate(after));
}

#[test]
fn a_disk_that_becomes_slower_is_followed_within_a_second() {
    let slower = Disk { becomes: (SECOND, 60_000_000, 200_000), ..Disk::FAST };
    let seen = run(TARGET, slower, &[Kind::closed_loop(16)], 3 * SECOND);
    let after = (2 * SECOND, 3 * SECOND);
    assert!(seen.delay_ms(0.99, after) < 25.0, "{} ms", seen.delay_ms(0.99, after));
}

#[test]
fn a_crowd_on_a_slower_disk_waits_for_no_more_than_the_minimum() {
    let slower = Disk { becomes: (SECOND, 100_000_000, 200_000), ..Disk::FAST };
    let seen = run(TARGET, slower, &[Kind::closed_loop(216)], 3 * SECOND);
    // 32 KiB of each, at 100 MB/s.
    let after = (2 * SECOND, 3 * SECOND);
    assert!(seen.delay_ms(0.99, after) < 80.0, "{} ms", seen.delay_ms(0.99, after));
}

#[test]
fn a_store_whose_commits_vary_is_not_taken_for_a_slow_one() {
    let (near_ns, far_ns) = (50_000, 50 * MS);
    for answers_after_ns in [(5 * MS, 50 * MS), (MS, 50 * MS), (MS / 2, 50 * MS)] {
        let cluster = Disk { bytes_per_sec: 150_000_000, answers_after_ns, ..Disk::FAST };
        for (count, round_trip_ns) in [(1, near_ns), (4, near_ns), (16, near_ns), (1, far_ns), (4, far_ns)] {
            let kinds = [Kind { round_trip_ns, ..Kind::closed_loop(count) }];
            let settled = (2 * SECOND, 6 * SECOND);
            let of = |target_ns| run(target_ns, cluster, &kinds, settled.1);
            let (seen, without) = (of(5 * MS), of(0));
            let (rate, most) = (seen.rate(settled), without.rate(settled));
            let case = format!("{count} at {round_trip_ns} ns, {answers_after_ns:?}");
            assert!(rate > 0.5 * most, "{case}: {rate} of {most} messages a second");
            // Without the law, 16 near producers wait for 700 ms.
            assert!(seen.delay_ms(0.99, settled) < 400.0, "{case}: {} ms", seen.delay_ms(0.99, settled));
        }
    }
}

/// Commits take 5 ms, however little there is to commit.
const DISTANT: Disk = Disk { sync_ns: 5 * MS, ..Disk::FAST };

fn paced(count: usize, every_ns: u64) -> Kind {
    Kind { batch: 1, every_ns, ..Kind::closed_loop(count) }
}

#[test]
fn quiet_producers_are_answered_at_once() {
    for (count, every_ns) in [(1, MS), (16, MS), (200, 20 * MS)] {
        let seen = settled(TARGET, DISTANT, &[paced(count, every_ns)]);
        assert!(seen.delay_ms(1.0, LATER) < 16.0, "{count}: {} ms", seen.delay_ms(1.0, LATER));
        let due = count as f64 * SECOND as f64 / every_ns as f64;
        assert!(seen.rate(LATER) > 0.99 * due, "{count}: {} of {due} messages a second", seen.rate(LATER));
    }
}

#[test]
fn a_quiet_producer_does_not_hold_back_a_far_one() {
    let far = Kind { round_trip_ns: 50 * MS, ..Kind::closed_loop(1) };
    for disk in [Disk::FAST, DISTANT] {
        let alone = settled(TARGET, disk, &[far]).rate(LATER);
        let beside = settled(TARGET, disk, &[far, paced(1, MS)]).rate(LATER);
        // Each burst of the far producer looks like saturation while it is committed.
        assert!(beside > 0.7 * alone, "{beside} messages a second beside, {alone} alone");
    }
}

#[test]
fn one_sender_among_many_open_producers_doubles_nothing() {
    let mut regulator = Regulator::new(Duration::from_nanos(TARGET));
    let silent: Vec<_> = (0..10_000).map(|_| regulator.open()).collect();
    run_with(&mut regulator, Disk::FAST, &[paced(1, 5 * MS)], LATER.1);
    assert!(regulator.pace.under_way_max() <= UNDER_WAY_AT_FIRST, "{} bytes", regulator.pace.under_way_max());
    drop(silent);
}
