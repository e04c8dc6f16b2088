//! The waterfall chart of a produced message: the server's stages one after another, then the rest of the
//! way.

use super::axis::{Axis, time_mark};
use super::canvas::{Anchor, Canvas, Frame, WIDTH};
use super::compared::Compared;
use super::theme::{Ink, Theme};
use crate::latency::{Stage, time};

/// The height of a row.
const ROW_PX: f64 = 30.0;

/// The share of one stage in the mean latency.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    /// The name of the stage.
    pub name: String,
    /// The mean over all messages, including those that skipped the stage, in nanoseconds.
    pub mean: f64,
    /// The p99 of the messages that passed the stage, in nanoseconds. `None` for the rest of the way, which
    /// is a difference of means.
    pub p99: Option<u64>,
}

/// Returns the stages of a result in order. The time outside of the server's stages belongs to the network
/// and the client.
pub(super) fn parts(one: &Compared) -> Vec<Part> {
    let run = one.run();
    let stage = |stage| run.stage(stage).map(|page| page.summary);
    let Some(whole) = stage(Stage::Produce) else { return Vec::new() };
    let mut parts: Vec<Part> = Stage::PRODUCING
        .into_iter()
        .filter_map(|of| {
            let summary = stage(of)?;
            let share = summary.count as f64 / whole.count.max(1) as f64;
            Some(Part { name: of.name().into(), mean: summary.mean * share, p99: Some(summary.p99) })
        })
        .collect();
    if let Some(client) = run.figures.produce_latency {
        // The difference is negative if the server had other clients, too. Then nothing can be said about the
        // rest.
        let mean = client.mean - whole.mean;
        let rest = Part { name: "network and client".into(), mean, p99: None };
        parts.extend((mean >= 0.0).then_some(rest));
    }
    parts
}

/// Draws the waterfall of one result.
pub(super) fn waterfall(theme: Theme, one: &Compared) -> Option<String> {
    let parts = parts(one);
    if parts.is_empty() {
        return None;
    }
    let height = 74.0 + ROW_PX * parts.len() as f64;
    let mut canvas = Canvas::new(theme, height);
    let frame = Frame { left: 170.0, right: WIDTH - 230.0, top: 14.0, bottom: height - 54.0 };
    let total: f64 = parts.iter().map(|part| part.mean).sum();
    let x = Axis::exact(0.0, total, frame.left, frame.right);
    canvas.axes(frame, (&x.ticks(time_mark), "mean time since a message should have been sent"), (&[], ""));
    let mut begins = 0.0;
    for (row, part) in parts.iter().enumerate() {
        let y = frame.top + ROW_PX * row as f64;
        let (from, to) = (x.at(begins), x.at(begins + part.mean));
        let mean = time(part.mean as u64);
        let p99 = part.p99.map_or(String::new(), |p99| format!("; p99 {}", time(p99)));
        canvas.rect(
            (from, y + 6.0),
            (to - from, ROW_PX - 12.0),
            Ink::Series(row),
            0.9,
            &format!("{}: {mean}", part.name),
        );
        canvas.text((frame.left - 12.0, y + ROW_PX / 2.0 + 4.5), Anchor::End, Ink::Text, &part.name);
        let share = 100.0 * part.mean / total.max(1.0);
        let said = format!("{mean}, {share:.0} %{p99}");
        canvas.text((frame.right + 14.0, y + ROW_PX / 2.0 + 4.5), Anchor::Start, Ink::Muted, &said);
        begins += part.mean;
    }
    Some(canvas.finish(&format!("Where the time goes: {}", one.name)))
}
