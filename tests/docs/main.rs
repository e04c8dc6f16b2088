//! The pages of `docs/` against the code: what a page promises is what the server does.
//!
//! | file | one concept |
//! | --- | --- |
//! | `page` | reading a Markdown page: sections, tables, code |
//! | `protocol` | `docs/protocol.md`: statuses, close codes, settings, field numbers, hashes, the example's bytes |
//! | `references` | "protocol section N" in comments: the section exists |
//!
//! A check of another page gets a module of its own. `.ci/links` checks links, and `tests/examples.rs` runs
//! shell examples.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod page;
mod protocol;
mod references;

use std::path::{Path, PathBuf};

/// A path below the repository's root.
fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
