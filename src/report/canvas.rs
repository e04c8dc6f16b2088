//! An SVG drawing: shapes, text, a frame with two axes, and a legend above the frame.

use std::fmt::Write;

use super::axis::Tick;
use super::theme::{Ink, Theme, dash};

/// The width of every chart, in SVG units.
pub(super) const WIDTH: f64 = 880.0;

/// The size of text in a chart.
const TEXT_PX: f64 = 13.0;
/// The mean width of a letter at that size, wide enough for any font that a page may use.
const LETTER_PX: f64 = 7.4;
/// The height of a line of the legend.
const LEGEND_LINE_PX: f64 = 22.0;
/// The width of the sample line in a legend, with the gaps around it.
const SAMPLE_PX: f64 = 44.0;

/// Which part of a text is at its coordinates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// An SVG drawing in progress.
#[derive(Debug)]
pub(super) struct Canvas {
    theme: Theme,
    height: f64,
    body: String,
}

/// The area of a chart that holds the values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Frame {
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
}

/// Escapes text for XML. Control characters, which XML does not allow, become spaces.
pub(super) fn escape(text: &str) -> String {
    let text: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Returns the approximate width of a text.
pub(super) fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * LETTER_PX
}

/// Shortens a text to `width`, with an ellipsis.
pub(super) fn shortened(text: &str, width: f64) -> String {
    let most = (width / LETTER_PX).max(4.0) as usize;
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

impl Canvas {
    pub(super) fn new(theme: Theme, height: f64) -> Self {
        Self { theme, height, body: String::new() }
    }

    /// Draws a line through points. Writing to a `String` never fails.
    pub(super) fn line(&mut self, points: &[(f64, f64)], ink: Ink, width: f64) {
        let text: String = points.iter().map(|(x, y)| format!("{x:.1},{y:.1} ")).collect();
        let dash = match ink {
            Ink::Series(number) => dash(number),
            Ink::Bound => "6 4",
            _ => "none",
        };
        let colour = self.theme.colour(ink);
        let _ = writeln!(
            self.body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" \
             stroke-dasharray=\"{dash}\" stroke-linejoin=\"round\"/>",
            text.trim_end()
        );
    }

    /// Draws a rectangle. A viewer shows a non-empty `title` on hover.
    pub(super) fn rect(
        &mut self,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        ink: Ink,
        opacity: f64,
        title: &str,
    ) {
        let colour = self.theme.colour(ink);
        let title =
            if title.is_empty() { String::new() } else { format!("<title>{}</title>", escape(title)) };
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\" \
             fill-opacity=\"{opacity:.3}\">{title}</rect>",
            width.max(0.5),
            height.max(0.5)
        );
    }

    /// Draws a dot. A viewer shows `title` on hover.
    pub(super) fn dot(&mut self, (x, y): (f64, f64), radius: f64, ink: Ink, title: &str) {
        let colour = self.theme.colour(ink);
        let title = escape(title);
        let _ = writeln!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"><title>{title}</title></circle>"
        );
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, ink: Ink, text: &str) {
        self.turned_text((x, y), anchor, ink, text, false);
    }

    /// Draws text, rotated to read upwards if `is_turned`.
    fn turned_text(&mut self, (x, y): (f64, f64), anchor: Anchor, ink: Ink, text: &str, is_turned: bool) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let turn =
            if is_turned { format!(" transform=\"rotate(-90 {x:.1} {y:.1})\"") } else { String::new() };
        let (colour, text) = (self.theme.colour(ink), escape(text));
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\"{turn}>{text}</text>"
        );
    }

    /// Draws a legend from `top` on, with as many entries per row as fit. Returns its bottom edge.
    pub(super) fn legend(&mut self, names: &[(usize, String)], top: f64) -> f64 {
        let (left, right) = (8.0, WIDTH - 8.0);
        let (mut x, mut y) = (left, top + LEGEND_LINE_PX / 2.0);
        for (number, name) in names {
            let name = shortened(name, right - left - SAMPLE_PX);
            let width = SAMPLE_PX + text_width(&name) + 18.0;
            if x > left && x + width > right {
                (x, y) = (left, y + LEGEND_LINE_PX);
            }
            self.line(&[(x, y), (x + 32.0, y)], Ink::Series(*number), 2.5);
            self.text((x + 38.0, y + 4.5), Anchor::Start, Ink::Text, &name);
            x += width;
        }
        y + LEGEND_LINE_PX / 2.0 + 6.0
    }

    /// Draws the grid and the axes of a frame, with their labels.
    pub(super) fn axes(&mut self, frame: Frame, x: (&[Tick], &str), y: (&[Tick], &str)) {
        for (at, text) in y.0 {
            self.line(&[(frame.left, *at), (frame.right, *at)], Ink::Grid, 1.0);
            self.text((frame.left - 8.0, at + 4.5), Anchor::End, Ink::Muted, text);
        }
        let mut free = f64::NEG_INFINITY;
        for (at, text) in x.0 {
            self.line(&[(*at, frame.top), (*at, frame.bottom)], Ink::Grid, 1.0);
            let half = text_width(text) / 2.0;
            // A label that would touch the one before it is left out. Its grid line stays.
            if at - half > free {
                self.text((*at, frame.bottom + 19.0), Anchor::Middle, Ink::Muted, text);
                free = at + half + 4.0;
            }
        }
        self.line(&[(frame.left, frame.bottom), (frame.right, frame.bottom)], Ink::Muted, 1.0);
        let middle = (frame.left + frame.right) / 2.0;
        self.text((middle, frame.bottom + 42.0), Anchor::Middle, Ink::Text, x.1);
        let middle = (frame.top + frame.bottom) / 2.0;
        self.turned_text((18.0, middle), Anchor::Middle, Ink::Text, y.1, true);
    }

    /// Returns the complete drawing. `label` describes it to screen readers.
    pub(super) fn finish(self, label: &str) -> String {
        let Self { theme, height, body } = self;
        let label = escape(label);
        let paper = match theme {
            Theme::Page => String::new(),
            Theme::Light => {
                format!("<rect width=\"100%\" height=\"100%\" fill=\"{}\"/>\n", theme.colour(Ink::Paper))
            }
        };
        let size = match theme {
            Theme::Page => String::new(),
            Theme::Light => format!(" width=\"{WIDTH}\" height=\"{height}\""),
        };
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\"{size} role=\"img\" \
             aria-label=\"{label}\" font-family=\"system-ui, 'Segoe UI', Ubuntu, sans-serif\" \
             font-size=\"{TEXT_PX}\">\n{paper}{body}</svg>\n"
        )
    }
}

impl Frame {
    /// Creates the frame of a chart with this height, below a legend that ends at `top`.
    pub(super) fn below(top: f64, height: f64) -> Self {
        Self { left: 84.0, right: WIDTH - 24.0, top: top + 10.0, bottom: height - 54.0 }
    }
}
