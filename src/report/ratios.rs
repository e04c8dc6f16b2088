//! Bar charts that compare results: throughput, and latency at some percentiles.

use super::axis::{Axis, count, time_mark};
use super::canvas::{Anchor, Canvas, Frame, WIDTH, shortened, text_width};
use super::compared::Compared;
use super::theme::{Ink, Theme};
use crate::latency::time;

const ROW_PX: f64 = 26.0;
const GAP_PX: f64 = 16.0;
/// The most space for a name.
const NAME_PX: f64 = 260.0;

/// Draws the throughput of each result, with its spread over several runs.
pub(super) fn throughput(theme: Theme, all: &[Compared]) -> String {
    let height = 74.0 + ROW_PX * all.len() as f64;
    let mut canvas = Canvas::new(theme, height);
    let frame = frame(all, height);
    let rate = |one: &Compared| one.figures().throughput();
    let high = all
        .iter()
        .map(|one| one.spread(|figures| figures.throughput()).map_or(rate(one), |(_, most)| most))
        .fold(0.0, f64::max);
    let x = Axis::linear(high, frame.left, frame.right);
    canvas.axes(frame, (&x.ticks(count), "messages per second"), (&[], ""));
    for (number, one) in all.iter().enumerate() {
        let top = frame.top + ROW_PX * number as f64;
        let end = x.at(rate(one));
        let mut right = end;
        let spread = one.spread(|figures| figures.throughput());
        if let Some((_, most)) = spread {
            right = x.at(most).max(end);
        }
        let said = format!("{} /s", count(rate(one)));
        bar(&mut canvas, frame, top, (number, &one.name), (end, right), &said);
        if let Some((least, most)) = spread {
            let middle = top + ROW_PX / 2.0;
            canvas.line(&[(x.at(least), middle), (x.at(most), middle)], Ink::Text, 1.5);
        }
    }
    canvas.finish("Throughput compared")
}

/// Draws p50, p99 and p99.9 of each result that has samples, on one axis. Returns `None` if none has.
pub(super) fn latency(theme: Theme, all: &[Compared]) -> Option<String> {
    let quantiles = [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")];
    let measured: Vec<(usize, &Compared)> =
        all.iter().enumerate().filter(|(_, one)| !one.latency().is_empty()).collect();
    if measured.is_empty() {
        return None;
    }
    let group = ROW_PX * measured.len() as f64 + GAP_PX;
    let height = 74.0 + group * quantiles.len() as f64;
    let mut canvas = Canvas::new(theme, height);
    let frame = frame(all, height);
    let value = |one: &Compared, quantile| one.latency().value_at_quantile(quantile).max(1) as f64;
    let values = || measured.iter().flat_map(|(_, one)| quantiles.map(|(quantile, _)| value(one, quantile)));
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(1.0, f64::max));
    let x = Axis::log(low / 2.0, high, frame.left, frame.right);
    canvas.axes(frame, (&x.ticks(time_mark), "latency"), (&[], ""));
    for (index, (quantile, name)) in quantiles.into_iter().enumerate() {
        let top = frame.top + group * index as f64 + GAP_PX / 2.0;
        canvas.text((10.0, top + ROW_PX / 2.0 + 4.5), Anchor::Start, Ink::Text, name);
        for (row, (number, one)) in measured.iter().enumerate() {
            let end = x.at(value(one, quantile));
            let said = time(value(one, quantile) as u64);
            let top = top + ROW_PX * row as f64;
            bar(&mut canvas, frame, top, (*number, &one.name), (end, end), &said);
        }
    }
    Some(canvas.finish("Latency compared"))
}

/// Draws a row: its name, its bar up to `end`, and its value after `right`.
fn bar(
    canvas: &mut Canvas,
    frame: Frame,
    top: f64,
    (number, name): (usize, &str),
    (end, right): (f64, f64),
    said: &str,
) {
    let text = top + ROW_PX / 2.0 + 4.5;
    canvas.rect((frame.left, top + 4.0), (end - frame.left, ROW_PX - 8.0), Ink::Series(number), 0.9, said);
    canvas.text((frame.left - 10.0, text), Anchor::End, Ink::Text, &shortened(name, NAME_PX));
    canvas.text((right + 8.0, text), Anchor::Start, Ink::Muted, said);
}

/// Creates a frame with room for names on the left and for values after the bars.
fn frame(all: &[Compared], height: f64) -> Frame {
    let names = all.iter().map(|one| text_width(&one.name)).fold(40.0, f64::max).min(NAME_PX);
    Frame { left: 64.0 + names, right: WIDTH - 110.0, top: 14.0, bottom: height - 54.0 }
}
