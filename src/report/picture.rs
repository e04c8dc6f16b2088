//! Charts as separate files, SVG or PNG.

use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use super::chart::{Chart, charts};
use super::compared::Compared;
use super::theme::Theme;

/// PNG pixels per unit of the drawing. Two is sharp on dense screens and on paper.
const SCALE: f32 = 2.0;

/// The reason why a drawing could not be rendered.
#[derive(Debug)]
pub struct PictureError(String);

impl std::fmt::Display for PictureError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PictureError {}

/// Draws every chart in the colours of a light page.
pub fn svg(all: &[Compared]) -> Vec<Chart> {
    charts(Theme::Light, all)
}

/// Renders a chart as PNG. The font is built in, so the machine's fonts do not matter.
pub fn png(chart: &Chart) -> Result<Vec<u8>, PictureError> {
    let failed = |error: &dyn std::fmt::Display| PictureError(format!("{}: {error}", chart.name));
    let mut faces = fontdb::Database::new();
    faces.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    faces.set_sans_serif_family("Ubuntu");
    let options = Options { fontdb: Arc::new(faces), font_family: "Ubuntu".into(), ..Options::default() };
    let tree = Tree::from_str(&chart.svg, &options).map_err(|error| failed(&error))?;
    let size =
        tree.size().to_int_size().scale_by(SCALE).ok_or_else(|| failed(&"the drawing is too large"))?;
    let mut pixels =
        Pixmap::new(size.width(), size.height()).ok_or_else(|| failed(&"the picture is too large"))?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| failed(&error))
}
