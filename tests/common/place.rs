//! A directory of a test's own, which is gone with it.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// See the module's page.
pub struct Place(pub PathBuf);

impl Place {
    /// An empty one.
    pub fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A data directory that is not there yet.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// Its path as an argument.
    pub fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
