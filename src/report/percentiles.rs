//! The chart of latency by percentile, on HdrHistogram's scale.

use hdrhistogram::Histogram;

use super::axis::{Axis, PercentileAxis, time_mark};
use super::canvas::{Canvas, Frame};
use super::theme::{Ink, Theme};

const HEIGHT: f64 = 420.0;

/// How many points to draw each time the remaining share of samples halves.
const POINTS: u32 = 8;

/// One line: the number of its colour, its name, its samples.
pub(super) type Line<'a> = (usize, String, &'a Histogram<u64>);

/// Draws one line for each series.
pub(super) fn percentiles(theme: Theme, series: &[Line<'_>]) -> String {
    let mut canvas = Canvas::new(theme, HEIGHT);
    let names: Vec<_> = series.iter().map(|(number, name, _)| (*number, name.clone())).collect();
    let frame = Frame::below(canvas.legend(&names, 4.0), HEIGHT);
    let samples = series.iter().map(|(_, _, one)| one.len()).max().unwrap_or(0);
    let low = series.iter().map(|(_, _, one)| one.min()).min().unwrap_or(1);
    let high = series.iter().map(|(_, _, one)| one.max()).max().unwrap_or(1);
    let x = PercentileAxis::new(samples, frame.left, frame.right);
    let y = Axis::log(low as f64, high as f64, frame.bottom, frame.top);
    canvas.axes(frame, (&x.ticks(), "percentile of messages"), (&y.ticks(time_mark), "latency"));
    for (number, _, histogram) in series {
        let mut points = vec![(x.at(0.0), y.at(histogram.min() as f64))];
        // The samples resolve no higher percentile than this. The slowest message is at the end.
        let last = 1.0 - 1.0 / histogram.len().max(1) as f64;
        for step in histogram.iter_quantiles(POINTS) {
            let quantile = step.quantile_iterated_to().min(last);
            points.push((x.at(quantile), y.at(step.value_iterated_to() as f64)));
        }
        points.push((x.at(last), y.at(histogram.max() as f64)));
        canvas.line(&points, Ink::Series(*number), 2.0);
    }
    canvas.finish("Latency by percentile")
}
