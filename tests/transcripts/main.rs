//! Compares each byte that the server sends with the conversations in `tests/golden/transcripts`.
//!
//! Each conversation is replayed with a core in virtual time. Conversations without time and markers are also
//! replayed with a real server. If a difference is intended, `TESTS_RECORD=1` makes the scripts write the
//! files again, and git shows the changes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod conversation;
mod live;
mod player;
mod script;
mod scripts;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Once;

use conversation::Conversation;
use player::Player;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/transcripts")
}

/// Lets the scripts write the files again, if `TESTS_RECORD` is set.
fn record() {
    if std::env::var_os("TESTS_RECORD").is_none() {
        return;
    }
    let _ = fs::remove_dir_all(directory());
    fs::create_dir_all(directory()).unwrap();
    for (name, write) in scripts::all() {
        let mut script = script::Script::default();
        write(&mut script);
        fs::write(directory().join(format!("{name}.txt")), script.conversation.to_string()).unwrap();
    }
}

/// Returns the recorded conversations by name, in order. Records them first, if requested.
fn recorded() -> Vec<(String, String)> {
    static RECORDED: Once = Once::new();
    RECORDED.call_once(record);
    let names: BTreeSet<&str> = scripts::all().iter().map(|(name, _)| *name).collect();
    let mut found: Vec<(String, String)> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap())
        })
        .collect();
    found.sort();
    assert!(
        found.iter().map(|(name, _)| &name[..]).eq(names),
        "each script must have a file, and each file a script"
    );
    found
}

/// Returns where two texts first differ, with the line before.
fn difference(expected: &str, found: &str) -> String {
    let (mut expected, mut found) = (expected.lines(), found.lines());
    let mut before = "";
    for number in 1.. {
        match (expected.next(), found.next()) {
            (one, other) if one == other => before = one.unwrap_or("the end"),
            (one, other) => {
                let (one, other) = (one.unwrap_or("the end"), other.unwrap_or("the end"));
                return format!("line {number}\n   after: {before}\nexpected: {one}\n   found: {other}");
            }
        }
    }
    unreachable!()
}

#[test]
fn a_core_sends_the_recorded_bytes() {
    for (name, text) in recorded() {
        let conversation = Conversation::parse(&text).unwrap_or_else(|| panic!("{name} is malformed"));
        let mut player = Player::new(&conversation.settings);
        let mut replayed = conversation.clone();
        for (step, events) in &mut replayed.steps {
            *events = player.play(step);
        }
        let replayed = replayed.to_string();
        assert!(replayed == text, "{name}.txt, {}", difference(&text, &replayed));
    }
}

#[test]
fn a_server_sends_the_recorded_bytes() {
    for (name, text) in recorded() {
        let conversation = Conversation::parse(&text).unwrap();
        if conversation.on_a_server
            && let Err(why) = live::replay(&conversation)
        {
            panic!("{name}.txt: {why}");
        }
    }
}
