//! Reads the crate: follows every `mod` declaration from its root and parses each file with `syn`.

use crate::scan::{self, Declared};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// A path as written in the source, with nested `use` groups flattened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The segments, including `crate`, `self` and `super`.
    pub segments: Vec<String>,
    /// Whether the path starts with `::`.
    pub outer: bool,
    /// Whether the path ends with `::*`.
    pub glob: bool,
}

impl Written {
    pub fn plain(segments: Vec<String>) -> Self {
        Self { segments, outer: false, glob: false }
    }
}

/// A path in a file.
#[derive(Debug, Clone)]
pub struct Mention {
    pub written: Written,
    pub line: usize,
    /// Whether only test builds compile it.
    pub test: bool,
}

/// A module of the crate, inline or in its own file.
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// The file, relative to the parent of `src`.
    pub file: PathBuf,
    /// The names that `use` declarations bring into the module.
    pub bindings: Vec<(String, Written)>,
    /// The paths that the module imports with `*`.
    pub globs: Vec<Written>,
    /// The names of the items that the module defines.
    pub items: BTreeSet<String>,
    pub mentions: Vec<Mention>,
}

/// The whole crate.
#[derive(Debug, Default)]
pub struct House {
    /// The modules by their path from the crate's root, whose own path is empty.
    pub modules: BTreeMap<Vec<String>, Module>,
    /// The names of the crate itself: the package's (for `main.rs`), and those from `extern crate self as`.
    pub own_names: BTreeSet<String>,
    /// The files below `src` that no `mod` declaration reaches, so that no rule is checked in them.
    pub unreached: Vec<PathBuf>,
}

impl House {
    /// Reads `src` from the disk. Reports show files relative to its parent.
    pub fn read(src: &Path) -> Self {
        let top = src.parent().unwrap();
        let mut files = Vec::new();
        list(src, &mut files);
        let files: Vec<_> = files.iter().map(|file| file.strip_prefix(top).unwrap().to_owned()).collect();
        Self::from_files(&files, |file| fs::read_to_string(top.join(file)).ok())
    }

    /// Reads a crate with the files `files`. `open` also opens files elsewhere, for `#[path]` attributes.
    pub fn from_files(files: &[PathBuf], open: impl Fn(&Path) -> Option<String>) -> Self {
        let mut house = Self { own_names: BTreeSet::from(["millstream".to_owned()]), ..Self::default() };
        let mut reached = BTreeSet::new();
        let mut due = vec![Declared::root("src/lib.rs", Vec::new())];
        if files.iter().any(|file| file == Path::new("src/main.rs")) {
            due.push(Declared::root("src/main.rs", vec!["main".to_owned()]));
        }
        while let Some(declared) = due.pop() {
            let found = declared.files.iter().map(|file| (plain(&file.0), file.1));
            let (file, children, text) = found
                .filter_map(|(file, children)| open(&file).map(|text| (file, children, text)))
                .next()
                .unwrap_or_else(|| panic!("no file of the module {}", declared.path.join("::")));
            let parsed = syn::parse_file(&text)
                .unwrap_or_else(|error| panic!("{}:{}: {error}", file.display(), error.span().start().line));
            due.extend(scan::file(&mut house, &file, children, &declared, &parsed));
            reached.insert(file);
        }
        house.unreached = files.iter().filter(|file| !reached.contains(*file)).cloned().collect();
        house
    }
}

/// Finds every Rust file below `under`.
fn list(under: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Returns the path without `..`, so that a file has only one name.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}
