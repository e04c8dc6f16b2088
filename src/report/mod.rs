//! Reports of measured loads: results drawn and compared, as one self-contained page and in other formats.
//!
//! | file | one concept |
//! | --- | --- |
//! | `compared` | results prepared for comparison: samples, names, ratios |
//! | `canvas` | an SVG drawing: shapes, text, axes, legends |
//! | `axis` | maps values to coordinates: linear, logarithmic, and HdrHistogram's percentile scale |
//! | `theme` | the colours of a page, light and dark, and of a separate picture |
//! | `percentiles`, `timeline`, `heat`, `waterfall`, `ratios`, `knee`, `sweep` | the charts of one kind |
//! | `chart` | the list of charts |
//! | `tables` | the results in numbers |
//! | `html`, `markdown`, `json`, `picture` | output formats |

mod axis;
mod canvas;
mod chart;
mod compared;
mod heat;
mod html;
mod json;
mod knee;
mod markdown;
mod percentiles;
mod picture;
mod ratios;
mod sweep;
mod tables;
mod theme;
mod timeline;
mod waterfall;

pub use compared::Compared;
pub use html::page;
pub use json::summary;
pub use markdown::text;
pub use picture::{png, svg};
