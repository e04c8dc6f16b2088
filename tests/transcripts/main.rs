//! What the server says to the byte, in conversations that are kept in `tests/golden/transcripts`.
//!
//! Each is played again to a core in virtual time, and those without time and markers to a real server. A change of what the
//! server says is intended or a fault: `TESTS_RECORD=1` has the scripts write the files anew, and git shows the difference.
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

/// Has the scripts write the files anew, where that is asked for.
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

/// The recorded conversations by name, in order. Where it is asked for they are recorded first.
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
        "every script has its file, and no other is there"
    );
    found
}

/// Where two texts differ first, with the line before.
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
fn a_core_says_what_is_recorded() {
    for (name, text) in recorded() {
        let conversation = Conversation::parse(&text).unwrap_or_else(|| panic!("{name} is not well formed"));
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
fn a_server_says_what_is_recorded() {
    for (name, text) in recorded() {
        let conversation = Conversation::parse(&text).unwrap();
        if conversation.on_a_server
            && let Err(why) = live::replay(&conversation)
        {
            panic!("{name}.txt: {why}");
        }
    }
}
