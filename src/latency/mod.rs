//! Latency histograms: one shape for all that is end to end, and the requests that are still to be counted in one.

use std::collections::VecDeque;
use std::time::Instant;

use hdrhistogram::Histogram;

/// The longest latency that is told apart, nanoseconds: one minute. Longer ones count as this.
pub const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// An empty histogram of nanoseconds, three significant digits (216 KiB).
#[allow(clippy::expect_used)]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
        .expect("the bounds are constants that HdrHistogram takes")
}

/// Requests under way, the oldest first: when each was sent, and how many of its messages are not spoken for.
#[derive(Debug, Default)]
pub struct Outstanding(VecDeque<(Instant, u64)>);

impl Outstanding {
    /// A request of `messages` was sent, or should have been, at `sent`.
    pub fn push(&mut self, sent: Instant, messages: u64) {
        self.0.push_back((sent, messages));
    }

    /// The next `count` messages were spoken for at `now`; `histogram` gets a sample for each, where it is given.
    pub fn settle(&mut self, mut count: u64, now: Instant, mut histogram: Option<&mut Histogram<u64>>) {
        while let Some((sent, messages)) = self.0.front_mut().filter(|_| count > 0) {
            let settled = count.min(*messages);
            if let Some(histogram) = &mut histogram {
                let nanos = now.saturating_duration_since(*sent).as_nanos() as u64;
                histogram.saturating_record_n(nanos, settled);
            }
            *messages -= settled;
            count -= settled;
            if *messages == 0 {
                self.0.pop_front();
            }
        }
    }

    /// Their connection is gone.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// The percentiles that a summary names, in microseconds.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Summary {
    /// Samples.
    pub count: u64,
    /// Median.
    pub p50_us: f64,
    /// 99 of 100 are no longer.
    pub p99_us: f64,
    /// 999 of 1,000 are no longer.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Summary {
    /// Of a histogram of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: histogram.len(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: if histogram.is_empty() { 0.0 } else { histogram.max() as f64 / 1e3 },
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs, max {:.0} µs",
            self.p50_us, self.p99_us, self.p999_us, self.max_us
        )
    }
}
