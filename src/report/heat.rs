//! All latencies of a run over time: how many messages took how long in each second.

use super::axis::{Axis, count, time_mark};
use super::canvas::{Canvas, Frame};
use super::compared::Compared;
use super::theme::{Ink, Theme};
use crate::latency::{HEAT_FROM_NS, HEAT_ROWS_A_DECADE, decode, heat_of, time};

const HEIGHT: f64 = 320.0;

/// Latency where a row of the heat map begins, nanoseconds.
fn row_ns(row: usize) -> f64 {
    HEAT_FROM_NS * 10f64.powf(row as f64 / f64::from(HEAT_ROWS_A_DECADE))
}

/// The map of one result, in the colour of its place among all.
pub(super) fn heat(theme: Theme, one: &Compared, number: usize) -> Option<String> {
    let columns: Vec<(f64, Vec<u64>)> = one
        .run()
        .intervals
        .iter()
        .filter_map(|interval| {
            let text = interval.end_to_end.as_deref().or(interval.produce.as_deref())?;
            Some((interval.from, heat_of(&decode(text).ok()?)))
        })
        .collect();
    let most = columns.iter().flat_map(|(_, counts)| counts).max().copied().filter(|most| *most > 0)?;
    let rows = columns.iter().map(|(_, counts)| counts.len()).max().unwrap_or(1);
    let first = columns.iter().filter_map(|(_, counts)| counts.iter().position(|count| *count > 0)).min()?;
    let length = columns.iter().map(|(from, _)| from + 1.0).fold(1.0, f64::max);
    let mut canvas = Canvas::new(theme, HEIGHT);
    let frame = Frame::below(0.0, HEIGHT);
    let x = Axis::exact(0.0, length, frame.left, frame.right);
    let y = Axis::log(row_ns(first), row_ns(rows), frame.bottom, frame.top);
    canvas.axes(
        frame,
        (&x.ticks(|value| format!("{} s", count(value))), "time"),
        (&y.ticks(time_mark), "latency"),
    );
    for (from, counts) in &columns {
        for (row, messages) in counts.iter().enumerate().filter(|(_, messages)| **messages > 0) {
            let (low, high) = (row_ns(row), row_ns(row + 1));
            let (left, right) = (x.at(*from), x.at(from + 1.0));
            // By magnitude, so that a single message is still seen.
            let opacity = 0.12 + 0.88 * (*messages as f64).ln_1p() / (most as f64).ln_1p();
            let title = format!(
                "{messages} messages, {} to {}, second {from:.0}",
                time(low as u64),
                time(high as u64)
            );
            canvas.rect(
                (left + 0.5, y.at(high)),
                (right - left - 1.0, y.at(low) - y.at(high) - 0.5),
                Ink::Series(number),
                opacity,
                &title,
            );
        }
    }
    Some(canvas.finish(&format!("Latencies of {} over time", one.name)))
}
