//! A histogram as a few numbers.

use hdrhistogram::Histogram;

/// The usual percentiles, in the histogram's unit: nanoseconds or a count.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// The number of values.
    pub count: u64,
    /// The mean.
    pub mean: f64,
    /// The smallest value.
    pub min: u64,
    /// The median.
    pub p50: u64,
    /// The 90th percentile.
    pub p90: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
    pub p999: u64,
    /// The 99.99th percentile.
    pub p9999: u64,
    /// The largest value.
    pub max: u64,
}

impl Summary {
    /// Summarizes a histogram. All numbers of an empty one are 0.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            mean: histogram.mean(),
            min: histogram.min(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max(),
        }
    }
}

/// Writes the percentiles as times. Only for histograms of nanoseconds.
impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { p50, p99, p999, max, .. } = *self;
        let [p50, p99, p999, max] = [p50, p99, p999, max].map(time);
        write!(f, "p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}")
    }
}

/// Formats nanoseconds with three digits: `812 ns`, `97.3 µs`, `4.10 ms`, `12.0 s`.
pub fn time(nanos: u64) -> String {
    let nanos = nanos as f64;
    let (value, unit) = match nanos {
        ..1e3 => return format!("{nanos} ns"),
        ..1e6 => (nanos / 1e3, "µs"),
        ..1e9 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    let digits = match value {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let shown = [0, 812, 97_300, 999_600, 4_104_000, 12_000_000_000, 99_960_000].map(time);
        assert_eq!(shown, ["0 ns", "812 ns", "97.3 µs", "1000 µs", "4.10 ms", "12.0 s", "100 ms"]);
    }
}
