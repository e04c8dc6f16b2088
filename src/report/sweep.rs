//! The charts of a sweep: the rate, the latency and the fairness by the number of connections.

use super::axis::{Axis, count, time_mark};
use super::canvas::{Canvas, Frame};
use super::compared::Compared;
use super::theme::{Ink, Theme};
use crate::latency::time;
use crate::load::Figures;

const HEIGHT: f64 = 320.0;

/// What a chart shows of each run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Rate,
    Latency,
    Fairness,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Rate, Self::Latency, Self::Fairness];

    /// Returns the name of the chart's file.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rate => "connections-throughput",
            Self::Latency => "connections-latency",
            Self::Fairness => "connections-fairness",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Rate => "Throughput by number of connections",
            Self::Latency => "p99 by number of connections",
            Self::Fairness => "Fairness by number of connections",
        }
    }

    pub(super) fn caption(self) -> &'static str {
        match self {
            Self::Rate => "Each dot is a run with that many producing connections.",
            Self::Latency => {
                "Each dot is a run. In a closed loop, more connections have more messages in flight, so they wait longer."
            }
            Self::Fairness => {
                "The messages of the fastest producer relative to those of the slowest. 1 is even. A run in which a producer had \
                 no message has no dot."
            }
        }
    }

    /// Returns the label of the vertical axis.
    fn label(self) -> &'static str {
        match self {
            Self::Rate => "messages per second",
            Self::Latency => "p99",
            Self::Fairness => "fastest / slowest",
        }
    }

    fn value(self, figures: &Figures) -> Option<f64> {
        match self {
            Self::Rate => Some(figures.throughput()),
            Self::Latency => Some(figures.latency()?.p99 as f64),
            Self::Fairness => figures.producer_fairness?.ratio,
        }
    }

    /// Formats a value of a run.
    fn say(self, value: f64) -> String {
        match self {
            Self::Rate => format!("{} /s", count(value)),
            Self::Latency => time(value as u64),
            Self::Fairness => format!("{value:.2} ×"),
        }
    }
}

/// Draws one line for each result that is a sweep. Returns `None` if no run has a value.
pub(super) fn sweep(theme: Theme, all: &[Compared], kind: Kind) -> Option<String> {
    let points = |one: &Compared| -> Vec<(f64, f64)> {
        let point = |figures: &Figures| Some((f64::from(figures.producers), kind.value(figures)?));
        let steps = one.file.steps().unwrap_or_default().iter();
        let mut points: Vec<(f64, f64)> = steps.filter_map(|run| point(&run.figures)).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        points
    };
    let sweeps: Vec<(&Compared, Vec<(f64, f64)>)> =
        all.iter().map(|one| (one, points(one))).filter(|(_, points)| !points.is_empty()).collect();
    let values = || sweeps.iter().flat_map(|(_, points)| points);
    values().next()?;
    let most = |of: fn(&(f64, f64)) -> f64| values().map(of).fold(1.0, f64::max);
    let least = |of: fn(&(f64, f64)) -> f64| values().map(of).fold(f64::INFINITY, f64::min);
    let mut canvas = Canvas::new(theme, HEIGHT);
    let names: Vec<_> = sweeps.iter().map(|(one, _)| one.name.clone()).enumerate().collect();
    let frame = Frame::below(canvas.legend(&names, 4.0), HEIGHT);
    let x = Axis::log(least(|point| point.0), most(|point| point.0), frame.left, frame.right);
    let (y, ticks) = match kind {
        Kind::Latency => {
            let y = Axis::log(least(|point| point.1), most(|point| point.1), frame.bottom, frame.top);
            (y, y.ticks(time_mark))
        }
        Kind::Rate | Kind::Fairness => {
            let y = Axis::linear(most(|point| point.1), frame.bottom, frame.top);
            (y, y.ticks(count))
        }
    };
    canvas.axes(frame, (&x.ticks(count), "producing connections"), (&ticks, kind.label()));
    for (number, (one, points)) in sweeps.iter().enumerate() {
        let line: Vec<(f64, f64)> =
            points.iter().map(|(connections, value)| (x.at(*connections), y.at(*value))).collect();
        canvas.line(&line, Ink::Series(number), 2.0);
        for (at, (connections, value)) in line.iter().zip(points) {
            let said = format!("{}: {connections} connections, {}", one.name, kind.say(*value));
            canvas.dot(*at, 3.5, Ink::Series(number), &said);
        }
    }
    Some(canvas.finish(kind.title()))
}
