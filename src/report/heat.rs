//! The heat map of a run: how many messages had which latency in each second.

use super::axis::{Axis, count, time_mark};
use super::canvas::{Canvas, Frame};
use super::compared::Compared;
use super::theme::{Ink, Theme};
use crate::latency::{HEAT_FROM_NS, HEAT_ROWS_A_DECADE, decode, heat_of, time};

const HEIGHT: f64 = 320.0;

/// The largest number of columns. In a longer run, a column covers several seconds.
const COLUMNS_MAX: usize = 300;

/// The start of a column in seconds, and the messages in each of its rows.
type Column = (f64, Vec<u64>);

/// Returns the latency at which a row of the heat map begins, in nanoseconds.
fn row_ns(row: usize) -> f64 {
    HEAT_FROM_NS * 10f64.powf(row as f64 / f64::from(HEAT_ROWS_A_DECADE))
}

/// Merges seconds so that no more than [`COLUMNS_MAX`] columns remain, each wide enough to see.
fn merged(columns: Vec<Column>) -> Vec<Column> {
    let together = columns.len().div_ceil(COLUMNS_MAX).max(1);
    let sum = |seconds: &[Column]| {
        let rows = seconds.iter().map(|(_, counts)| counts.len()).max().unwrap_or(0);
        let row = |row| seconds.iter().filter_map(|(_, counts)| counts.get(row)).sum();
        (seconds.first().map_or(0.0, |(from, _)| *from), (0..rows).map(row).collect())
    };
    columns.chunks(together).map(sum).collect()
}

/// Draws the heat map of one result, in the colour of that result. Returns `None` without samples.
pub(super) fn heat(theme: Theme, one: &Compared, number: usize) -> Option<String> {
    let columns: Vec<Column> = one
        .run()
        .intervals
        .iter()
        .filter_map(|interval| {
            let text = one.run().samples(interval)?;
            Some((interval.from, heat_of(&decode(text).ok()?)))
        })
        .collect();
    let columns = merged(columns);
    let width = columns.windows(2).map(|pair| pair[1].0 - pair[0].0).fold(f64::INFINITY, f64::min);
    let width = if width.is_finite() { width } else { 1.0 };
    let most = columns.iter().flat_map(|(_, counts)| counts).max().copied().filter(|most| *most > 0)?;
    let rows = columns.iter().map(|(_, counts)| counts.len()).max().unwrap_or(1);
    let first = columns.iter().filter_map(|(_, counts)| counts.iter().position(|count| *count > 0)).min()?;
    let length = columns.iter().map(|(from, _)| from + width).fold(1.0, f64::max);
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
            let (left, right) = (x.at(*from), x.at(from + width));
            // A logarithmic scale, so that even a single message is visible.
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
