//! Reports: what loads measured, drawn and compared, in one page that needs nothing else.
//!
//! | file | one concept |
//! | --- | --- |
//! | `compared` | results as they are compared: their samples, their names, their ratios |
//! | `canvas` | an SVG drawing: shapes, text, legends; colours by name |
//! | `axis` | from values to places: linear, logarithmic, and HdrHistogram's of percentiles |
//! | `theme` | the colours: of a page, light and dark, and of a picture that stands alone |
//! | `percentiles`, `timeline`, `heat`, `waterfall`, `ratios`, `knee` | the charts |
//! | `chart` | which there are |
//! | `tables` | the same in numbers |
//! | `html`, `markdown`, `json`, `picture` | the ways out |

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
mod tables;
mod theme;
mod timeline;
mod waterfall;

pub use compared::Compared;
pub use html::page;
pub use json::summary;
pub use markdown::text;
pub use picture::{png, svg};
