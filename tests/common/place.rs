//! A directory for one test, deleted with it.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// The path of the directory. Dropping it deletes the directory.
pub struct Place(pub PathBuf);

impl Place {
    /// Creates an empty directory. Its name contains `name` and the process id.
    pub fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Returns the path of a data directory in it, which does not exist yet.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// Returns the path of the directory as text.
    pub fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
