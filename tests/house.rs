//! The rules of the house, read from the sources: which room may know which, and that `lib.rs`'s map is true.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(under: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if under.is_file() {
        return vec![under.to_owned()];
    }
    for entry in fs::read_dir(under).unwrap() {
        found.extend(sources(&entry.unwrap().path()));
    }
    found
}

/// The code of a file: without comments, and without its tests at the end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn rooms_know_only_what_they_may() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let no_io = ["glommio", "std::net", "socket2", "std::fs", "Instant", "SystemTime", "async "];
    let rules: [(&str, Vec<&str>); 7] = [
        (
            "ws",
            [
                &no_io[..],
                &["crate::base::names", "crate::front", "crate::operation"],
                &["crate::store", "crate::shard", "crate::pb"],
            ]
            .concat(),
        ),
        (
            "operation",
            [&no_io[..], &["crate::front", "crate::ws", "crate::store", "crate::shard", "crate::client"]]
                .concat(),
        ),
        ("front", [&no_io[..], &["crate::store", "crate::shard", "crate::client"]].concat()),
        ("shard/core", [&no_io[..], &["super::super", "crate::client"]].concat()),
        ("store", vec!["crate::front", "crate::operation", "crate::shard", "crate::pb", "crate::ws"]),
        (
            "pb",
            [&no_io[..], &["crate::front", "crate::operation", "crate::store", "crate::shard", "crate::ws"]]
                .concat(),
        ),
        ("client", vec!["crate::store", "crate::shard::core", "crate::load", "crate::cli::"]),
    ];
    for (room, never) in rules {
        let files = sources(&src.join(room));
        assert!(!files.is_empty(), "{room}");
        for file in files {
            let code = code(&file);
            for word in &never {
                assert!(!code.contains(word), "{}: {room} never knows {word}", file.display());
            }
        }
    }
}

#[test]
fn one_room_knows_rdkafka() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // And the load against Kafka itself.
    let rooms = [src.join("store/kafka"), src.join("load/peers/kafka.rs")];
    for file in sources(&src).iter().filter(|file| !rooms.iter().any(|room| file.starts_with(room))) {
        assert!(!code(file).contains("rdkafka::"), "{}", file.display());
    }
}

#[test]
fn the_map_shows_every_room_and_nothing_else() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let map = fs::read_to_string(src.join("lib.rs")).unwrap();
    let rows: Vec<&str> = map.lines().filter(|line| line.starts_with("//! | [`")).collect();
    let mut shown: Vec<&str> = rows
        .iter()
        .flat_map(|row| row.split('|').nth(1).unwrap().split(','))
        .map(|name| name.trim().trim_matches(['[', '`', ']']))
        .collect();
    let mut there: Vec<String> = fs::read_dir(&src)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "lib" && name != "main")
        .collect();
    shown.sort_unstable();
    there.sort_unstable();
    assert_eq!(shown, there);
}
