//! The chart of a search for the knee: the p99 at each rate that was tried, and its bound.

use super::axis::{Axis, count, time_mark};
use super::canvas::{Anchor, Canvas, Frame};
use super::compared::Compared;
use super::theme::{Ink, Theme};
use crate::latency::time;

const HEIGHT: f64 = 360.0;

/// A run of a search: its rate, its p99, and whether the rate was sustained.
type Point = (f64, f64, bool);

/// Returns the runs of one result's search, ordered by rate.
fn points(one: &Compared) -> Vec<Point> {
    let mut points: Vec<Point> = one
        .file
        .runs
        .iter()
        .filter_map(|run| {
            let latency = run.figures.latency()?;
            Some((run.figures.rate?, latency.p99 as f64, run.figures.is_sustained()))
        })
        .collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    points
}

/// Draws one chart for all results that searched for a knee. Returns `None` if none did.
pub(super) fn knee(theme: Theme, all: &[Compared]) -> Option<String> {
    let searches: Vec<(&Compared, Vec<Point>)> =
        all.iter().filter(|one| one.file.knee.is_some()).map(|one| (one, points(one))).collect();
    let bounds: Vec<f64> =
        searches.iter().filter_map(|(one, _)| Some(one.file.knee?.p99_max as f64)).collect();
    let values = || searches.iter().flat_map(|(_, points)| points);
    values().next()?;
    let high = values().map(|point| point.1).chain(bounds.iter().copied()).fold(1.0, f64::max);
    let low = values().map(|point| point.1).chain(bounds.iter().copied()).fold(f64::INFINITY, f64::min);
    let rate = values().map(|point| point.0).fold(0.0, f64::max);
    let mut canvas = Canvas::new(theme, HEIGHT);
    let names: Vec<_> = searches.iter().map(|(one, _)| one.name.clone()).enumerate().collect();
    let frame = Frame::below(canvas.legend(&names, 4.0), HEIGHT);
    let x = Axis::linear(rate, frame.left, frame.right);
    let y = Axis::log(low, high, frame.bottom, frame.top);
    canvas.axes(frame, (&x.ticks(count), "scheduled messages per second"), (&y.ticks(time_mark), "p99"));
    for bound in &bounds {
        canvas.line(&[(frame.left, y.at(*bound)), (frame.right, y.at(*bound))], Ink::Bound, 1.5);
        let said = format!("bound: {}", time_mark(*bound));
        canvas.text((frame.right - 4.0, y.at(*bound) - 6.0), Anchor::End, Ink::Bound, &said);
    }
    for (number, (one, points)) in searches.iter().enumerate() {
        let line: Vec<(f64, f64)> = points.iter().map(|(rate, p99, _)| (x.at(*rate), y.at(*p99))).collect();
        canvas.line(&line, Ink::Series(number), 2.0);
        for (at, (rate, p99, is_sustained)) in line.iter().zip(points) {
            let sustained = if *is_sustained { "" } else { ", not sustained" };
            let said = format!("{}: {} /s, p99 {}{sustained}", one.name, count(*rate), time(*p99 as u64));
            canvas.dot(*at, if *is_sustained { 3.5 } else { 2.0 }, Ink::Series(number), &said);
        }
    }
    Some(canvas.finish("p99 by rate"))
}
