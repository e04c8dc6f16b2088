//! Collects the measurements of all threads while a run lasts, and shows progress.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::meter::{INTERVAL, Piece};
use super::progress::Progress;
use super::result::IntervalResult;
use crate::latency::{decode, encode, histogram, time};
use crate::process::terminal::line_start;

/// All samples of a run.
#[derive(Debug)]
pub(super) struct Gathered {
    pub produce: Histogram<u64>,
    pub end_to_end: Histogram<u64>,
    pub settle: Histogram<u64>,
    pub intervals: Vec<IntervalResult>,
}

/// Collects pieces until every thread has ended. With `tell`, writes the progress to standard error every
/// second.
pub(super) fn gather(pieces: &Receiver<Piece>, progress: &Progress, tell: bool) -> Gathered {
    let (mut produce, mut end_to_end, mut settle) = (histogram(), histogram(), histogram());
    let mut intervals: BTreeMap<u64, IntervalResult> = BTreeMap::new();
    let mut teller = Teller::new();
    loop {
        match pieces.recv_timeout(if tell { teller.due() } else { INTERVAL }) {
            Ok(piece) => {
                // Histograms with equal bounds can always be added.
                let _ = produce.add(&piece.produce);
                let _ = end_to_end.add(&piece.end_to_end);
                let _ = settle.add(&piece.settle);
                teller.latest = Some(latest(&piece));
                let from = piece.index as f64 * INTERVAL.as_secs_f64();
                let interval = intervals.entry(piece.index).or_insert_with(|| IntervalResult::empty(from));
                interval.acknowledged += piece.acknowledged;
                interval.received += piece.received;
                add(&mut interval.produce, piece.produce);
                add(&mut interval.end_to_end, piece.end_to_end);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if tell {
            teller.tell(progress);
        }
    }
    if tell {
        teller.end();
    }
    Gathered { produce, end_to_end, settle, intervals: intervals.into_values().collect() }
}

/// Adds a piece to an interval. The interval is kept as text, which is small, because a run may last for
/// hours.
fn add(to: &mut Option<String>, mut piece: Histogram<u64>) {
    if piece.is_empty() {
        return;
    }
    if let Some(earlier) = to.as_deref().and_then(|text| decode(text).ok()) {
        let _ = piece.add(&earlier);
    }
    *to = Some(encode(&piece));
}

/// Returns the p99 of a piece.
fn latest(piece: &Piece) -> u64 {
    let latency = if piece.end_to_end.is_empty() { &piece.produce } else { &piece.end_to_end };
    latency.value_at_quantile(0.99)
}

/// Writes the progress of a run.
struct Teller {
    began: Instant,
    told: Instant,
    before: (u64, u64),
    latest: Option<u64>,
}

impl Teller {
    fn new() -> Self {
        let now = Instant::now();
        Self { began: now, told: now, before: (0, 0), latest: None }
    }

    fn due(&self) -> Duration {
        (self.told + INTERVAL).saturating_duration_since(Instant::now())
    }

    fn tell(&mut self, progress: &Progress) {
        let since = self.told.elapsed();
        if since < INTERVAL {
            return;
        }
        let total = |counters: &[AtomicU64]| -> u64 {
            counters.iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
        };
        let now = (total(&progress.sent), total(&progress.received));
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / since.as_secs_f64();
        let (sent, received) = (rate(now.0, self.before.0), rate(now.1, self.before.1));
        let p99 = self.latest.map_or(String::new(), |p99| format!(", p99 {}", time(p99)));
        let seconds = self.began.elapsed().as_secs_f64();
        // If standard error is closed, nobody sees the progress.
        let _ = write!(
            std::io::stderr(),
            "{}{seconds:.0} s: {sent:.0} sent/s, {received:.0} received/s{p99}",
            line_start()
        );
        (self.told, self.before) = (Instant::now(), now);
    }

    fn end(&self) {
        let _ = write!(std::io::stderr(), "{}", line_start());
    }
}
