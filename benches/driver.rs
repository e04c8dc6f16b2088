//! Measures the shard driver by itself: two shards, synthetic work, and batches passed through their inboxes.
//!
//! `cargo bench --bench driver` runs these parts:
//!
//! - `no-pass` and `saturated`: two shards that always have work, without and with a reactor pass in each
//!   turn. Prints how long a batch takes from one shard to the other (hop), and the cost of a reactor pass.
//! - `parking`: two shards that park after every batch. Every batch must be answered, so no wake-up is lost.
//! - `idle`: the CPU time of two idle shards.
//!
//! All parts with batches check that no batch is lost. `TESTS_BENCH_SECONDS` sets the length of each part
//! (default 5). Arguments select parts: `cargo bench --bench driver -- parking idle`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use millstream::shard::executor::{ExecutorSettings, spawn};
use millstream::shard::inbox::{Inbox, Sender, inbox};
use millstream::shard::parker::Parker;

const INBOX_BATCHES: usize = 1024;
/// The time of synthetic work between two polls of the inbox: the share of one connection in a turn.
const SLICE: Duration = Duration::from_micros(50);
/// How many slices make a turn.
const SLICES: usize = 4;

enum Note {
    Ping { sent: Instant },
    Pong { pinged: Instant, sent: Instant },
}

struct Shard {
    inbox: Inbox<Note>,
    peer: Sender<Note>,
    parker: Parker,
    stop: Arc<AtomicBool>,
}

struct Report {
    hop: Histogram<u64>,
    pass: Histogram<u64>,
    sent: u64,
    answered: u64,
    seen: u64,
}

fn work(until: Duration) {
    let started = Instant::now();
    while started.elapsed() < until {
        black_box((0..64u64).map(|n| n.wrapping_mul(0x9E37_79B9)).sum::<u64>());
    }
}

impl Shard {
    fn poll_inbox(&self, report: &mut Report) {
        while let Some(note) = self.inbox.poll() {
            let now = Instant::now();
            let reply = match note {
                Note::Ping { sent } => {
                    report.hop.saturating_record((now - sent).as_nanos() as u64);
                    report.seen += 1;
                    Note::Pong { pinged: sent, sent: now }
                }
                Note::Pong { pinged, sent } => {
                    report.hop.saturating_record((now - sent).as_nanos() as u64);
                    black_box(pinged);
                    report.answered += 1;
                    continue;
                }
            };
            assert!(
                self.peer.send(reply).is_ok(),
                "the inbox must have room: it holds {INBOX_BATCHES} batches"
            );
        }
    }

    /// Runs a shard that always has work. Sends one ping per turn while fewer than eight are unanswered.
    async fn saturated(self, passes: bool) -> Report {
        let mut report = report();
        while !self.stop.load(Ordering::Relaxed) {
            self.parker.beat();
            if report.sent - report.answered < 8 {
                report.sent += 1;
                assert!(self.peer.send(Note::Ping { sent: Instant::now() }).is_ok());
            }
            for _ in 0..SLICES {
                self.poll_inbox(&mut report);
                work(SLICE);
            }
            if passes {
                let started = Instant::now();
                self.parker.reactor_pass().await;
                report.pass.saturating_record(started.elapsed().as_nanos() as u64);
            }
        }
        self.settle(report).await
    }

    /// Runs a shard that parks whenever its inbox is empty, so every batch must wake it.
    async fn parking(mut self, starts: bool) -> Report {
        let mut report = report();
        let mut next = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            self.parker.beat();
            self.poll_inbox(&mut report);
            if starts && report.answered == report.sent {
                report.sent += 1;
                assert!(self.peer.send(Note::Ping { sent: Instant::now() }).is_ok());
                next = Instant::now() + Duration::from_secs(1);
            }
            let started = Instant::now();
            self.parker.park(&self.inbox, starts.then_some(next)).await;
            if starts && started.elapsed() > Duration::from_millis(900) {
                println!("a wake-up was lost: {} sent, {} answered", report.sent, report.answered);
            }
        }
        if starts || report.seen > 0 { self.settle(report).await } else { report }
    }

    /// Handles batches that are still in flight, so that both sides' counters can be compared.
    async fn settle(self, mut report: Report) -> Report {
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            self.poll_inbox(&mut report);
            self.parker.reactor_pass().await;
        }
        report
    }
}

fn report() -> Report {
    let histogram = || Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
    Report { hop: histogram(), pass: histogram(), sent: 0, answered: 0, seen: 0 }
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Saturated { passes: bool },
    Parking,
    Idle,
}

fn run(part: Part, seconds: u64) -> [Report; 2] {
    let stop = Arc::new(AtomicBool::new(false));
    let (to_a, inbox_a) = inbox(INBOX_BATCHES);
    let (to_b, inbox_b) = inbox(INBOX_BATCHES);
    let bells = [to_a.clone(), to_b.clone()];
    let ready = Arc::new(AtomicU64::new(0));
    let handles = [(0, inbox_a, to_b), (1, inbox_b, to_a)].map(|(core, inbox, peer)| {
        let (stop, ready) = (stop.clone(), ready.clone());
        let settings = ExecutorSettings { name: format!("shard-{core}"), core: Some(core) };
        spawn(settings, move || async move {
            let shard = Shard { inbox, peer, parker: Parker::default(), stop };
            ready.fetch_add(1, Ordering::SeqCst);
            match part {
                Part::Saturated { passes } => shard.saturated(passes).await,
                Part::Parking => shard.parking(core == 0).await,
                Part::Idle => shard.parking(false).await,
            }
        })
        .unwrap()
    });
    while ready.load(Ordering::SeqCst) < 2 {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_secs(seconds));
    stop.store(true, Ordering::SeqCst);
    bells.iter().for_each(Sender::wake);
    handles.map(|handle| handle.join().unwrap())
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn print(name: &str, reports: &[Report; 2]) {
    let mut hop = reports[0].hop.clone();
    hop.add(&reports[1].hop).unwrap();
    let us = |h: &Histogram<u64>, q| h.value_at_quantile(q) as f64 / 1e3;
    println!(
        "{name}: {} hops, p50 {:.1} µs, p99 {:.1} µs, p99.9 {:.1} µs, max {:.1} µs",
        hop.len(),
        us(&hop, 0.5),
        us(&hop, 0.99),
        us(&hop, 0.999),
        us(&hop, 1.0)
    );
    let pass = &reports[0].pass;
    if !pass.is_empty() {
        println!("{name}: reactor pass p50 {:.1} µs, p99 {:.1} µs", us(pass, 0.5), us(pass, 0.99));
    }
    for (sender, receiver) in [(0, 1), (1, 0)] {
        let (sent, seen, answered) = (reports[sender].sent, reports[receiver].seen, reports[sender].answered);
        println!("{name}: shard {sender} sent {sent}, shard {receiver} saw {seen}, {answered} answered");
        assert!(sent == seen && seen == answered, "a batch was lost");
    }
}

fn main() {
    let seconds = std::env::var("TESTS_BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    for (name, part) in [
        ("no-pass", Part::Saturated { passes: false }),
        ("saturated", Part::Saturated { passes: true }),
        ("parking", Part::Parking),
    ] {
        if wanted.is_empty() || wanted.iter().any(|want| want == name) {
            print(name, &run(part, seconds));
        }
    }
    if wanted.is_empty() || wanted.iter().any(|want| want == "idle") {
        let before = cpu_seconds();
        run(Part::Idle, seconds);
        println!("idle: {:.2} CPU seconds in {seconds} s on two shards", cpu_seconds() - before);
    }
}
