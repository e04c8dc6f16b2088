//! Charts of throughput over time and of latency over time.

use super::axis::{Axis, count, time_mark};
use super::canvas::{Canvas, Frame};
use super::compared::Compared;
use super::theme::{Ink, Theme};
use crate::latency::decode;
use crate::load::{IntervalResult, RunResult};

const HEIGHT: f64 = 340.0;

/// Returns the whole seconds of a run. Messages after its end did not arrive at its rate.
fn seconds(run: &RunResult) -> impl Iterator<Item = &IntervalResult> {
    let end = run.figures.measured_seconds;
    run.intervals.iter().filter(move |interval| interval.from + 1.0 <= end + 1e-6)
}

fn length(all: &[Compared]) -> f64 {
    all.iter()
        .flat_map(|one| one.run().intervals.iter().map(|interval| interval.from + 1.0))
        .fold(1.0, f64::max)
}

fn in_seconds(value: f64) -> String {
    format!("{} s", count(value))
}

/// Draws the messages per second: received, or acknowledged if there were no consumers.
pub(super) fn throughput(theme: Theme, all: &[Compared]) -> String {
    let mut canvas = Canvas::new(theme, HEIGHT);
    let names: Vec<_> = all.iter().map(|one| one.name.clone()).enumerate().collect();
    let frame = Frame::below(canvas.legend(&names, 4.0), HEIGHT);
    let rate = |one: &Compared, interval: &IntervalResult| {
        (if one.figures().consumers > 0 { interval.received } else { interval.acknowledged }) as f64
    };
    let high =
        all.iter().flat_map(|one| seconds(one.run()).map(|interval| rate(one, interval))).fold(0.0, f64::max);
    let end = all.iter().map(|one| one.figures().measured_seconds).fold(1.0, f64::max);
    let x = Axis::exact(0.0, end, frame.left, frame.right);
    let y = Axis::linear(high, frame.bottom, frame.top);
    canvas.axes(frame, (&x.ticks(in_seconds), "time"), (&y.ticks(count), "messages per second"));
    for (number, one) in all.iter().enumerate() {
        // Each value holds from the beginning to the end of its second.
        let points: Vec<(f64, f64)> = seconds(one.run())
            .flat_map(|interval| {
                let at = y.at(rate(one, interval));
                [(x.at(interval.from), at), (x.at(interval.from + 1.0), at)]
            })
            .collect();
        canvas.line(&points, Ink::Series(number), 2.0);
    }
    canvas.finish("Throughput over time")
}

/// Draws the p99 of each second.
pub(super) fn latency(theme: Theme, all: &[Compared]) -> String {
    let mut canvas = Canvas::new(theme, HEIGHT);
    let names: Vec<_> = all.iter().map(|one| format!("{}, p99", one.name)).enumerate().collect();
    let frame = Frame::below(canvas.legend(&names, 4.0), HEIGHT);
    let lines: Vec<Vec<(f64, f64)>> = all.iter().map(p99s).collect();
    let values = || lines.iter().flatten().map(|(_, value)| *value);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(1.0, f64::max));
    let x = Axis::exact(0.0, length(all), frame.left, frame.right);
    let y = Axis::log(if low.is_finite() { low } else { 1.0 }, high, frame.bottom, frame.top);
    canvas.axes(frame, (&x.ticks(in_seconds), "time"), (&y.ticks(time_mark), "latency"));
    for (number, line) in lines.iter().enumerate() {
        let points: Vec<(f64, f64)> = line.iter().map(|(at, value)| (x.at(*at), y.at(*value))).collect();
        canvas.line(&points, Ink::Series(number), 2.0);
        for (point, (_, value)) in points.iter().zip(line) {
            canvas.dot(
                *point,
                2.6,
                Ink::Series(number),
                &format!("{}: {}", names[number].1, time_mark(*value)),
            );
        }
    }
    canvas.finish("Latency over time")
}

fn p99s(one: &Compared) -> Vec<(f64, f64)> {
    let intervals = one.run().intervals.iter();
    let points = intervals.filter_map(|interval| {
        let text = one.run().samples(interval)?;
        let histogram = decode(text).ok()?;
        Some((interval.from + 0.5, histogram.value_at_quantile(0.99) as f64))
    });
    points.collect()
}
