//! The rules of the house, read from the sources: which room may know which, and that `lib.rs`'s map is true.
//!
//! `source` follows every `mod` declaration from `lib.rs` and parses each file with `syn`; `scan` and `tokens` collect
//! the paths in it; `resolve` says what a path names, through renames and re-exports; `judge` and `circles` hold that
//! against the tables in `rules`. `planted` proves that each kind of forbidden import is found.
//!
//! What no reader of sources sees: methods of a value whose type nobody names, and what a build script or another
//! crate's macro generates.
//!
//! # The drawing
//!
//! ```sh
//! cargo test --test house -- --ignored --nocapture draw
//! ```
//!
//! prints the rooms from the top to the bottom, each with the rooms that it imports, the number of items that its files
//! name there, and every circle; and writes a file for Graphviz. `HOUSE_SRC=../before/src` draws other sources.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod circles;
mod draw;
mod judge;
mod planted;
mod resolve;
mod rules;
mod scan;
mod source;
mod tokens;

use rules::{MAIN, NEVER, ONLY, ROOMS};
use source::House;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The crate as it is, read once.
fn house() -> &'static House {
    static HOUSE: OnceLock<House> = OnceLock::new();
    HOUSE.get_or_init(|| House::read(&src()))
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn rooms_know_only_what_they_may() {
    assert_none(&judge::problems(house()));
}

#[test]
fn siblings_form_no_circles() {
    assert_none(&circles::among_siblings(house()));
}

/// Also what the table cannot show: a chain of allowed arrows that leads back.
#[test]
fn rooms_form_no_circles() {
    let drawing = draw::Drawing::of(house());
    assert!(drawing.circles().is_empty(), "{}", drawing.text());
}

#[test]
fn the_table_points_down() {
    for (height, room) in ROOMS.iter().enumerate() {
        for may in room.may {
            let name = may.split("::").next().unwrap();
            assert!(ROOMS[..height].iter().any(|below| below.name == name), "{}: {may}", room.name);
        }
    }
}

/// A rule about a module that is gone would hold for ever.
#[test]
fn the_rules_are_about_what_exists() {
    let modules = ROOMS.iter().flat_map(|room| room.may.iter().chain([&room.name]));
    let modules =
        modules.chain(NEVER.iter().map(|rule| &rule.within)).chain(ONLY.iter().flat_map(|rule| rule.by));
    for module in modules {
        let path: Vec<String> = module.split("::").map(str::to_owned).collect();
        assert!(house().modules.contains_key(&path), "{module}");
    }
}

#[test]
fn the_map_shows_every_room_in_the_order_of_the_table() {
    let map = fs::read_to_string(src().join("lib.rs")).unwrap();
    let rows = map.lines().filter(|line| line.starts_with("//! | [`"));
    let shown: Vec<&str> = rows
        .flat_map(|row| row.split('|').nth(1).unwrap().split(','))
        .map(|name| name.trim().trim_matches(['[', '`', ']']))
        .collect();
    let table: Vec<&str> = ROOMS.iter().map(|room| room.name).filter(|name| *name != MAIN).collect();
    assert_eq!(shown, table);

    let mut there: Vec<String> = fs::read_dir(src())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "lib" && name != MAIN)
        .collect();
    there.sort_unstable();
    let mut shown = shown;
    shown.sort_unstable();
    assert_eq!(shown, there);
}

#[test]
#[ignore = "prints the drawing"]
fn draw() {
    let src = std::env::var_os("HOUSE_SRC").map_or_else(src, PathBuf::from);
    let drawing = draw::Drawing::of(&House::read(&fs::canonicalize(src).unwrap()));
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("house.dot");
    fs::write(&file, drawing.dot()).unwrap();
    println!("\n{}\nFor Graphviz: dot -Tsvg {}", drawing.text(), file.display());
}
