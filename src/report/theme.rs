//! The colours of a drawing. They are based on those of Okabe and Ito, which people with colour vision
//! deficiency can tell apart. Each series also has its own dash pattern.

/// The colour scheme of a drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// The page's colours: CSS variables that follow light, dark and print.
    Page,
    /// Fixed colours for a light background, for a separate picture.
    Light,
}

/// The role of a colour in a drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ink {
    /// The background.
    Paper,
    /// Text and axes.
    Text,
    /// Secondary text.
    Muted,
    /// Grid lines behind the values.
    Grid,
    /// Measured values of the series with this number in the chart.
    Series(usize),
    /// The bound that was asked for.
    Bound,
}

/// How many series have a colour of their own. Further series reuse the colours with other dashes.
const SERIES: usize = 7;

/// The light and dark colours of [`Ink::Series`].
pub(super) const SERIES_COLOURS: [(&str, &str); SERIES] = [
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff8c42"),
    ("#009e73", "#2fd0a2"),
    ("#aa4499", "#e59ac7"),
    ("#b58900", "#f0e442"),
    ("#555555", "#bbbbbb"),
    ("#332288", "#a99bff"),
];

/// The light and dark colours of the other inks.
pub(super) const PAPER: (&str, &str) = ("#ffffff", "#14171c");
pub(super) const TEXT: (&str, &str) = ("#1b1f24", "#e6e9ee");
pub(super) const MUTED: (&str, &str) = ("#5b6470", "#98a2b0");
pub(super) const GRID: (&str, &str) = ("#e3e6ea", "#2a2f37");
pub(super) const BOUND: (&str, &str) = ("#a40000", "#ff6b6b");

/// The dash patterns of the series. The first is a solid line.
const DASHES: [&str; SERIES] = ["none", "7 3", "2 3", "9 3 2 3", "12 4", "4 4", "1 4"];

impl Theme {
    /// Returns the colour as the value of an SVG attribute.
    pub(super) fn colour(self, ink: Ink) -> String {
        let ((light, _), name) = match ink {
            Ink::Paper => (PAPER, "paper".to_owned()),
            Ink::Text => (TEXT, "text".to_owned()),
            Ink::Muted => (MUTED, "muted".to_owned()),
            Ink::Grid => (GRID, "grid".to_owned()),
            Ink::Bound => (BOUND, "bound".to_owned()),
            Ink::Series(number) => (SERIES_COLOURS[number % SERIES], format!("s{}", number % SERIES)),
        };
        match self {
            Self::Page => format!("var(--{name})"),
            Self::Light => light.to_owned(),
        }
    }
}

/// Returns the dash pattern of a series.
pub(super) fn dash(series: usize) -> &'static str {
    DASHES[(series + series / SERIES) % SERIES]
}

/// Returns the CSS variables of the page, for light or dark.
pub(super) fn variables(is_dark: bool) -> String {
    let pick = |(light, dark): (&str, &str)| if is_dark { dark.to_owned() } else { light.to_owned() };
    let named = [("paper", PAPER), ("text", TEXT), ("muted", MUTED), ("grid", GRID), ("bound", BOUND)];
    let named = named.map(|(name, colours)| format!("--{name}:{};", pick(colours)));
    let series =
        SERIES_COLOURS.iter().enumerate().map(|(number, colours)| format!("--s{number}:{};", pick(*colours)));
    named.into_iter().chain(series).collect()
}
