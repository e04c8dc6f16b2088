//! Checks that the pages of `docs/` agree with the code.
//!
//! | file | one concept |
//! | --- | --- |
//! | `page` | reading a Markdown page: sections, tables, code |
//! | `protocol` | `docs/protocol.md`: statuses, close codes, settings, field numbers, hashes, the example's bytes |
//! | `references` | comments that name a section of the protocol: that section must exist |
//!
//! To check another page, add a module. `.ci/links` checks links, and `tests/examples.rs` runs shell
//! examples.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod page;
mod protocol;
mod references;

use std::path::{Path, PathBuf};

/// Returns the full path of a file, from its path in the repository.
fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
