//! Axes: map values to coordinates and place their ticks.

use crate::latency::time;

/// The scale of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// Linear.
    Linear,
    /// Logarithmic.
    Log,
}

/// An axis that maps the values `low` to `high` to the coordinates `from` to `to`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    spread: Spread,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

/// A tick: its coordinate and its label.
pub(super) type Tick = (f64, String);

impl Axis {
    /// Creates a linear axis from zero to a round number at or above `high`.
    pub(super) fn linear(high: f64, from: f64, to: f64) -> Self {
        let high = if high > 0.0 { high } else { 1.0 };
        let step = nice_step(high);
        Self { spread: Spread::Linear, low: 0.0, high: (high / step).ceil() * step, from, to }
    }

    /// Creates a linear axis from exactly `low` to exactly `high`.
    pub(super) fn exact(low: f64, high: f64, from: f64, to: f64) -> Self {
        Self { spread: Spread::Linear, low, high: if high > low { high } else { low + 1.0 }, from, to }
    }

    /// Creates a logarithmic axis. Its ends are 1, 2 or 5 times a power of ten, at or beyond `low` and
    /// `high`.
    pub(super) fn log(low: f64, high: f64, from: f64, to: f64) -> Self {
        let low = round_log(low.max(1.0), false);
        let high = round_log(high.max(low * 2.0), true);
        Self { spread: Spread::Log, low, high, from, to }
    }

    /// Returns the coordinate of a value. Values beyond an end map to that end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        let part = match self.spread {
            Spread::Linear => (value - self.low) / (self.high - self.low),
            Spread::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        self.from + part * (self.to - self.from)
    }

    /// Returns the ticks, with labels from `say`.
    pub(super) fn ticks(&self, say: impl Fn(f64) -> String) -> Vec<Tick> {
        let values: Vec<f64> = match self.spread {
            Spread::Linear => {
                let step = nice_step(self.high - self.low);
                let first = (self.low / step).ceil();
                let count = ((self.high - first * step) / step + 1e-9).floor() as i64;
                (0..=count).map(|index| (first + index as f64) * step).collect()
            }
            Spread::Log => {
                let decades = (self.high / self.low).log10();
                let of_decade: &[f64] = if decades > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let first = self.low.log10().floor() as i32;
                (first..=self.high.log10().ceil() as i32)
                    .flat_map(|power| of_decade.iter().map(move |factor| factor * 10f64.powi(power)))
                    .filter(|value| (self.low * 0.999..=self.high * 1.001).contains(value))
                    .collect()
            }
        };
        values.into_iter().map(|value| (self.at(value), say(value))).collect()
    }
}

/// Returns a step of 1, 2 or 5 times a power of ten that divides the range into about five parts.
fn nice_step(range: f64) -> f64 {
    let rough = range / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough);
    step.unwrap_or(10.0) * power
}

/// Rounds up or down to 1, 2 or 5 times a power of ten.
fn round_log(value: f64, up: bool) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    if up {
        steps.into_iter().find(|step| *step >= value * 0.999).unwrap_or(value)
    } else {
        steps.into_iter().rev().find(|step| *step <= value * 1.001).unwrap_or(value)
    }
}

/// The percentile axis of HdrHistogram's plots: each further nine takes the same width.
#[derive(Clone, Copy, Debug)]
pub(super) struct PercentileAxis {
    nines: f64,
    from: f64,
    to: f64,
}

impl PercentileAxis {
    /// Creates an axis that ends at the last percentile that this number of samples can resolve.
    pub(super) fn new(samples: u64, from: f64, to: f64) -> Self {
        Self { nines: (samples.max(10) as f64).log10().clamp(2.0, 8.0), from, to }
    }

    /// Returns the coordinate of a quantile (0 to 1).
    pub(super) fn at(&self, quantile: f64) -> f64 {
        let nines = if quantile >= 1.0 { self.nines } else { -(1.0 - quantile).log10() };
        self.from + nines.min(self.nines) / self.nines * (self.to - self.from)
    }

    pub(super) fn ticks(&self) -> Vec<Tick> {
        let marks = [(0.0, "0 %"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %")];
        let more =
            [(0.9999, "99.99 %"), (0.99999, "99.999 %"), (0.999999, "99.9999 %"), (0.9999999, "99.99999 %")];
        let there = |(quantile, _): &(f64, &str)| -(1.0 - quantile).log10() <= self.nines + 1e-9;
        let all = marks.into_iter().chain(more).filter(there);
        all.map(|(quantile, text)| (self.at(quantile), text.to_owned())).collect()
    }
}

/// Formats a count or a rate with three digits: `812`, `12.4 k`, `1.05 M`.
pub(super) fn count(value: f64) -> String {
    let (value, unit) = match value.abs() {
        ..1e3 => (value, ""),
        ..1e6 => (value / 1e3, " k"),
        ..1e9 => (value / 1e6, " M"),
        _ => (value / 1e9, " G"),
    };
    let digits = match value.abs() {
        0.0 => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// Formats a tick of a time axis, in nanoseconds, without trailing zeros.
pub(super) fn time_mark(nanos: f64) -> String {
    let text = time(nanos as u64);
    let Some((value, unit)) = text.split_once(' ') else { return text };
    let value = if value.contains('.') { value.trim_end_matches('0').trim_end_matches('.') } else { value };
    format!("{value} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let axis = Axis::linear(1_234_567.0, 0.0, 100.0);
        let ticks = axis.ticks(count);
        let said: Vec<&str> = ticks.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(said, ["0", "500 k", "1 M", "1.5 M"]);
        assert_eq!((axis.at(0.0), axis.at(1_500_000.0)), (0.0, 100.0));
        let axis = Axis::log(23_000.0, 4_100_000.0, 100.0, 0.0);
        let said: Vec<String> = axis.ticks(time_mark).into_iter().map(|(_, text)| text).collect();
        assert_eq!(said, ["20 µs", "50 µs", "100 µs", "200 µs", "500 µs", "1 ms", "2 ms", "5 ms"]);
        assert_eq!((axis.at(20_000.0), axis.at(1.0)), (100.0, 100.0));
    }

    #[test]
    fn each_nine_takes_the_same_width() {
        let axis = PercentileAxis::new(10_000, 0.0, 400.0);
        assert_eq!(
            [0.0, 0.9, 0.99, 0.999, 1.0].map(|quantile| axis.at(quantile).round()),
            [0.0, 100.0, 200.0, 300.0, 400.0]
        );
        assert_eq!(axis.ticks().last().unwrap().1, "99.99 %");
    }

    #[test]
    fn counts_have_three_digits() {
        assert_eq!(
            [0.0, 7.0, 812.4, 12_430.0, 1_050_000.0, 2e9].map(count),
            ["0", "7", "812", "12.4 k", "1.05 M", "2 G"]
        );
    }
}
